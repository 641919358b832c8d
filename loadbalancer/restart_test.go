package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestRestartKeepsEveryAddressInAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const n = 50
			random := rand.New(rand.NewPCG(seed, 0))
			s := newSite(t, "10.0.0.0/25", "gw1", "gw2")
			c := s.start()
			want := map[string]netip.Addr{}
			names := random.Perm(n)
			for _, i := range names {
				name := fmt.Sprintf("s%02d", i)
				want[name] = s.ensure(c, web(name, 80)).Addresses[0]
			}
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			// Some were published before the end, some not; some are gone; some are new and pending.
			var replays []loadbalancer.Replay
			for i, name := range random.Perm(n + 20) {
				service := fmt.Sprintf("s%02d", name)
				switch address, old := want[service]; {
				case old && name%7 == 0:
					delete(want, service) // deleted while the controller was down
				case old && i%2 == 0:
					replays = append(replays, replay(web(service, 80), address.String()))
				case old && i%3 == 0:
					r := replay(web(service, 80))
					r.Service = nil // its translation fails now
					replays = append(replays, r)
				default:
					replays = append(replays, replay(web(service, 80)))
				}
			}
			next := s.start(replays...)
			defer next.stop()
			time.Sleep(time.Second)
			owners := map[netip.Addr]string{}
			state, _ := s.gateways[0].snapshot()
			for _, lb := range state.LoadBalancers {
				if other, taken := owners[lb.Addresses[0]]; taken {
					t.Errorf("%s and %s have %s", lb.Name, other, lb.Addresses[0])
				}
				owners[lb.Addresses[0]] = lb.Name
				if address, old := want[lb.Name]; old && address != lb.Addresses[0] {
					t.Errorf("seed %d: %s had %s and now %s", seed, lb.Name, address, lb.Addresses[0])
				}
			}
			if len(state.LoadBalancers) != len(replays) {
				t.Errorf("%d load balancers for %d Services", len(state.LoadBalancers), len(replays))
			}
			s.equalGateways()
		})
	}
}

func TestDeletedWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		address := s.ensure(c, web("gone", 80)).Addresses[0]
		_ = c.stop()

		m := s.newManager()
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, ok := m.Has(key("gone")); !ok || got[0] != address {
			t.Errorf("before Replay: %v, %v; want what the gateways serve", got, ok)
		}
		next := s.start()
		defer next.stop()
		time.Sleep(time.Second)
		for _, g := range s.gateways {
			if g.serves("gone") != nil {
				t.Errorf("gateway %s still serves it", g.name)
			}
		}
		if _, ok := next.Has(key("gone")); ok {
			t.Error("it is still said to be there")
		}
		if _, freed, _ := s.observer.seen(); len(freed) != 1 || freed[0] != address {
			t.Errorf("freed %v", freed)
		}
	})
}

func TestNoRoundBeforeReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		s.ensure(c, web("old", 80))
		_ = c.stop()
		m := s.newManager()
		m.SetNodes([]desired.Node{workerNode})
		go func() { _ = m.Run(t.Context()) }()
		answered := make(chan error, 1)
		go func() {
			_, err := m.Ensure(t.Context(), web("new", 80))
			answered <- err
		}()
		time.Sleep(3 * time.Minute)
		if s.gateways[0].serves("old") == nil || s.gateways[0].serves("new") != nil {
			t.Error("a round ran before Replay")
		}
		m.Replay([]loadbalancer.Replay{replay(web("old", 80))})
		if err := <-answered; err != nil {
			t.Error(err)
		}
		if s.gateways[0].serves("old") == nil || s.gateways[0].serves("new") == nil {
			t.Error("after Replay not both are served")
		}
	})
}

