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
func (r released) same(now released) bool {
	return slices.Equal(r.ports, now.ports) && (len(now.ports) > 0 || slices.Equal(r.held, now.held))
}

// departures are the holds that are given up and that these load balancers are without, as a State with this fence tells
// them. A last good form may still have one: then it has not departed. An owner that took one back and is not served yet
// has it on its way back still: the next controller would know of neither.
func (m *Manager) departures(served map[desired.Key]*desired.LoadBalancer, fence desired.Fence) (all []desired.Releasing) {
	tell := func(h hold, r released) {
		all = append(all, desired.Releasing{Address: h.address, Owner: h.owner, Ports: r.ports,
			SinceEpoch: r.since.Epoch, SinceSequence: r.since.Sequence})
	}
	given := map[hold]bool{}
	for _, r := range m.addresses.Releasing() {
		h, now := hold{r.Address, desired.Key(r.Owner)}, released{since: fence, ports: portsOf(r.Ports)}
		given[h] = true
		if m.serves(served[h.owner], h, now.ports) {
			continue
		}
		// Ports that were given up later count from their own State on, and so does the rest then.
		now.held = m.heldPorts(h)
		if before, ok := m.since[h]; ok && before.same(now) {
			now.since = before.since
		}
		tell(h, now)
	}
	for h, r := range m.unserved(served, fence) {
		if !given[h] && m.addresses.Has(ipam.Owner(h.owner), h.address) && !m.serves(served[h.owner], h, r.ports) {
			tell(h, r)
		}
	}
	slices.SortFunc(all, func(a, b desired.Releasing) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	return all
}

// unserved are the holds that gateways may have although these load balancers are without them.
func (m *Manager) unserved(served map[desired.Key]*desired.LoadBalancer, fence desired.Fence) map[hold]released {
	holds, before := maps.Clone(m.since), m.goodBy
	if m.target != nil {
		before = m.target.byKey
	}
	for key, lb := range before {
		for _, address := range lb.Addresses {
			h := hold{address, key}
			if now := served[key]; now != nil && slices.Contains(now.Addresses, address) {
				continue
			}
			if _, known := holds[h]; !known {
				r := released{since: fence}
				if m.heldPorts(h) != nil { // others may have the rest
					r.ports = portsOf(frontendPorts(lb.Frontends))
				}
				holds[h] = r
			}
		}
	}
	return holds
}

// serves says whether a load balancer has something of a hold of which its owner gives up these ports, or all.
func (m *Manager) serves(lb *desired.LoadBalancer, h hold, ports []desired.Port) bool {
	if lb == nil || !slices.Contains(lb.Addresses, h.address) {
		return false
	}
	has := portsOf(frontendPorts(lb.Frontends))
	if len(ports) > 0 {
		return slices.ContainsFunc(has, func(p desired.Port) bool { return slices.Contains(ports, p) })
	}
	held := m.heldPorts(h)
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

// markDepartures notes from which fence on holds and load balancers are gone, for those that go now. What a State has
// again has not departed, and counts from anew when it goes again (invariant 8).
func (m *Manager) markDepartures(s *desired.State) {
	clear(m.since)
	for _, r := range s.Releasing {
		h := hold{r.Address, r.Owner}
		m.since[h] = released{
			since: desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}, ports: r.Ports, held: m.heldPorts(h),
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
	owner := ipam.Owner(key)
	for _, address := range m.addresses.Addresses(owner) {
		if m.unproven(address) {
			delete(m.vouched, hold{address, key})
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
	gone := func(r released) bool {
		return !slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed.Compare(r.since) < 0 })
	}
	for _, r := range m.addresses.Releasing() {
		h, now := hold{r.Address, desired.Key(r.Owner)}, released{ports: portsOf(r.Ports)}
		now.held = m.heldPorts(h)
		before, ok := m.since[h]
		// While the round ran the owner may have given up more, which the target has still, or have come back.
		if !ok || !gone(before) || !before.same(now) || m.serves(m.target.byKey[h.owner], h, now.ports) || m.returns(h.owner) || m.leads(h) {
			continue
		}
		m.addresses.Free(r.Address, r.Owner)
		if !m.addresses.Has(r.Owner, r.Address) {
			delete(m.vouched, h)
		}
		if len(m.addresses.Holders(r.Address)) == 0 {
			delete(m.proven, r.Address)
			delete(m.contested, r.Address)
		}
		freed = append(freed, r.Address)
	}
	maps.DeleteFunc(m.since, func(h hold, r released) bool { return gone(r) && !m.releases(h) })
	return freed
}

// leads says whether clients may still come to an address that a Service has left, because its status named it when we were told of that
// last. Who has the address then would be taken for that Service.
func (m *Manager) leads(h hold) bool {
	entry := m.services[h.owner]
	return entry != nil && slices.Contains(entry.published, h.address) && !slices.Contains(m.addresses.Addresses(ipam.Owner(h.owner)), h.address)
}

// notePublished notes what the status of a Service says. What it does not name any more may be free after the next round. It is called with
// mu held.
func (m *Manager) notePublished(key desired.Key, published []netip.Addr) {
	entry := m.services[key]
	before := entry.published
	entry.published = slices.Clone(published)
	if slices.ContainsFunc(before, func(a netip.Addr) bool { return !slices.Contains(published, a) && m.releases(hold{a, key}) }) {
		m.revision++
		signal(m.wake)
	}
}

// returns says whether a Service came while the round ran, so that nobody has looked yet which address it takes: its former one, when
// that is on its way back still.
func (m *Manager) returns(key desired.Key) bool {
	entry := m.services[key]
	return entry != nil && entry.want != nil && entry.want.Addresses == nil && entry.unassigned == nil && len(m.addresses.Addresses(ipam.Owner(key))) == 0
}

// releases says whether the owner still gives up something of a hold.
func (m *Manager) releases(h hold) bool {
	return slices.ContainsFunc(m.addresses.Holders(h.address), func(o ipam.Holder) bool {
		return o.Releasing && o.Owner == ipam.Owner(h.owner)
	})
}

// forget drops the load balancers that the target is without. Every gateway that is not left out has confirmed it: a
// round does not succeed before.
func (m *Manager) forget() {
	maps.DeleteFunc(m.leaving, func(_ desired.Key, going departure) bool { return going.since.Epoch > 0 })
}
