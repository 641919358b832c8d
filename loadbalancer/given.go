package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// An address that was never published stands only in the States of the gateways that have got it so far. When all of those are
// away the next time that a controller loads, it would be given to somebody else. So a new hold is written into the ledger before
// a State has it. The ledger is swapped by comparing, so that also two controllers at once give no address twice.

// Given is an address that a Service may have on a gateway, of which neither the Service's status nor every gateway tells yet.
type Given struct {
	Address netip.Addr
	Owner   desired.Key
	// Ports are those of a shared address; none: all of it.
	Ports []desired.Port
}

// extent is how much of an address somebody has: all of it, or ports.
type extent struct {
	whole bool
	ports []desired.Port
}

func extentOf(ports []desired.Port) extent { return extent{len(ports) == 0, ports} }

func (e extent) covers(other extent) bool {
	return e.whole || !other.whole && !slices.ContainsFunc(other.ports, func(p desired.Port) bool { return !slices.Contains(e.ports, p) })
}

func (e extent) with(other extent) extent {
	if e.whole || other.whole {
		return extent{whole: true}
	}
	ports := slices.Concat(e.ports, other.ports)
	slices.SortFunc(ports, desired.Port.Compare)
	return extent{ports: slices.Compact(ports)}
}

// part is how much a Service that has an address may have of it in a State: the ports that it has, whatever it asks for now and may
// be refused, or of a whole one what it wants. It is called with mu held.
func (m *Manager) part(h hold) extent {
	if ports := m.heldPorts(h); ports != nil {
		return extentOf(ports)
	}
	if sharing := m.services[h.owner].request.Sharing; sharing.Key != "" {
		return extentOf(portsOf(sharing.Ports))
	}
	return extent{whole: true}
}

// ungiven says whether a controller that loaded now could miss that a Service has these addresses. A single gateway tells
// everything, and without it nobody loads. It is called with mu held.
func (m *Manager) ungiven(key desired.Key, addresses []netip.Addr) bool {
	if len(m.members) == 1 {
		return false
	}
	return slices.ContainsFunc(addresses, func(address netip.Addr) bool {
		h := hold{address, key}
		part := m.part(h)
		return !m.vouched[h].covers(part) && !m.ledger.given[h].covers(part)
	})
}

// vouchPublished notes that a Service's status tells of its addresses. It does not tell the ports of a shared one: of that it vouches
// for nothing but that the Service is there. It is called with mu held.
func (m *Manager) vouchPublished(key desired.Key, published []netip.Addr, sharing ipam.Sharing) {
	for _, address := range published {
		h := hold{address, key}
		_, vouched := m.vouched[h]
		switch {
		case !slices.Contains(m.addresses.Addresses(ipam.Owner(key)), address):
		case sharing.Key == "" && m.heldPorts(h) == nil:
			m.vouched[h] = extent{whole: true}
		case !vouched:
			m.vouched[h] = extent{}
		}
	}
}

// Published tells that a Service's status names these addresses, of which the ledger need not tell any more the next time that it is
// looked at, and no other ones, which may be free then.
func (m *Manager) Published(key desired.Key, addresses []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if entry := m.services[key]; entry != nil && m.replayed {
		m.notePublished(key, addresses)
		m.vouchPublished(key, addresses, entry.request.Sharing)
	}
}

// vouchConfirmed notes that every configured gateway tells of what the target has. It is called with mu held.
func (m *Manager) vouchConfirmed(t *target) {
	if slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed != t.fence() }) {
		return
	}
	for _, lb := range t.state.LoadBalancers {
		entry := m.services[lb.Key]
		for _, address := range lb.Addresses {
			if h := (hold{address, lb.Key}); entry != nil && entry.request.Sharing.Key == "" && m.heldPorts(h) == nil {
				m.vouched[h] = extent{whole: true}
			} else {
				m.vouched[h] = extentOf(portsOf(frontendPorts(lb.Frontends)))
			}
		}
	}
}

// givenRoom bounds what the ledger tells of holds, in bytes as it is written: an object of the API server has at most 1 MiB. Who finds no
// room waits until gateways or statuses tell of others.
const givenRoom = 512 << 10

