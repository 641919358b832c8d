package ipam

import (
	"net/netip"
	"slices"
)

// leaver is an owner that releases something, in the order of release, at most one departure an address: it may have
// them back.
type leaver struct {
	record     *record
	departures []departure
}

// departure is an address on its way back to its pool.
type departure struct {
	address netip.Addr
	// ports are those that are on their way back, sorted; none: all of them.
	ports []Port
}

// departures gives what r releases.
func (a *Allocator) departures(r *record) []departure {
	if r == nil || r.leaver == 0 {
		return nil
	}
	return a.leavers[r.leaver-1].departures
}

// departing gives what r releases of address, nil when it is nothing.
func (a *Allocator) departing(r *record, address netip.Addr) *departure {
	all := a.departures(r)
	for i := range all {
		if all[i].address == address {
			return &all[i]
		}
	}
	return nil
}

// departs notes that r releases ports of address, none: all; it replaces what was noted for address.
func (a *Allocator) departs(r *record, address netip.Addr, ports []Port) {
	if d := a.departing(r, address); d != nil {
		d.ports = ports
		return
	}
	if r.leaver == 0 {
		n := len(a.leavers)
		if n < cap(a.leavers) {
			a.leavers = a.leavers[:n+1] // the memory of a former leaver's departures is used again
		} else {
			a.leavers = append(a.leavers, leaver{})
		}
		a.leavers[n].record = r
		r.leaver = uint32(n + 1)
	}
	l := &a.leavers[r.leaver-1]
	l.departures = append(l.departures, departure{address: address, ports: ports})
}

// stays forgets that r releases something of address.
func (a *Allocator) stays(r *record, address netip.Addr) {
	if r.leaver == 0 {
		return
	}
	l := &a.leavers[r.leaver-1]
	l.departures = slices.DeleteFunc(l.departures, func(d departure) bool { return d.address == address })
	if len(l.departures) > 0 {
		return
	}
	last := len(a.leavers) - 1
	*l, a.leavers[last] = a.leavers[last], *l
	l.record.leaver = r.leaver
	r.leaver = 0
	a.leavers[last].record = nil
	a.leavers = a.leavers[:last]
}
