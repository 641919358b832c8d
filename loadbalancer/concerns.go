package loadbalancer

import (
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// What is wrong with addresses and stays so until somebody acts is read off in every round, when addresses are assigned, and after it
// what gateways warn single Services of, whatever made it true: other pools, a node, a restart, the turn in which Services came. It is
// told when it has become true.

// repeatPause is how often the owner of an address that lost its pool is told again: an Event lives an hour.
const repeatPause = time.Hour

// concern is something that is wrong, and the Services that it concerns.
type concern struct {
	services []desired.Key
	err      error
	// general says that it is told to who configures the addresses, too.
	general bool
	// repeated says that it is told again as long as it is true.
	repeated bool
}

func (m *Manager) tellConcerns() {
	m.tellNew(&m.told, func() []concern { return slices.Concat(m.strays(), m.keyless(), m.unmetReservations()) })
}

func (m *Manager) tellWarned() { m.tellNew(&m.toldWarned, m.warned) }

// tellNew tells what has become true since before was noted, and repeats what is to be repeated.
func (m *Manager) tellNew(before *map[string]time.Time, concerns func() []concern) {
	now := time.Now()
	m.mu.Lock()
	told := map[string]time.Time{}
	isNew := func(c concern, to string) bool {
		id := to + " " + c.err.Error()
		last, known := (*before)[id]
		tell := !known || c.repeated && now.Sub(last) >= repeatPause
		if tell {
			last = now
		}
		told[id] = last
		return tell
	}
	var notices []notice
	var general []error
	for _, c := range concerns() {
		for _, key := range c.services {
			if isNew(c, key.String()) {
				notices = append(notices, notice{key, c.err})
			}
		}
		if c.general && isNew(c, "") {
			general = append(general, c.err)
		}
	}
	*before = told // what is over is told when it comes again
	m.mu.Unlock()
	m.tellNotices(notices)
	for _, err := range general {
		m.log.Warn("address", "err", err)
		m.observer.tell(func(o Observer) { o.Notice(err) })
	}
}

// warned are the warnings of gateways that concern single Services. Those of one that does not answer are not over.
func (m *Manager) warned() (all []concern) {
	for _, g := range m.members {
		for _, w := range g.warnings {
			if len(w.LoadBalancers) > 0 {
				all = append(all, concern{services: w.LoadBalancers, err: &WarningError{g.name, w.Reason, w.Message}})
			}
		}
	}
	return all
}

// strays are the addresses of Services that these would not get anew, in the order of keys.
func (m *Manager) strays() (all []concern) {
	reserved := map[hold]bool{}
	for _, r := range m.pools.Reservations {
		reserved[hold{r.Address, desired.Key(r.Owner)}] = true
	}
	for key := range m.services {
		for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
			if err := m.addresses.Check(address); err != nil {
				all = append(all, concern{services: []desired.Key{key}, err: &KeptError{err}, repeated: true})
			} else if pool, _ := m.addresses.PoolOf(address); !reserved[hold{address, key}] && !m.services[key].suits(pool, address) {
				err := &PoolError{Address: address, Pool: pool, Named: m.services[key].pinned}
				all = append(all, concern{services: []desired.Key{key}, err: &KeptError{err}, repeated: true})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b concern) int { return a.services[0].Compare(b.services[0]) })
	return all
}

// suits says whether a Service may stay at an address of a pool: it names the pool or the address, or is about to leave it.
func (entry *service) suits(pool string, address netip.Addr) bool {
	return entry.pinned == nil || slices.Contains(entry.pinned, pool) || entry.request.Moves ||
		slices.Contains(entry.request.Addresses, address)
}

// keyless are the addresses that Services share of which not all have a key, in the order of addresses.
func (m *Manager) keyless() (all []concern) {
	sharers := map[netip.Addr][]desired.Key{}
	for _, key := range m.keys() {
		for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
			for _, holder := range m.addresses.Holders(address) {
				if holder.Sharing.Keyless {
					sharers[address] = append(sharers[address], key)
					break
				}
			}
		}
	}
	for _, address := range sortedAddresses(sharers) {
		if services := sharers[address]; len(services) > 1 {
			all = append(all, concern{services: services, err: &KeylessError{Address: address, Services: services}})
		}
	}
	return all
}

// unmetReservations are those whose owner does not get, or has not got, the address that waits for it: the overruled ones,
// then the others, sorted by address.
func (m *Manager) unmetReservations() (all []concern) {
	owners := map[netip.Addr][]desired.Key{}
	for _, r := range m.reservations() {
		owners[r.Address] = append(owners[r.Address], desired.Key(r.Owner))
	}
	for _, h := range sortedHolds(m.kept) {
		if first := owners[h.address]; !slices.Contains(first, h.owner) {
			e := &ReservationError{Address: h.address, Owner: h.owner, Kept: true, Overruled: first[0]}
			all = append(all, m.reservationConcern(e, h.owner, first[0]))
		}
	}
	for _, address := range sortedAddresses(owners) {
		holders, sharing := m.holdersBeside(address, owners[address])
		for _, owner := range owners[address] {
			e := &ReservationError{
				Address: address, Owner: owner, Kept: m.kept[hold{address, owner}], Holders: holders, Has: m.addressOf(owner, address),
			}
			switch reserved := slices.Contains(owners[e.Has], owner); {
			case reserved, e.Has.IsValid() && m.unproven(e.Has): // it has it, or another one that is reserved for it, or may get it yet
			case !e.Has.IsValid() && len(holders) == 0: // it will get it
			case !e.Has.IsValid() && e.Kept && sharing: // it will get it beside those with whom it shared it
			case len(holders) == 0 && m.asksFor(owner, address): // it is refused, and told why
			case e.Kept && m.services[owner] != nil: // it is back and chose, and nothing is kept for it any more (claimKept)
			default:
				all = append(all, m.reservationConcern(e, append([]desired.Key{owner}, holders...)...))
			}
		}
	}
	return all
}

// reservationConcern is for those of the Services that exist, and for who configures the addresses.
func (m *Manager) reservationConcern(e *ReservationError, parties ...desired.Key) concern {
	e.Ledger = m.ledger.store.Name()
	return concern{err: e, general: true, services: slices.DeleteFunc(parties, func(key desired.Key) bool { return m.services[key] == nil })}
}

// holdersBeside are the Services that hold an address and are none of these, and whether they share it.
func (m *Manager) holdersBeside(address netip.Addr, owners []desired.Key) (others []desired.Key, sharing bool) {
	for _, holder := range m.addresses.Holders(address) {
		if key := desired.Key(holder.Owner); !holder.Releasing && !slices.Contains(owners, key) {
			others, sharing = append(others, key), holder.Sharing.Key != "" || holder.Sharing.Keyless
		}
	}
	return others, sharing
}

// addressOf gives the address of a Service that is of the family of another one; invalid when it has none.
func (m *Manager) addressOf(key desired.Key, family netip.Addr) netip.Addr {
	for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
		if address.Is4() == family.Is4() {
			return address
		}
	}
	return netip.Addr{}
}

// asksFor says whether a Service asks for an address by name.
func (m *Manager) asksFor(key desired.Key, address netip.Addr) bool {
	entry := m.services[key]
	return entry != nil && slices.Contains(entry.request.Addresses, address)
}
