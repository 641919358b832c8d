package haproxy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestRenderRefuses(t *testing.T) {
	ingress := &desired.Key{Namespace: "edge", Name: "a"}
	for name, test := range map[string]struct {
		change func(*desired.State, *Local, Slots)
		want   string
		owner  *desired.Key
	}{
		"newline in a node's name": {change: func(s *desired.State, _ *Local, _ Slots) { s.Nodes[0].Name = "a\n  server evil 10.9.9.9" }, want: "nodes[0].name"},
		"node without an address":  {change: func(s *desired.State, _ *Local, _ Slots) { s.Nodes[0].Addresses = nil }, want: "nodes[0].addresses"},
		"quote in a path":          {change: func(s *desired.State, _ *Local, _ Slots) { s.NodeCheck.Path = "/'" }, want: "nodeCheck.path"},
		"two commands in a path": {change: func(s *desired.State, _ *Local, _ Slots) {
			s.LoadBalancers[1].Pool.Check.Path = "/;disable server nodes/a"
		},
			want: "loadBalancers[edge/a].pool.check.path", owner: ingress},
		"pipe in a service's name": {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[0].Name = "a|b" }, want: "loadBalancers[default/a|b].name",
			owner: &desired.Key{Namespace: "default", Name: "a|b"}},
		"command in a namespace": {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[0].Namespace = "a;quit" },
			want: "loadBalancers[a;quit/web].namespace", owner: &desired.Key{Namespace: "a;quit", Name: "web"}},
		"no node port":              {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[1].Frontends[0].NodePort = 0 }, want: "frontends[0].nodePort: is 0", owner: ingress},
		"an algorithm without slot": {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[1].Pool.Algorithm = "magic" }, want: `algorithm "magic"`, owner: ingress},
		"no node port, and a pod without one": {change: func(s *desired.State, _ *Local, _ Slots) {
			f := &s.LoadBalancers[1].Frontends[0]
			f.NodePort, f.Pool = 0, podPool(kubeProxyCheck(), podAt("a", "10.1.0.1", 8080), podAt("b", "10.1.0.2", 0))
		}, want: "frontends[0].nodePort: is 0", owner: ingress},
		"a header for the shared pool": {change: func(s *desired.State, _ *Local, _ Slots) {
			s.LoadBalancers[1].Pool, s.LoadBalancers[1].Frontends[1].ProxyProtocol = nil, desired.ProxyV1
		}, want: "frontends[1].proxyProtocol", owner: ingress},
		"clients' addresses without a check": {change: func(s *desired.State, _ *Local, _ Slots) {
			s.LoadBalancers[1].ClientSource, s.LoadBalancers[1].Pool.Check = true, desired.Check{Kind: desired.CheckNone}
		}, want: "clientSource: is set, and the servers are not checked", owner: ingress},
		"clients' addresses for pods": {change: func(s *desired.State, _ *Local, _ Slots) {
			s.LoadBalancers[1].ClientSource = true
			s.LoadBalancers[1].Frontends[1].Pool = podPool(kubeProxyCheck(), podAt("a", "10.1.0.1", 8080))
		}, want: "clientSource: is set, and frontends[1] has servers of its own", owner: ingress},
		"a pod's name of two words": {change: func(s *desired.State, _ *Local, _ Slots) {
			s.LoadBalancers[1].Frontends[0].Pool = podPool(kubeProxyCheck(), podAt("a b", "10.1.0.1", 8080))
		}, want: "frontends[0].pool.servers[0].name", owner: ingress},
		"a check without slot":     {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[1].Pool.Check.Kind = "icmp" }, want: `check "icmp"`, owner: ingress},
		"blank in a server's name": {change: func(s *desired.State, _ *Local, _ Slots) { s.LoadBalancers[1].Pool.Servers[0].Name = "a b" }, want: "pool.servers[0].name", owner: ingress},
		"no slot": {change: func(_ *desired.State, _ *Local, slots Slots) { clear(slots) },
			want: "loadBalancers[edge/a].pool: has no slot for edge/a: all 9999 of kind http-roundrobin are taken", owner: ingress},
		"another gateway":   {change: func(_ *desired.State, l *Local, _ Slots) { l.Gateway = "gw9" }, want: `no gateway "gw9" in State`},
		"no port for peers": {change: func(_ *desired.State, l *Local, _ Slots) { l.PeersPort = 0 }, want: "port for its peers: 0"},
		"a gateway's name":  {change: func(s *desired.State, _ *Local, _ Slots) { s.Gateways[1].Name = "gw2\n" }, want: "gateways[1].name"},
		"a slot of another kind": {change: func(s *desired.State, _ *Local, slots Slots) {
			slots[needs(s)[0].Tenant] = "slot-tcp-roundrobin-1"
		},
			want: "was given slot-tcp-roundrobin-1 for edge/a, which is not of the kind http-roundrobin", owner: ingress},
		"a slot given twice": {change: func(s *desired.State, _ *Local, slots Slots) {
			twin := localPolicy("b", "192.0.2.12", kubeProxyCheck())
			s.LoadBalancers = append(s.LoadBalancers, twin)
			slots[needs(s)[1].Tenant] = slots.At(s.LoadBalancers[1].Key, 0)
		}, want: "was given slot-http-roundrobin-1 for edge/b, which edge/a has", owner: &desired.Key{Namespace: "edge", Name: "b"}},
		"no slots":           {change: func(_ *desired.State, l *Local, _ Slots) { l.SlotsPerKind = 0 }, want: "slots of each kind"},
		"a path with blank":  {change: func(_ *desired.State, l *Local, _ Slots) { l.ServicesMap = "/etc/a b" }, want: "map of Services"},
		"a log of two lines": {change: func(_ *desired.State, l *Local, _ Slots) { l.Log = "/dev/log local0\n  user root" }, want: "log target"},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := baseState(), testLocal()
			s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10"), localPolicy("a", "192.0.2.11", kubeProxyCheck(),
				desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1})}
			slots, _ := Assign(nil, s, func(string) bool { return true }, l)
			test.change(s, &l, slots)
			_, err := Render(s, l, slots)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v, want one with %q", err, test.want)
			}
			var faults desired.Faults
			if errors.As(err, &faults) != (test.owner != nil || strings.Contains(test.want, "].") || strings.Contains(test.want, "nodeCheck")) {
				t.Errorf("the error is %T", err)
			}
			if faults != nil && !cmp.Equal(faults[0].Owner, test.owner) {
				t.Errorf("blamed on %v, want %v", faults[0].Owner, test.owner)
			}
		})
	}
}