// TestNoRoundBeforeNodes: a State without nodes would empty the pool that serves now.
func TestNoRoundBeforeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		s.ensure(c, web("old", 80))
		_ = c.stop()
		before, _ := s.gateways[0].snapshot()
		m := s.newManager()
		go func() { _ = m.Run(t.Context()) }()
		m.Replay([]loadbalancer.Replay{replay(web("old", 80))})
		time.Sleep(3 * time.Minute)
		if now, _ := s.gateways[0].snapshot(); now.Fence != before.Fence {
			t.Errorf("a State with %d nodes was pushed before the nodes were known", len(now.Nodes))
		}
		m.SetNodes(nil) // known: there is none
		time.Sleep(time.Second)
		if now, _ := s.gateways[0].snapshot(); now.Fence == before.Fence || len(now.Nodes) != 0 {
			t.Errorf("no round after the nodes were known: %+v", now)
		}
	})
}

// TestFirstRoundNeedsNoService: the one reload that starts HAProxy's frontends must not lie under the first Service.
func TestFirstRoundNeedsNoService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.ControlPlane = &desired.ControlPlane{
			Address: netip.MustParseAddr("10.0.0.1"), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:6443")}, Check: desired.Check{Kind: desired.CheckNone},
		}
		c := s.start()
		defer c.stop()
		time.Sleep(time.Second)
		for _, g := range s.gateways {
			state, _ := g.snapshot()
			if state == nil || len(state.Nodes) != 1 || state.ControlPlane == nil || len(state.VIPs) != 1 {
				t.Errorf("gateway %s has %+v", g.name, state)
			}
		}
		if rounds, _, _ := s.observer.seen(); len(rounds) != 1 || rounds[0].Reason != "change" {
			t.Errorf("rounds: %+v", rounds)
		}
	})
}

func TestTwoServicesPublishOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		younger, elder, outside := replay(web("a", 80), "10.0.0.7"), replay(web("b", 80), "10.0.0.7"), replay(web("c", 80), "192.0.2.9")
		younger.Created = time.Now()
		elder.Created = time.Now().Add(-time.Hour)
		c := s.start(younger, elder, outside)
		defer c.stop()
		if got := s.ensure(c, web("b", 80)).Addresses[0].String(); got != "10.0.0.7" {
			t.Errorf("the elder got %s", got)
		}
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got == "10.0.0.7" {
			t.Error("the younger got the elder's address")
		}
		if got := s.ensure(c, web("c", 80)).Addresses[0].String(); got != "192.0.2.9" {
			t.Errorf("a published address outside every pool was changed to %s", got)
		}
		_, _, notices := s.observer.seen()
		if !isA[*ipam.TakenError](notices[key("a")]) || !isA[*ipam.OutsideError](notices[key("c")]) || notices[key("b")] != nil {
			t.Errorf("notices: %v", notices)
		}
	})
}

func TestPendingNeverTakesWhatIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		pending := web("a", 80)
		pending.Request.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		c := s.start(replay(pending), replay(web("b", 80), "10.0.0.1"))
		defer c.stop()
		if got := s.ensure(c, web("b", 80)).Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("the published one got %s", got)
		}
		if _, err := c.Ensure(t.Context(), pending); !isA[*ipam.TakenError](err) {
			t.Errorf("the pending one: %v", err)
		}
	})
}

func TestEpochIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		old := s.start()
		s.ensure(old, web("a", 80))
		next := s.start(replay(web("a", 80)))
		s.ensure(next, web("b", 80))
		defer next.stop()
		_, err := old.Ensure(t.Context(), web("c", 80))
		if !isA[*loadbalancer.DeposedError](err) {
			t.Errorf("Ensure of the old one: %v", err)
		}
		<-old.done
		if err := old.stop(); !isA[*loadbalancer.DeposedError](err) {
			t.Errorf("Run of the old one: %v", err)
		}
		time.Sleep(2 * time.Minute)
		for _, g := range s.gateways {
			if g.serves("c") != nil || g.serves("b") == nil {
				t.Errorf("gateway %s has the old one's State", g.name)
			}
		}
	})
}

