package loadbalancer_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func sources(allow ...string) *loadbalancer.Sources {
	s := &loadbalancer.Sources{}
	for _, text := range allow {
		s.Allow = append(s.Allow, netip.MustParsePrefix(text))
	}
	return s
}

// admits fails unless the gateways serve a Service to these sources; none: to everybody.
func (s *site) admits(name string, allow ...string) {
	s.t.Helper()
	for _, g := range s.gateways {
		lb := g.serves(name)
		if lb == nil {
			s.t.Errorf("%s does not serve %s", g.name, name)
		} else if want := sources(allow...).Allow; !slices.Equal(lb.AllowSources, want) {
			s.t.Errorf("%s serves %s to %v, want %v", g.name, name, lb.AllowSources, want)
		}
	}
}

func (s *site) refuse(c *controller, name string, sources *loadbalancer.Sources) {
	s.t.Helper()
	if err := c.Refuse(s.t.Context(), key(name), sources); err != nil {
		s.t.Fatalf("Refuse(%s): %v", name, err)
	}
}

// A Service stays at the address of its last good form also when a form that gateways refused had asked for another one, which it holds
// by then: its status, which names the first one, is not written while it is wrong (seed 17002).
func TestRefusedSpecStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "gw1", "gw2")
		for _, g := range s.gateways {
			g.judge = naming
		}
		c := s.start()
		defer c.stop()
		address := s.ensure(c, web("web", 80)).Addresses
		if _, err := c.Ensure(t.Context(), requesting(web("web", badPort), "192.0.2.14")); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Fatal(err)
		}
		s.refuse(c, "web", sources("198.51.100.0/24"))
		s.admits("web", "198.51.100.0/24")
		for _, g := range s.gateways {
			if got := g.serves("web").Addresses; !slices.Equal(got, address) {
				t.Errorf("%s serves it at %v, want %v", g.name, got, address)
			}
		}
		s.ensure(c, requesting(web("next", 80), "192.0.2.14")) // nobody has it any more
	})
}

// Who may connect is what the spec says, also when the rest of it is refused.
func TestRefusedSpecHoldsItsSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		address := s.ensure(c, web("web", 80)).Addresses
		s.refuse(c, "web", sources("192.0.2.0/24", "192.0.2.7/32"))
		s.admits("web", "192.0.2.0/24")
		s.refuse(c, "web", nil) // opens nothing, closes nothing
		time.Sleep(time.Minute)
		s.admits("web", "192.0.2.0/24")
		rounds, _, _ := s.observer.seen()
		s.refuse(c, "web", sources("192.0.2.0/24"))
		if after, _, _ := s.observer.seen(); len(after) != len(rounds) {
			t.Error("what is so already made a round")
		}
		s.refuse(c, "web", sources())
		s.admits("web")
		if lb := s.gateways[0].serves("web"); !slices.Equal(lb.Addresses, address) || lb.Frontends[0].Port != 80 {
			t.Errorf("it is served as %+v", lb)
		}
		s.refuse(c, "stranger", sources("192.0.2.0/24"))
		if _, known := c.Has(key("stranger")); known || s.gateways[0].serves("stranger") != nil {
			t.Error("a Service that nobody ensured came to be")
		}
		mended := web("web", 81)
		s.ensure(c, mended)
		s.admits("web")
	})
}

// A pool of a Service's own follows the nodes also while its spec is refused, before and after a restart.
func TestRefusedSpecGetsTodaysServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		server := func(name, address string) desired.Server {
			return desired.Server{Name: name, Address: netip.MustParseAddr(address), Weight: 1}
		}
		local, unchecked := web("local", 80), web("unchecked", 80)
		local.LoadBalancer.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckTCP, Port: 32000, IntervalMillis: 1000, Rise: 1, Fall: 1},
			Servers: []desired.Server{server("old", "192.0.2.21")}}
		unchecked.LoadBalancer.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone}}
		address := s.ensure(c, local).Addresses
		s.ensure(c, unchecked)
		s.ensure(c, web("plain", 80))
		refill := func(servers ...desired.Server) {
			t.Helper()
			for _, name := range []string{"local", "unchecked", "plain", "stranger"} {
				c.Refill(key(name), factsOf(web(name, 80), servers...))
			}
			time.Sleep(time.Second)
			for _, g := range s.gateways {
				if lb := g.serves("local"); !slices.Equal(lb.Pool.Servers, servers) || !slices.Equal(lb.Addresses, address) {
					t.Errorf("%s has servers %v at %v", g.name, lb.Pool.Servers, lb.Addresses)
				}
				if !slices.Equal(g.serves("unchecked").Pool.Servers, servers) || g.serves("plain").Pool != nil || g.serves("stranger") != nil {
					t.Errorf("%s: unchecked %+v, plain %+v", g.name, g.serves("unchecked").Pool, g.serves("plain").Pool)
				}
			}
		}
		refill(server("old", "192.0.2.21"), server("young", "192.0.2.22"))
		refill() // the last node goes, another one comes
		refill(server("young", "192.0.2.22"))
		c.stop()

		c = s.start(loadbalancer.Replay{Key: key("local"), Published: address}, loadbalancer.Replay{Key: key("unchecked")}, loadbalancer.Replay{Key: key("plain")})
		defer c.stop()
		time.Sleep(time.Second)
		rounds, _, _ := s.observer.seen()
		refill(server("young", "192.0.2.22"))
		if after, _, _ := s.observer.seen(); len(after) != len(rounds) {
			t.Error("what is so already made a round")
		}
		refill(server("newest", "192.0.2.23"))
	})
}

