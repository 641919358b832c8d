package loadbalancer_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
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

// Two share an address, and one of them asks for all of it, which is refused. The ledger goes on telling of the port that it has: the
// next controller, which reaches the other gateway, knows of it from there alone.
func TestLedgerTellsWhatAServiceHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
		former := s.start()
		s.ensure(former, sharing(web("asks", 8003), "shared"))
		s.ensure(former, sharing(web("stays", 8002), "shared"))
		all := web("asks", 80)
		all.Published = addresses("192.0.2.10")
		if _, err := former.Ensure(t.Context(), all); !isA[*ipam.SharingError](err) {
			t.Fatalf("all of a shared address: %v", err)
		}
		s.ensure(former, web("other", 80)) // the ledger is written
		s.wantGiven("asks", 8003)
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		s.gateway("east").change(func(g *fakeGateway) { g.dead = true })
		s.gateway("west").change(func(g *fakeGateway) { g.dead = false })
		later := s.start(replayed(web("asks", 80)), replayed(sharing(web("stays", 8002), "shared"), "192.0.2.10"))
		defer later.stop()
		if got := s.ensure(later, sharing(web("joins", 8003), "shared")).Addresses; slices.Equal(got, addresses("192.0.2.10")) {
			t.Error("port 8003 was given away while east serves it for another Service")
		}
		if got := s.ensure(later, sharing(web("stays", 8002), "shared")).Addresses; !slices.Equal(got, addresses("192.0.2.10")) {
			t.Errorf("the Service that stays has %v", got)
		}
	})
}

// As before, and every gateway confirms the port that it has: with another one it waits for the ledger again.
func TestLedgerTellsOfAnotherPortAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		c := s.start()
		defer c.stop()
		s.ensure(c, sharing(web("asks", 8003), "shared"))
		s.ensure(c, sharing(web("stays", 8002), "shared"))
		if _, err := c.Ensure(t.Context(), web("asks", 80)); !isA[*ipam.SharingError](err) {
			t.Fatalf("all of a shared address: %v", err)
		}
		s.ensure(c, web("other", 80))
		s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("asks", 8004), "shared"))
		s.wantGiven("asks", 8004)
	})
}

// wantGiven says that the ledger tells of this port of a Service's address, and of nothing else that it has.
func (s *site) wantGiven(name string, port uint16) {
	s.t.Helper()
	var ports []desired.Port
	for _, g := range s.ledger.read().Given {
		if g.Owner == key(name) {
			ports = append(ports, g.Ports...)
		}
	}
	if want := []desired.Port{{Protocol: desired.TCP, Port: port}}; !slices.Equal(ports, want) {
		s.t.Errorf("the ledger tells of %v of %s, want %v", ports, name, want)
	}
}

// Another controller, which leads no more, has written into the ledger that somebody has all of an address, or a port of it, which is not
// free: who has it by his status and by what a gateway serves keeps it (seed 4873), but for what nobody was told of.
func TestAnotherGivesWhatAServiceHas(t *testing.T) {
	for name, given := range map[string][]desired.Port{"all": nil, "another port": {{Protocol: desired.TCP, Port: 443}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				former := s.start()
				s.ensure(former, sharing(web("stays", 8002), "shared"))
				s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
				s.ensure(former, sharing(web("asks", 8003), "shared"))
				if err := former.stop(); err != nil {
					t.Fatal(err)
				}
				stays := web("stays", 8002)
				stays.LoadBalancer.Frontends = append(stays.LoadBalancer.Frontends, web("", 443).LoadBalancer.Frontends...)
				stays.LoadBalancer.Frontends[1].Name = "more"
				stays.Request.Sharing.Ports = append(stays.Request.Sharing.Ports, web("", 443).Request.Sharing.Ports...)
				stays = sharing(stays, "shared")
				later := s.start(replayed(web("asks", 80)), replayed(stays, "192.0.2.10"))
				defer later.stop()
				<-later.Loaded()
				s.ledger.edit(func(l *loadbalancer.Ledger) {
					l.Given = []loadbalancer.Given{{Address: addresses("192.0.2.10")[0], Owner: key("asks"), Ports: given}}
				})
				for range 600 {
					time.Sleep(200 * time.Millisecond)
					if lb := s.gateway("east").serves("stays"); lb == nil || !slices.Equal(lb.Addresses, addresses("192.0.2.10")) {
						t.Fatalf("the Service that stays is served as %+v", lb)
					}
				}
				if _, err := later.Ensure(t.Context(), stays); (err == nil) != (given == nil) {
					t.Errorf("port 443: %v", err)
				}
			})
		})
	}
}

// The former leader is faster once, when Services that share have their address by their statuses alone: they keep that.
func TestPublishedSharersWhenAnotherIsFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.ensure(former, web("a", 80))
		faster := false
		one, two := sharing(web("one", 8002), "shared"), sharing(web("two", 8003), "shared")
		newer := s.startPausing(func(string) {
			if !faster {
				faster = true
				s.ensure(former, web("a", 81))
			}
		}, replay(web("a", 81)), replayed(one, "192.0.2.15"), replayed(two, "192.0.2.15"))
		if got := s.ensure(newer, one).Addresses; !slices.Equal(got, addresses("192.0.2.15")) {
			t.Errorf("it has %v", got)
		}
		_, _ = former.stop(), newer.stop()
	})
}

// A Service has moved to another address, and its status does not say so yet: clients that read it would reach who is given the former one
// (seed 11450).
func TestAddressIsNotFreeWhileAStatusNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("moves", 80)).Addresses
		moves := requesting(web("moves", 80), "192.0.2.13")
		moves.Published = had
		moved := s.ensure(c, moves).Addresses
		time.Sleep(time.Minute)
		next := requesting(web("next", 80), had[0].String())
		if _, err := c.Ensure(t.Context(), next); !isA[*ipam.TakenError](err) {
			t.Errorf("its former address is given away: %v", err)
		}
		c.Published(key("moves"), moved)
		time.Sleep(time.Second)
		if got := s.ensure(c, next).Addresses; !slices.Equal(got, had) {
			t.Errorf("the next one has %v", got)
		}
		if err := c.Delete(t.Context(), key("moves"), false); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, requesting(web("last", 80), moved[0].String())) // nobody reads the status of what is gone
	})
}
