package loadbalancer_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
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
