package loadbalancer_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Found by test/simulation (seed 1400): two Services had their addresses swapped.
func TestTakeOverSeesWhatTheFormerLeaderDidAfterLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		<-former.Loaded()
		later := s.newManager()
		if err := later.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		had := s.ensure(former, web("b", 80)).Addresses // its status is not in our informers yet
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		ensured := s.takesOver(later, web("a", 80), web("b", 80))
		if !slices.Equal(ensured.Addresses, had) {
			t.Errorf("Service b has %v; it had %v", ensured.Addresses, had)
		}
	})
}

// Found by test/simulation (seed 658): a gateway that came back between Load and the first round had the only State with a
// Service.
func TestTakeOverReadsAGatewayThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
		had := s.ensure(former, web("b", 80)).Addresses
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		s.gateway("west").change(func(g *fakeGateway) { g.dead = false })
		s.gateway("east").change(func(g *fakeGateway) { g.cut = true })
		later := s.newManager()
		if err := later.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.gateway("east").change(func(g *fakeGateway) { g.cut = false })
		ensured := s.takesOver(later, web("a", 80), web("b", 80))
		if !slices.Equal(ensured.Addresses, had) {
			t.Errorf("Service b has %v; it had %v", ensured.Addresses, had)
		}
	})
}

// The gateway with the newest State goes away between Load and the first round: the older State of the other one is not taken for it.
func TestTakeOverKeepsTheNewestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.ensure(former, web("a", 80))
		s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(former, web("a", 81))
		if err := former.stop(); err != nil {
			t.Fatal(err)
		}
		s.gateway("west").change(func(g *fakeGateway) { g.dead = false })
		later := s.newManager()
		if err := later.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.gateway("east").change(func(g *fakeGateway) { g.dead = true })
		served := replay(web("a", 81), "192.0.2.10")
		served.Service = nil // what is served stays
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		later.SetNodes([]desired.Node{workerNode})
		later.Replay([]loadbalancer.Replay{served})
		go func() { done <- later.Run(ctx) }()
		time.Sleep(time.Minute)
		if lb := s.gateway("west").serves("a"); lb == nil || lb.Frontends[0].Port != 81 {
			t.Errorf("the last good form is %+v", lb)
		}
		cancel()
		<-done
	})
}

// Found by test/simulation (seed 31126): a Service that was deleted between Replay and the first round was served for ever,
// because Has said that there was nothing to delete.
func TestHasKnowsWhatIsReplayed(t *testing.T) {
	s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
	m := s.newManager()
	a := web("a", 80)
	m.Replay([]loadbalancer.Replay{{Key: key("a"), Service: &a}})
	if _, ok := m.Has(key("a")); !ok {
		t.Error("it is not known")
	}
	if _, ok := m.Has(key("b")); ok {
		t.Error("another one is known")
	}
}

// takesOver lets a Manager that has loaded begin with Services whose statuses say nothing, and gives what the last of them has.
func (s *site) takesOver(m *loadbalancer.Manager, services ...loadbalancer.Service) *loadbalancer.Ensured {
	s.t.Helper()
	var replays []loadbalancer.Replay
	for _, service := range services {
		replays = append(replays, loadbalancer.Replay{Key: service.LoadBalancer.Key, Service: &service})
	}
	m.SetNodes([]desired.Node{workerNode})
	m.Replay(replays)
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	ensured, err := m.Ensure(ctx, services[len(services)-1])
	if err != nil {
		s.t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		s.t.Error(err)
	}
	return ensured
}