// size is what it takes in the ledger, at most.
func (g Given) size() int {
	return len("- address: \n  service: /\n  ports:\n") + len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") + len(g.Owner.Namespace) + len(g.Owner.Name) +
		len(g.Ports)*len("  - 65535/SCTP\n")
}

// given are the holds that the ledger has to tell of, as far as there is room, sorted. What is on its way back stays there until it is
// free. It is called with mu held.
func (m *Manager) given() (all []Given) {
	if len(m.members) == 1 {
		return nil
	}
	holds := map[hold]extent{}
	for key := range m.services {
		for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
			h := hold{address, key}
			if part := m.part(h); !m.vouched[h].covers(part) {
				holds[h] = part
				if before, told := m.ledger.given[h]; told {
					holds[h] = before.with(part)
				}
			}
		}
	}
	for _, r := range m.addresses.Releasing() {
		h := hold{r.Address, desired.Key(r.Owner)}
		if before, told := m.ledger.given[h]; told && !m.vouched[h].covers(before) {
			holds[h] = before.with(holds[h])
		}
	}
	room := givenRoom
	m.ledger.crowded = map[desired.Key]bool{}
	take := func(told bool) { // what it tells already stays, and comes first
		for _, h := range sortedHolds(holds) {
			g := Given{Address: h.address, Owner: h.owner, Ports: holds[h].ports}
			if _, is := m.ledger.given[h]; is != told {
				continue
			}
			if !told && g.size() > room {
				m.ledger.crowded[h.owner] = true
				continue
			}
			all, room = append(all, g), room-g.size()
		}
	}
	take(true)
	take(false)
	slices.SortFunc(all, func(a, b Given) int { return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner)) })
	return all
}

// settleGiven notes what the ledger tells of now, and has a round for the Services that waited for it. It is called with mu held.
func (m *Manager) settleGiven(now map[hold]extent) {
	var waited []desired.Key
	for key, entry := range m.services {
		if entry.ungiven && entry.want != nil && m.ungiven(key, entry.want.Addresses) {
			waited = append(waited, key)
		}
	}
	m.ledger.given = now
	for _, key := range waited {
		if !m.ungiven(key, m.services[key].want.Addresses) {
			m.revision++
			signal(m.wake)
		}
	}
}

func extentsOf(given []Given) map[hold]extent {
	all := make(map[hold]extent, len(given))
	for _, g := range given {
		all[hold{g.Address, g.Owner}] = extentOf(g.Ports)
	}
	return all
}

// recalledGiven are the holds of which the ledger told at the start, as ones on their way back: their owners take them again, and
// from whom is gone every gateway has to confirm a State of ours without them.
func (m *Manager) recalledGiven() (all []desired.Releasing) {
	for _, h := range sortedHolds(m.ledger.given) {
		all = append(all, desired.Releasing{Address: h.address, Owner: h.owner, Ports: m.ledger.given[h].ports, SinceEpoch: m.fence.Epoch})
	}
	return all
}

// adoptGiven takes over what another controller has given since we read the ledger. What we were going to give to somebody else is
// taken back. It is called with mu held.
func (m *Manager) adoptGiven(found map[hold]extent) {
	for _, h := range sortedHolds(found) {
		if m.ledger.given[h].covers(found[h]) {
			continue
		}
		for _, holder := range m.addresses.Holders(h.address) {
			if key := desired.Key(holder.Owner); key != h.owner && !holder.Releasing && m.services[key] != nil && m.ungiven(key, []netip.Addr{h.address}) {
				m.concede(hold{h.address, key}, holder.Sharing, found[h])
			}
		}
		m.claimReleasing([]desired.Releasing{{Address: h.address, Owner: h.owner, Ports: found[h].ports, SinceEpoch: m.fence.Epoch}})
	}
	m.ledger.given = found
}

// concede takes back what a Service has of an address and no State can have, as it is not written down, because another controller has
// given that to somebody else. What its status or a gateway told of stays: it is from before us. It is called with mu held.
func (m *Manager) concede(h hold, has ipam.Sharing, given extent) {
	told, known := m.toldOf(h)
	if !known {
		m.withdraw(h.owner, h.address)
		return
	}
	keep := told.ports
	if len(has.Ports) > 0 {
		keep = slices.DeleteFunc(portsOf(has.Ports), func(p desired.Port) bool {
			return slices.Contains(given.ports, p) && !slices.Contains(told.ports, p)
		})
	}
	if given.whole || told.whole || len(keep) == 0 || len(keep) == len(has.Ports) {
		return
	}
	m.addresses.Withdraw(ipam.Owner(h.owner), h.address)
	_ = m.addresses.Claim(ipam.Owner(h.owner), h.address, ipam.Sharing{Key: has.Key, Keyless: has.Key == "", Ports: ipamPorts(keep)}) // it had that
}

