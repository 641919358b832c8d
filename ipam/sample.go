package ipam

import (
	"net/netip"
	"slices"
)

// Sample gives up to n free addresses of a pool that Allocate would take last: somebody asks the network for them to
// find a machine that answers for whatever is asked for. They stay free.
func (a *Allocator) Sample(pool string, family Family, n int) []netip.Addr {
	b := a.block(pool, family)
	if b == nil {
		return nil
	}
	var sample []netip.Addr
	freed := b.freed.numbers()
	for i := len(freed) - 1; i >= 0 && len(sample) < n; i-- {
		sample = append(sample, b.address(freed[i]))
	}
	// Down from the last fresh number. What is in use up there was asked for by name and is little.
	for i := b.last; !b.spent && len(sample) < n; i-- {
		if b.fresh(i) {
			sample = append(sample, b.address(i))
		}
		if i == b.next {
			break
		}
	}
	return sample
}

// Next gives up to n free addresses of a pool in the order in which Allocate would take them: somebody asks the network
// for more than one when many are in use by strangers. They stay free.
func (a *Allocator) Next(pool string, family Family, n int) []netip.Addr {
	b := a.block(pool, family)
	if b == nil {
		return nil
	}
	var fresh []netip.Addr
	for i := b.next; !b.spent && len(fresh) < n; i++ {
		if b.fresh(i) {
			fresh = append(fresh, b.address(i))
		}
		if i == b.last {
			break
		}
	}
	var freed []netip.Addr
	for _, number := range b.freed.numbers() {
		if len(freed) == n {
			break
		}
		freed = append(freed, b.address(number))
	}
	next := append(fresh, freed...)
	if b.freed.len() > maxFreed {
		next = slices.Concat(freed, fresh)
	}
	return next[:min(n, len(next))]
}

// block gives the addresses of one family of a pool; nil when there are none.
func (a *Allocator) block(pool string, family Family) *block {
	if family != IPv4 && family != IPv6 {
		return nil
	}
	return a.byPool[pool][slot(family)]
}
