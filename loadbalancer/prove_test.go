package loadbalancer_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/wire"
)

var (
	stranger = wire.Neighbor{MAC: "52:54:00:00:00:99"}
	peer     = wire.Neighbor{MAC: "52:54:00:00:00:02", Gateway: "gw2"}
	worker   = wire.Neighbor{MAC: "52:54:00:00:01:01", Node: "n1"}
)

// newProbedSite looks for new addresses on the network.
func newProbedSite(t *testing.T, pool string, names ...string) *site {
	s := newSite(t, pool, names...)
	s.settings.Unprobed = nil
	return s
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func requesting(s loadbalancer.Service, texts ...string) loadbalancer.Service {
	s.Request.Addresses = addresses(texts...)
	return s
}

// TestNewAddressesAreLookedForAtOnce: 100 Services cost one or two questions, and what needs none does not wait.
func TestNewAddressesAreLookedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("old", 80))
		asked := len(s.network.questions())
		begun := time.Now()
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() { s.ensure(c, web(fmt.Sprintf("new-%d", i), 80)) })
		}
		group.Go(func() {
			time.Sleep(100 * time.Millisecond)
			s.ensure(c, web("old", 443)) // another port at an address of its own
			if took := time.Since(begun); took > 400*time.Millisecond {
				t.Errorf("a Service with an address waited %s for those without", took)
			}
		})
		group.Wait()
		took, questions := time.Since(begun), s.network.questions()[asked:]
		if len(questions) > 2 || took < 500*time.Millisecond || took > 2*time.Second {
			t.Errorf("%d probes, served after %s", len(questions), took)
		}
		s.ensure(c, web("new-1", 443))
		if again := s.network.questions()[asked:]; len(again) != len(questions) {
			t.Errorf("an address in use was asked for: %v", again[len(questions):])
		}
	})
}

// TestAskingMakesNoState: gateways hear of a new Service once, when its address is known to be free.
func TestAskingMakesNoState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.0/24", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		_, before := s.gateways[0].snapshot()
		s.ensure(c, web("b", 80))
		if _, after := s.gateways[0].snapshot(); len(after) != len(before)+1 {
			t.Errorf("%d States for one Service", len(after)-len(before))
		}
	})
}

// TestFreedAddressIsLookedForAgain: a stranger may have taken it meanwhile.
func TestFreedAddressIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		s.network.has("10.0.0.1", stranger)
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) || !strings.Contains(err.Error(), "quarantined") {
			t.Errorf("got %v", err)
		}
	})
}

func TestStrangerHasTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		s.network.has("10.0.0.1", stranger)
		s.network.has("10.0.0.2", peer) // a VIP of an interrupted round: no stranger
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses; got[0] != addresses("10.0.0.2")[0] {
			t.Errorf("got %v, want the next address", got)
		}
		_, _, notices := s.observer.seen()
		var conflict *loadbalancer.ConflictError
		if !errors.As(notices[key("a")], &conflict) || conflict.MAC != stranger.MAC || conflict.Requested || conflict.Held {
			t.Errorf("told %v", notices[key("a")])
		}
		state, _ := s.gateways[0].snapshot()
		if len(state.Quarantined) != 1 || state.Quarantined[0].By != stranger.MAC || state.Pools[0].Quarantined != 1 {
			t.Errorf("State: quarantined %v, pools %v", state.Quarantined, state.Pools)
		}
		for _, vip := range state.VIPs {
			if vip.Address == conflict.Address {
				t.Error("a gateway got the stranger's address")
			}
		}
		if got := s.ledger.read().Quarantined; len(got) != 1 || got[0].Address != conflict.Address {
			t.Errorf("ledger: %v", got)
		}
		// Nothing of this is forgotten over a restart.
		_ = c.stop()
		asked := len(s.network.questions())
		c = s.start(replayed(web("a", 80), "10.0.0.2"))
		defer c.stop()
		s.ensure(c, web("a", 80))
		if got := s.ensure(c, web("b", 80)).Addresses; got[0] != addresses("10.0.0.3")[0] {
			t.Errorf("after a restart b got %v", got)
		}
		if questions := s.network.questions()[asked:]; len(questions) != 1 {
			t.Errorf("asked after the restart: %v", questions)
		}
	})
}

