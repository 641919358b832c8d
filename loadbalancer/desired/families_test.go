package desired_test

import (
	"net/netip"
	"slices"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestFamilies(t *testing.T) {
	v4, v6 := addr("192.0.2.10"), addr("2001:db8::10")
	for name, test := range map[string]struct {
		addresses []netip.Addr
		ipv6Only  bool
		ipv6      netip.Addr
	}{
		"none":       {nil, false, netip.Addr{}},
		"IPv4":       {[]netip.Addr{v4}, false, netip.Addr{}},
		"IPv6":       {[]netip.Addr{v6}, true, v6},
		"both":       {[]netip.Addr{v4, v6}, false, v6},
		"IPv6 first": {[]netip.Addr{v6, v4}, false, v6},
	} {
		if got := (desired.LoadBalancer{Addresses: test.addresses}).IPv6Only(); got != test.ipv6Only {
			t.Errorf("%s: a load balancer is IPv6-only: %t, want %t", name, got, test.ipv6Only)
		}
		if got, ok := (desired.Node{Addresses: test.addresses}).IPv6(); got != test.ipv6 || ok != test.ipv6.IsValid() {
			t.Errorf("%s: a node's IPv6 address is %v (%t), want %v", name, got, ok, test.ipv6)
		}
		for family, want := range map[int]func(netip.Addr) bool{0: netip.Addr.IsValid, 4: netip.Addr.Is4, 6: netip.Addr.Is6} {
			i := slices.IndexFunc(test.addresses, want)
			got, ok := (desired.Node{Addresses: test.addresses}).At(family)
			if ok != (i >= 0) || ok && got != test.addresses[i] {
				t.Errorf("%s: a node's address of family %d is %v (%t)", name, family, got, ok)
			}
		}
	}
}

func TestOfFamily(t *testing.T) {
	v4, v6 := addr("192.0.2.10"), addr("2001:db8::10")
	for _, test := range []struct {
		addresses []netip.Addr
		family    int
		want      netip.Addr
	}{
		{nil, 0, netip.Addr{}},
		{[]netip.Addr{v6, v4}, 0, v6},
		{[]netip.Addr{v6, v4}, desired.FamilyOf(v4), v4},
		{[]netip.Addr{v4, v6}, desired.FamilyOf(v6), v6},
		{[]netip.Addr{v4}, 6, netip.Addr{}},
	} {
		if got, ok := desired.OfFamily(test.addresses, test.family); got != test.want || ok != test.want.IsValid() {
			t.Errorf("of %v the one of family %d is %v (%t), want %v", test.addresses, test.family, got, ok, test.want)
		}
	}
}
