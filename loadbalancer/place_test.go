package loadbalancer_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A gateway that serves and speaks VRRP, but cannot be reached by the controller, stays MASTER of its instances: new VIPs
// go to the others, and those that it holds stay where they are.
func TestNewVIPsGoToGatewaysThatAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		for i := range 10 {
			s.ensure(c, web(fmt.Sprintf("old%d", i), 80))
		}
		before, _ := s.gateway("gw2").snapshot()
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
		// All at once, so that some are in the round that finds gw2 away.
		var asking sync.WaitGroup
		for i := range 10 {
			asking.Go(func() { s.ensure(c, web(fmt.Sprintf("new%d", i), 80)) })
		}
		asking.Wait()
		after, _ := s.gateway("gw1").snapshot()
		wantPlaced(t, before, after)
		led := map[int]int{}
		for _, vip := range before.VIPs {
			led[vip.RouterID]++
		}
		if len(led) != 2 {
			t.Fatalf("all old VIPs are on one instance: %v; the test needs both", led)
		}

		// A new controller leaves them there too, and so does the gateway's return.
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = false })
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		next := s.start(replaysOf(after)...)
		defer next.stop()
		s.ensure(next, web("last", 80))
		last, _ := s.gateway("gw2").snapshot()
		wantPlaced(t, after, last)
	})
}

// A gateway that takes connections and never answers costs the first Service after that a moment, and the next nothing.
func TestGatewayThatHangsDelaysNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("first", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.hanging = true })
		for i, limit := range []time.Duration{3 * time.Second, time.Second, time.Second} {
			began := time.Now()
			s.ensure(c, web(fmt.Sprintf("new%d", i), 80))
			if took := time.Since(began); took > limit {
				t.Errorf("Service %d was served after %v, want at most %v", i, took, limit)
			}
		}
	})
}

// Another list of gateways spreads all VIPs anew.
func TestAnotherGatewayGetsItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1")
		c := s.start()
		for i := range 10 {
			s.ensure(c, web(fmt.Sprintf("web%d", i), 80))
		}
		state, _ := s.gateway("gw1").snapshot()
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		two := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		two.gateways[0].signed, two.gateways[0].state = s.gateways[0].signed, state
		c = two.start(replaysOf(state)...)
		defer c.stop()
		two.ensure(c, web("last", 80))
		spread, _ := two.gateway("gw2").snapshot()
		led := map[string]int{}
		for _, vip := range spread.VIPs {
			led[two.holder(spread, vip)]++
		}
		if led["gw1"] == 0 || led["gw2"] == 0 {
			t.Errorf("VIPs by gateway: %v", led)
		}
	})
}

// replaysOf is what the API server tells a new controller about the load balancers of a State.
func replaysOf(state *desired.State) (all []loadbalancer.Replay) {
	for _, lb := range state.LoadBalancers {
		r := replay(web(lb.Name, lb.Frontends[0].Port))
		r.Published = lb.Addresses
		all = append(all, r)
	}
	return all
}

// Found by test/simulation (seed 10578): while a gateway takes no State, a Service asks for another address and is refused. Its VIP stays
// in the instance that this gateway moves, or two would hold it.
func TestRefusedMoveLeavesAVIPWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		for i := range 10 {
			s.ensure(c, web(fmt.Sprintf("web%d", i), 80))
		}
		before, _ := s.gateway("gw1").snapshot()
		s.gateway("gw2").change(func(g *fakeGateway) {
			g.judge = func(*desired.State) (*wire.Result, error) {
				return nil, &wire.Refusal{Code: wire.CodeInternal, Message: "no space left on device"}
			}
		})
		s.gateway("gw1").change(func(g *fakeGateway) { g.judge = naming })
		s.ensure(c, web("new", 80)) // gw2 is left out
		for i := range 10 {
			if _, err := c.Ensure(t.Context(), requesting(web(fmt.Sprintf("web%d", i), badPort), fmt.Sprintf("192.0.2.%d", 100+i))); err == nil {
				t.Fatal("badPort was not refused; the test needs that")
			}
		}
		after, _ := s.gateway("gw1").snapshot()
		wantPlaced(t, before, after)
	})
}

// A VIP that a gateway has let go, and that comes back when this one cannot be reached, goes to another: nobody would hold it.
func TestVIPThatComesBackGoesToAGatewayThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2", "gw3")
		c := s.start()
		defer c.stop()
		s.gateway("gw3").change(func(g *fakeGateway) { g.dead = true }) // so that the addresses stay with their Services
		before := map[string]string{}
		for i := range 10 {
			name := fmt.Sprintf("web%d", i)
			before[name] = s.ensure(c, web(name, 80)).Addresses[0].String()
		}
		for name := range before {
			if err := c.Delete(t.Context(), key(name), false); err != nil {
				t.Fatal(err)
			}
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
		for name, had := range before {
			if got := s.ensure(c, web(name, 80)).Addresses[0].String(); got != had {
				t.Errorf("%s has %s, it had %s", name, got, had)
			}
		}
	})
}

// wantPlaced says that the VIPs of before are all there after, each in its instance.
func wantPlaced(t *testing.T, before, after *desired.State) {
	t.Helper()
	places := map[netip.Addr]int{}
	for _, vip := range after.VIPs {
		places[vip.Address] = vip.RouterID
	}
	for _, vip := range before.VIPs {
		if places[vip.Address] != vip.RouterID {
			t.Errorf("%s was moved from instance %d to %d", vip.Address, vip.RouterID, places[vip.Address])
		}
	}
}
