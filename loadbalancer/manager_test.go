package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestBurstJoinsFewRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst = 1000
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		for _, g := range s.gateways {
			g.keepalived = 100 * time.Millisecond
		}
		c := s.start()
		defer c.stop()
		synctest.Wait()
		before, _, _ := s.observer.seen()

		var all sync.WaitGroup
		var mu sync.Mutex
		owners := map[netip.Addr]string{}
		for i := range burst {
			all.Go(func() {
				name := fmt.Sprintf("s%d", i)
				ensured, err := c.Ensure(t.Context(), web(name, 80))
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other, taken := owners[ensured.Addresses[0]]; taken {
					t.Errorf("%s and %s both got %s", name, other, ensured.Addresses[0])
				}
				owners[ensured.Addresses[0]] = name
			})
		}
		all.Wait()
		after, _, _ := s.observer.seen()
		if n := len(after) - len(before); n < 1 || n > 5 {
			t.Errorf("%d Services took %d rounds", burst, n)
		}
		for _, g := range s.gateways {
			if state, _ := g.snapshot(); len(state.LoadBalancers) != burst {
				t.Errorf("gateway %s serves %d", g.name, len(state.LoadBalancers))
			}
		}
		for i := range burst {
			all.Go(func() {
				if err := c.Delete(t.Context(), key(fmt.Sprintf("s%d", i)), false); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		final, freed, _ := s.observer.seen()
		if n := len(final) - len(after); n > 5 {
			t.Errorf("%d deletions took %d rounds", burst, n)
		}
		if len(freed) != burst {
			t.Errorf("%d addresses were freed, want %d", len(freed), burst)
		}
	})
}

func TestEnsureAnswersOnlyWhenTheVIPIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		for _, g := range s.gateways {
			g.keepalived = 300 * time.Millisecond
		}
		c := s.start()
		defer c.stop()
		started := time.Now()
		s.ensure(c, web("web", 80))
		if took := time.Since(started); took < 300*time.Millisecond || took > 1200*time.Millisecond {
			t.Errorf("answered after %v, the VIP is held after 300 ms", took)
		}
		// Nobody holds it in time.
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.keepalived = time.Hour })
		}
		_, err := c.Ensure(t.Context(), web("never", 80))
		var notHeld *loadbalancer.NotHeldError
		if !errors.As(err, &notHeld) || !strings.Contains(err.Error(), "(asked: gw1, gw2)") {
			t.Errorf("want *NotHeldError, got %v", err)
		}
		// A VIP that nobody holds delays no other Service's removal.
		started = time.Now()
		go func() { _, _ = c.Ensure(t.Context(), web("never2", 80)) }()
		synctest.Wait()
		if err := c.Delete(t.Context(), key("web"), false); err != nil || time.Since(started) > time.Second {
			t.Errorf("Delete: %v after %v", err, time.Since(started))
		}
	})
}

func TestEnsureWithoutChangeNeedsNoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		first := s.ensure(c, web("web", 80))
		before, _, _ := s.observer.seen()
		second := s.ensure(c, web("web", 80))
		if !reflect.DeepEqual(first, second) {
			t.Errorf("%v, then %v", first, second)
		}
		if after, _, _ := s.observer.seen(); len(after) != len(before) {
			t.Errorf("an unchanged Service took %d rounds", len(after)-len(before))
		}
		service := web("web", 80)
		service.LoadBalancer.Frontends[0].Port = 81
		s.ensure(c, service)
		if lb := s.gateways[0].serves("web"); lb.Frontends[0].Port != 81 || lb.Addresses[0] != first.Addresses[0] {
			t.Errorf("after the change: %+v", lb)
		}
	})
}

func TestInputsAreNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		service, want := web("web", 80), web("web", 80)
		service.LoadBalancer.Frontends = append(service.LoadBalancer.Frontends, web("", 79).LoadBalancer.Frontends...)
		want.LoadBalancer.Frontends = append(want.LoadBalancer.Frontends, web("", 79).LoadBalancer.Frontends...)
		service.LoadBalancer.Frontends[1].Name, want.LoadBalancer.Frontends[1].Name = "a", "a"
		nodes := []desired.Node{{Name: "z"}, {Name: "a"}}
		for i := range nodes {
			nodes[i].Addresses = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(9 - i)})}
		}
		c.SetNodes(nodes)
		s.ensure(c, service)
		if !reflect.DeepEqual(service, want) {
			t.Errorf("the Service was written: %+v", service)
		}
		if nodes[0].Name != "z" {
			t.Errorf("the nodes were written: %+v", nodes)
		}
	})
}

func TestAddressErrorsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		c := s.start()
		defer c.stop()
		first := s.ensure(c, web("a", 80)).Addresses[0]
		s.ensure(c, web("b", 80))
		if _, err := c.Ensure(t.Context(), web("c", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("pool exhausted: %v", err)
		}
		taken := web("d", 80)
		taken.Request.Addresses = []netip.Addr{first}
		if _, err := c.Ensure(t.Context(), taken); !isA[*ipam.TakenError](err) || !strings.Contains(err.Error(), "default/a") {
			t.Errorf("requested address taken: %v", err)
		}
		// A Service that is served keeps its address when it asks for one that it cannot have.
		b := web("b", 80)
		b.Request.Addresses = []netip.Addr{first}
		if _, err := c.Ensure(t.Context(), b); !isA[*ipam.TakenError](err) {
			t.Errorf("b asked for a's address: %v", err)
		}
		if lb := s.gateways[0].serves("b"); lb == nil || lb.Addresses[0] == first {
			t.Errorf("b is served as %+v", lb)
		}
		s.ensure(c, web("b", 80)) // no longer asks for it, nor does d
		for _, name := range []string{"d", "a"} {
			if err := c.Delete(t.Context(), key(name), false); err != nil {
				t.Fatal(err)
			}
		}
		if _, freed, _ := s.observer.seen(); len(freed) != 1 || freed[0] != first {
			t.Errorf("freed: %v", freed)
		}
		if got := s.ensure(c, web("c", 80)).Addresses[0]; got != first {
			t.Errorf("c got %s", got)
		}
	})
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestNodesHaveTheirAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		c := s.start()
		defer c.stop()
		c.SetNodes([]desired.Node{{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}})
		got := s.ensure(c, web("web", 80)).Addresses[0]
		if got.String() != "10.0.0.2" {
			t.Errorf("got %s, 10.0.0.1 is a node's", got)
		}
		// A machine that comes up with the address of a VIP does not cost the Service its VIP.
		c.SetNodes([]desired.Node{
			{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Name: "thief", Addresses: []netip.Addr{got}},
		})
		s.ensure(c, web("other", 80))
		state, _ := s.gateways[0].snapshot()
		if len(state.Nodes) != 1 || state.Nodes[0].Name != "n1" || s.gateways[0].serves("web") == nil {
			t.Errorf("nodes %v, web %v", state.Nodes, s.gateways[0].serves("web"))
		}
	})
}

func TestStopInTheMiddleOfARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.took = 3 * time.Second })
		}
		failed := make(chan error, 1)
		go func() {
			_, err := c.Ensure(t.Context(), web("b", 80))
			failed <- err
		}()
		time.Sleep(time.Second)
		if err := c.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := <-failed; !errors.Is(err, loadbalancer.ErrStopped) {
			t.Errorf("Ensure while stopping: %v", err)
		}
		if _, err := c.Ensure(t.Context(), web("c", 80)); !errors.Is(err, loadbalancer.ErrStopped) {
			t.Errorf("Ensure after the end: %v", err)
		}
		// The next controller finds whole States and makes both gateways equal.
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.took = time.Millisecond })
		}
		next := s.start(replay(web("a", 80)), replay(web("b", 80)))
		defer next.stop()
		s.ensure(next, web("b", 80))
		s.equalGateways()
	})
}

func (s *site) equalGateways() {
	s.t.Helper()
	first, _ := s.gateways[0].snapshot()
	for _, g := range s.gateways[1:] {
		if state, _ := g.snapshot(); !reflect.DeepEqual(state, first) {
			s.t.Errorf("gateways %s and %s differ:\n%+v\n%+v", s.gateways[0].name, g.name, first, state)
		}
	}
}

// replay is a Service that exists, with its status published.
func replay(service loadbalancer.Service, published ...string) loadbalancer.Replay {
	r := loadbalancer.Replay{Key: service.LoadBalancer.Key, Service: &service}
	for _, a := range published {
		r.Published = append(r.Published, netip.MustParseAddr(a))
	}
	return r
}

func TestACallerThatLeavesChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Ensure(ctx, web("web", 80)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ensure: %v", err)
		}
		time.Sleep(time.Second)
		if s.gateways[0].serves("web") == nil {
			t.Error("the Service is not served")
		}
	})
}

// TestEnsureOfAServiceThatIsNoLongerHeld: nothing changed and a State would change nothing, but nobody answers there.
func TestEnsureOfAServiceThatIsNoLongerHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.since = time.Now().Add(10 * time.Minute) }) // keepalived is dead
		time.Sleep(61 * time.Second)
		if _, err := c.Ensure(t.Context(), web("a", 80)); !isA[*loadbalancer.NotHeldError](err) {
			t.Errorf("got %v", err)
		}
		time.Sleep(10 * time.Minute)
		s.ensure(c, web("a", 80))
	})
}
