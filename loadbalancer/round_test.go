package loadbalancer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestWhatChangesDuringARoundIsInTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.took = time.Second })
		go func() { _, _ = c.Ensure(t.Context(), web("b", 80)) }()
		time.Sleep(500 * time.Millisecond)
		c.SetNodes([]desired.Node{{Name: "n2", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.2")}}})
		time.Sleep(5 * time.Second)
		if state, _ := s.gateways[0].snapshot(); len(state.Nodes) != 1 || state.Nodes[0].Name != "n2" {
			t.Errorf("nodes: %v", state.Nodes)
		}
	})
}

func TestNewestStateWinsAndIsNeverOutbidLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stale := range []string{"gw1", "gw2"} {
			s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
			c := s.start()
			s.ensure(c, web("b", 80))
			s.gateway(stale).change(func(g *fakeGateway) { g.dead = true })
			want := s.ensure(c, web("z", 80)).Addresses[0]
			_ = c.stop()
			s.gateway(stale).change(func(g *fakeGateway) { g.dead = false })
			s.epochs.epoch = 0 // an etcd restored from a backup
			next := s.start(replay(web("a", 80)), replay(web("b", 80)), replay(web("z", 80)))
			if got := s.ensure(next, web("z", 80)).Addresses[0]; got != want {
				t.Errorf("with %s stale: z had %s and now %s", stale, want, got)
			}
			for _, g := range s.gateways {
				g.change(func(g *fakeGateway) {
					if g.refused > 0 {
						t.Errorf("gateway %s was offered %d States older than its own", g.name, g.refused)
					}
				})
			}
			_ = next.stop()
		}
	})
}

// TestAddressThatCameBackCountsAnew: gw2 confirmed a State that had the address again, so what it confirmed is newer
// than the first release and proves nothing.
func TestAddressThatCameBackCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		gw2 := s.gateway("gw2")
		away := func(dead bool) {
			gw2.change(func(g *fakeGateway) { g.dead = dead })
			time.Sleep(10 * time.Second)
		}
		s.ensure(c, web("a", 80))
		away(true)
		_ = c.Delete(t.Context(), key("a"), false) // releasing since here
		s.ensure(c, web("a", 80))
		away(false) // gw2 confirms that it has a
		away(true)
		_ = c.Delete(t.Context(), key("a"), false)
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("the address that gw2 still serves was given to b, or: %v", err)
		}
	})
}

// TestRefusedChangeOfAddress: the last good form keeps the former address, which is on its way back but still served.
func TestRefusedChangeOfAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		c := s.start()
		defer c.stop()
		former := s.ensure(c, web("a", 80)).Addresses[0]
		s.gateways[0].change(func(g *fakeGateway) { g.judge = naming })
		moved := web("a", badPort)
		moved.Request.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
		if _, err := c.Ensure(t.Context(), moved); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Errorf("got %v", err)
		}
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("an address of a was given to b, or: %v", err)
		}
		if lb := s.gateways[0].serves("a"); lb == nil || lb.Addresses[0] != former {
			t.Errorf("a is served as %+v, want at %s", lb, former)
		}
		moved = web("a", 80)
		moved.Request.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
		if got := s.ensure(c, moved).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("moved to %s", got)
		}
		if got := s.ensure(c, web("b", 80)).Addresses[0]; got != former {
			t.Errorf("b got %s", got)
		}
	})
}

func TestFaultStopsAtTheFirstGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		offered := 0
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) {
				g.judge = func(state *desired.State) (*wire.Result, error) {
					if has(state) != nil {
						offered++
					}
					return naming(state)
				}
			})
		}
		_, _ = c.Ensure(t.Context(), web("bad", badPort))
		if offered != 1 {
			t.Errorf("the State at fault was offered %d times", offered)
		}
	})
}

func TestNewerFormIsNotBlamedForTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, judge := range []func(*desired.State) (*wire.Result, error){naming, unnamed} {
			s := newSite(t, "10.0.0.0/24", "gw1")
			c := s.start()
			s.gateways[0].change(func(g *fakeGateway) { g.judge, g.took = judge, time.Second })
			go func() { _, _ = c.Ensure(t.Context(), web("a", badPort)) }()
			time.Sleep(500 * time.Millisecond)
			s.ensure(c, web("a", 80))
			_ = c.stop()
		}
	})
}

