package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// Count says how many addresses of one pool and family there are, without the excluded ones, and how many of them are
// held or releasing. Size saturates at the largest uint64.
type Count struct {
	Pool                      string
	Family                    Family
	Size, Assigned, Releasing uint64
}

// New gives an Allocator in which everything is free. All faults of the pools are reported together.
func New(pools []Pool, exclusions []Exclusion) (*Allocator, error) {
	a := &Allocator{
		exclusions: slices.Clone(exclusions),
		owners:     newOwners(),
		excluded:   map[netip.Addr]string{},
		outside:    map[netip.Addr]*record{},
		releasing:  map[netip.Addr]*record{},
	}
	faults := overlaps(pools)
	for _, pool := range pools {
		if slices.Contains(a.pools, pool.Name) {
			faults = append(faults, fmt.Errorf("there are two pools %q", pool.Name))
		}
		a.pools = append(a.pools, pool.Name)
		faults = append(faults, a.add(pool)...)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	slices.SortFunc(a.spans, func(x, y span) int { return x.from.Compare(y.from) })
	return a, nil
}

// add makes the blocks of one pool.
func (a *Allocator) add(pool Pool) (faults []error) {
	var builder netipx.IPSetBuilder
	for _, r := range pool.Ranges {
		if !r.IsValid() {
			return []error{fmt.Errorf("pool %q: range %s is not valid", pool.Name, r)}
		}
		builder.AddRange(r)
	}
	for _, exclusion := range a.exclusions {
		builder.RemoveRange(exclusion.Range)
	}
	set, err := builder.IPSet()
	if err != nil {
		return []error{fmt.Errorf("pool %q: %w", pool.Name, err)}
	}
	var families [2][]netipx.IPRange
	for _, r := range set.Ranges() {
		i := slot(FamilyOf(r.From()))
		families[i] = append(families[i], r)
	}
	if len(set.Ranges()) == 0 {
		return []error{fmt.Errorf("pool %q has no address that is not excluded", pool.Name)}
	}
	for i, ranges := range families {
		if len(ranges) == 0 {
			continue
		}
		b, err := newBlock(pool.Name, []Family{IPv4, IPv6}[i], ranges)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		a.blocks = append(a.blocks, b)
		for i, r := range ranges {
			a.spans = append(a.spans, span{from: r.From(), to: r.To(), block: b, start: b.starts[i]})
		}
	}
	return faults
}

func newBlock(pool string, family Family, ranges []netipx.IPRange) (*block, error) {
	b := &block{
		pool: pool, family: family, ranges: ranges,
		recycled: recycled{links: map[uint64]link{}},
		held:     map[uint64]*record{},
	}
	for i, r := range ranges {
		start := uint64(0)
		if i > 0 {
			start = b.last + 1
		}
		// Numbers are 64 bits wide, so that a held address costs little; nobody needs a pool larger than a /64.
		size := distance(r.From(), r.To())
		if wide(r.From(), r.To()) || i > 0 && start == 0 || start+size < start {
			return nil, fmt.Errorf("pool %q: has more than 2^64 %s addresses; a /64 is the most that one pool can have",
				pool, family)
		}
		b.starts = append(b.starts, start)
		b.last = start + size
	}
	b.fresh = fresh{last: b.last, runs: map[uint64]uint64{}}
	return b, nil
}

// overlaps reports every pair of ranges, of one pool or of two, that have addresses in common.
func overlaps(pools []Pool) (faults []error) {
	type named struct {
		pool string
		r    netipx.IPRange
	}
	var all []named
	for _, pool := range pools {
		for _, r := range pool.Ranges {
			if r.IsValid() {
				all = append(all, named{pool: pool.Name, r: r})
			}
		}
	}
	slices.SortStableFunc(all, func(x, y named) int { return x.r.From().Compare(y.r.From()) })
	for i, n := range all {
		for _, later := range all[i+1:] {
			if n.r.To().Less(later.r.From()) {
				break
			}
			faults = append(faults, fmt.Errorf("range %s of pool %q overlaps range %s of pool %q",
				later.r, later.pool, n.r, n.pool))
		}
	}
	return faults
}

// Check says why a Service could not get address anew, whoever holds it: *OutsideError or *ExcludedError.
func (a *Allocator) Check(address netip.Addr) error { return a.check(address, nil) }

func (a *Allocator) check(address netip.Addr, pools []string) error {
	if reason, ok := a.excluded[address]; ok {
		return &ExcludedError{Address: address, Reason: reason}
	}
	if pool, ok := a.PoolOf(address); ok && (len(pools) == 0 || slices.Contains(pools, pool)) {
		return nil
	}
	for _, exclusion := range a.exclusions {
		if exclusion.Range.Contains(address) {
			return &ExcludedError{Address: address, Reason: exclusion.Reason}
		}
	}
	e := &OutsideError{Address: address}
	for _, name := range a.pools {
		if len(pools) == 0 || slices.Contains(pools, name) {
			e.Pools = append(e.Pools, a.describe(name))
		}
	}
	return e
}

// describe gives "name: range, range".
func (a *Allocator) describe(pool string) string {
	var ranges []string
	for _, b := range a.blocks {
		if b.pool == pool {
			for _, r := range b.ranges {
				ranges = append(ranges, r.String())
			}
		}
	}
	if more := len(ranges) - 4; more > 0 {
		ranges = append(ranges[:4], fmt.Sprintf("and %d more", more))
	}
	return pool + ": " + strings.Join(ranges, ", ")
}

// PoolOf names the pool that may give address.
func (a *Allocator) PoolOf(address netip.Addr) (string, bool) {
	b, _, ok := a.locate(address)
	if !ok {
		return "", false
	}
	return b.pool, true
}

// Counts gives one Count for each pool and family, in the order of the pools, IPv4 first.
func (a *Allocator) Counts() []Count {
	counts := make([]Count, len(a.blocks))
	for i, b := range a.blocks {
		size := b.last - b.excluded
		if size < math.MaxUint64 {
			size++
		}
		counts[i] = Count{Pool: b.pool, Family: b.family, Size: size, Assigned: uint64(len(b.held)), Releasing: b.releasing}
	}
	return counts
}