// toldOf is what statuses, gateways and the ledger tell of a hold; known is false when no status and no gateway does. It is called with mu
// held.
func (m *Manager) toldOf(h hold) (told extent, known bool) {
	told, known = m.vouched[h]
	if good := m.goodBy[h.owner]; good != nil && slices.Contains(good.Addresses, h.address) {
		told, known = told.with(extentOf(portsOf(frontendPorts(good.Frontends)))), true
	}
	if given, written := m.ledger.given[h]; written {
		told = told.with(given)
	}
	return told, known
}

// learn takes over a State of another controller that was committed after takeOver, with the Services of it that nobody told us
// of and that exist. It is called with mu held.
func (m *Manager) learn(newest *desired.State, untold []Replay) {
	newer := m.good == nil || newest.Fence.Compare(m.good.Fence) > 0
	if newer && !slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed.Instance == m.instance }) {
		// No State of ours stands anywhere as far as anybody knows: it is as if we had read this one in the beginning.
		if !slices.ContainsFunc(m.members, func(g *member) bool { return g.away != nil && g.offered.Instance == m.instance }) {
			m.withdrawUntold()
		}
		m.adoptPlaces(newest)
		m.good, m.goodBy = newest, byKey(newest)
	}
	for i, lb := range newest.LoadBalancers {
		if m.goodBy[lb.Key] == nil {
			m.goodBy[lb.Key] = &newest.LoadBalancers[i] // ours is without it, perhaps because it does not translate
		}
	}
	for _, replay := range untold {
		if m.services[replay.Key] == nil {
			m.enlist(replay)
			m.keepPublished(replay.Key, replay.Published, replay.Sharing)
		}
	}
	m.claimServed(newest, m.servedTerms(), nil)
	m.claimReleasing(newest.Releasing)
	m.read = newest.Fence
	m.revision++
}

// untoldOf are the addresses that Services wait for, to be looked for on the network or written down. It is called with mu held.
func (m *Manager) untoldOf() []netip.Addr {
	waited := map[netip.Addr]bool{}
	for _, address := range m.toProve() {
		waited[address] = true
	}
	for key, entry := range m.services {
		if !entry.ungiven || entry.want == nil {
			continue
		}
		for _, address := range entry.want.Addresses {
			others := slices.ContainsFunc(m.addresses.Holders(address), func(h ipam.Holder) bool { return desired.Key(h.Owner) != key })
			if m.ungiven(key, []netip.Addr{address}) && !m.proven[address] && !others {
				waited[address] = true
			}
		}
	}
	return sortedAddresses(waited)
}

// withdrawUntold takes back what Services were assigned and nobody was told of.
func (m *Manager) withdrawUntold() {
	for _, key := range m.keys() {
		for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
			if _, told := m.toldOf(hold{address, key}); !told {
				m.withdraw(key, address)
			}
		}
	}
}

// failCrowded answers those for whose addresses the ledger has no room, when it does not empty by itself: with a gateway away.
func (m *Manager) failCrowded() {
	if len(m.membersWhere(func(g *member) bool { return g.away != nil })) > 0 {
		m.failUngiven(errCrowded, func(key desired.Key) bool { return m.ledger.crowded[key] })
	}
}

var errCrowded = errors.New("it tells of as many as there is room for, and a gateway that has to confirm those is away; new ones wait until " +
	"it is back, or removed from the configuration")

// failUngiven answers those whose Services wait until the ledger tells of their addresses. They get them when it does, asked or not.
func (m *Manager) failUngiven(err error, waits func(desired.Key) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joined = slices.DeleteFunc(m.joined, func(c *call) bool {
		waits := c.ensure && m.services[c.key] != nil && waits(c.key)
		if waits {
			c.answer(nil, fmt.Errorf("%s: %w", c, &LedgerError{err}))
		}
		return waits
	})
}
