package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// peer is a gateway whose HAProxy is told which client sticks to which server.
type peer struct {
	Name    string
	Address netip.AddrPort
}

// PeersAddress is where HAProxy of this gateway listens for the others, and for its own old worker. A gateway without others
// has it on loopback; so has one with a link-local address, which HAProxy cannot bind to without naming an interface: there
// clients do not stick over a failover.
func PeersAddress(s *desired.State, l Local) netip.AddrPort {
	address := netip.MustParseAddr("127.0.0.1")
	if g, err := s.Gateway(l.Gateway); err == nil && len(s.Gateways) > 1 && !g.VRRPAddress.IsLinkLocalUnicast() {
		address = g.VRRPAddress
	}
	return netip.AddrPortFrom(address, uint16(l.PeersPort))
}

// peers are all gateways that can be reached, this one too: HAProxy finds itself by its name (localpeer).
func peers(s *desired.State, l Local) []peer {
	var all []peer
	for _, g := range s.Gateways {
		p := peer{g.Name, netip.AddrPortFrom(g.VRRPAddress, uint16(l.PeersPort))}
		switch {
		case g.Name == l.Gateway:
			p.Address = PeersAddress(s, l)
		case g.VRRPAddress.IsLinkLocalUnicast():
			continue
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b peer) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// checkPeers refuses a gateway that has no place in the State.
func checkPeers(s *desired.State, l Local) error {
	if l.PeersPort < 1 || l.PeersPort > 65535 {
		return fmt.Errorf("haproxy's port for its peers: %d is no port; give 1 to 65535", l.PeersPort)
	}
	_, err := s.Gateway(l.Gateway)
	return err
}
