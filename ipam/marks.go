package ipam

import (
	"maps"
	"net/netip"
	"slices"
)

// mark says why an address is not given to everybody. It may lie outside every pool, for WithPools may bring one.
type mark struct {
	excluded bool
	reason   string
	// quarantined addresses were answered for on the network, by whom by says.
	quarantined bool
	by          string
	// reserved are the owners that may have it; several when they shared it.
	reserved []Owner
}

func (m mark) none() bool { return !m.excluded && !m.quarantined && len(m.reserved) == 0 }

// SetExcluded replaces the addresses that are excluded at run time, on top of New's: those of nodes, which come and go.
// The values complete "192.0.2.1 is excluded: ...". An address that is held or releasing stays so and is not given away
// after.
func (a *Allocator) SetExcluded(reasons map[netip.Addr]string) {
	a.remark(maps.Keys(reasons), func(address netip.Addr, m *mark) { m.reason, m.excluded = lookup(reasons, address) })
}

// SetQuarantined replaces the addresses that a stranger on the network answered for; the values say who. An address
// that is held or releasing stays so.
func (a *Allocator) SetQuarantined(by map[netip.Addr]string) {
	a.remark(maps.Keys(by), func(address netip.Addr, m *mark) { m.by, m.quarantined = lookup(by, address) })
}

// SetReserved replaces the addresses that only their owners can get; several owners of one address can share it, and once
// all of them hold it, others with their key and other ports can join. An address that another owner holds or releases
// stays so and is reserved after.
func (a *Allocator) SetReserved(reservations []Reservation) {
	owners := map[netip.Addr][]Owner{}
	a.reservedFor = map[Owner][]netip.Addr{}
	for _, r := range reservations {
		if !slices.Contains(owners[r.Address], r.Owner) {
			owners[r.Address] = append(owners[r.Address], r.Owner)
			a.reservedFor[r.Owner] = append(a.reservedFor[r.Owner], r.Address)
		}
	}
	for _, addresses := range a.reservedFor {
		slices.SortFunc(addresses, netip.Addr.Compare)
	}
	for _, all := range owners {
		slices.SortFunc(all, Owner.Compare)
	}
	a.remark(maps.Keys(owners), func(address netip.Addr, m *mark) { m.reserved = owners[address] })
}

// Reserved says that owner cannot have address because it waits for another: *ReservedError. It waits no more when
// everybody for whom it is reserved holds it; then the rules of sharing decide.
func (a *Allocator) Reserved(owner Owner, address netip.Addr) error {
	reserved := a.marks[address].reserved
	if slices.Contains(reserved, owner) {
		return nil
	}
	for _, expected := range reserved {
		if r := a.owners.get(expected, a.owners.hash(expected)); r == nil || !r.holds(address) {
			return &ReservedError{Address: address, Owner: expected}
		}
	}
	return nil
}

func lookup(values map[netip.Addr]string, address netip.Addr) (string, bool) {
	value, ok := values[address]
	return value, ok
}

// remark edits the marks of all addresses that have one or get one.
func (a *Allocator) remark(marked func(func(netip.Addr) bool), edit func(netip.Addr, *mark)) {
	addresses := slices.AppendSeq(slices.Collect(maps.Keys(a.marks)), marked)
	// Sorted, so that the order in which addresses become free does not depend on map order.
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, address := range slices.Compact(addresses) {
		old := a.marks[address]
		now := old
		edit(address, &now)
		if now.none() {
			delete(a.marks, address)
		} else {
			a.marks[address] = now
		}
		if s := a.seat(address); s.block != nil {
			s.block.remark(s.n, old, now)
		}
	}
}

// remark keeps counters and what is free in step with a change of n's mark.
func (b *block) remark(n uint64, old, now mark) {
	if b.at(n) != none {
		return
	}
	b.tally(old, -1)
	b.tally(now, +1)
	switch {
	case old.none() && !now.none():
		b.withhold(n)
	case !old.none() && now.none():
		b.offer(n)
	}
}

// tally counts a mark of a number that nobody uses.
func (b *block) tally(m mark, delta int) {
	switch {
	case m.excluded:
		b.excluded += uint64(delta)
	case m.quarantined:
		b.quarantined += uint64(delta)
	case len(m.reserved) > 0:
		b.reserved += uint64(delta)
	}
}
