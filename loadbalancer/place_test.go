package loadbalancer_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
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
		places := map[string]int{}
		for _, vip := range after.VIPs {
			places[vip.Address.String()] = vip.RouterID
		}
		led := map[int]int{}
		for _, vip := range before.VIPs {
			if places[vip.Address.String()] != vip.RouterID {
				t.Errorf("%s was moved from instance %d to %d", vip.Address, vip.RouterID, places[vip.Address.String()])
			}
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
		for _, vip := range last.VIPs {
			if was, ok := places[vip.Address.String()]; ok && was != vip.RouterID {
				t.Errorf("%s was moved from instance %d to %d by a new controller", vip.Address, was, vip.RouterID)
			}
		}
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
