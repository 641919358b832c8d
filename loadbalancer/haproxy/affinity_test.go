package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// knobbed asks for everything that a map entry says.
func knobbed(affinity int) desired.LoadBalancer {
	lb := web("192.0.2.10")
	lb.AffinitySeconds, lb.ConnectionLimit, lb.SourceRate, lb.Log = affinity, 5, 6, true
	return lb
}

// Of too many times the last load balancer's is one too many, and nobody else's.
func TestTimesOfAffinityAreBounded(t *testing.T) {
	s := baseState()
	last := localPolicy("a", "192.0.2.11", kubeProxyCheck(), serverAt("worker1", "10.0.0.11"))
	last.AffinitySeconds = 1
	s.LoadBalancers = append(s.LoadBalancers, last) // edge/a comes after all of default
	for i := range maxAffinities - 1 {              // and the usual one
		lb := knobbed(100 + i)
		lb.Name = fmt.Sprintf("web-%03d", i)
		s.LoadBalancers = append(s.LoadBalancers, lb)
	}
	_, err := Render(s, testLocal(), nil)
	var faults desired.Faults
	if !errors.As(err, &faults) || len(faults) != 1 || *faults[0].Owner != last.Key || !strings.Contains(err.Error(), "loadBalancers[edge/a].affinitySeconds: is 1; ") {
		t.Fatalf("got %v, want a fault of edge/a alone", err)
	}
	s.LoadBalancers[0].AffinitySeconds = 100 // one that is there
	if _, err := Render(s, testLocal(), nil); err != nil {
		t.Error(err)
	}
}

func TestReloadsForAffinity(t *testing.T) {
	generation := func(change func(*desired.State, *Local)) string {
		s, l := baseState(), testLocal()
		change(s, &l)
		return scenario{"", l, s}.render(t).Generation
	}
	base := generation(func(*desired.State, *Local) {})
	for name, test := range map[string]struct {
		change func(*desired.State, *Local)
		reload bool
	}{
		"all knobs, the usual time": {func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{knobbed(usualAffinity)} }, false},
		"another time, for UDP": {func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{knobbed(600)}
			s.LoadBalancers[0].Frontends[0].Protocol = desired.UDP
		}, false},
		"another time":          {func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{knobbed(600)} }, true},
		"a gateway less":        {func(s *desired.State, _ *Local) { s.Gateways = s.Gateways[:1] }, true},
		"a gateway's address":   {func(s *desired.State, _ *Local) { s.Gateways[1].VRRPAddress = netip.MustParseAddr("10.0.0.9") }, true},
		"another port of peers": {func(_ *desired.State, l *Local) { l.PeersPort++ }, true},
	} {
		if got := generation(test.change) != base; got != test.reload {
			t.Errorf("%s: reload is %t, want %t", name, got, test.reload)
		}
	}
}

func TestPeersAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*desired.State, *Local)
		want   string
	}{
		"another gateway":   {func(_ *desired.State, l *Local) { l.Gateway = "gw9" }, `no gateway "gw9" in State`},
		"no port":           {func(_ *desired.State, l *Local) { l.PeersPort = 0 }, "port for its peers: 0"},
		"a newline in name": {func(s *desired.State, _ *Local) { s.Gateways[1].Name = "gw2\n" }, "gateways[1].name"},
	} {
		s, l := baseState(), testLocal()
		test.change(s, &l)
		if _, err := Render(s, l, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestPeersAddress(t *testing.T) {
	s, l := baseState(), testLocal()
	if got := PeersAddress(s, l); got != netip.MustParseAddrPort("10.0.0.2:7482") {
		t.Errorf("of a pair it is %v", got)
	}
	s.Gateways = s.Gateways[:1]
	if got := PeersAddress(s, l); got != netip.MustParseAddrPort("127.0.0.1:7482") {
		t.Errorf("of a gateway alone it is %v", got)
	}
}

// HAProxy does not start with a link-local address, and `haproxy -c` does not see it.
func TestLinkLocalGatewaysAreNoPeers(t *testing.T) {
	s, l := baseState(), testLocal()
	for i := range s.Gateways {
		s.Gateways[i].VRRPAddress = netip.MustParseAddr(fmt.Sprintf("fe80::%d", i+1))
	}
	got := peers(s, l)
	if want := []peer{{l.Gateway, netip.MustParseAddrPort("127.0.0.1:7482")}}; !slices.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
}
