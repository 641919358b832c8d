package simulation

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/test/simulation/machine"
)

var (
	firstSeed = flag.Uint64("seed", 1, "the first seed")
	seeds     = flag.Int("seeds", 300, "how many seeds")
	tell      = flag.Bool("tell", false, "tell what happens")
)

func TestSeeds(t *testing.T) {
	var next atomic.Int64
	begun := time.Now()
	texts := &machine.Texts{}
	for i := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint("worker-", i), func(t *testing.T) {
			t.Parallel()
			for {
				n := next.Add(1) - 1
				if n >= int64(*seeds) {
					return
				}
				h := Generate(*firstSeed + uint64(n))
				r := run(t, h, texts, *tell)
				if *tell {
					t.Log("\n" + strings.Join(r.Told, "\n"))
				}
				if len(r.Violations) > 0 {
					t.Errorf("seed %d: %v", h.Seed, r.Violations)
				}
			}
		})
	}
	t.Cleanup(func() { t.Logf("%d seeds in %s", *seeds, time.Since(begun)) })
}

func run(t *testing.T, h History, texts *machine.Texts, trace bool) (r Result) {
	synctest.Test(t, func(t *testing.T) { r = Run(context.Background(), h, texts, trace) })
	return r
}
