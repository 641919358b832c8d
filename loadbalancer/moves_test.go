package loadbalancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
)

// inPool is what provider makes of annotation address-pool.
func inPool(s loadbalancer.Service, pool string) loadbalancer.Service {
	if s.Named = pool; pool != "" {
		s.Request.Pools, s.Request.Moves = []string{pool}, true
	}
	return s
}

// TestPoolsMoveNobody: whatever pool an address is of by now, and whenever the controller begins, its Service keeps it and is
// told. The Service itself moves by another annotation, once.
func TestPoolsMoveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		before := poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.3", "more": "10.0.0.4-10.0.0.6"})
		after := poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.4", "more": "10.0.0.5-10.0.0.6"})
		s.settings.PoolSettings = before
		a := inPool(web("a", 80), "more")
		c := s.start()
		defer func() { _ = c.stop() }()
		has := func(when, want string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			if got := s.gateways[0].serves("a").Addresses[0].String(); got != want {
				t.Errorf("%s: a has %s, want %s", when, got, want)
			}
		}
		told := func(when string, want bool) {
			t.Helper()
			_, _, notices := s.observer.seen()
			if got := isA[*loadbalancer.PoolError](notices[key("a")]) && isA[*loadbalancer.KeptError](notices[key("a")]); got != want {
				t.Errorf("%s: a was told %v", when, notices[key("a")])
			}
			s.observer.forget()
		}
		s.ensure(c, a)
		has("new", "10.0.0.4")
		told("new", false)
		if err := c.SetPools(after); err != nil {
			t.Fatal(err)
		}
		has("other pools", "10.0.0.4")
		told("other pools", true)
		a = inPool(web("a", 443), "more")
		s.ensure(c, a)
		has("another port", "10.0.0.4")
		told("a minute later", false)
		time.Sleep(61 * time.Minute)
		told("an hour later", true)
		_ = c.stop()
		s.settings.PoolSettings = after
		c = s.start(replayed(a, "10.0.0.4"))
		s.ensure(c, a)
		has("restart", "10.0.0.4")
		told("restart", true)
		reserved := after
		reserved.Reservations = reservedFor(s, "10.0.0.4", "a").Reservations
		if err := c.SetPools(reserved); err != nil {
			t.Fatal(err)
		}
		s.observer.forget()
		time.Sleep(2 * time.Hour)
		told("it is reserved for it", false)
		if err := c.SetPools(after); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, inPool(web("a", 443), ""))
		has("annotation gone", "10.0.0.4")
		s.ensure(c, a)
		has("annotation set again", "10.0.0.5")
		if err := c.SetPools(poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.5", "more": "10.0.0.6"})); err != nil {
			t.Fatal(err)
		}
		has("other pools again", "10.0.0.5")
		s.ensure(c, a)
		has("other pools again, and called", "10.0.0.5")
	})
}

// TestMoveWaitsForAnAddress: who asked for another pool gets its address when one is free there.
func TestMoveWaitsForAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1")
		s.settings.PoolSettings = poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.3", "more": "10.0.0.4"})
		c := s.start()
		defer c.stop()
		s.ensure(c, inPool(web("first", 80), "more"))
		s.ensure(c, web("a", 80))
		for range 2 {
			if _, err := c.Ensure(t.Context(), inPool(web("a", 80), "more")); err == nil {
				t.Error("a got an address of a full pool")
			}
		}
		_ = c.Delete(t.Context(), key("first"), false)
		if got := s.ensure(c, inPool(web("a", 80), "more")).Addresses[0].String(); got != "10.0.0.4" {
			t.Errorf("a has %s", got)
		}
	})
}
