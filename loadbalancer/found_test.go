package loadbalancer_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// What test/simulation found in the life of Manager, each as the shortest history that shows it.

// A controller starts with an informer whose first list is an old one: what the gateways serve is not dropped before the API server
// itself says that it is gone.
func TestStaleFirstList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		had := s.ensure(former, web("b", 80)).Addresses
		s.ensure(former, web("gone", 80))
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		var answers atomic.Bool
		s.settings.Existing = func(ctx context.Context, keys []desired.Key) ([]loadbalancer.Replay, error) {
			if want := []desired.Key{key("b"), key("gone")}; !slices.Equal(keys, want) {
				t.Errorf("asked for %v, want %v", keys, want)
			}
			if !answers.Load() {
				return nil, errors.New("no API server")
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(20 * time.Second): // it looks through all Services of a large cluster
			}
			return []loadbalancer.Replay{replay(web("b", 80))}, nil
		}
		later := s.start()
		defer later.stop()
		time.Sleep(time.Minute)
		if s.gateway("east").serves("gone") == nil {
			t.Error("a Service was dropped although nobody could say whether it is gone")
		}
		answers.Store(true)
		time.Sleep(90 * time.Second)
		if s.gateway("east").serves("gone") != nil {
			t.Error("a Service that is gone is served")
		}
		if lb := s.gateway("east").serves("b"); lb == nil || !slices.Equal(lb.Addresses, had) {
			t.Errorf("b is served as %+v, it had %v", lb, had)
		}
	})
}

// The former leader brings a Service to all gateways between the second reading of the newer one and its first push: the address
// is not given to another Service, and the Service stays.
func TestFormerLeaderIsFasterOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.ensure(former, web("a", 80))
		var had []netip.Addr
		s.settings.Existing = func(context.Context, []desired.Key) ([]loadbalancer.Replay, error) {
			return []loadbalancer.Replay{replay(web("o", 80))}, nil
		}
		newer := s.startPausing(func(string) {
			if had == nil {
				had = s.ensure(former, web("o", 80)).Addresses
			}
		}, replay(web("a", 80)), replay(web("n", 80)))
		got := s.ensure(newer, web("n", 80)).Addresses
		s.equalGateways()
		if lb := s.gateway("east").serves("o"); lb == nil || !slices.Equal(lb.Addresses, had) || slices.Equal(got, had) {
			t.Errorf("o had %v and is served as %+v; n has %v", had, lb, got)
		}
		time.Sleep(time.Minute)
		_, _ = former.stop(), newer.stop()
	})
}

// An address that no status tells of is served by a gateway alone that is away when the next controller starts.
func TestUnpublishedAddressOnAnAbsentGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.ensure(former, web("a", 80))
		s.gateway("east").change(func(g *fakeGateway) { g.dead = true })
		had := s.ensure(former, web("z", 80)).Addresses // its status was not written
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		s.gateway("east").change(func(g *fakeGateway) { g.dead = false })
		s.gateway("west").change(func(g *fakeGateway) { g.cut = true })
		a, z := replay(web("a", 80)), replay(web("z", 80))
		a.Published = s.gateway("east").serves("a").Addresses
		later := s.start(a, replay(web("m", 80)), z)
		defer later.stop()
		if got := s.ensure(later, web("m", 80)).Addresses; slices.Equal(got, had) {
			t.Errorf("m has %v, which the absent gateway serves z at", got)
		}
		if got := s.ensure(later, web("z", 80)).Addresses; !slices.Equal(got, had) {
			t.Errorf("z has %v, it had %v", got, had)
		}
		s.gateway("west").change(func(g *fakeGateway) { g.cut = false })
		time.Sleep(time.Minute)
		s.equalGateways()
		if given := s.ledger.read().Given; len(given) != 0 {
			t.Errorf("all gateways confirmed, and the ledger still tells of %v", given)
		}
	})
}

// A gateway that only its peer reaches holds the VIP.
func TestHeldThroughAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateway("west").change(func(g *fakeGateway) { g.cut = true })
		s.gateway("east").change(func(g *fakeGateway) {
			g.claims = []netip.Addr{}
			g.peers = func(mine desired.Fence) []wire.PeerStatus {
				return []wire.PeerStatus{{Gateway: "west", Answers: true, Fence: &mine, Held: []netip.Addr{netip.MustParseAddr("192.0.2.11")}}}
			}
		})
		s.ensure(c, web("b", 80))
		s.gateway("east").change(func(g *fakeGateway) {
			g.peers = func(mine desired.Fence) []wire.PeerStatus {
				older := mine
				older.Sequence--
				return []wire.PeerStatus{{Gateway: "west", Answers: true, Fence: &older, Held: []netip.Addr{netip.MustParseAddr("192.0.2.12")}}}
			}
		})
		if _, err := c.Ensure(t.Context(), web("c", 80)); !isA[*loadbalancer.NotHeldError](err) {
			t.Errorf("a peer with an older State holds it: %v", err)
		}
	})
}

// A Service that was made anew and does not translate is not served as the one before was.
func TestReplayOfAnotherObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.11", "east", "west")
		former := s.start()
		had := s.ensure(former, web("a", 80)).Addresses
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		later := s.start(loadbalancer.Replay{Key: key("a"), UID: "uid-of-another"})
		defer later.stop()
		s.ensure(later, web("b", 80))
		if lb := s.gateway("east").serves("a"); lb != nil {
			t.Errorf("it is served as %+v", lb)
		}
		anew := web("a", 80)
		anew.LoadBalancer.UID = "uid-of-another"
		if got := s.ensure(later, anew).Addresses; len(got) != 1 {
			t.Errorf("it has %v, the one before had %v", got, had)
		}
	})
}

// A Service that was made anew and that gateways refuse is not served as the one before was (seeds 6282, 6642 and 6648).
func TestRefusedAfterAnotherObject(t *testing.T) {
	for name, judge := range map[string]func(*desired.State) (*wire.Result, error){"named": naming, "bisected": unnamed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				former := s.start()
				had := s.ensure(former, web("a", 80)).Addresses
				if err := former.stop(); err != nil {
					t.Fatal(err)
				}
				for _, g := range s.gateways {
					g.change(func(g *fakeGateway) { g.judge = judge })
				}
				anew := web("a", badPort)
				anew.LoadBalancer.UID = "uid-of-another"
				told := replay(anew)
				told.UID, told.Published = "uid-of-another", had
				later := s.start(told)
				defer later.stop()
				var fault *loadbalancer.ServiceFaultError
				if _, err := later.Ensure(t.Context(), anew); !errors.As(err, &fault) || fault.Kept {
					t.Errorf("its form is refused: %v", err)
				}
				if lb := s.gateway("east").serves("a"); lb != nil {
					t.Errorf("it is served as %+v", lb)
				}
				s.ensure(later, web("b", 80))
				anew = web("a", 80)
				anew.LoadBalancer.UID = "uid-of-another"
				if got := s.ensure(later, anew).Addresses; !slices.Equal(got, had) {
					t.Errorf("it has %v, its status said %v", got, had)
				}
				s.equalGateways()
			})
		})
	}
}
