package loadbalancer_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// keepsItsAddress says whether a Service is still served where it was, after some time and another Ensure.
func (s *site) keepsItsAddress(c *controller, had string) {
	s.t.Helper()
	time.Sleep(time.Minute)
	if got := s.ensure(c, web("a", 443)).Addresses[0].String(); got != had {
		s.t.Errorf("a was moved from %s to %s", had, got)
	}
	if state, _ := s.gateways[0].snapshot(); len(state.Quarantined) != 0 {
		s.t.Errorf("an address in use is quarantined: %v", state.Quarantined)
	}
}

// TestPoolIsProbedFromNowOn: what was given unasked is ours all the same, whoever answers for it now.
func TestPoolIsProbedFromNowOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.20", "gw1")
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("a", 80)).Addresses[0].String()
		s.network.has(had, worker)
		pools := s.settings.PoolSettings
		pools.Unprobed = nil
		if err := c.SetPools(pools); err != nil {
			t.Fatal(err)
		}
		s.keepsItsAddress(c, had)
	})
}

// TestPoolsChangeBehindAProxy: in a pool without free addresses nothing tells a proxy from a stranger.
func TestPoolsChangeBehindAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.network.proxy = "52:54:00:ff:ff:ff"
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("a", 80)).Addresses[0].String()
		s.ensure(c, web("b", 80))
		s.ensure(c, web("c", 80))
		if err := c.SetPools(s.settings.PoolSettings); err != nil {
			t.Fatal(err)
		}
		s.keepsItsAddress(c, had)
	})
}

// TestQuarantineOfAnAddressInUse: a person wrote it, or it came with a Service of another controller whose nodes answer.
func TestQuarantineOfAnAddressInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		c := s.start()
		defer c.stop()
		had := s.ensure(c, web("a", 80)).Addresses[0]
		s.network.has(had.String(), worker)
		time.Sleep(time.Second)
		s.ledger.edit(func(l *loadbalancer.Ledger) {
			l.Quarantined = append(l.Quarantined, loadbalancer.Quarantine{Address: had, By: "me", Until: time.Now()})
		})
		time.Sleep(5 * time.Minute)
		if got := s.ensure(c, web("a", 443)).Addresses[0]; got != had {
			t.Errorf("a was moved from %s to %s", had, got)
		}
	})
}

// TestDeletedWhileItsAddressIsFoundFree: who gets the address years later is asked for anew.
func TestDeletedWhileItsAddressIsFoundFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		go func() { _, _ = c.Ensure(t.Context(), web("a", 80)) }()
		time.Sleep(200 * time.Millisecond)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		s.network.has("10.0.0.1", stranger)
		if got, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("b got the stranger's address %v, %v", got, err)
		}
	})
}

// TestPublishedAddressWhileItIsLookedFor: who waited for it is gone, and who has it now brought it along.
func TestPublishedAddressWhileItIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		s.network.has("10.0.0.1", worker)
		c := s.start()
		defer c.stop()
		go func() { _, _ = c.Ensure(t.Context(), web("a", 80)) }()
		time.Sleep(100 * time.Millisecond)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		b := web("b", 80)
		b.Published = addresses("10.0.0.1")
		if got := s.ensure(c, b).Addresses; !slices.Equal(got, b.Published) {
			t.Fatalf("b got %v", got)
		}
		time.Sleep(time.Minute)
		if got := s.ensure(c, web("b", 443)).Addresses; !slices.Equal(got, b.Published) {
			t.Errorf("b was moved to %v", got)
		}
	})
}

// TestPendingAddressIsLostToTheNetwork: before a gateway was told of it, an address that turns out to be no Service's is
// given back.
func TestPendingAddressIsLostToTheNetwork(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *site, *controller){
		"its pool is gone": func(t *testing.T, s *site, c *controller) {
			pools := poolsOf(t, map[string]string{"default": "10.0.0.2-10.0.0.3"})
			pools.Unprobed = nil
			if err := c.SetPools(pools); err != nil {
				t.Fatal(err)
			}
		},
		"it is excluded": func(t *testing.T, s *site, c *controller) {
			pools := s.settings.PoolSettings
			pools.Exclusions = []ipam.Exclusion{ipam.Exclude(addresses("10.0.0.1")[0], "printer")}
			if err := c.SetPools(pools); err != nil {
				t.Fatal(err)
			}
		},
		"a node has it": func(t *testing.T, s *site, c *controller) {
			c.SetNodes([]desired.Node{workerNode, {Name: "n2", Addresses: addresses("10.0.0.1")}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newProbedSite(t, "10.0.0.1-10.0.0.3", "gw1")
				c := s.start()
				defer c.stop()
				time.Sleep(time.Second)
				ensured := make(chan string, 1)
				go func() { ensured <- s.ensure(c, web("a", 80)).Addresses[0].String() }()
				time.Sleep(100 * time.Millisecond)
				lose(t, s, c)
				if got := <-ensured; got != "10.0.0.2" {
					t.Errorf("a has %s", got)
				}
				if _, _, notices := s.observer.seen(); len(notices) != 0 {
					t.Errorf("told %v", notices)
				}
			})
		})
	}
}

// TestPendingServiceIsDeletedWhileAGatewayIsAway: no gateway was told of its address, so none has to confirm.
func TestPendingServiceIsDeletedWhileAGatewayIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1", "gw1", "gw2")
		s.gateway("gw2").dead = true
		c := s.start()
		defer c.stop()
		time.Sleep(time.Second)
		go func() { _, _ = c.Ensure(t.Context(), web("a", 80)) }()
		time.Sleep(300 * time.Millisecond)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, web("b", 80))
	})
}

// TestContestedVIPIsForgottenWithIt: the next Service that has the address hears of a stranger too.
func TestContestedVIPIsForgottenWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.network.has("10.0.0.1", worker)
		time.Sleep(90 * time.Second)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		s.network.has("10.0.0.1")
		s.ensure(c, web("b", 80))
		s.network.has("10.0.0.1", worker)
		s.observer.forget()
		time.Sleep(2 * time.Minute)
		if _, _, notices := s.observer.seen(); !isA[*loadbalancer.ConflictError](notices[key("b")]) {
			t.Errorf("b was told %v", notices)
		}
	})
}

// TestPoolFullOfStrangers: a range that a DHCP server gives away too costs some seconds, once.
func TestPoolFullOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.250", "gw1")
		for i := range 200 {
			s.network.has(fmt.Sprintf("10.0.0.%d", i+1), wire.Neighbor{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i)})
		}
		c := s.start()
		defer c.stop()
		begun := time.Now()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.201" {
			t.Errorf("a has %s", got)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("served after %s", took)
		}
		asked := len(s.network.questions())
		s.ensure(c, web("b", 80))
		if again := s.network.questions()[asked:]; len(again) != 1 || len(again[0]) != 1 {
			t.Errorf("the next Service asks for %v", again)
		}
	})
}
