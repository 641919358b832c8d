package loadbalancer_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

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
