package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A peer hears at its next question which VIPs are held, and hears at once whatever the machine does: a hello is what works when
// programs hang.
func TestHelloTellsWhatWasSeenLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(5, web, db))
		a := started(t, m)
		watching(t, a.followHeld)
		ask := func() []netip.Addr {
			begun := time.Now()
			held := a.hello(t.Context(), wire.RolePeer).Held
			if took := time.Since(begun); took > 0 {
				t.Errorf("a hello took %v", took)
			}
			synctest.Wait()
			return held
		}
		time.Sleep(lookPause)
		expect := func(when string, want ...netip.Addr) {
			t.Helper()
			ask()
			time.Sleep(2 * time.Second)
			if got := ask(); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
			time.Sleep(2 * time.Second)
		}
		expect("at rest", addr("192.0.2.10"))
		m.meanwhile(func() { m.masters[52] = true })
		expect("one more", addr("192.0.2.10"), addr("192.0.2.11"))

		m.meanwhile(func() { m.hangs = func(command string) bool { return strings.HasPrefix(command, "ip ") } })
		expect("not known yet to hang", addr("192.0.2.10"), addr("192.0.2.11"))
		time.Sleep(lookLimit)
		expect("what cannot be seen is not told")
		m.meanwhile(func() { m.hangs = nil })
		time.Sleep(lookLimit)
		expect("the hang is over", addr("192.0.2.10"), addr("192.0.2.11"))

		time.Sleep(time.Minute)
		before := m.counted()
		time.Sleep(time.Hour)
		if n := m.counted() - before; n != 0 {
			t.Errorf("%d operations in an hour in which nobody asked", n)
		}
		m.meanwhile(func() { m.log = nil })
		for range 100 { // a drain asks often
			ask()
			time.Sleep(100 * time.Millisecond)
		}
		n := 0
		m.meanwhile(func() {
			n = len(slices.DeleteFunc(m.log, func(o string) bool { return o != "run ip -json address show" }))
		})
		if n < 5 || n > 11 {
			t.Errorf("it was looked %d times in ten seconds of 100 questions", n)
		}
	})
}