// TestDeposedControllerGivesItsStateToNobody, also not to a gateway that has not heard of the new one.
func TestDeposedControllerGivesItsStateToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		old := s.start()
		s.ensure(old, web("a", 80))
		s.gateways[1].change(func(g *fakeGateway) { g.dead = true })
		next := s.start(replay(web("a", 80)))
		s.ensure(next, web("b", 80))
		_ = next.stop()
		s.gateways[1].change(func(g *fakeGateway) { g.dead = false })
		if _, err := old.Ensure(t.Context(), web("c", 80)); !isA[*loadbalancer.DeposedError](err) {
			t.Errorf("Ensure of the old one: %v", err)
		}
		if s.gateways[1].serves("c") != nil {
			t.Error("gw2 got a State of the old one after gw1 had refused it")
		}
	})
}

func TestEtcdRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		for range 5 {
			c := s.start(replay(web("a", 80)))
			s.ensure(c, web("a", 80))
			_ = c.stop()
		}
		s.epochs.epoch, s.epochs.holder = 1, ""
		c := s.start(replay(web("a", 80)))
		s.ensure(c, web("b", 80))
		s.equalGateways()
		if state, _ := s.gateways[0].snapshot(); state.Fence.Epoch != 6 {
			t.Errorf("epoch %d, want above 5", state.Fence.Epoch)
		}
		_ = c.stop()

		// The gateway with the newest State is away while the next one loads: it is told later.
		s.epochs.epoch = 1
		s.gateways[0].change(func(g *fakeGateway) { g.dead = true })
		s.gateways[1].change(func(g *fakeGateway) { g.state, g.signed = nil, nil })
		c = s.start(replay(web("a", 80)), replay(web("b", 80)))
		defer c.stop()
		s.ensure(c, web("b", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.equalGateways()
		if state, _ := s.gateways[0].snapshot(); state.Fence.Epoch != 7 {
			t.Errorf("epoch %d, want above 6", state.Fence.Epoch)
		}
	})
}

func TestLoad(t *testing.T) {
	t.Run("no gateway answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
			for _, g := range s.gateways {
				g.cut = true
			}
			c := s.start()
			defer c.stop()
			_, err := c.Ensure(t.Context(), web("a", 80))
			if !isA[*loadbalancer.GatewaysError](err) || !strings.Contains(err.Error(), "State of no gateway could be read") {
				t.Errorf("got %v", err)
			}
			s.gateways[0].change(func(g *fakeGateway) { g.cut = false })
			select {
			case <-c.Loaded():
			case <-time.After(time.Minute):
				t.Error("it was not loaded when a gateway was back")
			}
		})
	})
	t.Run("other cluster", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.0/24", "gw1")
			c := s.start()
			s.ensure(c, web("a", 80))
			_ = c.stop()
			s.settings.ClusterUID = func(context.Context) (string, error) { return "cluster-2", nil }
			err := s.newManager().Load(t.Context())
			var foreign *loadbalancer.ClusterError
			if !errors.As(err, &foreign) || foreign.Got != "cluster-1" || !strings.Contains(err.Error(), "gatewayctl adopt") {
				t.Errorf("got %v", err)
			}
			if s.gateways[0].serves("a") == nil {
				t.Error("the gateway was changed")
			}
		})
	})
	t.Run("API server hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.0/24", "gw1")
			s.settings.ClusterUID = func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}
			c := s.start()
			defer c.stop()
			started := time.Now()
			if _, err := c.Ensure(t.Context(), web("a", 80)); !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 10*time.Second {
				t.Errorf("after %v: %v", time.Since(started), err)
			}
		})
	})
	t.Run("API server away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, "10.0.0.0/24", "gw1")
			s.epochs.err = errors.New("etcdserver: request timed out")
			if err := s.newManager().Load(t.Context()); !errors.Is(err, s.epochs.err) {
				t.Errorf("got %v", err)
			}
		})
	})
}
