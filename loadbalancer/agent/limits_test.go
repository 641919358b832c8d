package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestLimits(t *testing.T) {
	inside := []func(*desired.State){service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 52), local("db", "10.0.2.1"), controlPlane}
	for _, test := range []struct {
		name   string
		limits string
		want   []string // "owner field message"
	}{
		{name: "all inside", limits: openLimits},
		{name: "nothing listed", limits: "{}", want: []string{
			`- gateways[0].interface: "eth0" is not in interfaces of the gateway's limits.yaml (none is listed)`,
			`- instances[0].routerID: 51 is not in routerIDs of the gateway's limits.yaml (none is listed)`,
			`- instances[1].routerID: 52 is not in routerIDs of the gateway's limits.yaml (none is listed)`,
			`- vips[0].address: 192.0.2.1 is not in vipPrefixes of the gateway's limits.yaml (none is listed)`,
			`default/web vips[1].address: 192.0.2.10 is not in vipPrefixes of the gateway's limits.yaml (none is listed)`,
			`default/db vips[2].address: 192.0.2.11 is not in vipPrefixes of the gateway's limits.yaml (none is listed)`,
			`- nodes[0].addresses[0]: 10.0.2.1 is not in serverPrefixes of the gateway's limits.yaml (none is listed)`,
			`- nodes[1].addresses[0]: 10.0.2.2 is not in serverPrefixes of the gateway's limits.yaml (none is listed)`,
			`default/db loadBalancers[0].pool.servers[0].address: 10.0.2.1 is not in serverPrefixes of the gateway's limits.yaml (none is listed)`,
			`- controlPlane.endpoints[0]: 10.0.1.1 is not in serverPrefixes of the gateway's limits.yaml (none is listed)`,
		}},
		{name: "some outside", limits: `
vipPrefixes: [192.0.2.0/28]
serverPrefixes: [10.0.2.0/24]
interfaces: [eth0]
routerIDs: [51]
ports: ["1-79", 6443]
`, want: []string{
			`- instances[1].routerID: 52 is not in routerIDs of the gateway's limits.yaml (51)`,
			`default/db loadBalancers[0].frontends[0].port: 80 is not in ports of the gateway's limits.yaml (1-79, 6443)`,
			`default/web loadBalancers[1].frontends[0].port: 80 is not in ports of the gateway's limits.yaml (1-79, 6443)`,
			`- controlPlane.extraPorts[0].port: 8132 is not in ports of the gateway's limits.yaml (1-79, 6443)`,
			`- controlPlane.endpoints[0]: 10.0.1.1 is not in serverPrefixes of the gateway's limits.yaml (10.0.2.0/24)`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			limits, err := DecodeLimits([]byte(test.limits))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range limits.check(sample(1, inside...), "east") {
				owner := "-"
				if f.LoadBalancer != nil {
					owner = f.LoadBalancer.String()
				}
				got = append(got, fmt.Sprintf("%s %s: %s", owner, f.Field, f.Message))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// A VIP that two load balancers share is nobody's own fault.
func TestLimitsSharedVIP(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51))
	s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{Key: desired.Key{Namespace: "default", Name: "web2"},
		Addresses: []netip.Addr{addr("192.0.2.10")}})
	faults := (&Limits{Interfaces: []string{"eth0"}, RouterIDs: []Interval{{1, 255}}, Ports: []Interval{{1, 65535}},
		ServerPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}).check(s, "east")
	if len(faults) != 1 || faults[0].LoadBalancer != nil || faults[0].Field != "vips[0].address" {
		t.Errorf("got %+v, want one fault of nobody at vips[0].address", faults)
	}
}

func TestDecodeLimitsTellsEveryFault(t *testing.T) {
	for _, test := range []struct{ name, text, says string }{
		{"unknown key", "vipPrefix: [192.0.2.0/24]", "vipPrefix"},
		{"no prefix", "vipPrefixes: [192.0.2.0]", "192.0.2.0"},
		{"no number", "ports: [http]", `"http" is no number and no range`},
		{"first of two", "routerIDs: [0]\nports: [\"9-1\"]", "routerIDs[0]: 0 is no range within 1-255"},
		{"second of two", "routerIDs: [0]\nports: [\"9-1\"]", "ports[0]: 9-1 is no range within 1-65535"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := DecodeLimits([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

// The servers of a port's own pool are bound to the limits like those of a load balancer's.
func TestLimitsOfPods(t *testing.T) {
	s := sample(1, service("dns", "192.0.2.10", 51))
	s.LoadBalancers[0].Frontends[0].Pool = &desired.Pool{Servers: []desired.Server{
		{Name: "in", Address: addr("10.1.0.1"), Port: 53, Weight: 1}, {Name: "out", Address: addr("10.2.0.1"), Port: 53, Weight: 1}}}
	limits := &Limits{VIPPrefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Interfaces: []string{"eth0"}, RouterIDs: []Interval{{1, 255}},
		Ports: []Interval{{1, 65535}}, ServerPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")}}
	faults := limits.check(s, "east")
	if len(faults) != 1 || faults[0].LoadBalancer == nil || faults[0].Field != "loadBalancers[0].frontends[0].pool.servers[1].address" {
		t.Errorf("got %+v, want one fault of default/dns", faults)
	}
}
