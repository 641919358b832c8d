package loadbalancer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
)

// preferring is web with a wish and a creation time, and a key by which it shares an address.
func preferring(name string, port uint16, gateway string, created int64) loadbalancer.Service {
	service := web(name, port)
	service.PreferredGateway, service.Created = gateway, time.Unix(created, 0)
	service.Request.Sharing.Key = "together"
	return service
}

// holderOf is the gateway that leads the instance of an address by the newest State.
func (s *site) holderOf(address netip.Addr) string {
	state, _ := s.gateways[0].snapshot()
	for _, vip := range state.VIPs {
		if vip.Address == address {
			return s.holder(state, vip)
		}
	}
	return "nobody"
}

// The VIPs of Services that prefer a gateway are led by it, whatever they hash to, and move when the wish is changed; they
// stay where they are when it is taken back, and over restarts. The others' stay in their places.
func TestPreferredGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2", "gw3")
		c := s.start()
		want := func(after string, address netip.Addr, gateway string) {
			t.Helper()
			if got := s.holderOf(address); got != gateway {
				t.Errorf("%s: %s is led by %s, want %s", after, address, got, gateway)
			}
		}
		ensure := func(i int, gateway string) netip.Addr {
			service := web(fmt.Sprintf("web%d", i), 80)
			service.PreferredGateway = gateway
			return s.ensure(c, service).Addresses[0]
		}
		other := s.ensure(c, web("other", 80)).Addresses[0]
		place := s.holderOf(other)
		for i := range 6 {
			want("new", ensure(i, "gw2"), "gw2")
			want("changed", ensure(i, "gw3"), "gw3")
			want("taken back", ensure(i, ""), "gw3")
			want("again", ensure(i, "gw1"), "gw1")
		}
		want("the others' wishes", other, place)
		want("a gateway that is not there", ensure(0, "gw9"), "gw1")

		state, _ := s.gateway("gw1").snapshot()
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		replays := replaysOf(state)
		for i := range replays {
			if replays[i].Key != key("other") {
				replays[i].Service.PreferredGateway = "gw1"
			}
		}
		c = s.start(replays...)
		defer c.stop()
		ensure(9, "")
		for _, vip := range state.VIPs {
			want("a new controller", vip.Address, s.holder(state, vip))
		}
	})
}

// What is preferred while its gateway is away is put elsewhere, and goes there when it is back.
func TestPreferredGatewayIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
		address := s.ensure(c, preferring("web", 80, "gw2", 1)).Addresses[0]
		if got := s.holderOf(address); got != "gw1" {
			t.Errorf("led by %s while gw2 is away, want gw1", got)
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = false })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := s.holderOf(address); got != "gw2" {
			t.Errorf("led by %s when gw2 is back, want gw2", got)
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
		s.ensure(c, web("another", 443))
		if got := s.holderOf(address); got != "gw2" {
			t.Errorf("led by %s; gw2 is cut off from the controller and may well hold it", got)
		}
	})
}

// Of those who share an address the eldest that names a gateway decides; who names another one is warned.
func TestPreferredGatewayOfASharedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		warned := func(service loadbalancer.Service, want bool) netip.Addr {
			t.Helper()
			ensured := s.ensure(c, service)
			var told []string
			for _, w := range ensured.Warnings {
				told = append(told, w.Reason+": "+w.Message)
			}
			if (len(told) == 1) != want {
				t.Errorf("%s is warned of %q, want a warning: %v", service.LoadBalancer.Key, told, want)
			}
			return ensured.Addresses[0]
		}
		address := warned(preferring("young", 80, "gw1", 30), false)
		if got := s.holderOf(address); got != "gw1" {
			t.Fatalf("led by %s, want gw1", got)
		}
		warned(preferring("wishless", 81, "", 5), false)
		warned(preferring("old", 443, "gw2", 10), false)
		if got := s.holderOf(address); got != "gw2" {
			t.Errorf("led by %s, want gw2, which the eldest names that names any", got)
		}
		warned(preferring("young", 80, "gw1", 30), true)
		warned(preferring("younger", 444, "gw2", 40), false)
		if err := c.Delete(t.Context(), key("old"), false); err != nil {
			t.Fatal(err)
		}
		warned(preferring("young", 80, "gw1", 30), false)
		if got := s.holderOf(address); got != "gw1" {
			t.Errorf("led by %s after the eldest went, want gw1", got)
		}
		for _, name := range []string{"young", "younger", "wishless"} {
			if addresses, _ := c.Has(key(name)); len(addresses) != 1 || addresses[0] != address {
				t.Errorf("%s has %v, want the shared %s", name, addresses, address)
			}
		}
	})
}
