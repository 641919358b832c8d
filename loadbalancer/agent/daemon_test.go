package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/haproxy"
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

// A reload that does give a new worker, but one that loads something else, or that cannot be asked, is not repeated without end: old
// workers keep their connections and their memory. Nor does what has to be done besides repeat it.
func TestWrongWorkerStopsReloads(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Agent, *machine)                  // before the State comes
		again  func(*Agent, *machine, chan<- struct{}) // every minute
	}{
		{name: "loads something else"},
		{name: "and a server drains", change: func(a *Agent, _ *machine) {
			a.noteLeftover(&work{diff: haproxy.Diff{Deferred: []string{"nodes/worker-3"}}})
		}},
		{name: "and the table is flushed", again: func(_ *Agent, m *machine, events chan<- struct{}) {
			m.meanwhile(func() { m.script = "" })
			events <- struct{}{}
		}},
		{name: "and a wish waits", again: func(a *Agent, _ *machine, _ chan<- struct{}) {
			waiting := *a.rendered()
			waiting.waits.told = slices.Grow(waiting.waits.told, 1)[:1] // its time has come
			a.mu.Lock()
			a.current = &waiting
			a.mu.Unlock()
		}},
		{name: "cannot be asked", change: func(a *Agent, m *machine) { a.haproxy = speechless{m} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
				m.forks = true
				a := started(t, m)
				if test.change != nil {
					test.change(a, m)
				}
				m.loads = foreignConfig  // as with another CONFIG in /etc/default/haproxy
				var reloads atomic.Int32 // the watchers count too
				m.strike = func(_ int, operation string) strike {
					if operation == "run /haproxy reload" {
						reloads.Add(1)
					}
					return passes
				}
				events := told(a)
				watching(t, a.watchDaemons)
				watching(t, a.watchDrift)
				watching(t, a.watchFirewall)
				result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
				if refusal != nil || result.Outcome != wire.Stuck {
					t.Fatalf("got %+v, %v", result, refusal)
				}
				if _, unread := a.haproxy.(speechless); !unread && !strings.Contains(result.Faults[0].Message, "/etc/haproxy/haproxy.cfg") {
					t.Errorf("told %q", result.Faults[0].Message)
				}
				if n := reloads.Swap(0); n > 4 {
					t.Errorf("%d reloads in one transaction and its way back, want 2 each", n)
				}
				for range 60 {
					time.Sleep(time.Minute)
					if test.again != nil {
						test.again(a, m, events)
					}
				}
				synctest.Wait()
				if n := reloads.Load(); n < 5 || n > 30 {
					t.Errorf("%d reloads in an hour of repairs, want some 20", n)
				}
				reloads.Store(0)
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := reloads.Load(); n < 5 || n > 14 {
					t.Errorf("%d reloads in the next hour, want 2 each %v", n, retryCostly)
				}
			})
		})
	}
}

// speechless is an HAProxy that lives and answers no question but for a sign of life.
type speechless struct{ *machine }

func (speechless) Read(context.Context) (*haproxy.Running, error) { return nil, errStruck }

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
