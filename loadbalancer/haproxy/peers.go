package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// peersView is the section of the gateways that tell each other which client sticks to which server.
type peersView struct {
	// Bind is where this gateway is told, by the others and by its own old worker.
	Bind   string
	Others []peer
}

type peer struct {
	Name    string
	Address netip.AddrPort
}

// peers finds this gateway's place among the others. A gateway without others tells its own next worker only, on loopback.
//
// The port is bound transparent because a bind that fails closes all other ports of HAProxy too, and at boot the address
// may come after HAProxy.
func peers(s *desired.State, l Local) peersView {
	view := peersView{Bind: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(l.PeersPort)).String()}
	for _, g := range s.Gateways {
		address := netip.AddrPortFrom(g.VRRPAddress, uint16(l.PeersPort))
		switch {
		case g.Name != l.Gateway:
			view.Others = append(view.Others, peer{g.Name, address})
		case len(s.Gateways) > 1:
			view.Bind = address.String() + " transparent"
		}
	}
	slices.SortFunc(view.Others, func(a, b peer) int { return cmp.Compare(a.Name, b.Name) })
	return view
}

// checkPeers refuses a gateway that has no place in the State.
func checkPeers(s *desired.State, l Local) error {
	if l.PeersPort < 1 || l.PeersPort > 65535 {
		return fmt.Errorf("haproxy's port for its peers: %d is no port; give 1 to 65535", l.PeersPort)
	}
	if !slices.ContainsFunc(s.Gateways, func(g desired.Gateway) bool { return g.Name == l.Gateway }) {
		return fmt.Errorf("no gateway %q in State: the name in agent.yaml must be one of the controller's configuration", l.Gateway)
	}
	return nil
}
