package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A program or daemon that hangs ends nothing half-way: once, the transaction goes back or goes on; for good, it says so, and
// when the hang is over the machine finds back by itself.
func TestProgramHangs(t *testing.T) {
	c := changes()[slices.IndexFunc(changes(), func(c change) bool { return c.name == "reload needed, service deleted" })]
	for _, program := range []string{"/haproxy reload", "/usr/sbin/haproxy -c", "/usr/sbin/keepalived --config-test", "/keepalived reload",
		"nft --file -", "nft --check", "nft --json list table", "ip -json address show"} {
		for _, forGood := range []bool{false, true} {
			t.Run(program+map[bool]string{false: " once", true: " for good"}[forGood], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := faults{c: c, before: holding(t, c.held), operation: program}
					f.old = f.before.moment()
					clean := f.before.clone()
					if got := run(t, started(t, clean), c.next); got.outcome != c.want {
						t.Fatalf("without a hang: %+v", got)
					}
					f.fresh = clean.moment()
					m := f.before.clone()
					a := started(t, m)
					hung := 0
					m.hangs = func(command string) bool {
						if !strings.HasPrefix(command, program) || hung > 0 && !forGood {
							return false
						}
						hung++
						return true
					}
					begun := time.Now()
					got := run(t, a, c.next)
					if hung == 0 {
						t.Fatal("it was not run: this test would show nothing")
					}
					if took := time.Since(begun); took > 2*transactionLimit {
						t.Errorf("it took %s", took)
					}
					switch {
					case got.refusal != nil, got.outcome == wire.RolledBack:
						f.expect(t, m, f.old, "it hung")
					case got.outcome == wire.Stuck && forGood:
					default:
						t.Errorf("told %+v", got)
					}
					m.hangs = nil
					a.recover(t.Context())
					f.expectWhole(t, m, "the hang is over")
					f.again(t, m, a)
				})
			})
		}
	}
}
