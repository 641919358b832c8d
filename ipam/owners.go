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
	// next is the next unused record.
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
	for _, f := range [...]Family{IPv4, IPv6} {
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

// owners keeps the records and finds them by the hash of their owner: a table of open addressing with linear probing, so
// that a look-up waits for the memory of one entry and one record. A Go map from hashes waits for two more places and needs
// twice the memory, one from Owner six times. Records have numbers of four bytes, so that entries and cells hold no
// pointers, which the garbage collector would follow: with a million records that was a fifth of the cost of an allocation.
type owners struct {
	seed maphash.Seed
	// entries are a power of two, at most three quarters of them used.
	entries []entry
	used    int
	shelves []*[shelfSize]record
	made    id
	// unused is the first of the records that were deleted.
	unused id
}

// entry is a record and the hash of its owner; the search begins at the hash.
type entry struct {
	hash uint32
	id   id
}

func newOwners() owners {
	return owners{seed: maphash.MakeSeed(), entries: make([]entry, 64), made: firstID}
}

// record gives the record of a number that is in use.
func (o *owners) record(i id) *record { return &o.shelves[i/shelfSize][i%shelfSize] }

func (o *owners) hash(owner Owner) uint32 { return uint32(maphash.Comparable(o.seed, owner)) }

func (o *owners) mask() uint32 { return uint32(len(o.entries) - 1) }

// get gives nil for an owner without a record; hash is the owner's.
func (o *owners) get(owner Owner, hash uint32) *record {
	for i := hash & o.mask(); o.entries[i].id != none; i = (i + 1) & o.mask() {
		if o.entries[i].hash != hash {
			continue
		}
		if r := o.record(o.entries[i].id); r.owner == owner {
			return r
		}
	}
	return nil
}

// add gives an owner that has no record one.
func (o *owners) add(owner Owner, hash uint32) *record {
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
	if o.used++; o.used > len(o.entries)/4*3 {
		o.grow()
	}
	o.enter(entry{hash, i})
	r := o.record(i)
	*r = record{owner: owner, id: i}
	return r
}

func (o *owners) enter(e entry) {
	i := e.hash & o.mask()
	for o.entries[i].id != none {
		i = (i + 1) & o.mask()
	}
	o.entries[i] = e
}

func (o *owners) grow() {
	old := o.entries
	o.entries = make([]entry, 2*len(old))
	for _, e := range old {
		if e.id != none {
			o.enter(e)
		}
	}
}

func (o *owners) delete(gone *record, hash uint32) {
	hole := hash & o.mask()
	for o.entries[hole].id != gone.id {
		hole = (hole + 1) & o.mask()
	}
	// What stands behind the hole and was pushed past it moves up, or a search for it would end at the hole.
	for i := (hole + 1) & o.mask(); o.entries[i].id != none; i = (i + 1) & o.mask() {
		if begin := o.entries[i].hash & o.mask(); (i-begin)&o.mask() >= (i-hole)&o.mask() {
			o.entries[hole] = o.entries[i]
			hole = i
		}
	}
	o.entries[hole] = entry{}
	o.used--
	*gone = record{next: o.unused, id: gone.id}
	o.unused = gone.id
}

// all visits every record, in no order.
func (o *owners) all(visit func(*record)) {
	for _, e := range o.entries {
		if e.id != none {
			visit(o.record(e.id))
		}
	}
}
