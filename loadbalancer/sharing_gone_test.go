package loadbalancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// TestSharersGone: one of two sharers was deleted, and the other one while no controller ran. Who comes back alone may not have
// the port of its former partner, which a gateway that is away serves still.
func TestSharersGone(t *testing.T) {
	for _, port := range []uint16{80, 443} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.1-10.0.0.9", "gw1", "gw2")
			c := s.start()
			s.ensure(c, sharing(web("a", 80), "k"))
			s.ensure(c, sharing(web("b", 443), "k"))
			s.gateway("gw1").change(func(g *fakeGateway) { g.cut = true })
			_ = c.Delete(t.Context(), key("a"), false)
			for range 2 { // what the first tells the second must be as much as it knows itself
				_ = c.stop()
				c = s.start()
				time.Sleep(5 * time.Second)
				if state, _ := s.gateway("gw2").snapshot(); len(state.Releasing) != 2 {
					t.Errorf("releasing: %v, want what a and b had", state.Releasing)
				}
			}
			defer func() { _ = c.stop() }()
			_, _ = c.Ensure(t.Context(), web("b", port))
			s.oneOwner()
			s.gateway("gw1").change(func(g *fakeGateway) { g.cut = false })
			time.Sleep(20 * time.Second)
			s.ensure(c, web("b", port))
			s.oneOwner()
		})
	}
}

// TestServiceGetsAKeyWhileDown: which ports it had alone a gateway that is away knows best, so that nobody joins before that
// one has confirmed.
func TestServiceGetsAKeyWhileDown(t *testing.T) {
	for _, live := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.1-10.0.0.9", "gw1", "gw2")
			c := s.start()
			s.ensure(c, web("a", 81))
			s.ensure(c, web("z", 80)) // 10.0.0.2
			s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
			_, _ = c.Ensure(t.Context(), web("a", 80))
			a := sharing(web("a", 80), "m")
			if live {
				a = requesting(a, "10.0.0.2") // refused, so that nothing changes now
				_, _ = c.Ensure(t.Context(), a)
			}
			_ = c.stop()
			c = s.start(replayed(a, "10.0.0.1"), replayed(web("z", 80), "10.0.0.2"))
			defer c.stop()
			time.Sleep(time.Second)
			_, _ = c.Ensure(t.Context(), sharing(web("b", 81), "m"))
			s.oneOwner()
			s.gateway("gw2").change(func(g *fakeGateway) { g.cut = false })
			time.Sleep(20 * time.Second)
			if live {
				return // its faults stay
			}
			if got := s.ensure(c, sharing(web("d", 22), "m")).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("d got %s, want to share 10.0.0.1 with a", got)
			}
		})
	}
}

// TestPublishedSharersWithoutAState: the gateways were made anew, and the statuses alone tell who shares.
func TestPublishedSharersWithoutAState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		a, b := sharing(web("a", 80), "k"), sharing(web("b", 443), "k")
		c := s.start(replayed(a, "10.0.0.1"), replayed(b, "10.0.0.1"))
		defer c.stop()
		for _, service := range []loadbalancer.Service{a, b, sharing(web("c", 22), "k")} {
			if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
	})
}

// TestSharerIsKeptAcrossNamespaces: its pool shares no address across namespaces any more, but this one waits for it.
func TestSharerIsKeptAcrossNamespaces(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
			s.settings.Pools[0].ShareAcrossNamespaces = true
			c := s.start()
			a, b := sharing(web("a", 80), "k"), sharing(web("b", 443), "k")
			b.LoadBalancer.Key.Namespace = "other"
			s.ensure(c, a)
			s.ensure(c, b)
			_ = c.Delete(t.Context(), b.LoadBalancer.Key, true)
			s.settings.PoolSettings = poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.9"})
			if err := c.SetPools(s.settings.PoolSettings); err != nil {
				t.Fatal(err)
			}
			if restarts {
				_ = c.stop()
				c = s.start(replayed(a, "10.0.0.1"))
			}
			defer func() { _ = c.stop() }()
			if got := s.ensure(c, b).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("b has %s, want what was kept for it", got)
			}
		})
	}
}

// TestPoolIsNotToldAsFull: an address in use that becomes a node's takes nothing from the others.
func TestPoolIsNotToldAsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		c.SetNodes([]desired.Node{workerNode, {Name: "n2", Addresses: addresses("10.0.0.1")}})
		s.ensure(c, web("b", 80))
		if n := c.Pools()[0]; n.Used() != 2 || n.Size != 3 {
			t.Errorf("%+v, and one is free", n)
		}
		s.ensure(c, web("c", 80))
	})
}

// TestPublishedSharerAsksForAServedPort: its status names an address that it has left by the newest State, where it had another
// port. What it asks for now a gateway serves for its former partner, who is gone. Found by TestRandomLives.
func TestPublishedSharerAsksForAServedPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1", "gw2")
		c := s.start()
		a, b := sharing(web("a", 81), "k"), sharing(web("b", 80), "k")
		s.ensure(c, a)
		s.ensure(c, b)
		_ = c.stop()
		s.gateway("gw1").change(func(g *fakeGateway) { g.cut = true })
		leaves := requesting(sharing(web("b", 82), "m"), "10.0.0.5")
		c = s.start(replayed(a, "10.0.0.1"), replayed(leaves, "10.0.0.1"))
		s.ensure(c, leaves)
		_ = c.stop()
		c = s.start(replayed(sharing(web("b", 81), "k"), "10.0.0.1")) // its new address was never published
		defer func() { _ = c.stop() }()
		_, _ = c.Ensure(t.Context(), sharing(web("b", 81), "k"))
		s.oneOwner()
	})
}
