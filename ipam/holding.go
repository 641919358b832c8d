package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Reservation keeps an address for one owner.
type Reservation struct {
	Address netip.Addr
	Owner   Owner
}

// Holder is who has an address, or ports of it.
type Holder struct {
	Owner Owner
	// Releasing is set when the owner gave it up and Free has not been called yet.
	Releasing bool
	// Sharing has the Ports that are held or releasing when the address is shared. Without Ports the owner has all of
	// the address. What is releasing has no Key.
	Sharing Sharing
}

// Released is an address on its way back to its pool.
type Released struct {
	Address netip.Addr
	Owner   Owner
	// Ports are sorted. None: all of the address. Owner may hold the address meanwhile: with other ports; or, without
	// Ports, because it shares since a moment ago what it had alone, so that nobody knows which ports gateways serve.
	Ports []Port
}

// Claim repeats, after a restart, that owner holds address. It is kept also when it lies outside every pool, is
// excluded, reserved or quarantined, or when its pool shares no address across namespaces any more, for a Service in use
// must not lose it; Check tells the first two. Beside others without a key it can be claimed when sharing is Keyless. An
// address that owner holds already is held on the terms of sharing from now on. Errors: *TakenError, *SharingError, *HoldsError
// (owner holds another address of this family), *RequestError. On an error nothing changes.
func (a *Allocator) Claim(owner Owner, address netip.Addr, sharing Sharing) error {
	if err := claimable(address); err != nil {
		return err
	}
	hash := a.owners.hash(owner)
	r, s := a.owners.get(owner, hash), a.seat(address)
	q := asking{owner: owner, record: r, sharing: sharing.normal(), repeats: true}
	if err := a.conflict(&q, s); err != nil {
		return err
	}
	if r == nil {
		r = a.owners.add(owner, hash)
	} else if held := r.held(FamilyOf(address)); held.IsValid() && held != address {
		return &HoldsError{Owner: owner, Holds: held, Claimed: address}
	}
	a.hold(r, s, q.sharing)
	return nil
}

// ClaimReleasing repeats, after a restart, that owner gave up ports of a shared address, or all of an address when
// there are none, and that some gateway may still serve them. Claiming it twice for one owner changes nothing. Errors:
// *TakenError, also when owner itself holds them; *RequestError.
func (a *Allocator) ClaimReleasing(owner Owner, address netip.Addr, ports []Port) error {
	if err := claimable(address); err != nil {
		return err
	}
	hash := a.owners.hash(owner)
	r, s := a.owners.get(owner, hash), a.seat(address)
	ports = sortedPorts(ports)
	if err := a.departed(r, s, ports); err != nil {
		return err
	}
	if r == nil {
		r = a.owners.add(owner, hash)
	}
	a.change(s, func(tenants []tenant) []tenant {
		t := tenancy(tenants, r)
		if t < 0 {
			t = len(tenants)
			tenants = append(tenants, tenant{record: r})
		}
		now := ports
		if d := a.departing(r, address); d != nil && len(now) > 0 {
			if len(d.ports) == 0 {
				return tenants
			}
			now = sortedPorts(append(slices.Clone(now), d.ports...))
		}
		if now = without(now, tenants[t].sharing.Ports); len(now) > 0 || len(ports) == 0 {
			a.departs(r, address, now)
		}
		return tenants
	})
	return nil
}

// departed says who has what of s an owner gave up.
func (a *Allocator) departed(r *record, s seat, ports []Port) error {
	for _, t := range a.tenants(s) {
		for _, other := range a.holders(t, s.address) {
			whole := len(other.Sharing.Ports) == 0
			mine := t.record == r && (other.Releasing || !whole)
			if !mine && (whole || len(ports) == 0 || overlap(ports, other.Sharing.Ports)) {
				return &TakenError{Address: s.address, Holder: other}
			}
		}
	}
	return nil
}

