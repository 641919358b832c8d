package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A reload whose signal is lost is repeated.
func TestLostReloadIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.lostReloads = 2
		result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
		if refusal != nil || result.Outcome != wire.Reloaded {
			t.Errorf("got %+v, %v", result, refusal)
		}
	})
}

// A reload that does give a new worker, but one that loads something else, is not repeated without end: old workers keep
// their connections and their memory.
func TestWrongWorkerStopsReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.loads = foreignConfig // as with another CONFIG in /etc/default/haproxy
		reloads := 0
		m.strike = func(_ int, operation string) strike {
			if operation == "run /haproxy reload" {
				reloads++
			}
			return passes
		}
		watching(t, a.watchDaemons)
		result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
		if refusal != nil || result.Outcome != wire.Stuck || !strings.Contains(result.Faults[0].Message, "/etc/haproxy/haproxy.cfg") {
			t.Errorf("got %+v, %v", result, refusal)
		}
		if reloads > 4 {
			t.Errorf("%d reloads in one transaction and its way back, want 2 each", reloads)
		}
		reloads = 0
		time.Sleep(time.Hour)
		synctest.Wait()
		if reloads < 5 || reloads > 30 {
			t.Errorf("%d reloads in an hour of repairs, want some 20", reloads)
		}
	})
}
