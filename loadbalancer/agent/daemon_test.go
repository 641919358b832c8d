package agent

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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

// The worker that was replaced answers now and then for a moment, although its successor has answered already.
func TestOldWorkerAnswersOnceMore(t *testing.T) {
	for answer := 2; answer <= 3; answer++ {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := started(t, m)
			old, answers := m.haproxy.pid, 0
			m.lingers = func(pid int) bool {
				if pid != old {
					answers++
				}
				return answers == answer
			}
			result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
			if refusal != nil || result.Outcome != wire.Reloaded {
				t.Errorf("answer %d is the old worker's: got %+v, %v", answer, result, refusal)
			}
			if answers < answer {
				t.Errorf("HAProxy was asked %d times after the reload, so that answer %d shows nothing", answers, answer)
			}
		})
	}
}

// A reload that does give a new worker, but one that loads something else, is not repeated without end: old workers keep
// their connections and their memory.
func TestWrongWorkerStopsReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.loads = foreignConfig  // as with another CONFIG in /etc/default/haproxy
		var reloads atomic.Int32 // the watcher counts too
		m.strike = func(_ int, operation string) strike {
			if operation == "run /haproxy reload" {
				reloads.Add(1)
			}
			return passes
		}
		watching(t, a.watchDaemons)
		result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
		if refusal != nil || result.Outcome != wire.Stuck || !strings.Contains(result.Faults[0].Message, "/etc/haproxy/haproxy.cfg") {
			t.Errorf("got %+v, %v", result, refusal)
		}
		if n := reloads.Swap(0); n > 4 {
			t.Errorf("%d reloads in one transaction and its way back, want 2 each", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := reloads.Load(); n < 5 || n > 30 {
			t.Errorf("%d reloads in an hour of repairs, want some 20", n)
		}
	})
}

// A keepalived that is told while its source address is missing stays in FAULT until it is told again, without a word. So
// it is not told, and it is the gateway that is unfit, no Service.
func TestVRRPAddressIsMissing(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	m.addressless = true
	before := m.moment()
	_, refusal := a.apply(t.Context(), sign(t, sample(2, service("db", "192.0.2.11", 51))))
	if refusal == nil || refusal.Code != wire.CodeInternal || !strings.Contains(refusal.Message, "10.0.0.2 on eth0") {
		t.Errorf("got %+v, want a refusal that names the address", refusal)
	}
	if diff := cmp.Diff(before, m.moment()); diff != "" {
		t.Errorf("a refused State changed the machine:\n%s", diff)
	}
	// What keepalived has nothing to do with goes on.
	if result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), node("worker-3", "10.0.2.3")))); refusal != nil || result.Outcome != wire.Runtime {
		t.Errorf("a node: %+v, %v", result, refusal)
	}
	m.addressless = false
	if result, refusal := a.apply(t.Context(), sign(t, sample(3, service("db", "192.0.2.11", 51)))); refusal != nil || result.Outcome != wire.Runtime {
		t.Errorf("with the address: %+v, %v", result, refusal)
	}
}
