package ipam

import (
	"hash/maphash"
	"net/netip"
)

// id is the number of a record; none is no record, several stands in the cell of an address that is shared.
type id uint32

const (
	none id = iota
	several
	firstID
)

// record is one owner and what it holds: one cache line.
type record struct {
	owner Owner
	// v4 and v6 are what it holds, unspecified addresses where it holds nothing: they cost less than netip.Addr.
	v6 [16]byte
	v4 [4]byte
	id id
	// next is another record of the same hash, or the next unused one.
	next id
	// leaver is the place in Allocator.leavers plus one; 0 when the owner releases nothing.
	leaver uint32
}

// held gives the address of a family that r holds, the zero Addr when it holds none.
func (r *record) held(f Family) netip.Addr {
	switch {
	case f == IPv4 && r.v4 != [4]byte{}:
		return netip.AddrFrom4(r.v4)
	case f == IPv6 && r.v6 != [16]byte{}:
		return netip.AddrFrom16(r.v6)
	}
	return netip.Addr{}
}

func (r *record) holds(address netip.Addr) bool {
	return address.IsValid() && r.held(FamilyOf(address)) == address
}

func (r *record) gain(address netip.Addr) {
	if address.Is4() {
		r.v4 = address.As4()
	} else {
		r.v6 = address.As16()
	}
}

func (r *record) lose(f Family) {
	if f == IPv4 {
		r.v4 = [4]byte{}
	} else {
		r.v6 = [16]byte{}
	}
}

// addresses gives what r holds, IPv4 first.
func (r *record) addresses() []netip.Addr {
	var all []netip.Addr
	for _, f := range families {
		if address := r.held(f); address.IsValid() {
			all = append(all, address)
		}
	}
	return all
}

func (r *record) empty() bool { return r.leaver == 0 && r.v4 == [4]byte{} && r.v6 == [16]byte{} }

// shelfSize is how many records are made at once. 64 KiB is what the Go allocator puts at the start of a page, so that
// a record is one cache line and not parts of two.
const shelfSize = 1024

// owners keeps the records. They have numbers of four bytes, so that cells and this map hold no pointers, which the
// garbage collector would follow: with a million records that was a fifth of the cost of an allocation. A map from Owner
// would need 100 bytes an owner (keys of four words, maps half full); one from hashes needs 37.
type owners struct {
	seed    maphash.Seed
	byHash  map[uint64]id
	shelves []*[shelfSize]record
	made    id
	// unused is the first of the records that were deleted.
	unused id
}

func newOwners() owners {
	return owners{seed: maphash.MakeSeed(), byHash: map[uint64]id{}, made: firstID}
}

// record gives the record of a number that is in use.
func (o *owners) record(i id) *record { return &o.shelves[i/shelfSize][i%shelfSize] }

func (o *owners) hash(owner Owner) uint64 { return maphash.Comparable(o.seed, owner) }

// get gives nil for an owner without a record; hash is the owner's.
func (o *owners) get(owner Owner, hash uint64) *record {
	for i := o.byHash[hash]; i != none; {
		r := o.record(i)
		if r.owner == owner {
			return r
		}
		i = r.next
	}
	return nil
}

// add gives an owner that has no record one.
func (o *owners) add(owner Owner, hash uint64) *record {
	i := o.unused
	if i == none {
		i = o.made
		o.made++
		if int(i/shelfSize) == len(o.shelves) {
			o.shelves = append(o.shelves, new([shelfSize]record))
		}
	} else {
		o.unused = o.record(i).next
	}
	r := o.record(i)
	*r = record{owner: owner, id: i, next: o.byHash[hash]}
	o.byHash[hash] = i
	return r
}

func (o *owners) delete(gone *record, hash uint64) {
	switch first := o.byHash[hash]; {
	case first != gone.id:
		r := o.record(first)
		for r.next != gone.id {
			r = o.record(r.next)
		}
		r.next = gone.next
	case gone.next == none:
		delete(o.byHash, hash)
	default:
		o.byHash[hash] = gone.next
	}
	*gone = record{next: o.unused, id: gone.id}
	o.unused = gone.id
}

// all visits every record, in no order.
func (o *owners) all(visit func(*record)) {
	for _, i := range o.byHash {
		for ; i != none; i = o.record(i).next {
			visit(o.record(i))
		}
	}
}
