package ipam

import (
	"hash/maphash"
	"net/netip"
)

// record is one owner's addresses, IPv4 then IPv6; the zero Addr where it has none.
type record struct {
	owner     Owner
	addresses [2]netip.Addr
	// departed are its releasing addresses, in the order of release: it may have them back.
	departed []netip.Addr
	// next is another record of the same hash.
	next *record
}

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

// make gives an owner's record, a new one when there is none.
func (o *owners) make(owner Owner) *record {
	hash := maphash.Comparable(o.seed, owner)
	for r := o.records[hash]; r != nil; r = r.next {
		if r.owner == owner {
			return r
		}
	}
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
