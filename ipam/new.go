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

// Count says how many addresses of one pool and family there are, without the excluded ones that nobody uses, and how many of
// them are held, releasing, or neither and kept from being chosen. Each address counts once: as assigned, else as releasing,
// else as quarantined, else as reserved. Size saturates at the largest uint64.
type Count struct {
	Pool                                             string
	Family                                           Family
	Size, Assigned, Releasing, Reserved, Quarantined uint64
}

// Used counts what a Service that asks now cannot have. It is Size when nothing is free.
func (c Count) Used() uint64 { return c.Assigned + c.Releasing + c.Reserved + c.Quarantined }

// New gives an Allocator in which everything is free. All faults of the pools are reported together.
func New(pools []Pool, exclusions []Exclusion) (*Allocator, error) {
	a := &Allocator{
		byPool:      map[string][2]*block{},
		exclusions:  slices.Clone(exclusions),
		marks:       map[netip.Addr]mark{},
		reservedFor: map[Owner][]netip.Addr{},
		owners:      newOwners(),
		outside:     map[netip.Addr]id{},
		shared:      map[netip.Addr][]tenant{},
		keys:        map[string][]netip.Addr{},
		regained:    map[holding]struct{}{},
	}
	faults := overlaps(pools)
	for _, pool := range pools {
		if slices.Contains(a.pools, pool.Name) {
			faults = append(faults, fmt.Errorf("there are two pools %q", pool.Name))
		}
		a.pools = append(a.pools, pool.Name)
		faults = append(faults, a.add(pool, exclusions)...)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	slices.SortFunc(a.spans, func(x, y span) int { return x.from.Compare(y.from) })
	return a, nil
}

// add makes the blocks of one pool.
func (a *Allocator) add(pool Pool, exclusions []Exclusion) (faults []error) {
	var builder netipx.IPSetBuilder
	for _, r := range pool.Ranges {
		if !r.IsValid() {
			return []error{fmt.Errorf("pool %q: range %s is not valid", pool.Name, r)}
		}
		builder.AddRange(r)
	}
	for _, r := range pool.Exclude {
		if !r.IsValid() {
			return []error{fmt.Errorf("pool %q: excluded range %s is not valid", pool.Name, r)}
		}
		builder.RemoveRange(r)
		a.exclusions = append(a.exclusions, Exclusion{Range: r, Reason: fmt.Sprintf("pool %q leaves it out", pool.Name)})
	}
	builder.Remove(netip.IPv4Unspecified())
	builder.Remove(netip.IPv6Unspecified())
	for _, exclusion := range exclusions {
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
		b, err := newBlock(pool, []Family{IPv4, IPv6}[i], ranges)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		a.blocks = append(a.blocks, b)
		both := a.byPool[pool.Name]
		both[i] = b
		a.byPool[pool.Name] = both
		for i, r := range ranges {
			a.spans = append(a.spans, span{from: r.From(), to: r.To(), block: b, start: b.starts[i]})
		}
	}
	return faults
}

func newBlock(pool Pool, family Family, ranges []netipx.IPRange) (*block, error) {
	b := &block{
		pool: pool.Name, family: family, sharedAcrossNamespaces: pool.ShareAcrossNamespaces, ranges: ranges,
		ahead: map[uint64]id{},
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
				pool.Name, family)
		}
		b.starts = append(b.starts, start)
		b.last = start + size
	}
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
func (a *Allocator) Check(address netip.Addr) error {
	if m, ok := a.marks[address]; ok && m.excluded {
		return &ExcludedError{Address: address, Reason: m.reason}
	}
	if _, ok := a.PoolOf(address); ok {
		return nil
	}
	for _, exclusion := range a.exclusions {
		if exclusion.Range.Contains(address) {
			return &ExcludedError{Address: address, Reason: exclusion.Reason}
		}
	}
	e := &OutsideError{Address: address}
	for _, name := range a.pools {
		e.Pools = append(e.Pools, a.describe(name))
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
	if more := len(ranges) - maxListed; more > 0 {
		ranges = append(ranges[:maxListed], fmt.Sprintf("and %d more", more))
	}
	return pool + ": " + strings.Join(ranges, ", ")
}

// PoolOf names the pool that may give address.
func (a *Allocator) PoolOf(address netip.Addr) (string, bool) {
	s := a.seat(address)
	if s.block == nil {
		return "", false
	}
	return s.block.pool, true
}

// Counts gives one Count for each pool and family, in the order of the pools, IPv4 first.
func (a *Allocator) Counts() []Count {
	counts := make([]Count, len(a.blocks))
	for i, b := range a.blocks {
		counts[i] = b.count()
	}
	return counts
}

func (b *block) count() Count {
	size := b.last - b.excluded + 1
	if b.last == math.MaxUint64 && b.excluded == 0 {
		size = math.MaxUint64
	}
	return Count{Pool: b.pool, Family: b.family, Size: size, Assigned: b.assigned, Releasing: b.releasing,
		Reserved: b.reserved, Quarantined: b.quarantined}
}
