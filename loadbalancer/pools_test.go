package loadbalancer_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func poolsOf(t *testing.T, named map[string]string) loadbalancer.PoolSettings {
	settings := loadbalancer.PoolSettings{Unprobed: map[string]bool{}}
	for _, name := range []string{"default", "more", "six"} {
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
		if !isA[*ipam.OutsideError](notices[key("s0")]) || !strings.Contains(notices[key("s0")].Error(), "keeps it") || notices[key("s1")] != nil {
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

// TestPoolOfARequestIsGone: until its owner asks anew, a Service keeps what it has, and what else it wants is done.
func TestPoolOfARequestIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		s.settings.PoolSettings = poolsOf(t, map[string]string{"default": "10.0.0.1-10.0.0.2", "more": "10.1.0.1"})
		c := s.start()
		defer c.stop()
		named := func(port uint16) loadbalancer.Service {
			service := web("a", port)
			service.Request.Pools, service.Request.Moves = []string{"more"}, true
			return service
		}
		s.ensure(c, named(80))
		if err := c.SetPools(poolsOf(t, map[string]string{"default": "10.1.0.0/30"})); err != nil {
			t.Fatal(err)
		}
		if got := s.ensure(c, named(443)).Addresses[0].String(); got != "10.1.0.1" {
			t.Errorf("a has %s", got)
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

// TestRoutersAndBroadcastAreNotGiven: the gateways know their networks.
func TestRoutersAndBroadcastAreNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0-10.0.0.3", "gw1")
		s.gateways[0].links = []wire.Link{{Interface: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")},
			Routers: addresses("10.0.0.1")}}
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("a has %s", got)
		}
		for address, word := range map[string]string{"10.0.0.0": "network", "10.0.0.1": "router", "10.0.0.3": "broadcast"} {
			_, err := c.Ensure(t.Context(), requesting(web("b", 80), address))
			if !isA[*ipam.ExcludedError](err) || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v", address, err)
			}
		}
	})
}

// TestGatewaysOfTheStateAreNotGiven, nor the control plane, whatever a newer configuration says.
func TestGatewaysOfTheStateAreNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.settings.Gateways[0].VRRPAddress = addresses("10.0.0.1")[0]
		s.settings.ControlPlane = &desired.ControlPlane{Address: addresses("10.0.0.2")[0], Port: 6443, Check: desired.Check{Kind: desired.CheckTCP},
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:6443")}}
		c := s.start()
		defer c.stop()
		for range 2 {
			for address, word := range map[string]string{"10.0.0.1": "gateway gw1", "10.0.0.2": "control plane"} {
				_, err := c.Ensure(t.Context(), requesting(web("a", 80), address))
				if !isA[*ipam.ExcludedError](err) || !strings.Contains(err.Error(), word) {
					t.Errorf("%s: %v", address, err)
				}
			}
			if err := c.SetPools(s.settings.PoolSettings); err != nil {
				t.Fatal(err)
			}
		}
	})
}
