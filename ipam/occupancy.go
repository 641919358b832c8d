package ipam

import (
	"net/netip"
	"slices"
)

// at gives the cell of s: nil when nobody uses the address, several when its tenants stand in shared, else the record
// that holds or releases all of it.
func (a *Allocator) at(s seat) *record {
	if s.block == nil {
		return a.outside[s.address]
	}
	return s.block.at(s.n)
}

// set writes the cell of s and keeps what is free in step.
func (a *Allocator) set(s seat, before, now *record) {
	switch {
	case s.block == nil && now == nil:
		delete(a.outside, s.address)
	case s.block == nil:
		a.outside[s.address] = now
	case before == nil && now == nil:
	case before == nil:
		m, marked := a.marks[s.address]
		s.block.tally(m, -1)
		s.block.take(s.n, now, marked)
	case now == nil:
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

// hold gives r the address of s, or changes the terms on which it has it. There is no conflict.
func (a *Allocator) hold(r *record, s seat, sharing Sharing) {
	i := slot(FamilyOf(s.address))
	cell := a.at(s)
	held := r.addresses[i] == s.address
	if sharing.Key == "" && (cell == nil || cell == r) {
		if held {
			return
		}
		r.addresses[i] = s.address
		a.set(s, cell, r)
		if cell == r {
			a.undepart(r, r.departed(s.address))
			a.regained[holding{r, s.address}] = struct{}{}
			s.block.countUse(false, -1)
		}
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
		r.addresses[i] = s.address
		return tenants
	})
}

// adjust keeps r's departure from address in step with a change of what it holds there.
func (a *Allocator) adjust(r *record, address netip.Addr, held bool, old, now Sharing) {
	d := r.departed(address)
	if d >= 0 && !held && (len(r.departures[d].ports) == 0 || len(both(r.departures[d].ports, now.Ports)) > 0 || now.Key == "") {
		a.regained[holding{r, address}] = struct{}{}
	}
	switch {
	case now.Key == "":
		if d >= 0 {
			a.undepart(r, d)
		}
	case held && old.Key == "":
		// It had every port, nobody knows which of them it used.
		a.departs(r, address, nil)
	default:
		var ports []Port
		if d >= 0 {
			if len(r.departures[d].ports) == 0 {
				return
			}
			ports = r.departures[d].ports
		}
		ports = without(sortedPorts(append(slices.Clone(ports), old.Ports...)), now.Ports)
		switch {
		case len(ports) > 0:
			a.departs(r, address, ports)
		case d >= 0:
			a.undepart(r, d)
		}
	}
}

// depart makes the i-th address of r releasing.
func (a *Allocator) depart(r *record, i int) {
	s := a.seat(r.addresses[i])
	if len(a.regained) > 0 {
		delete(a.regained, holding{r, s.address})
	}
	if a.at(s) == r {
		r.addresses[i] = netip.Addr{}
		a.departs(r, s.address, nil)
		s.block.countUse(true, -1)
		s.block.countUse(false, 1)
		return
	}
	a.change(s, func(tenants []tenant) []tenant {
		t := &tenants[tenancy(tenants, r)]
		r.addresses[i] = netip.Addr{}
		var ports []Port
		if len(tenants) > 1 {
			ports = t.sharing.Ports
			if d := r.departed(s.address); d >= 0 {
				ports = sortedPorts(append(slices.Clone(ports), r.departures[d].ports...))
			}
		}
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
	if before != nil {
		s.block.countUse(held, -1)
	}
	tenants = edit(tenants)
	now := a.several
	switch {
	case len(tenants) == 0:
		now = nil
	case len(tenants) == 1 && tenants[0].alone(s.address):
		now = tenants[0].record
	}
	delete(a.shared, s.address)
	if now == a.several {
		a.shared[s.address] = tenants
	}
	a.set(s, before, now)
	newKey, held := terms(tenants, s.address)
	if now != nil {
		s.block.countUse(held, 1)
	}
	if newKey != key {
		a.rekey(s.address, key, newKey)
	}
}

// alone says whether t, the only tenant, holds or releases all of address.
func (t tenant) alone(address netip.Addr) bool {
	d := t.record.departed(address)
	if t.record.holds(address) {
		return d < 0 && t.sharing.Key == ""
	}
	return d >= 0 && len(t.record.departures[d].ports) == 0
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

// departs notes that r releases ports of address, nil: all; it replaces what was noted for address.
func (a *Allocator) departs(r *record, address netip.Addr, ports []Port) {
	if d := r.departed(address); d >= 0 {
		r.departures[d].ports = ports
		return
	}
	r.departures = append(r.departures, departure{address: address, ports: ports})
	a.releasing[r] = struct{}{}
}

func (a *Allocator) undepart(r *record, d int) {
	r.departures = slices.Delete(r.departures, d, d+1)
	if len(r.departures) == 0 {
		r.departures = nil
		delete(a.releasing, r)
	}
}

// dismiss forgets a record that has nothing.
func (a *Allocator) dismiss(r *record) {
	if r.empty() {
		a.owners.delete(r)
	}
}
