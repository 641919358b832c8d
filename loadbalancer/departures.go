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
	// ports are those that are given up; none: all but those that the owner still holds, who began to share the address.
	ports, held []desired.Port
}

// same says whether a hold is given up as it was before: who gives up more has to be confirmed again.
func (r released) same(ports, held []desired.Port) bool {
	return slices.Equal(r.ports, ports) && (len(ports) > 0 || slices.Equal(r.held, held))
}

// departures are the holds that are given up and that these load balancers are without, as a State with this fence tells
// them. A last good form may still have one: then it has not departed.
func (m *Manager) departures(served map[desired.Key]*desired.LoadBalancer, fence desired.Fence) (all []desired.Releasing) {
	for _, r := range m.addresses.Releasing() {
		owner, ports := desired.Key(r.Owner), portsOf(r.Ports)
		if m.serves(served[owner], r) {
			continue
		}
		// Ports that were given up later count from their own State on, and so does the rest then.
		h := hold{r.Address, owner}
		before, ok := m.since[h]
		if !ok || !before.same(ports, m.heldPorts(h)) {
			before = released{since: fence}
		}
		all = append(all, desired.Releasing{Address: r.Address, Owner: owner, Ports: ports,
			SinceEpoch: before.since.Epoch, SinceSequence: before.since.Sequence})
	}
	return all
}

// serves says whether a load balancer has something that its owner gives up.
func (m *Manager) serves(lb *desired.LoadBalancer, r ipam.Released) bool {
	if lb == nil || !slices.Contains(lb.Addresses, r.Address) {
		return false
	}
	has, ports := portsOf(frontendPorts(lb.Frontends)), portsOf(r.Ports)
	if len(ports) > 0 {
		return slices.ContainsFunc(has, func(p desired.Port) bool { return slices.Contains(ports, p) })
	}
	held := m.heldPorts(hold{r.Address, lb.Key})
	return held == nil || slices.ContainsFunc(has, func(p desired.Port) bool { return !slices.Contains(held, p) })
}

// heldPorts are those of a shared address that the owner has, whatever it gives up of it.
func (m *Manager) heldPorts(h hold) []desired.Port {
	for _, holder := range m.addresses.Holders(h.address) {
		if holder.Owner == ipam.Owner(h.owner) && !holder.Releasing {
			return portsOf(holder.Sharing.Ports)
		}
	}
	return nil
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

// markDepartures notes from which fence on holds and load balancers are gone, for those that go now. What the target has
// again has not departed, and counts from anew when it goes again (invariant 8).
func (m *Manager) markDepartures() {
	departures := m.departures(m.target.byKey, m.target.fence())
	clear(m.since)
	for _, r := range departures {
		h := hold{r.Address, r.Owner}
		m.since[h] = released{
			since: desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}, ports: r.Ports, held: m.heldPorts(h),
		}
	}
	for key, going := range m.leaving {
		if going.since.Epoch == 0 {
			going.since = m.target.fence()
			m.leaving[key] = going
		}
	}
}

// depart releases what a Service that is no more holds. It is called with mu held.
func (m *Manager) depart(key desired.Key) {
	owner := ipam.Owner(key)
	for _, address := range m.addresses.Addresses(owner) {
		if m.unproven(address) {
			m.addresses.Withdraw(owner, address) // no gateway was told of it, so none has to confirm
		}
	}
	held := m.addresses.Release(owner)
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
		// While the round ran the owner may have given up more, which the target has still.
		ok = ok && gone.same(portsOf(r.Ports), m.heldPorts(h)) && !m.serves(m.target.byKey[h.owner], r)
		if !ok || slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed.Compare(gone.since) < 0 }) {
			continue
		}
		m.addresses.Free(r.Address, r.Owner)
		delete(m.since, h)
		if len(m.addresses.Holders(r.Address)) == 0 {
			delete(m.proven, r.Address)
			delete(m.contested, r.Address)
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
