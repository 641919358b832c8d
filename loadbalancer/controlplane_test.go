package loadbalancer_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestControlPlaneStandsInTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		s.settings.ControlPlane = &desired.ControlPlane{
			Address: netip.MustParseAddr("10.0.0.1"), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:6443")}, Check: desired.Check{Kind: desired.CheckNone},
		}
		s.settings.PoolInterface = map[string]string{"default": "vlan7"}
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("a got %s, 10.0.0.1 is the control plane's", got)
		}
		state, _ := s.gateways[0].snapshot()
		if len(state.VIPs) != 2 || state.VIPs[0].Address.String() != "10.0.0.1" || state.VIPs[1].Interface != "vlan7" {
			t.Errorf("VIPs: %+v", state.VIPs)
		}
		if p := state.Pools; len(p) != 1 || p[0].Size != 1 || p[0].Assigned != 1 {
			t.Errorf("pools: %+v", p)
		}
	})
}

// The first controller claims gateways that carry the control plane already, and its address stays where it is: on the
// interface that the configuration names, in the instance that it was given, whoever is away meanwhile.
func TestFirstControllerClaimsTheControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.ControlPlane = &desired.ControlPlane{
			Address: netip.MustParseAddr("10.0.0.1"), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:6443")}, Check: desired.Check{Kind: desired.CheckNone},
		}
		s.settings.ControlPlaneInterface = "vlan6"
		s.settings.PoolInterface = map[string]string{"default": "vlan7"}
		instances, err := desired.Instances(s.settings.Gateways, s.settings.FirstRouterID)
		if err != nil {
			t.Fatal(err)
		}
		for _, instance := range instances {
			before := desired.State{Schema: desired.Schema, Fence: desired.Fence{Sequence: 3}, Gateways: s.settings.Gateways, VRRP: s.settings.VRRP,
				Instances: instances, ControlPlane: s.settings.ControlPlane, NodeCheck: s.settings.NodeCheck,
				VIPs: []desired.VIP{{Address: s.settings.ControlPlane.Address, Interface: "vlan6", RouterID: instance.RouterID}}}
			text, err := before.Canonical()
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range s.gateways {
				g.change(func(g *fakeGateway) { g.state, g.signed = &before, &desired.Signed{State: text} })
			}
			c := s.start()
			s.ensure(c, web("a", 80))
			after, _ := s.gateways[0].snapshot()
			if after.Fence.ClusterUID == "" || after.Fence.Epoch == 0 {
				t.Errorf("the State was not claimed: %+v", after.Fence)
			}
			if !slices.Contains(after.VIPs, before.VIPs[0]) {
				t.Errorf("the control plane's address was at %+v, and the VIPs are %+v", before.VIPs[0], after.VIPs)
			}
			c.stop()
		}
	})
}

// apiServers gives the endpoints in the State of the first gateway.
func (s *site) apiServers() string {
	s.t.Helper()
	time.Sleep(time.Second)
	state, _ := s.gateways[0].snapshot()
	return fmt.Sprint(state.ControlPlane.Endpoints)
}

// Nodes name API servers beside those of the configuration, which stay whatever Nodes say; a cluster that names none has said
// nothing, in this life of a controller and in the next.
func TestEndpointsFromNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const static, second, third = "203.0.113.7:6443", "203.0.113.8:6443", "203.0.113.9:6443"
		at := func(texts ...string) (all []netip.AddrPort) {
			for _, text := range texts {
				all = append(all, netip.MustParseAddrPort(text))
			}
			return all
		}
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.ControlPlane = &desired.ControlPlane{
			Address: netip.MustParseAddr("10.0.0.1"), Port: 6443, Endpoints: at(static), Check: desired.Check{Kind: desired.CheckNone},
		}
		s.settings.EndpointsFromNodes = true
		c := s.start()
		service := s.ensure(c, web("a", 80)).Addresses[0]
		for _, test := range []struct {
			told []netip.AddrPort
			want string
		}{
			{nil, "[" + static + "]"},
			{at(second, third), "[" + static + " " + second + " " + third + "]"},
			{at(static, third), "[" + static + " " + third + "]"},
			{nil, "[" + static + " " + third + "]"},
			{at("10.0.0.1:6443", service.String()+":6443", second), "[" + static + " " + second + "]"}, // a State with those would be refused
		} {
			c.SetEndpoints(test.told)
			if got := s.apiServers(); got != test.want {
				t.Errorf("told %v the State has %s, want %s", test.told, got, test.want)
			}
		}
		_ = c.stop()
		c = s.start()
		defer c.stop()
		if got, want := s.apiServers(), "["+static+" "+second+"]"; got != want {
			t.Errorf("a new controller that has seen no Node makes them %s, want %s", got, want)
		}
		c.SetEndpoints(at(third))
		if got, want := s.apiServers(), "["+static+" "+third+"]"; got != want {
			t.Errorf("then it has %s, want %s", got, want)
		}
		if e := s.settings.ControlPlane.Endpoints; len(e) != 1 {
			t.Errorf("the settings were written: %v", e)
		}
		s.equalGateways()
	})
}

// Without the setting Nodes are not asked for API servers.
func TestEndpointsOfTheConfigurationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1")
		s.settings.ControlPlane = &desired.ControlPlane{Address: netip.MustParseAddr("10.0.0.1"), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:6443")}, Check: desired.Check{Kind: desired.CheckNone}}
		c := s.start()
		defer c.stop()
		c.SetEndpoints([]netip.AddrPort{netip.MustParseAddrPort("203.0.113.8:6443")})
		if got := s.apiServers(); got != "[203.0.113.7:6443]" {
			t.Errorf("the State has %s", got)
		}
	})
}
