package desired_test

import (
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A node of a pool is a target at each of its addresses, a pod at its own.
func TestTargetsAtBothFamilies(t *testing.T) {
	addr := netip.MustParseAddr
	s := &desired.State{Nodes: []desired.Node{
		{Name: "a", Addresses: []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")}},
		{Name: "b", Addresses: []netip.Addr{addr("10.0.0.2"), addr("2001:db8::2")}},
	}}
	pooled := desired.LoadBalancer{Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 80, NodePort: 30080}},
		Pool: &desired.Pool{Servers: []desired.Server{{Name: "a", Address: addr("10.0.0.1")}}}}
	pods := desired.LoadBalancer{Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 80,
		Pool: &desired.Pool{Servers: []desired.Server{{Name: "a", Address: addr("10.1.0.1"), Port: 8080}}}}}}
	shared := desired.LoadBalancer{Frontends: pooled.Frontends}
	for name, test := range map[string]struct {
		lb      desired.LoadBalancer
		targets map[string]bool
	}{
		"pool":   {pooled, map[string]bool{"10.0.0.1": true, "2001:db8::1": true, "10.0.0.2": false, "2001:db8::2": false}},
		"pods":   {pods, map[string]bool{"10.1.0.1": true, "10.0.0.1": false, "2001:db8::1": false}},
		"shared": {shared, map[string]bool{"10.0.0.1": true, "2001:db8::2": true, "10.1.0.1": false}},
	} {
		for address, want := range test.targets {
			if got := s.Targets(&test.lb, addr(address)); got != want {
				t.Errorf("%s: %s is a target: %v", name, address, got)
			}
		}
	}
}
