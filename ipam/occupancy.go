package ipam

import (
	"net/netip"
	"slices"
)

// at gives the cell of s: none when nobody uses the address, several when its tenants stand in shared, else the record
// that holds or releases all of it.
func (a *Allocator) at(s seat) id {
	if s.block == nil {
		return a.outside[s.address]
	}
	return s.block.at(s.n)
}

// set writes the cell of s and keeps what is free in step.
func (a *Allocator) set(s seat, before, now id) {
	switch {
	case s.block == nil && now == none:
		delete(a.outside, s.address)
	case s.block == nil:
		a.outside[s.address] = now
	case before == none && now == none:
	case before == none:
		m, marked := a.marks[s.address]
		s.block.tally(m, -1)
		s.block.take(s.n, now, marked)
	case now == none:
		m, marked := a.marks[s.address]
		s.block.tally(m, +1)
		s.block.leave(s.n, marked)
	default:
		s.block.set(s.n, now)
	}
}

// countUse adds delta to the counter that an address in use belongs to.
func (b *block) countUse(held bool, delta int) {
	if b == nil {
		return
	}
	if held {
		b.assigned += uint64(delta)
	} else {
		b.releasing += uint64(delta)
	}
}

// isShared says whether the cell of an address in use is several, without reading it: with a million addresses in use
// the wait for cells that are only written afterwards was a tenth of the cost of an allocation.
func (a *Allocator) isShared(address netip.Addr) bool {
	if len(a.shared) == 0 {
		return false
	}
	_, shared := a.shared[address]
	return shared
}

// hold gives r the address of s, or changes the terms on which it has it. There is no conflict.
func (a *Allocator) hold(r *record, s seat, sharing Sharing) {
	held := r.holds(s.address)
	if sharing.alone() && !a.isShared(s.address) {
		if held {
			return
		}
		before := none
		if a.departing(r, s.address) != nil {
			before = r.id
			a.stays(r, s.address)
			a.regained[holding{r.id, s.address}] = struct{}{}
			s.block.countUse(false, -1)
		}
		r.gain(s.address)
		a.set(s, before, r.id)
		s.block.countUse(true, 1)
		return
	}
	a.change(s, func(tenants []tenant) []tenant {
		t := tenancy(tenants, r)
		if t < 0 {
			t = len(tenants)
			tenants = append(tenants, tenant{record: r})
		}
		a.adjust(r, s.address, held, tenants[t].sharing, sharing)
		tenants[t].sharing = sharing
		r.gain(s.address)
		return tenants
	})
}

// adjust keeps r's departure from address in step with a change of what it holds there.
func (a *Allocator) adjust(r *record, address netip.Addr, held bool, old, now Sharing) {
	d := a.departing(r, address)
	if d != nil && !held && (len(d.ports) == 0 || now.alone() || overlap(d.ports, now.Ports)) {
		a.regained[holding{r.id, address}] = struct{}{}
	}
	switch {
	case now.alone():
		a.stays(r, address)
	case held && old.alone():
		a.departs(r, address, nil) // it had every port, nobody knows which of them it used
	case d == nil || len(d.ports) > 0:
		ports := old.Ports
		if d != nil {
			ports = append(slices.Clone(ports), d.ports...)
		}
		if ports = without(sortedPorts(ports), now.Ports); len(ports) > 0 {
			a.departs(r, address, ports)
		} else {
			a.stays(r, address)
		}
	}
}

// depart makes the address of s, which r holds, releasing.
func (a *Allocator) depart(r *record, s seat) {
	if len(a.regained) > 0 {
		delete(a.regained, holding{r.id, s.address})
	}
	if !a.isShared(s.address) {
		r.lose(FamilyOf(s.address))
		a.departs(r, s.address, nil)
		s.block.countUse(true, -1)
		s.block.countUse(false, 1)
		return
	}
	a.change(s, func(tenants []tenant) []tenant {
		t := &tenants[tenancy(tenants, r)]
		var ports []Port
		if len(tenants) > 1 {
			ports = t.sharing.Ports
			if d := a.departing(r, s.address); d != nil {
				ports = sortedPorts(append(slices.Clone(ports), d.ports...))
			}
		}
		r.lose(FamilyOf(s.address))
		a.departs(r, s.address, ports)
		t.sharing = Sharing{}
		return tenants
	})
}

// change lets edit change who has what of an address, and keeps cell, counters and keys in step.
func (a *Allocator) change(s seat, edit func([]tenant) []tenant) {
	before := a.at(s)
	tenants := slices.Clone(a.tenants(s))
	key, held := terms(tenants, s.address)
	if before != none {
		s.block.countUse(held, -1)
	}
	tenants = edit(tenants)
	now := several
	switch {
	case len(tenants) == 0:
		now = none
	case len(tenants) == 1 && a.alone(tenants[0], s.address):
		now = tenants[0].record.id
	}
	delete(a.shared, s.address)
	if now == several {
		a.shared[s.address] = tenants
	}
	a.set(s, before, now)
	newKey, held := terms(tenants, s.address)
	if now != none {
		s.block.countUse(held, 1)
	}
	if newKey != key {
		a.rekey(s.address, key, newKey)
	}
}

// alone says whether t, the only tenant, holds or releases all of address.
func (a *Allocator) alone(t tenant, address netip.Addr) bool {
	d := a.departing(t.record, address)
	if t.record.holds(address) {
		return d == nil && t.sharing.alone()
	}
	return d != nil && len(d.ports) == 0
}

// terms gives the sharing key of those who hold address, and whether anybody does.
func terms(tenants []tenant, address netip.Addr) (key string, held bool) {
	for _, t := range tenants {
		if t.record.holds(address) {
			return t.sharing.Key, true
		}
	}
	return "", false
}

func (a *Allocator) rekey(address netip.Addr, old, now string) {
	if old != "" {
		a.keys[old] = slices.DeleteFunc(a.keys[old], func(other netip.Addr) bool { return other == address })
		if len(a.keys[old]) == 0 {
			delete(a.keys, old)
		}
	}
	if now != "" {
		a.keys[now] = append(a.keys[now], address)
	}
}

// dismiss forgets a record that has nothing.
func (a *Allocator) dismiss(r *record, hash uint32) {
	if r.empty() {
		a.owners.delete(r, hash)
	}
}
