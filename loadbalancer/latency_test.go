package loadbalancer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// eachWay runs a test on a site that looks for new addresses on the network and on one that does not; asking is how long
// that takes.
func eachWay(t *testing.T, name string, test func(t *testing.T, s *site, asking time.Duration)) {
	for probing, asking := range map[string]time.Duration{"probed": 600 * time.Millisecond, "unprobed": 0} {
		t.Run(name+"/"+probing, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
				if asking > 0 {
					s.settings.Unprobed = nil
				}
				test(t, s, asking)
			})
		})
	}
}

// TestServiceDoesNotWaitForADeadGateway: the machine is off, the connection to it looks alive.
func TestServiceDoesNotWaitForADeadGateway(t *testing.T) {
	for _, dies := range []string{"gw1", "gw2"} {
		for _, idle := range []time.Duration{10 * time.Millisecond, 900 * time.Millisecond, 20 * time.Second, 20 * time.Minute} {
			eachWay(t, fmt.Sprint(dies, idle), func(t *testing.T, s *site, asking time.Duration) {
				c := s.start()
				defer c.stop()
				s.ensure(c, web("a", 80))
				time.Sleep(idle)
				s.gateway(dies).change(func(g *fakeGateway) { g.dead, g.hanging = true, true })
				for i, limit := range []time.Duration{2500 * time.Millisecond, 100 * time.Millisecond} {
					started := time.Now()
					s.ensure(c, web(fmt.Sprintf("b%d", i), 80))
					if took := time.Since(started); took > limit+asking {
						t.Errorf("Service %d waited %v", i, took)
					}
				}
			})
		}
	}
}

// TestServiceDoesNotWaitForALongDeadGateway when the other one, too, was left out for a moment.
func TestServiceDoesNotWaitForALongDeadGateway(t *testing.T) {
	eachWay(t, "both", func(t *testing.T, s *site, asking time.Duration) {
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.dead, g.hanging = true, true })
		s.gateways[1].change(func(g *fakeGateway) { g.judge = refuse(wire.CodeInternal) })
		_, _ = c.Ensure(t.Context(), web("b", 80))
		s.gateways[1].change(func(g *fakeGateway) { g.judge = nil })
		started := time.Now()
		s.ensure(c, web("c", 80))
		if took := time.Since(started); took > 2500*time.Millisecond+asking {
			t.Errorf("waited %v", took)
		}
	})
}

// TestRoundDoesNotWaitForAProbe: a gateway that is slow to look is not away, and who needs no address is served meanwhile.
func TestRoundDoesNotWaitForAProbe(t *testing.T) {
	eachWay(t, "slow", func(t *testing.T, s *site, asking time.Duration) {
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.looks = 4 * time.Second })
		}
		go func() { _, _ = c.Ensure(t.Context(), web("b", 80)) }()
		time.Sleep(50 * time.Millisecond)
		started := time.Now()
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took > 100*time.Millisecond {
			t.Errorf("Delete waited %v", took)
		}
		for _, g := range c.Gateways() {
			if g.Err != nil {
				t.Errorf("gateway %s is left out: %v", g.Name, g.Err)
			}
		}
	})
}
