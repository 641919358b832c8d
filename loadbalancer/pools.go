package loadbalancer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// SetPools makes these the pools while rounds go on. What is in use stays in use, also when it lies in no pool any more or is
// reserved for another Service; the owners are told (concerns.go). On an error nothing changes.
func (m *Manager) SetPools(pools PoolSettings) error {
	pools = pools.clone()
	m.mu.Lock()
	next, err := m.addresses.WithPools(pools.Pools, m.settings.exclusions(pools))
	if err != nil {
		m.mu.Unlock()
		return fmt.Errorf("address pools: %w", err)
	}
	untold := m.toProve()
	m.addresses, m.pools = next, pools
	m.retract(untold)
	clear(m.proxied) // asked again: whoever changed a pool may have mended that too
	m.reserve()
	m.revision++
	m.mu.Unlock()
	signal(m.wake)
	return nil
}

func (p PoolSettings) clone() PoolSettings {
	p.Pools = slices.Clone(p.Pools)
	p.Exclusions = slices.Clone(p.Exclusions)
	p.Reservations = slices.Clone(p.Reservations)
	p.PoolInterface = maps.Clone(p.PoolInterface)
	p.Unprobed = maps.Clone(p.Unprobed)
	return p
}

// exclusions are those of the pools, and the addresses of gateways and control plane that stand in State now. The pools' say
// the same of the newest configuration: it judges reservations by them, and its gateways are not ours before a restart.
func (s Settings) exclusions(pools PoolSettings) []ipam.Exclusion {
	all := slices.Clone(pools.Exclusions)
	for _, g := range s.Gateways {
		all = append(all, ipam.Exclude(g.VRRPAddress, "VRRP address of gateway "+g.Name))
	}
	if s.ControlPlane != nil {
		all = append(all, ipam.Exclude(s.ControlPlane.Address, "address of the control plane"))
		for _, endpoint := range s.ControlPlane.Endpoints {
			all = append(all, ipam.Exclude(endpoint.Addr(), "address of an API server"))
		}
	}
	return all
}

// exclude keeps the addresses of nodes, and what the gateways know of their networks, from every Service. It is called
// with mu held.
func (m *Manager) exclude() {
	reasons := map[netip.Addr]string{}
	for _, g := range m.members {
		for _, link := range g.links {
			for _, prefix := range link.Prefixes {
				for _, exclusion := range ipam.NetworkAndBroadcast(prefix) {
					reasons[exclusion.Range.From()] = exclusion.Reason
				}
			}
			for _, router := range link.Routers {
				reasons[router] = "router of the network of gateway " + g.name
			}
		}
	}
	for _, node := range m.nodes {
		for _, address := range node.Addresses {
			reasons[address] = "address of node " + node.Name
		}
	}
	m.addresses.SetExcluded(reasons)
	m.retract(m.toProve())
}

// retract takes addresses back that no gateway was told of and that no Service may get any more. It is called with mu held.
func (m *Manager) retract(untold []netip.Addr) {
	for _, address := range untold {
		if m.addresses.Check(address) == nil {
			continue
		}
		for _, holder := range m.addresses.Holders(address) {
			m.withdraw(desired.Key(holder.Owner), address)
		}
		m.revision++
		signal(m.wake)
	}
}

// hearLinks notes the networks that a gateway says it is on.
func (m *Manager) hearLinks(g *member, links []wire.Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if equal := slices.EqualFunc(g.links, links, func(a, b wire.Link) bool {
		return a.Interface == b.Interface && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Routers, b.Routers)
	}); equal {
		return
	}
	g.links = links
	m.exclude()
}

// reserve keeps reserved addresses for their owners and quarantined ones from everybody. It is called with mu held.
func (m *Manager) reserve() {
	m.addresses.SetReserved(m.reservations())
	by := make(map[netip.Addr]string, len(m.quarantined))
	for address, q := range m.quarantined {
		by[address] = q.By
	}
	m.addresses.SetQuarantined(by)
}

// reservations are those of the configuration, then those of deleted Services where the configuration says nothing. An
// address that Services shared may be kept for each of them.
func (m *Manager) reservations() []ipam.Reservation {
	all := slices.Clone(m.pools.Reservations)
	configured := make(map[netip.Addr]bool, len(all))
	for _, r := range all {
		configured[r.Address] = true
	}
	for _, h := range sortedHolds(m.kept) {
		if !configured[h.address] {
			all = append(all, ipam.Reservation{Address: h.address, Owner: ipam.Owner(h.owner)})
		}
	}
	return all
}

func sortedHolds[V any](holds map[hold]V) []hold {
	return slices.SortedFunc(maps.Keys(holds), func(a, b hold) int {
		return cmp.Or(a.address.Compare(b.address), a.owner.Compare(b.owner))
	})
}

func sortedAddresses[V any](byAddress map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(byAddress), netip.Addr.Compare)
}

// summarize writes into a State what an operator may want to know of the addresses. Those that nobody was told of yet are
// not counted, so that looking for them on the network makes no State of its own.
func (m *Manager) summarize(s *desired.State) {
	unproven := map[poolFamily]uint64{}
	for _, address := range m.untoldOf() {
		unproven[m.poolFamily(address)]++
	}
	for _, c := range m.addresses.Counts() {
		s.Pools = append(s.Pools, desired.PoolSummary{
			Name: c.Pool, Family: int(c.Family), Size: c.Size, Assigned: c.Assigned - unproven[poolFamily{c.Pool, c.Family}],
			Releasing: c.Releasing, Reserved: c.Reserved, Quarantined: c.Quarantined,
		})
	}
	for _, r := range m.reservations() {
		owner := desired.Key(r.Owner)
		s.Reserved = append(s.Reserved, desired.Reserved{Address: r.Address, Owner: owner, Kept: m.kept[hold{r.Address, owner}]})
	}
	for address, q := range m.quarantined {
		s.Quarantined = append(s.Quarantined, desired.Quarantined{Address: address, By: desired.Description(q.By)})
	}
}
