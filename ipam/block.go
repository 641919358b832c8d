package ipam

import (
	"encoding/binary"
	"net/netip"
	"sort"

	"go4.org/netipx"
)

// pageSize is how many cells are made at once: 4 KiB, a small part of a pool that fills and nothing in one that does not.
const pageSize = 1024

// maxFreed is how many freed numbers wait while there are fresh ones. Beyond it the longest free is taken first, so that
// the memory for a pool that is never exhausted, a /64, does not grow with every Service that ever was.
const maxFreed = 1 << 16

// block numbers the addresses of one pool and family, exclusions left out, from 0 to last. A number is in use (somebody
// holds or releases it), marked, freed, or fresh, which is none of these ever.
type block struct {
	pool                   string
	family                 Family
	sharedAcrossNamespaces bool
	// ranges are sorted and do not overlap; starts[i] is the number of ranges[i].From().
	ranges []netipx.IPRange
	starts []uint64
	last   uint64

	// next is the lowest fresh number; spent is set when there is none.
	next  uint64
	spent bool
	// pages have a cell for every number below next: who uses it. ahead has the cells of the
	// numbers above next that are not fresh; each moves to pages once.
	pages []*[pageSize]id
	ahead map[uint64]id
	freed queue

	assigned, releasing uint64
	// excluded, quarantined and reserved count the numbers that nobody uses by the first of these marks that they have.
	excluded, quarantined, reserved uint64
}

// passed says whether n is below every fresh number.
func (b *block) passed(n uint64) bool { return b.spent || n < b.next }

// fresh says whether n was never in use and never marked.
func (b *block) fresh(n uint64) bool {
	if b.passed(n) {
		return false
	}
	_, known := b.ahead[n]
	return !known
}

// at gives who uses n.
func (b *block) at(n uint64) id {
	if b.passed(n) {
		return b.pages[n/pageSize][n%pageSize]
	}
	return b.ahead[n]
}

// set says who uses n; it is not fresh after that.
func (b *block) set(n uint64, who id) {
	switch {
	case b.passed(n):
		b.pages[n/pageSize][n%pageSize] = who
	case n > b.next:
		b.ahead[n] = who
	default:
		b.pass(who)
		for known := true; known && !b.spent && len(b.ahead) > 0; {
			if who, known = b.ahead[b.next]; known {
				delete(b.ahead, b.next)
				b.pass(who)
			}
		}
	}
}

// pass makes a cell of the number next.
func (b *block) pass(who id) {
	if b.next%pageSize == 0 {
		b.pages = append(b.pages, new([pageSize]id))
	}
	b.pages[b.next/pageSize][b.next%pageSize] = who
	if b.spent = b.next == b.last; !b.spent {
		b.next++
	}
}

// candidate gives the number that Allocate would take: the lowest fresh, else the longest freed.
func (b *block) candidate() (uint64, bool) {
	if b.spent || b.freed.len() > maxFreed {
		return b.freed.oldest()
	}
	return b.next, true
}

// take puts a number to use that nobody uses.
func (b *block) take(n uint64, who id, marked bool) {
	if !marked && !b.fresh(n) {
		b.freed.remove(n)
	}
	b.set(n, who)
}

// leave ends the use of n.
func (b *block) leave(n uint64, marked bool) {
	b.set(n, none)
	if !marked {
		b.freed.push(n)
	}
}

// withhold keeps a number that nobody uses from being chosen, until offer.
func (b *block) withhold(n uint64) {
	if b.fresh(n) {
		b.set(n, none)
	} else {
		b.freed.remove(n)
	}
}

func (b *block) offer(n uint64) { b.freed.push(n) }

// address gives the address of a number.
func (b *block) address(n uint64) netip.Addr {
	i := 0
	if len(b.starts) > 1 {
		i = sort.Search(len(b.starts), func(i int) bool { return b.starts[i] > n }) - 1
	}
	return advance(b.ranges[i].From(), n-b.starts[i])
}

// seat is an address and where its cell is; block is nil when it lies in no pool.
type seat struct {
	address netip.Addr
	block   *block
	n       uint64
}

func (s seat) sharedAcrossNamespaces() bool { return s.block != nil && s.block.sharedAcrossNamespaces }

// span finds the block of an address; the spans of all blocks are sorted and do not overlap.
type span struct {
	from, to netip.Addr
	block    *block
	start    uint64
}

func (a *Allocator) seat(address netip.Addr) seat {
	i := sort.Search(len(a.spans), func(i int) bool { return !a.spans[i].to.Less(address) })
	if i == len(a.spans) || address.Less(a.spans[i].from) {
		return seat{address: address}
	}
	s := &a.spans[i]
	return seat{address: address, block: s.block, n: s.start + distance(s.from, address)}
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
