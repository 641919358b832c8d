package desired

import (
	"net/netip"
	"slices"
)

// FamilyOf is 4 or 6.
func FamilyOf(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// OfFamily gives the first of addresses that is of a family, 4 or 6; of any, 0.
func OfFamily(addresses []netip.Addr, family int) (address netip.Addr, ok bool) {
	i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return family == 0 || FamilyOf(a) == family })
	if i < 0 {
		return netip.Addr{}, false
	}
	return addresses[i], true
}

// IPv6Only says that every VIP is IPv6. Its nodes are then reached at their IPv6 addresses alone: kube-proxy opens the
// NodePort of a Service with ipFamilies [IPv6] at no other. A VIP of IPv4 tells of another Service, which the nodes' first
// addresses serve. A dual-stack Service that got an IPv6 VIP alone cannot be told from an IPv6-only one here; kube-proxy
// opens its NodePort at both families, so that it is served too where nodes have an IPv6 address.
func (l LoadBalancer) IPv6Only() bool {
	return len(l.Addresses) > 0 && !slices.ContainsFunc(l.Addresses, netip.Addr.Is4)
}

// At is the node's address of a family, 4 or 6, if it has one; 0: the first that it has.
func (n Node) At(family int) (address netip.Addr, ok bool) { return OfFamily(n.Addresses, family) }

// IPv6 is the node's IPv6 address, if it has one.
func (n Node) IPv6() (address netip.Addr, ok bool) { return n.At(6) }
