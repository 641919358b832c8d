package agent

import (
	"net/netip"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// That the control plane fails open is told, for the API server and for each extra port by itself.
func TestControlPlaneWarnings(t *testing.T) {
	p := &desired.ControlPlane{Address: addr("192.0.2.9"), Port: 6443, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.5:6443"), netip.MustParseAddrPort("10.0.0.6:6443")},
		Check: desired.Check{Kind: desired.CheckHTTPS}, ExtraPorts: []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}}}
	backend := func(states ...string) *haproxy.RunningBackend {
		b := &haproxy.RunningBackend{Servers: map[string]haproxy.RunningServer{}}
		for i, state := range states {
			b.Servers[p.Endpoints[i].String()] = haproxy.RunningServer{State: state}
		}
		return b
	}
	for _, test := range []struct {
		name       string
		api, extra *haproxy.RunningBackend
		want       []string
	}{
		{"one is up", backend("DOWN", "UP"), backend("UP", "UP"), nil},
		{"all are down", backend("DOWN", "DOWN"), backend("UP", "DOWN"),
			[]string{"no API server (10.0.0.5:6443, 10.0.0.6:6443) passes its health check (https), so connections to 192.0.2.9 port 6443 go to all"}},
		{"an extra port is down", backend("UP", "DOWN"), backend("DOWN", "DOWN"), []string{"nobody answers port 18132 of the control plane's machines, to which 192.0.2.9 port 8132 leads"}},
		{"both", backend("DOWN", "DOWN"), backend("DOWN", "DOWN"), []string{"no API server", "nobody answers port 18132"}},
		{"unchecked", backend("NOCHECK", "NOCHECK"), backend("NOCHECK"), nil},
		{"not there yet", nil, backend(), nil},
	} {
		got := controlPlaneWarnings(&haproxy.Running{Backends: map[string]*haproxy.RunningBackend{"control-plane": test.api, "control-plane-8132": test.extra}}, p)
		if len(got) != len(test.want) {
			t.Errorf("%s: %+v", test.name, got)
			continue
		}
		for i, want := range test.want {
			if got[i].Reason != "AllAPIServersDown" || !strings.Contains(got[i].Message, want) {
				t.Errorf("%s: %+v, want %q", test.name, got[i], want)
			}
		}
	}
	if got := controlPlaneWarnings(&haproxy.Running{}, nil); got != nil {
		t.Errorf("without a control plane: %+v", got)
	}
}
