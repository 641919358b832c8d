package loadbalancer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// departure is what is known of a load balancer that goes.
type departure struct {
	addresses []netip.Addr
	// since is the fence of the first State without it; zero while there is none.
	since desired.Fence
}

// hold is what one Service has of one address: all of it, or its ports of a shared one.
type hold struct {
	address netip.Addr
	owner   desired.Key
}

// released is a hold on its way back.
type released struct {
	// since is the fence of the first State without it.
	since desired.Fence
	ports []desired.Port
}

// departures are the holds that are given up and that these load balancers are without, as a State with this fence tells
// them. A last good form may still have one: then it has not departed.
func (m *Manager) departures(served map[desired.Key]*desired.LoadBalancer, fence desired.Fence) (all []desired.Releasing) {
	for _, r := range m.addresses.Releasing() {
		owner, ports := desired.Key(r.Owner), portsOf(r.Ports)
		if lb := served[owner]; serves(lb, r.Address, ports) && !m.sharesAll(lb, r.Address) {
			continue
		}
		// Ports that were given up later count from their own State on, and so does the rest then.
		before, ok := m.since[hold{r.Address, owner}]
		if !ok || !slices.Equal(before.ports, ports) {
			before = released{since: fence}
		}
		all = append(all, desired.Releasing{Address: r.Address, Owner: owner, Ports: ports,
			SinceEpoch: before.since.Epoch, SinceSequence: before.since.Sequence})
	}
	return all
}

// serves says whether a load balancer has the address and, if ports are named, one of them.
func serves(lb *desired.LoadBalancer, address netip.Addr, ports []desired.Port) bool {
	if lb == nil || !slices.Contains(lb.Addresses, address) {
		return false
	}
	return len(ports) == 0 || slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool {
		return slices.Contains(ports, desired.Port{Protocol: f.Protocol, Port: f.Port})
	})
}

// sharesAll says whether a load balancer has no other ports on the address than those that its Service shares it with now.
// Who begins to share an address keeps it, and gives up whatever else a gateway may still serve for it there.
func (m *Manager) sharesAll(lb *desired.LoadBalancer, address netip.Addr) bool {
	for _, holder := range m.addresses.Holders(address) {
		if desired.Key(holder.Owner) != lb.Key || holder.Releasing || holder.Sharing.Key == "" {
			continue
		}
		return !slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool {
			return !slices.Contains(holder.Sharing.Ports, ipam.Port{Protocol: string(f.Protocol), Number: f.Port})
		})
	}
	return false
}

// portsOf is sorted as a State has it.
func portsOf(ports []ipam.Port) (all []desired.Port) {
	for _, p := range ports {
		all = append(all, desired.Port{Protocol: desired.Protocol(p.Protocol), Port: p.Number})
	}
	slices.SortFunc(all, func(a, b desired.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return all
}

func ipamPorts(ports []desired.Port) (all []ipam.Port) {
	for _, p := range ports {
		all = append(all, ipam.Port{Protocol: string(p.Protocol), Number: p.Port})
	}
	return all
}

// markDepartures notes from which fence on holds and load balancers are gone, for those that go now. What a State has
// again has not departed, and counts from anew when it goes again (invariant 8).
func (m *Manager) markDepartures(s *desired.State) {
	clear(m.since)
	for _, r := range s.Releasing {
		m.since[hold{r.Address, r.Owner}] = released{
			since: desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}, ports: r.Ports,
		}
	}
	for key, going := range m.leaving {
		if going.since.Epoch == 0 {
			going.since = s.Fence
			m.leaving[key] = going
		}
	}
}

// depart releases what a Service that is no more holds. It is called with mu held.
func (m *Manager) depart(key desired.Key) {
	held := m.addresses.Release(ipam.Owner(key))
	served := m.goodBy[key]
	if m.target != nil && m.target.byKey[key] != nil {
		served = m.target.byKey[key]
	}
	if served == nil {
		return // no gateway ever heard of it
	}
	if len(served.Addresses) > 0 {
		held = served.Addresses
	}
	m.leaving[key] = departure{addresses: slices.Clone(held)}
}

// free gives holds back that every configured gateway confirmed to be without.
func (m *Manager) free() (freed []netip.Addr) {
	for _, r := range m.addresses.Releasing() {
		h := hold{r.Address, desired.Key(r.Owner)}
		gone, ok := m.since[h]
		if !ok || slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed.Compare(gone.since) < 0 }) {
			continue
		}
		m.addresses.Free(r.Address, r.Owner)
		delete(m.since, h)
		if len(m.addresses.Holders(r.Address)) == 0 {
			delete(m.proven, r.Address)
		}
		freed = append(freed, r.Address)
	}
	return freed
}

// forget drops the load balancers that the target is without. Every gateway that is not left out has confirmed it: a
// round does not succeed before.
func (m *Manager) forget() {
	maps.DeleteFunc(m.leaving, func(_ desired.Key, going departure) bool { return going.since.Epoch > 0 })
}