func claimable(address netip.Addr) error {
	if !address.IsValid() || address.IsUnspecified() || address.Zone() != "" || address.Is4In6() {
		return &RequestError{Problem: fmt.Sprintf("%q is not an IPv4 or IPv6 address that a Service can have", address)}
	}
	return nil
}

// Release makes everything that owner holds releasing and gives it back, IPv4 first.
func (a *Allocator) Release(owner Owner) []netip.Addr {
	r := a.owners.get(owner, a.owners.hash(owner))
	if r == nil {
		return nil
	}
	released := r.addresses()
	for _, address := range released {
		a.depart(r, a.seat(address))
	}
	return released
}

// Withdraw takes back an address, or the ports of a shared one, that nobody was told of: it is free at once. What owner
// was releasing when it got the address becomes releasing again, for a gateway may serve it still. It reports whether
// owner held address.
func (a *Allocator) Withdraw(owner Owner, address netip.Addr) bool {
	hash := a.owners.hash(owner)
	r := a.owners.get(owner, hash)
	if r == nil || claimable(address) != nil || !r.holds(address) {
		return false
	}
	s := a.seat(address)
	if _, regained := a.regained[holding{r.id, address}]; regained {
		a.depart(r, s)
		return true
	}
	a.change(s, func(tenants []tenant) []tenant {
		t := tenancy(tenants, r)
		r.lose(FamilyOf(address))
		tenants[t].sharing = Sharing{}
		if a.departing(r, address) != nil {
			return tenants
		}
		return slices.Delete(tenants, t, t+1)
	})
	a.dismiss(r, hash)
	return true
}

// Free makes what owner releases of address free. The caller calls it when every configured gateway confirmed a State
// without it; what a later change added to the Ports of a Released needs a later State. It reports whether owner was
// releasing anything of address.
func (a *Allocator) Free(address netip.Addr, owner Owner) bool {
	hash := a.owners.hash(owner)
	r := a.owners.get(owner, hash)
	if a.departing(r, address) == nil {
		return false
	}
	s := a.seat(address)
	if !a.isShared(address) {
		a.stays(r, address)
		a.set(s, r.id, none)
		s.block.countUse(false, -1)
	} else {
		a.change(s, func(tenants []tenant) []tenant {
			a.stays(r, address)
			if r.holds(address) {
				return tenants
			}
			return slices.DeleteFunc(tenants, func(t tenant) bool { return t.record == r })
		})
	}
	a.dismiss(r, hash)
	return true
}

// Has says whether owner holds address, alone or shared, or releases something of it.
func (a *Allocator) Has(owner Owner, address netip.Addr) bool {
	r := a.owners.get(owner, a.owners.hash(owner))
	return r != nil && (r.holds(address) || a.departing(r, address) != nil)
}

// Holders says who has address or ports of it, sorted by owner; what an owner holds comes before what it releases.
func (a *Allocator) Holders(address netip.Addr) []Holder {
	var all []Holder
	for _, t := range a.tenants(a.seat(address)) {
		all = append(all, a.holders(t, address)...)
	}
	slices.SortStableFunc(all, func(x, y Holder) int { return x.Owner.Compare(y.Owner) })
	return all
}

// Addresses gives what owner holds, IPv4 first.
func (a *Allocator) Addresses(owner Owner) []netip.Addr {
	r := a.owners.get(owner, a.owners.hash(owner))
	if r == nil {
		return nil
	}
	return r.addresses()
}

// Releasing gives everything that is on its way back, sorted by address, then owner.
func (a *Allocator) Releasing() []Released {
	all := make([]Released, 0, len(a.leavers))
	for _, l := range a.leavers {
		for _, d := range l.departures {
			all = append(all, Released{Address: d.address, Owner: l.record.owner, Ports: slices.Clone(d.ports)})
		}
	}
	slices.SortFunc(all, func(x, y Released) int {
		return cmp.Or(x.Address.Compare(y.Address), x.Owner.Compare(y.Owner))
	})
	return all
}
