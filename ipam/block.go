package ipam

import (
	"encoding/binary"
	"net/netip"
	"sort"

	"go4.org/netipx"
)

// block numbers the addresses of one pool and family, exclusions left out, from 0 to last.
type block struct {
	pool   string
	family Family
	// ranges are sorted and do not overlap; starts[i] is the number of ranges[i].From().
	ranges []netipx.IPRange
	starts []uint64
	last   uint64

	fresh    fresh
	recycled recycled
	held     map[uint64]*record
	// releasing counts the numbers that are neither held nor free, excluded those that are excluded at run time.
	releasing, excluded uint64
}

// span finds the block of an address; the spans of all blocks are sorted and do not overlap.
type span struct {
	from, to netip.Addr
	block    *block
	start    uint64
}

// locate gives block and number of an address that some pool may give.
func (a *Allocator) locate(address netip.Addr) (*block, uint64, bool) {
	i := sort.Search(len(a.spans), func(i int) bool { return !a.spans[i].to.Less(address) })
	if i == len(a.spans) || address.Less(a.spans[i].from) {
		return nil, 0, false
	}
	s := a.spans[i]
	return s.block, s.start + distance(s.from, address), true
}

// address is the inverse of locate.
func (b *block) address(n uint64) netip.Addr {
	i := sort.Search(len(b.starts), func(i int) bool { return b.starts[i] > n }) - 1
	return advance(b.ranges[i].From(), n-b.starts[i])
}

// next gives the number that Allocate would take: the lowest that was never taken, else the longest free.
func (b *block) next() (uint64, bool) {
	if n, ok := b.fresh.lowest(); ok {
		return n, true
	}
	return b.recycled.oldest()
}

// take removes a free number from what is free.
func (b *block) take(n uint64) {
	if !b.recycled.remove(n) {
		b.fresh.take(n)
	}
}

// fresh is the set of numbers that were never taken.
type fresh struct {
	// next is the lowest; everything below it was taken. empty is set when there is none.
	next, last uint64
	empty      bool
	// runs are the maximal runs of taken numbers above next: the first maps to the last and the last to the first.
	runs map[uint64]uint64
}

func (f *fresh) lowest() (uint64, bool) { return f.next, !f.empty }

// take removes n, which must be in the set. It is O(1): see doc.go.
func (f *fresh) take(n uint64) {
	first, last := n, n
	if n > f.next {
		if start, ok := f.runs[n-1]; ok {
			first = start
			delete(f.runs, n-1)
		}
	}
	if n < f.last {
		if end, ok := f.runs[n+1]; ok {
			last = end
			delete(f.runs, n+1)
		}
	}
	if n != f.next {
		f.runs[first], f.runs[last] = last, first
		return
	}
	delete(f.runs, last)
	if f.empty = last == f.last; !f.empty {
		f.next = last + 1
	}
}

// recycled is a queue of freed numbers from which any number can be taken.
type recycled struct {
	// first is the longest free, last the newest; both mean nothing while links is empty.
	first, last uint64
	links       map[uint64]link
}

// link names the neighbours of a number in the queue; the number itself where there is none.
type link struct{ before, after uint64 }

func (r *recycled) push(n uint64) {
	if len(r.links) == 0 {
		r.first, r.last, r.links[n] = n, n, link{n, n}
		return
	}
	r.links[r.last] = link{r.links[r.last].before, n}
	r.links[n] = link{r.last, n}
	r.last = n
}

func (r *recycled) oldest() (uint64, bool) { return r.first, len(r.links) > 0 }

func (r *recycled) remove(n uint64) bool {
	l, ok := r.links[n]
	if !ok {
		return false
	}
	delete(r.links, n)
	before, after := l.before, l.after
	// A neighbour at an end of the queue names itself, and goes on doing so.
	switch {
	case before == n && after == n:
	case before == n:
		r.first, r.links[after] = after, link{after, r.links[after].after}
	case after == n:
		r.last, r.links[before] = before, link{r.links[before].before, before}
	default:
		r.links[before] = link{r.links[before].before, after}
		r.links[after] = link{before, r.links[after].after}
	}
	return true
}

// distance is to - from, which must not exceed 2^64 - 1.
func distance(from, to netip.Addr) uint64 {
	f, t := from.As16(), to.As16()
	return binary.BigEndian.Uint64(t[8:]) - binary.BigEndian.Uint64(f[8:])
}

// wide says whether to - from exceeds 2^64 - 1.
func wide(from, to netip.Addr) bool {
	f, t := from.As16(), to.As16()
	high := binary.BigEndian.Uint64(t[:8]) - binary.BigEndian.Uint64(f[:8])
	return high > 1 || high == 1 && binary.BigEndian.Uint64(t[8:]) >= binary.BigEndian.Uint64(f[8:])
}

// advance is from + n, in from's family.
func advance(from netip.Addr, n uint64) netip.Addr {
	b := from.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	if low+n < low {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	sum := netip.AddrFrom16(b)
	if from.Is4() {
		return sum.Unmap()
	}
	return sum
}
