package agent

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// webSlot is the slot that serves default/web, empty when none does.
func (a *Agent) webSlot() string {
	return a.rendered().slots.At(desired.Key{Namespace: "default", Name: "web"}, 0)
}

// flips applies changed again and again, a connection staying in each slot that is left. It gives the slots that were used and how
// often HAProxy was reloaded.
func flips(t *testing.T, times int, changed func(n int) func(*desired.State)) (used map[string]bool, reloads int) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	used = map[string]bool{}
	m.strike = func(_ int, operation string) strike {
		if operation == "run /haproxy reload" {
			reloads++
			m.meanwhile(func() { m.departed = nil }) // the old worker has them
		}
		return passes
	}
	for n := range times {
		before := a.webSlot()
		result, refusal := a.apply(t.Context(), sign(t, sample(uint64(n+2), service("web", "192.0.2.10", 51), changed(n))))
		if refusal != nil || len(result.Faults) > 0 || result.Outcome != wire.Runtime && result.Outcome != wire.Reloaded {
			t.Fatalf("change %d: %+v, %v", n, result, refusal)
		}
		if result.Outcome == wire.Reloaded && !strings.Contains(strings.Join(result.Reasons, "; "), "more slots of kind") {
			t.Errorf("change %d: HAProxy is reloaded because of %q", n, result.Reasons)
		}
		if slot := a.webSlot(); slot != "" {
			used[slot] = true
		}
		if before != "" && result.Outcome != wire.Reloaded && a.webSlot() != before {
			m.leaves(before+"/worker-1", "10.0.2.1")
		}
	}
	return used, reloads
}

// Somebody changes an annotation to and fro, and clients stay connected in each slot that is left: the load balancer returns to it.
func TestFlipsUseNoSlots(t *testing.T) {
	own := ownPool(desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1})
	with := func(change func(*desired.LoadBalancer)) func(*desired.State) {
		return func(s *desired.State) { own(s); change(&s.LoadBalancers[0]) }
	}
	for name, flip := range map[string]func(*desired.LoadBalancer){
		"the check":       func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 2000 },
		"the algorithm":   func(lb *desired.LoadBalancer) { lb.Pool.Algorithm = desired.LeastConn },
		"the shared pool": func(lb *desired.LoadBalancer) { lb.Pool = nil },
	} {
		t.Run(name, func(t *testing.T) {
			used, reloads := flips(t, 100, func(n int) func(*desired.State) {
				if n%2 == 0 {
					return own
				}
				return with(flip)
			})
			if reloads > 0 || len(used) > 2 {
				t.Errorf("%d slots were used, HAProxy was reloaded %d times", len(used), reloads)
			}
		})
	}
}

// A slot that was left is its leaver's alone while connections are there: not that of a Service made anew under its name, nor anybody else's.
// Then it is anybody's, and who has left it takes the lowest one again, which runs.
func TestSlotThatWasLeft(t *testing.T) {
	web, db := service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51)
	own := func(s *desired.State) {
		for i := range s.LoadBalancers {
			one := *s
			one.LoadBalancers = s.LoadBalancers[i:]
			ownPool(desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1})(&one)
		}
	}
	anew := func(s *desired.State) { s.LoadBalancers[0].UID = "another" }
	for name, test := range map[string]struct {
		first []func(*desired.State)
		empty bool
		next  []func(*desired.State)
		slot  string
	}{
		"it returns":                  {[]func(*desired.State){web, own}, false, []func(*desired.State){web, own}, slot1},
		"made anew":                   {[]func(*desired.State){web, own}, false, []func(*desired.State){web, own, anew}, "slot-http-roundrobin-2"},
		"another one":                 {[]func(*desired.State){web, own}, false, []func(*desired.State){db, own}, "slot-http-roundrobin-2"},
		"another one when it is free": {[]func(*desired.State){web, own}, true, []func(*desired.State){db, own}, slot1},
		"it was the second one":       {[]func(*desired.State){web, db, own}, true, []func(*desired.State){web, own}, slot1},
	} {
		t.Run(name, func(t *testing.T) {
			m := holding(t, sample(1, test.first...))
			a := started(t, m)
			for n, s := range []*desired.State{sample(2, web), sample(3, test.next...)} {
				if result, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || len(result.Faults) > 0 {
					t.Fatal(result, refusal)
				}
				if n == 0 && !test.empty {
					m.leaves(slot1+"/worker-1", "10.0.2.1")
				}
			}
			for tenant, slot := range a.rendered().slots {
				if slot != test.slot {
					t.Errorf("%s has %s, want %s", tenant, slot, test.slot)
				}
			}
		})
	}
}

// Who never says the same twice takes a new slot each time, and HAProxy is reloaded for more of them now and then: the result says so.
func TestChangesThatDiffer(t *testing.T) {
	own := ownPool(desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1})
	_, reloads := flips(t, 100, func(n int) func(*desired.State) {
		return func(s *desired.State) { own(s); s.LoadBalancers[0].Pool.Check.IntervalMillis = 1000 + n }
	})
	if reloads == 0 || reloads > 100/40 { // of fifty slots a fifth is spare
		t.Errorf("HAProxy was reloaded %d times", reloads)
	}
}
