package loadbalancer_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What test/simulation found of who owns an address when a controller takes over, each as the shortest history that shows it.

// A Service has moved away from an address that it shared, its status does not say so yet, and it does not share any more: who is left
// at that address, published or not, stays there (seed 7360).
func TestStatusOfBeforeAMove(t *testing.T) {
	for name, published := range map[string][]string{"both are published": {"192.0.2.10"}, "the one that stays is not": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				former := s.start()
				s.ensure(former, sharing(web("moves", 8000), "shared"))
				s.ensure(former, sharing(web("stays", 8002), "shared"))
				s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
				moved := s.ensure(former, requesting(web("moves", 80), "192.0.2.13")).Addresses
				if err := former.stop(); err != nil {
					t.Fatal(err)
				}
				old, stays := replayed(requesting(web("moves", 80), "192.0.2.13"), "192.0.2.10"), replayed(sharing(web("stays", 8002), "shared"), published...)
				stays.Created = time.Now().Add(time.Second)
				later := s.start(old, stays)
				defer later.stop()
				for range 20 {
					time.Sleep(100 * time.Millisecond)
					if lb := s.gateway("east").serves("stays"); lb == nil || !slices.Equal(lb.Addresses, addresses("192.0.2.10")) {
						t.Fatalf("the Service that stays is served as %+v", lb)
					}
				}
				if got := s.ensure(later, requesting(web("moves", 80), "192.0.2.13")).Addresses; !slices.Equal(got, moved) {
					t.Errorf("the other one is at %v, it had moved to %v", got, moved)
				}
			})
		})
	}
}

// A deleted Service is told of as if it were there, by a watch that is late, while the last gateway is about to confirm that it is
// gone: it takes its address again, and gets no other one (seed 8508).
func TestServiceComesBackInTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("a", 80)).Addresses
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.took = time.Second })
		}
		go func() { _ = c.Delete(t.Context(), key("a"), false) }()
		time.Sleep(1500 * time.Millisecond)
		if got := s.ensure(c, web("a", 80)).Addresses; !slices.Equal(got, had) {
			t.Errorf("it has %v, it had %v", got, had)
		}
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		if _, freed, _ := s.observer.seen(); !slices.Equal(freed, had) {
			t.Errorf("freed %v after it was deleted again, want %v", freed, had)
		}
	})
}
