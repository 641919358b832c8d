package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/ipam"
)

// AddressPools gives the pools in the order of the file.
func (c *Config) AddressPools() []ipam.Pool {
	var pools []ipam.Pool
	for _, p := range c.Pools {
		pool := ipam.Pool{Name: p.Name, ShareAcrossNamespaces: p.ShareAcrossNamespaces}
		for _, text := range p.Addresses {
			if r, err := parseRange(text); err == nil { // validate has refused a file where this fails
				pool.Ranges = append(pool.Ranges, r)
			}
		}
		for _, text := range p.Exclude {
			if r, err := ipam.ParseRange(text); err == nil {
				pool.Exclude = append(pool.Exclude, r)
			}
		}
		pools = append(pools, pool)
	}
	return pools
}

// PoolsByPriority gives the pools in the order in which they are asked when nothing else decides: highest priority
// first, equals in the order of the file.
func (c *Config) PoolsByPriority() []Pool {
	pools := slices.Clone(c.Pools)
	slices.SortStableFunc(pools, func(a, b Pool) int { return cmp.Compare(b.Priority, a.Priority) })
	return pools
}

// Exclusions gives the addresses that no Service may get although a pool holds them: those of gateways, of configured
// nodes and of the control plane, and the networks' own. In the order of the file, nodes by name. What a pool itself
// excludes is in AddressPools.
func (c *Config) Exclusions() []ipam.Exclusion {
	all := c.machines()
	for _, p := range c.Pools {
		all = append(all, p.networkAndBroadcast()...)
	}
	return all
}

// machines are the addresses that somebody else has.
func (c *Config) machines() []ipam.Exclusion {
	var all []ipam.Exclusion
	add := func(address netip.Addr, reason string) {
		if address.IsValid() { // what cannot be read is told elsewhere
			all = append(all, ipam.Exclude(address, reason))
		}
	}
	for _, g := range c.Gateways {
		add(g.VRRPAddress, "VRRP address of gateway "+g.Name)
		if a, err := netip.ParseAddr(g.SSHAddress); err == nil && a != g.VRRPAddress {
			add(a, "SSH address of gateway "+g.Name)
		}
	}
	for _, name := range sortedKeys(c.Nodes.Addresses) {
		for _, a := range c.Nodes.Addresses[name] {
			add(a, "address of node "+name)
		}
	}
	if p := c.DesiredControlPlane(); p != nil {
		add(p.Address, "address of the control plane")
		for _, e := range p.Endpoints {
			add(e.Addr(), "address of an API server")
		}
	}
	return all
}

// networkAndBroadcast are the addresses of the pool's networks that hosts do not answer for. A range has none: whoever
// writes one has chosen its ends.
func (p Pool) networkAndBroadcast() []ipam.Exclusion {
	if off(p.AvoidNetworkAndBroadcast) {
		return nil
	}
	var all []ipam.Exclusion
	for _, text := range p.Addresses {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			all = append(all, ipam.NetworkAndBroadcast(prefix)...)
		}
	}
	return all
}

// PoolInterfaces gives the interface of every pool that names one.
func (c *Config) PoolInterfaces() map[string]string {
	interfaces := map[string]string{}
	for _, p := range c.Pools {
		if p.Interface != "" {
			interfaces[p.Name] = p.Interface
		}
	}
	return interfaces
}

// UnprobedPools names the pools whose new addresses are claimed without asking the network.
func (c *Config) UnprobedPools() map[string]bool {
	unprobed := map[string]bool{}
	for _, p := range c.Pools {
		if off(p.Probe) {
			unprobed[p.Name] = true
		}
	}
	return unprobed
}

// AddressReservations gives the reservations, sorted by address.
func (c *Config) AddressReservations() []ipam.Reservation {
	var reservations []ipam.Reservation
	for text, owner := range c.Reservations {
		address, ok := reservedAddress(text)
		if !ok {
			continue // validate has refused such a file
		}
		namespace, name, _ := strings.Cut(owner, "/")
		reservations = append(reservations, ipam.Reservation{Address: address, Owner: ipam.Owner{Namespace: namespace, Name: name}})
	}
	slices.SortFunc(reservations, func(a, b ipam.Reservation) int { return a.Address.Compare(b.Address) })
	return reservations
}

// reservedAddress reads the address of a reservation, in whatever form it is written.
func reservedAddress(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.Zone() == "" && !a.Is4In6()
}

// Pinned says whether the pool chooses whose Services get its addresses.
func (p Pool) Pinned() bool { return p.choosesNamespaces() || p.ServiceSelector != "" }

func (p Pool) choosesNamespaces() bool { return len(p.Namespaces) > 0 || p.NamespaceSelector != "" }

// NamespaceLabels selects the namespaces that the pool admits by their labels, besides those in Namespaces: all when it
// does not choose namespaces at all, none when it names them only.
func (p Pool) NamespaceLabels() labels.Selector {
	if p.NamespaceSelector != "" {
		return selector(p.NamespaceSelector)
	}
	if p.choosesNamespaces() {
		return labels.Nothing()
	}
	return labels.Everything()
}

// ServiceLabels selects the Services that the pool admits by their labels; all when the file says nothing.
func (p Pool) ServiceLabels() labels.Selector {
	if p.ServiceSelector == "" {
		return labels.Everything()
	}
	return selector(p.ServiceSelector)
}

func selector(text string) labels.Selector {
	s, err := labels.Parse(text)
	if err != nil {
		return labels.Nothing() // validate has refused such a file
	}
	return s
}

// off says whether a switch that is on by default is off.
func off(s *bool) bool { return s != nil && !*s }