// TestPublishedAddressOfAServiceThatComesLater: one that leaves another controller keeps its address.
func TestPublishedAddressOfAServiceThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		comes := web("b", 80)
		comes.Published = []netip.Addr{netip.MustParseAddr("10.0.0.99")}
		if got := s.ensure(c, comes).Addresses[0].String(); got != "10.0.0.99" {
			t.Errorf("got %s", got)
		}
		s.settings.Reservations = []ipam.Reservation{{Address: netip.MustParseAddr("10.0.0.98"), Owner: ipam.Owner(key("vip"))}}
		if err := c.SetPools(s.settings.PoolSettings); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d", "vip"} {
			service := web(name, 80)
			service.Published = []netip.Addr{netip.MustParseAddr("10.0.0.98")}
			if got := s.ensure(c, service).Addresses[0].String(); (got == "10.0.0.98") != (name == "vip") {
				t.Errorf("%s has %s, which is reserved for vip", name, got)
			}
		}
		outside := web("c", 80)
		outside.Published = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		if got := s.ensure(c, outside).Addresses[0].String(); got == "192.0.2.1" {
			t.Error("a Service took an address outside every pool by its status")
		}
	})
}

// TestDeletedDuringARound: that round's State still has it, so its end proves nothing.
func TestDeletedDuringARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.took = time.Second })
		go func() { _, _ = c.Ensure(t.Context(), web("b", 80)) }()
		time.Sleep(500 * time.Millisecond)
		go func() { _ = c.Delete(t.Context(), key("a"), false) }()
		for range 40 {
			time.Sleep(100 * time.Millisecond)
			if _, ok := c.Has(key("a")); !ok && s.gateways[0].serves("a") != nil {
				t.Fatal("a is said to be gone while the gateway serves it")
			}
		}
		if _, ok := c.Has(key("a")); ok {
			t.Error("a is gone and still said to be there")
		}
	})
}

func TestDeleteOfWhatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("never"), false); err != nil {
			t.Errorf("Delete: %v", err)
		}
	})
}

func TestStuckGatewayEndsTheRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		before := make([]int, 2)
		for i, g := range s.gateways {
			_, applies := g.snapshot()
			before[i] = len(applies)
			g.change(func(g *fakeGateway) {
				g.judge = func(*desired.State) (*wire.Result, error) { return &wire.Result{Outcome: wire.Stuck}, nil }
			})
		}
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*loadbalancer.GatewaysError](err) {
			t.Errorf("got %v", err)
		}
		offered := 0
		for i, g := range s.gateways {
			_, applies := g.snapshot()
			offered += len(applies) - before[i]
		}
		if offered != 1 {
			t.Errorf("the State that left a gateway stuck was offered %d times in one round", offered)
		}
	})
}

// TestLastGoodFormWithAnAddressOfAnother: somebody edited both statuses while the controller was down.
func TestLastGoodFormWithAnAddressOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		address := s.ensure(c, web("a", 80)).Addresses[0]
		_ = c.stop()
		untranslated := replay(web("a", 80), "10.0.0.9")
		untranslated.Service = nil
		next := s.start(untranslated, replay(web("b", 80), address.String()))
		defer next.stop()
		if got := s.ensure(next, web("b", 80)).Addresses[0]; got != address {
			t.Errorf("b published %s and got %s", address, got)
		}
		if s.gateways[0].serves("a") != nil {
			t.Error("a is served at b's address")
		}
	})
}

// TestStatusWithAnAddressOfAnother: somebody gave a Service the address of one whose status tells of none, as one that publishes a host
// name.
func TestStatusWithAnAddressOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		address := s.ensure(c, web("a", 80)).Addresses[0]
		_ = c.stop()
		next := s.start(replay(web("a", 80)), replay(web("b", 80), address.String()))
		defer next.stop()
		if got := s.ensure(next, web("a", 80)).Addresses[0]; got != address {
			t.Errorf("a was served at %s and got %s", address, got)
		}
		if got := s.ensure(next, web("b", 80)).Addresses[0]; got == address {
			t.Error("b has the address of a")
		}
		if _, _, notices := s.observer.seen(); !isA[*ipam.TakenError](notices[key("b")]) {
			t.Errorf("b is told %v", notices[key("b")])
		}
	})
}

// BenchmarkRound is one Ensure with 5000 Services, gateways that answer at once.
func BenchmarkRound(b *testing.B) {
	s := newSite(b, "10.0.0.0/16", "gw1", "gw2")
	for _, g := range s.gateways {
		g.took = 0
	}
	var replays []loadbalancer.Replay
	for i := range 5000 {
		replays = append(replays, replay(web(fmt.Sprintf("s%04d", i), 80)))
	}
	c := s.start(replays...)
	defer c.stop()
	s.ensure(c, web("a", 80))
	for i := 0; b.Loop(); i++ {
		s.ensure(c, web("a", uint16(1000+i%1000)))
	}
}
