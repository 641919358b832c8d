package ipam

import (
	"hash/maphash"
	"net/netip"
	"slices"
)

// record is one owner's addresses, IPv4 then IPv6; the zero Addr where it has none.
type record struct {
	owner     Owner
	addresses [2]netip.Addr
	// departures are what it releases, in the order of release, at most one an address: it may have them back.
	departures []departure
	// next is another record of the same hash.
	next *record
}

// departure is an address on its way back to its pool.
type departure struct {
	address netip.Addr
	// ports are those that are on their way back, sorted; none: all of them.
	ports []Port
}

func (r *record) holds(address netip.Addr) bool {
	return r.addresses[slot(FamilyOf(address))] == address
}

// departed gives the index of address in departures, -1 when r does not release it.
func (r *record) departed(address netip.Addr) int {
	return slices.IndexFunc(r.departures, func(d departure) bool { return d.address == address })
}

func (r *record) empty() bool { return len(r.departures) == 0 && r.addresses == [2]netip.Addr{} }

// owners finds records. A map from Owner would need 100 bytes an owner (keys of four words, maps half full); one from
// hashes needs 37.
type owners struct {
	seed    maphash.Seed
	records map[uint64]*record
}

func newOwners() owners { return owners{seed: maphash.MakeSeed(), records: map[uint64]*record{}} }

// get gives nil for an owner without a record.
func (o *owners) get(owner Owner) *record {
	r := o.records[maphash.Comparable(o.seed, owner)]
	for r != nil && r.owner != owner {
		r = r.next
	}
	return r
}

// add gives an owner that has no record one.
func (o *owners) add(owner Owner) *record {
	hash := maphash.Comparable(o.seed, owner)
	r := &record{owner: owner, next: o.records[hash]}
	o.records[hash] = r
	return r
}

func (o *owners) delete(gone *record) {
	hash := maphash.Comparable(o.seed, gone.owner)
	if o.records[hash] == gone {
		if gone.next == nil {
			delete(o.records, hash)
		} else {
			o.records[hash] = gone.next
		}
		return
	}
	for r := o.records[hash]; r != nil; r = r.next {
		if r.next == gone {
			r.next = gone.next
		}
	}
}

// all visits every record, in no order.
func (o *owners) all(visit func(*record)) {
	for _, r := range o.records {
		for ; r != nil; r = r.next {
			visit(r)
		}
	}
}
