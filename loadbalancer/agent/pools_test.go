package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// ipv6Only makes the State's load balancers IPv6-only.
func ipv6Only(s *desired.State) {
	for i := range s.LoadBalancers {
		s.LoadBalancers[i].Addresses = []netip.Addr{addr("2001:db8::10")}
	}
}

// threeNodes are one node with IPv4, one with IPv6, one with both.
func threeNodes(s *desired.State) {
	s.Nodes = []desired.Node{
		{Name: "four", Addresses: []netip.Addr{addr("10.0.2.4")}},
		{Name: "six", Addresses: []netip.Addr{addr("fd00::6")}},
		{Name: "both", Addresses: []netip.Addr{addr("10.0.2.10"), addr("fd00::10")}},
	}
}

// pools is an HAProxy whose servers, as backend/name, are in these states; each had one session.
func pools(states map[string]string) *haproxy.Running {
	running := &haproxy.Running{Backends: map[string]*haproxy.RunningBackend{}}
	for server, state := range states {
		backend, name, _ := strings.Cut(server, "/")
		if running.Backends[backend] == nil {
			running.Backends[backend] = &haproxy.RunningBackend{Servers: map[string]haproxy.RunningServer{}}
		}
		running.Backends[backend].Servers[name] = haproxy.RunningServer{Name: name, State: state, Total: 1}
	}
	return running
}

func TestAllNodesDown(t *testing.T) {
	const plain, over6 = "no node passes its health check, so", "no node passes its health check at its IPv6 address"
	down := map[string]string{"nodes/four": "DOWN", "nodes/six": "DOWN", "nodes/both": "DOWN", "nodes6/six": "DOWN", "nodes6/both": "DOWN"}
	web := service("web", "192.0.2.10", 51)
	own := func(s *desired.State) { s.LoadBalancers[0].Pool = &desired.Pool{} }
	pods := func(s *desired.State) { s.LoadBalancers[0].Frontends[0].Pool = &desired.Pool{} }
	for name, test := range map[string]struct {
		state *desired.State
		up    []string
		want  []string
	}{
		"all down":                          {sample(1, threeNodes, web, ipv6Only), nil, []string{plain, over6}},
		"one up":                            {sample(1, threeNodes, web, ipv6Only), []string{"nodes/four"}, []string{over6}},
		"one up at its IPv6 address":        {sample(1, threeNodes, web, ipv6Only), []string{"nodes/six", "nodes6/six"}, nil},
		"no Service needs the IPv6 pool":    {sample(1, threeNodes, web), []string{"nodes/both"}, nil},
		"an IPv6-only one with own servers": {sample(1, threeNodes, web, ipv6Only, own), []string{"nodes/both"}, nil},
		"an IPv6-only one with pods":        {sample(1, threeNodes, web, ipv6Only, pods), []string{"nodes/both"}, nil},
		"no node":                           {sample(1, web, ipv6Only, func(s *desired.State) { s.Nodes = nil }), nil, nil},
		"no node with IPv6":                 {sample(1, web, ipv6Only), []string{"nodes/worker-1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			running := pools(down)
			for _, server := range test.up {
				backend, name, _ := strings.Cut(server, "/")
				running.Backends[backend].Servers[name] = haproxy.RunningServer{State: "UP"}
			}
			told := newAgent(t, newMachine()).warnings(running, test.state)
			if len(told) != len(test.want) {
				t.Fatalf("warnings are %+v, want %d", told, len(test.want))
			}
			for i, w := range told {
				if w.Reason != "AllNodesDown" || !strings.HasPrefix(w.Message, test.want[i]) {
					t.Errorf("warning %d is %+v, want one that begins with %q", i, w, test.want[i])
				}
			}
		})
	}
}

func TestNodeStatus(t *testing.T) {
	running := pools(map[string]string{
		"nodes/four": "DOWN", "nodes/six": "UP", "nodes/both": "UP", "nodes6/six": "UP", "nodes6/both": "DOWN",
		"nodes-open/four": "NOCHECK", "nodes-open/six": "NOCHECK", "nodes-open/both": "NOCHECK",
		"nodes6-open/six": "NOCHECK", "nodes6-open/both": "NOCHECK",
	})
	want := []wire.NodeStatus{
		{Name: "both", State: "UP", StateIPv6: "DOWN", Sessions: 4},
		{Name: "four", State: "DOWN", Sessions: 2},
		{Name: "six", State: "UP", Sessions: 4},
	}
	if diff := cmp.Diff(want, nodeStatus(running, sample(1, threeNodes))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := nodeStatus(nil, sample(1)); len(got) != 2 || got[0].State != "" {
		t.Errorf("without HAProxy: %+v", got)
	}
}