func replayed(s loadbalancer.Service, published ...string) loadbalancer.Replay {
	s.Published = addresses(published...)
	return loadbalancer.Replay{Key: s.LoadBalancer.Key, Published: s.Published, Sharing: s.Request.Sharing, Service: &s}
}

// TestRequestedAddressOfAStranger: no other address will do, and what the Service has it keeps.
func TestRequestedAddressOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		s.network.has("10.0.0.9", worker)
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("a", 80)).Addresses[0]
		for _, name := range []string{"a", "b"} {
			_, err := c.Ensure(t.Context(), requesting(web(name, 80), "10.0.0.9"))
			if !isA[*ipam.QuarantinedError](err) || !strings.Contains(err.Error(), worker.MAC) || !strings.Contains(err.Error(), "n1") {
				t.Errorf("%s: %v; want *ipam.QuarantinedError with the MAC and the node", name, err)
			}
		}
		_, _, notices := s.observer.seen()
		if err := notices[key("a")]; err == nil || !strings.Contains(err.Error(), "strictARP") {
			t.Errorf("told %v; want a word about strictARP", err)
		}
		if lb := s.gateways[0].serves("a"); lb == nil || lb.Addresses[0] != had {
			t.Errorf("a is served as %+v, want at %s", lb, had)
		}
		if pool := c.Pools()[0]; pool.Assigned != 1 || pool.Releasing != 0 {
			t.Errorf("a is served, yet the pool has %+v", pool)
		}
		if got := s.ensure(c, web("a", 443)).Addresses[0]; got != had {
			t.Errorf("without the request a has %s, want %s", got, had)
		}
		state, _ := s.gateways[0].snapshot()
		if pool := state.Pools[0]; len(state.Releasing) != 0 || len(state.LoadBalancers) != 1 || pool.Assigned != 1 || pool.Releasing != 0 {
			t.Errorf("State: %+v", state)
		}
	})
}

func TestQuarantineIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.network.has("10.0.0.1", stranger)
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		begun := time.Now()
		time.Sleep(12 * time.Minute)
		if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 1 {
			t.Errorf("the stranger is still there, yet %v is quarantined", state.Quarantined)
		}
		s.network.has("10.0.0.1")
		time.Sleep(12 * time.Minute)
		_, freed, _ := s.observer.seen()
		if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 0 || len(freed) != 1 {
			t.Errorf("%s after the stranger left: quarantined %v, told free %v", time.Since(begun), state.Quarantined, freed)
		}
		if got := s.ensure(c, requesting(web("b", 80), "10.0.0.1")).Addresses; got[0].String() != "10.0.0.1" {
			t.Errorf("b has %v", got)
		}
		if len(s.ledger.read().Quarantined) != 0 {
			t.Errorf("ledger: %v", s.ledger.read().Quarantined)
		}
	})
}

// TestProxyARP: a machine that answers for everything has no address of ours.
func TestProxyARP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		s.network.proxy = "52:54:00:ff:ff:ff"
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses; got[0].String() != "10.0.0.1" {
			t.Errorf("a has %v", got)
		}
		asked := len(s.network.questions())
		s.ensure(c, web("b", 80))
		if got := s.network.questions()[asked:]; len(got) != 0 {
			t.Errorf("asked again: %v", got)
		}
		time.Sleep(5 * time.Minute)
		var proxy *loadbalancer.ProxyARPError
		if told := s.observer.toldOf(); len(told) != 1 || !errors.As(told[0], &proxy) || proxy.MAC != s.network.proxy {
			t.Errorf("told %v, want once who it is", told)
		}
		// Whoever changes the pools may have mended that too.
		s.network.has("10.0.0.3", stranger)
		s.network.setProxy("")
		if err := c.SetPools(s.settings.PoolSettings); err != nil {
			t.Fatal(err)
		}
		if got := s.ensure(c, web("c", 80)).Addresses; got[0].String() != "10.0.0.4" {
			t.Errorf("c has %v", got)
		}
		if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 1 {
			t.Errorf("quarantined: %v", state.Quarantined)
		}
	})
}