// A form that was wanted and could not be served yet is not served later, when the sources of the newest spec cannot be
// read; and to nobody else than these when they can.
func TestRefusedSpecOfAPendingService(t *testing.T) {
	for _, test := range []struct {
		name    string
		sources *loadbalancer.Sources
	}{{"unreadable", nil}, {"narrow", sources("192.0.2.0/24")}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.1-10.0.0.1", "gw1")
				c := s.start()
				defer c.stop()
				s.ensure(c, web("a", 80))
				if _, err := c.Ensure(t.Context(), web("open", 80)); !isA[*ipam.ExhaustedError](err) {
					t.Fatal(err)
				}
				if err := c.Refuse(t.Context(), key("open"), test.sources); err != nil && !isA[*ipam.ExhaustedError](err) {
					t.Fatal(err)
				}
				if err := c.Delete(t.Context(), key("a"), false); err != nil {
					t.Fatal(err)
				}
				c.SetNodes([]desired.Node{workerNode}) // any other change, or the resync
				time.Sleep(5 * time.Second)
				if test.sources != nil {
					s.admits("open", "192.0.2.0/24")
				} else if lb := s.gateways[0].serves("open"); lb != nil {
					t.Errorf("open to %v at %v", lb.AllowSources, lb.Addresses)
				}
				s.ensure(c, web("open", 80))
				s.admits("open")
			})
		})
	}
}

// A call whose caller left waits for its answer all the same; it must not keep rounds going when its form is dropped.
func TestRefusedWhileACallWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.gateways[0].change(func(g *fakeGateway) { g.took = time.Second })
		go s.ensure(c, web("other", 80))
		time.Sleep(100 * time.Millisecond) // its round goes on; the next call waits for the next one
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Ensure(ctx, web("open", 80)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		s.refuse(c, "open", nil)
		time.Sleep(time.Minute)
		if s.gateways[0].serves("open") != nil {
			t.Error("it is served")
		}
		if rounds, _, _ := s.observer.seen(); len(rounds) > 10 {
			t.Errorf("%d rounds in a minute in which nothing happened", len(rounds))
		}
	})
}

// A form that a gateway refused has no part in it: the last good one is open to whom the spec says.
func TestRefusedSpecAfterAGatewaysRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		for _, g := range s.gateways {
			g.judge = naming
		}
		c := s.start()
		defer c.stop()
		address := s.ensure(c, web("web", 80)).Addresses
		if _, err := c.Ensure(t.Context(), web("web", badPort)); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Fatal(err)
		}
		s.refuse(c, "web", sources("192.0.2.0/24"))
		s.admits("web", "192.0.2.0/24")
		if lb := s.gateways[0].serves("web"); !slices.Equal(lb.Addresses, address) || lb.Frontends[0].Port != 80 {
			t.Errorf("it is served as %+v", lb)
		}
	})
}

// A restarted controller finds a Service whose spec is refused now: its last good form is served, to whom the spec says.
func TestRefusedSpecAfterRestart(t *testing.T) {
	for _, test := range []struct {
		name    string
		sources *loadbalancer.Sources
		want    []string
	}{{"readable", sources("192.0.2.0/24"), []string{"192.0.2.0/24"}}, {"unreadable", nil, []string{"198.51.100.0/24"}}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
				c := s.start()
				before := web("web", 80)
				before.LoadBalancer.AllowSources = sources("198.51.100.0/24").Allow
				address := s.ensure(c, before).Addresses[0]
				_ = c.stop()
				r := replay(web("web", 80), address.String())
				r.Service, r.Sources = nil, test.sources
				next := s.start(r)
				defer next.stop()
				time.Sleep(time.Second)
				s.admits("web", test.want...)
				if got := s.gateways[0].serves("web").Addresses; !slices.Equal(got, []netip.Addr{address}) {
					t.Errorf("it is served at %v, want %v", got, address)
				}
			})
		})
	}
}

// What is refused before the gateways' State is known counts when it is.
func TestRefusedBeforeTheStateIsKnown(t *testing.T) {
	for _, test := range []struct {
		name      string
		published string
		sources   *loadbalancer.Sources
		served    bool
		want      []string
	}{
		{"readable", "", sources("192.0.2.0/24"), true, []string{"192.0.2.0/24"}},
		{"unreadable, nobody was told of it", "", nil, false, nil},
		{"unreadable, published", "10.0.0.7", nil, true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/24", "gw1")
				s.gateways[0].change(func(g *fakeGateway) { g.dead = true })
				service := web("web", 80)
				r := loadbalancer.Replay{Key: service.LoadBalancer.Key, Service: &service}
				if test.published != "" {
					r.Published = []netip.Addr{netip.MustParseAddr(test.published)}
				}
				c := s.start(r)
				defer c.stop()
				s.refuse(c, "web", test.sources)
				s.gateways[0].change(func(g *fakeGateway) { g.dead = false })
				time.Sleep(time.Minute)
				switch lb := s.gateways[0].serves("web"); {
				case !test.served && lb != nil:
					t.Errorf("it is served to %v", lb.AllowSources)
				case test.served:
					s.admits("web", test.want...)
				}
				if service.LoadBalancer.AllowSources != nil {
					t.Error("what Replay was given was written")
				}
			})
		})
	}
}
