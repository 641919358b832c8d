package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Claim repeats, after a restart, that owner holds address. It is kept also when it lies outside every pool or is
// excluded, for a Service in use must not lose it; Check tells that. Errors: *TakenError, *HoldsError (owner holds
// another address of this family), *RequestError.
func (a *Allocator) Claim(owner Owner, address netip.Addr) error {
	if err := claimable(address); err != nil {
		return err
	}
	if holder, ok := a.Holder(address); ok && holder.Owner != owner {
		return &TakenError{Address: address, Holder: holder}
	}
	r := a.owners.make(owner)
	switch held := r.addresses[slot(FamilyOf(address))]; {
	case held == address:
		return nil
	case held.IsValid():
		return &HoldsError{Owner: owner, Holds: held, Claimed: address}
	}
	a.take(r, address)
	return nil
}

// ClaimReleasing repeats, after a restart, that owner gave up address and that some gateway may still hold it. Claiming
// it twice for one owner changes nothing. Errors: *TakenError, also when owner itself holds it; *RequestError.
func (a *Allocator) ClaimReleasing(owner Owner, address netip.Addr) error {
	if err := claimable(address); err != nil {
		return err
	}
	if holder, ok := a.Holder(address); ok {
		if holder.Releasing && holder.Owner == owner {
			return nil
		}
		return &TakenError{Address: address, Holder: holder}
	}
	if b, n, ok := a.locate(address); ok {
		a.occupy(b, n, address)
		b.releasing++
	}
	a.depart(a.owners.make(owner), address)
	return nil
}

// occupy takes a number that nobody holds from what is free; one that is excluded at run time is not free already.
func (a *Allocator) occupy(b *block, n uint64, address netip.Addr) {
	if _, excluded := a.excluded[address]; !excluded {
		b.take(n)
	}
}

func claimable(address netip.Addr) error {
	if !address.IsValid() || address.Zone() != "" || address.Is4In6() {
		return &RequestError{Problem: fmt.Sprintf("%q is not an IPv4 or IPv6 address that a Service can have", address)}
	}
	return nil
}

// Release makes everything that owner holds releasing and gives it back, IPv4 first.
func (a *Allocator) Release(owner Owner) []netip.Addr {
	r := a.owners.get(owner)
	if r == nil {
		return nil
	}
	var released []netip.Addr
	for i, address := range r.addresses {
		if address.IsValid() {
			a.release(r, i)
			released = append(released, address)
		}
	}
	return released
}

// Free makes a releasing address free. The caller calls it when every configured gateway confirmed a State without it.
// It reports whether address was releasing.
func (a *Allocator) Free(address netip.Addr) bool {
	r, ok := a.releasing[address]
	if !ok {
		return false
	}
	a.undepart(r, address)
	if len(r.departed) == 0 && r.addresses == [2]netip.Addr{} {
		a.owners.delete(r)
	}
	if b, n, ok := a.locate(address); ok {
		b.releasing--
		if _, excluded := a.excluded[address]; !excluded {
			b.recycled.push(n)
		}
	}
	return true
}

// SetExcluded replaces the addresses that are excluded at run time, on top of New's: those of nodes, which come and go.
// An address that is held or releasing stays so and is not given away after.
func (a *Allocator) SetExcluded(reasons map[netip.Addr]string) {
	for _, address := range sortedAddresses(a.excluded) {
		if _, stays := reasons[address]; !stays {
			a.include(address)
		}
	}
	for _, address := range sortedAddresses(reasons) {
		b, n, ok := a.locate(address)
		if _, already := a.excluded[address]; ok && !already {
			if _, taken := a.Holder(address); !taken {
				b.take(n)
			}
			b.excluded++
		}
		if ok {
			a.excluded[address] = reasons[address]
		}
	}
}

func (a *Allocator) include(address netip.Addr) {
	b, n, _ := a.locate(address)
	delete(a.excluded, address)
	b.excluded--
	if _, taken := a.Holder(address); !taken {
		b.recycled.push(n)
	}
}

// sortedAddresses keeps the order in which addresses become free from depending on map order.
func sortedAddresses(reasons map[netip.Addr]string) []netip.Addr {
	return slices.SortedFunc(maps.Keys(reasons), netip.Addr.Compare)
}

// Holder says who has address, also when it is releasing.
func (a *Allocator) Holder(address netip.Addr) (Holder, bool) {
	if r, ok := a.releasing[address]; ok {
		return Holder{Owner: r.owner, Releasing: true}, true
	}
	if b, n, ok := a.locate(address); ok {
		if r := b.held[n]; r != nil {
			return Holder{Owner: r.owner}, true
		}
		return Holder{}, false
	}
	if r := a.outside[address]; r != nil {
		return Holder{Owner: r.owner}, true
	}
	return Holder{}, false
}

// Addresses gives what owner holds, IPv4 first.
func (a *Allocator) Addresses(owner Owner) []netip.Addr {
	r := a.owners.get(owner)
	if r == nil {
		return nil
	}
	var addresses []netip.Addr
	for _, address := range r.addresses {
		if address.IsValid() {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// Releasing gives every releasing address, sorted.
func (a *Allocator) Releasing() []Released {
	all := make([]Released, 0, len(a.releasing))
	for address, r := range a.releasing {
		all = append(all, Released{Address: address, Owner: r.owner})
	}
	slices.SortFunc(all, func(x, y Released) int { return x.Address.Compare(y.Address) })
	return all
}

// take gives r an address that is free or releasing from r's owner.
func (a *Allocator) take(r *record, address netip.Addr) {
	b, n, pooled := a.locate(address)
	if _, back := a.releasing[address]; back {
		a.undepart(r, address)
		if pooled {
			b.releasing--
		}
	} else if pooled {
		a.occupy(b, n, address)
	}
	if pooled {
		b.held[n] = r
	} else {
		a.outside[address] = r
	}
	r.addresses[slot(FamilyOf(address))] = address
}

// release makes the i-th address of r releasing.
func (a *Allocator) release(r *record, i int) {
	address := r.addresses[i]
	if b, n, ok := a.locate(address); ok {
		delete(b.held, n)
		b.releasing++
	} else {
		delete(a.outside, address)
	}
	r.addresses[i] = netip.Addr{}
	a.depart(r, address)
}

func (a *Allocator) depart(r *record, address netip.Addr) {
	a.releasing[address] = r
	r.departed = append(r.departed, address)
}

func (a *Allocator) undepart(r *record, address netip.Addr) {
	delete(a.releasing, address)
	r.departed = slices.DeleteFunc(r.departed, func(other netip.Addr) bool { return other == address })
}
