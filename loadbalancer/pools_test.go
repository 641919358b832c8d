package loadbalancer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func poolsOf(t *testing.T, named map[string]string) loadbalancer.PoolSettings {
	settings := loadbalancer.PoolSettings{Unprobed: map[string]bool{}}
	for _, name := range []string{"default", "more"} {
		text, ok := named[name]
		if !ok {
			continue
		}
		r, err := ipam.ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		settings.Pools = append(settings.Pools, ipam.Pool{Name: name, Ranges: []netipx.IPRange{r}})
		settings.Unprobed[name] = true
	}
	return settings
}

func TestPoolsChangeWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		c := s.start()
		defer c.stop()
		for i := range 2 {
			s.ensure(c, web(fmt.Sprintf("s%d", i), 80))
		}
		if _, err := c.Ensure(t.Context(), web("late", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Fatalf("got %v", err)
		}
		// s0's address loses its pool.
		if err := c.SetPools(poolsOf(t, map[string]string{"default": "10.0.0.2-10.0.0.3", "more": "10.1.0.1"})); err != nil {
			t.Fatal(err)
		}
		if got := s.ensure(c, web("late", 80)).Addresses[0].String(); got != "10.0.0.3" {
			t.Errorf("late has %s", got)
		}
		if got := s.ensure(c, web("s0", 443)).Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("s0 was moved to %s", got)
		}
		_, _, notices := s.observer.seen()
		if !isA[*ipam.OutsideError](notices[key("s0")]) || notices[key("s1")] != nil {
			t.Errorf("told %v", notices)
		}
		s.observer.forget()
		if err := c.SetPools(poolsOf(t, map[string]string{"default": "10.0.0.2-10.0.0.3", "more": "10.0.0.3"})); err == nil {
			t.Error("overlapping pools were taken")
		}
		if err := c.SetPools(poolsOf(t, map[string]string{"default": "10.0.0.2-10.0.0.3", "more": "10.1.0.1"})); err != nil {
			t.Fatal(err)
		}
		if _, _, notices := s.observer.seen(); len(notices) != 0 {
			t.Errorf("told again: %v", notices)
		}
		if got := s.ensure(c, web("more", 80)).Addresses[0].String(); got != "10.1.0.1" {
			t.Errorf("more has %s", got)
		}
		// What is outside of every pool is gone for good once it is given up.
		if err := c.Delete(t.Context(), key("s0"), false); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Ensure(t.Context(), web("s0", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("s0: %v", err)
		}
	})
}

func TestReservedByTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		s.settings.Reservations = []ipam.Reservation{{Address: addresses("10.0.0.1")[0], Owner: ipam.Owner(key("vip"))}}
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("a has %s", got)
		}
		if got := s.ensure(c, web("vip", 80)).Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("vip has %s", got)
		}
		if state, _ := s.gateways[0].snapshot(); len(state.Reserved) != 1 || state.Reserved[0] != (desired.Reserved{Address: addresses("10.0.0.1")[0], Owner: key("vip")}) {
			t.Errorf("State: %v", state.Reserved)
		}
		if got := s.ledger.read().Kept; len(got) != 0 {
			t.Errorf("the ledger has the configuration's: %v", got)
		}
	})
}

func sharing(s loadbalancer.Service, key string) loadbalancer.Service {
	s.Request.Sharing.Key = key
	s.Request.Sharing.Ports = nil
	for _, f := range s.LoadBalancer.Frontends {
		s.Request.Sharing.Ports = append(s.Request.Sharing.Ports, ipam.Port{Protocol: string(f.Protocol), Number: f.Port})
	}
	return s
}

// TestSharedAddress: (address, protocol, port) has one owner, also while a gateway is away that may still serve the former.
func TestSharedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, sharing(web("http", 80), "k"))
		s.ensure(c, sharing(web("https", 443), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("also", 80), "k")); err == nil {
			t.Error("two Services have port 80")
		}
		if err := c.Delete(t.Context(), key("also"), false); err != nil {
			t.Fatal(err)
		}
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("http"), false); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := c.Ensure(t.Context(), sharing(web("next", 80), "k")); err == nil {
				t.Error("port 80 was given away while gw2 may still serve it for http")
			}
			s.ensure(c, sharing(web("ssh", 22), "k"))
			_ = c.stop()
			c = s.start(replayed(sharing(web("https", 443), "k"), "10.0.0.1"), replayed(sharing(web("ssh", 22), "k")))
			time.Sleep(time.Second)
		}
		defer func() { _ = c.stop() }()
		state, _ := s.gateways[0].snapshot()
		if len(state.Releasing) != 1 || len(state.Releasing[0].Ports) != 1 || state.Releasing[0].Ports[0].Port != 80 || len(state.VIPs) != 1 {
			t.Errorf("releasing %+v, VIPs %v", state.Releasing, state.VIPs)
		}
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.ensure(c, sharing(web("next", 80), "k"))
	})
}

// TestPortGivenUpOnASharedAddress: its former owner lives on at the same address.
func TestPortGivenUpOnASharedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, sharing(web("a", 80), "k"))
		s.ensure(c, sharing(web("b", 443), "k"))
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("a", 81), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("c", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw2 may still serve it for a")
		}
		s.ensure(c, sharing(web("a", 82), "k")) // 81 is on its way back too, later than 80
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.ensure(c, sharing(web("c", 80), "k"))
		s.ensure(c, sharing(web("d", 81), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("a", 443), "k")); !isA[*ipam.SharingError](err) {
			t.Errorf("a took the port of b, or: %v", err)
		}
		if lb := s.gateways[0].serves("a"); lb == nil || lb.Frontends[0].Port != 82 {
			t.Errorf("a is served as %+v", lb)
		}
	})
}