// TestWhatIsOursIsNotLookedFor: the former controller of a Service may answer for its address for a while.
func TestWhatIsOursIsNotLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		c := s.start()
		s.ensure(c, web("served", 80))
		_ = c.stop()
		for i := range 5 {
			s.network.has(fmt.Sprintf("10.0.0.%d", i), stranger)
		}
		asked := len(s.network.questions())
		// served was never published, published never served.
		c = s.start(replayed(web("served", 80)), replayed(web("published", 80), "10.0.0.2"))
		defer c.stop()
		late := web("late", 80)
		late.Published = addresses("10.0.0.3")
		for i, service := range []loadbalancer.Service{web("served", 443), web("published", 443), late} {
			if got := s.ensure(c, service).Addresses[0].String(); got != fmt.Sprintf("10.0.0.%d", i+1) {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
		if got := s.network.questions()[asked:]; len(got) != 0 {
			t.Errorf("asked for %v", got)
		}
	})
}

// TestTwoAddressesOfOneStranger: a machine with two addresses of the pool is no proxy.
func TestTwoAddressesOfOneStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		for i := range 3 {
			s.network.has(fmt.Sprintf("10.0.0.%d", i+1), stranger)
		}
		c := s.start()
		defer c.stop()
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() { s.ensure(c, web(fmt.Sprintf("s%d", i), 80)) })
		}
		group.Wait()
		if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 3 || len(state.VIPs) != 3 {
			t.Errorf("quarantined %v, VIPs %v", state.Quarantined, state.VIPs)
		}
		if told := s.observer.toldOf(); len(told) != 0 {
			t.Errorf("told %v", told)
		}
	})
}

// TestNobodyCanLook: a gateway that cannot probe delays and stops nothing.
func TestNobodyCanLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		s.network.has("10.0.0.1", stranger)
		s.gateway("gw1").deaf = true
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("a has %s: gw2 was not asked", got)
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.deaf = true })
		s.network.has("10.0.0.3", stranger)
		if got := s.ensure(c, web("b", 80)).Addresses[0].String(); got != "10.0.0.3" {
			t.Errorf("b has %s", got)
		}
	})
}

// TestHeldVIPIsAnsweredForByANode: kube-proxy in IPVS mode begins to answer when the Service is published.
func TestHeldVIPIsAnsweredForByANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		address := s.ensure(c, web("a", 80)).Addresses[0]
		s.ensure(c, web("b", 80))
		s.network.has(address.String(), worker, peer)
		told := 0
		for range 3 {
			time.Sleep(2 * time.Minute)
			_, _, notices := s.observer.seen()
			var conflict *loadbalancer.ConflictError
			if errors.As(notices[key("a")], &conflict) {
				told++
			}
			if notices[key("b")] != nil {
				t.Errorf("b was told %v", notices[key("b")])
			}
			s.observer.forget()
		}
		if told != 1 {
			t.Errorf("told %d times, want once", told)
		}
		s.network.has(address.String())
		time.Sleep(2 * time.Minute)
		s.network.has(address.String(), worker)
		time.Sleep(2 * time.Minute)
		if _, _, notices := s.observer.seen(); notices[key("a")] == nil || !strings.Contains(notices[key("a")].Error(), "goes there") {
			t.Errorf("not told when it came again: %v", notices)
		}
		if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 0 {
			t.Errorf("an address in use was quarantined: %v", state.Quarantined)
		}
	})
}

// TestDeletedWhileItsAddressIsLookedFor: nobody waits for ever, and the address is free again.
func TestDeletedWhileItsAddressIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		s.network.has("10.0.0.1", stranger)
		answered := make(chan error)
		go func() {
			_, err := c.Ensure(t.Context(), web("a", 80))
			answered <- err
		}()
		time.Sleep(200 * time.Millisecond)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Error(err)
		}
		if err := <-answered; err == nil {
			t.Error("Ensure of a deleted Service succeeded")
		}
		time.Sleep(12 * time.Minute)
		s.network.has("10.0.0.1")
		time.Sleep(12 * time.Minute)
		s.ensure(c, web("b", 80))
	})
}
