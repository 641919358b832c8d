package ipam

import (
	"maps"
	"net/netip"
	"slices"
)

// WithPools gives an Allocator of other pools in which everybody holds and releases what they do in a, and the same
// addresses are reserved, quarantined and excluded at run time. What lies in no pool any more stays held. Freed addresses
// are reused last there too. a does not change. The errors are New's.
func (a *Allocator) WithPools(pools []Pool, exclusions []Exclusion) (*Allocator, error) {
	b, err := New(pools, exclusions)
	if err != nil {
		return nil, err
	}
	copies := map[*record]*record{}
	a.owners.all(func(r *record) { copies[r] = b.copyRecord(a, r) })
	b.copyCells(a, copies)
	for h := range a.regained {
		b.regained[holding{copies[a.owners.record(h.record)].id, h.address}] = struct{}{}
	}
	for key, addresses := range a.keys {
		b.keys[key] = slices.Clone(addresses)
	}
	for owner, addresses := range a.reservedFor {
		b.reservedFor[owner] = slices.Clone(addresses)
	}
	b.remark(maps.Keys(a.marks), func(address netip.Addr, m *mark) {
		*m = a.marks[address]
		m.reserved = slices.Clone(m.reserved)
	})
	b.copyFreed(a)
	return b, nil
}

// copyRecord gives r's owner the addresses that it has; their cells are not written.
func (a *Allocator) copyRecord(from *Allocator, r *record) *record {
	c := a.owners.add(r.owner, a.owners.hash(r.owner))
	c.v4, c.v6 = r.v4, r.v6
	for _, d := range from.departures(r) {
		a.departs(c, d.address, slices.Clone(d.ports))
	}
	return c
}

// copyCells writes the cells of what the copied records hold and release.
func (a *Allocator) copyCells(from *Allocator, copies map[*record]*record) {
	for old, r := range copies {
		for _, address := range r.addresses() {
			a.copyCell(from, address, old, copies)
		}
		for _, d := range a.departures(r) {
			a.copyCell(from, d.address, old, copies)
		}
	}
}

func (a *Allocator) copyCell(from *Allocator, address netip.Addr, old *record, copies map[*record]*record) {
	s := a.seat(address)
	if a.at(s) != none {
		return // a tenant's before
	}
	cell := copies[old].id
	if tenants, ok := from.shared[address]; ok {
		cell = several
		tenants = slices.Clone(tenants)
		for i := range tenants {
			tenants[i].record = copies[tenants[i].record]
		}
		a.shared[address] = tenants
	}
	a.set(s, none, cell)
	_, held := terms(a.tenants(s), address)
	s.block.countUse(held, +1)
}

// copyFreed puts what waits in the queues of from behind what is fresh, in the same order.
func (a *Allocator) copyFreed(from *Allocator) {
	for _, b := range from.blocks {
		for _, n := range b.freed.numbers() {
			if s := a.seat(b.address(n)); s.block != nil && s.block.fresh(s.n) {
				s.block.withhold(s.n)
				s.block.offer(s.n)
			}
		}
	}
}
