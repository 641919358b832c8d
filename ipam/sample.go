package ipam

import "net/netip"

// Sample gives up to n free addresses of a pool that Allocate would take last: somebody asks the network for them to
// find a machine that answers for whatever is asked for. They stay free.
func (a *Allocator) Sample(pool string, family Family, n int) []netip.Addr {
	if family != IPv4 && family != IPv6 {
		return nil
	}
	b := a.byPool[pool][slot(family)]
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
