package loadbalancer_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Two Services that share an address and ask for each other's port wait, served as before, until one of them lets its port go.
// Nobody else notices.
func TestSwappedPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		sharing := func(name string, port uint16) loadbalancer.Service { return preferring(name, port, "", 0) }
		var address netip.Addr
		for i, name := range []string{"a", "b", "c"} {
			address = s.ensure(c, sharing(name, uint16(80+i))).Addresses[0]
		}
		served := func(when string, a, b uint16) {
			t.Helper()
			state, _ := s.gateway("gw2").snapshot()
			for _, want := range []struct {
				name string
				port uint16
			}{{"a", a}, {"b", b}, {"c", 82}} {
				i := slices.IndexFunc(state.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.Name == want.name })
				if i < 0 {
					t.Errorf("%s: %s is not served", when, want.name)
				} else if lb := state.LoadBalancers[i]; lb.Frontends[0].Port != want.port || lb.Addresses[0] != address {
					t.Errorf("%s: %s is served at %v with %+v, want %s with port %d", when, want.name, lb.Addresses, lb.Frontends, address,
						want.port)
				}
			}
		}
		refused := func(service loadbalancer.Service) {
			t.Helper()
			var sharing *ipam.SharingError
			if _, err := c.Ensure(t.Context(), service); !errors.As(err, &sharing) {
				t.Errorf("%s: %v, want to be told that another Service has the port", service.LoadBalancer.Key, err)
			}
		}
		for range 3 {
			refused(sharing("a", 81))
			refused(sharing("b", 80))
			served("swapping", 80, 81)
		}
		s.ensure(c, sharing("a", 83))
		s.ensure(c, sharing("b", 80))
		served("a lets go", 83, 80)
		s.ensure(c, sharing("a", 81))
		served("swapped", 81, 80)
	})
}
