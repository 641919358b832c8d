package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Owner names who holds an address: a Service's namespace and name.
type Owner struct{ Namespace, Name string }

// String gives namespace/name.
func (o Owner) String() string { return o.Namespace + "/" + o.Name }

// Compare orders by namespace, then name.
func (o Owner) Compare(other Owner) int {
	if o.Namespace != other.Namespace {
		if o.Namespace < other.Namespace {
			return -1
		}
		return 1
	}
	switch {
	case o.Name < other.Name:
		return -1
	case o.Name > other.Name:
		return 1
	}
	return 0
}

// Request is what an owner wants.
type Request struct {
	// Families are wanted in this order, each once. Empty: the families of Addresses; if that is empty too, the first
	// family that a pool has, IPv4 before IPv6.
	Families []Family
	// FirstSuffices leaves out families after the first that nothing can be had of (PreferDualStack). A requested
	// address is never left out.
	FirstSuffices bool
	// Addresses are requested by name, at most one of each family, each of a family in Families.
	Addresses []netip.Addr
	// Pools are asked in this order; nil: all, in the order that New got them; empty: none, so that only what the owner
	// holds, requests or has reserved can be had. Requested addresses need not be in them.
	Pools []string
	// Moves gives up an address that lies in a pool which Pools does not name, for one of Pools.
	Moves bool
	// Note completes the error when no pool of Pools has an address, e.g. why pools are not in the list.
	Note string
	// Sharing is with whom the addresses may be shared.
	Sharing Sharing
}

// Sharing says with whom an owner may share its addresses: owners with the same Key whose Ports are disjoint, of one
// namespace unless the pool allows more. The zero value shares with nobody.
type Sharing struct {
	Key   string
	Ports []Port
}

// Port is one port of a transport protocol.
type Port struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string
	Number   uint16
}

// Reservation keeps an address for one owner.
type Reservation struct {
	Address netip.Addr
	Owner   Owner
}

// Holder is who has an address.
type Holder struct {
	Owner Owner
	// Releasing is set when the owner gave it up and Free has not been called yet.
	Releasing bool
}

// Released is an address on its way back to its pool.
type Released struct {
	Address netip.Addr
	Owner   Owner
}

// Allocator knows every address of the pools. It is not safe for concurrent use.
type Allocator struct {
	pools      []string
	blocks     []*block
	spans      []span
	exclusions []Exclusion
	// excluded are the run-time exclusions that lie in a pool, with their reasons.
	excluded map[netip.Addr]string
	owners   owners
	// outside are addresses held in no pool: a pool that was removed, an edited status.
	outside   map[netip.Addr]*record
	releasing map[netip.Addr]*record
}

func slot(f Family) int {
	if f == IPv4 {
		return 0
	}
	return 1
}

// Allocate gives owner addresses, one for each family of the request, in the order of its families. An owner that has
// an address keeps it, unless it requests another one; what it no longer asks for becomes releasing. On an error nothing
// changes. Errors: *ExhaustedError, *OutsideError, *ExcludedError, *TakenError, *RequestError.
func (a *Allocator) Allocate(owner Owner, request Request) ([]netip.Addr, error) {
	families, err := a.families(request)
	if err != nil {
		return nil, err
	}
	var wanted [2]netip.Addr
	var buffer [2]netip.Addr
	addresses := buffer[:0]
	for i, family := range families {
		address, err := a.choose(owner, family, request)
		if err != nil {
			if _, exhausted := err.(*ExhaustedError); exhausted && i > 0 && request.FirstSuffices {
				continue
			}
			return nil, err
		}
		wanted[slot(family)] = address
		addresses = append(addresses, address)
	}
	a.commit(owner, wanted)
	return slices.Clone(addresses), nil
}

// families says which families are asked for and refuses a request that contradicts itself.
func (a *Allocator) families(request Request) ([]Family, error) {
	families := request.Families
	if len(families) == 0 {
		for _, address := range request.Addresses {
			families = append(families, FamilyOf(address))
		}
	}
	if len(families) == 0 {
		families = a.firstFamily()
	}
	for i, family := range families {
		if family != IPv4 && family != IPv6 || slices.Contains(families[:i], family) {
			return nil, &RequestError{Problem: fmt.Sprintf("the families %v are not IPv4 and IPv6, each at most once",
				families)}
		}
	}
	for i, address := range request.Addresses {
		if !slices.Contains(families, FamilyOf(address)) {
			return nil, &RequestError{Problem: fmt.Sprintf("address %s is requested, but the Service wants %v only",
				address, families)}
		}
		for _, other := range request.Addresses[:i] {
			if FamilyOf(other) == FamilyOf(address) && other != address {
				return nil, &RequestError{Problem: fmt.Sprintf("addresses %s and %s are requested, but a Service has "+
					"one address of each family", other, address)}
			}
		}
	}
	for _, name := range request.Pools {
		if !slices.Contains(a.pools, name) {
			return nil, &RequestError{Problem: fmt.Sprintf("there is no pool %q; there are %q", name, a.pools)}
		}
	}
	return families, nil
}

func (a *Allocator) firstFamily() []Family {
	for _, b := range a.blocks {
		if b.family == IPv4 {
			return []Family{IPv4}
		}
	}
	if len(a.blocks) > 0 {
		return []Family{IPv6}
	}
	return []Family{IPv4}
}

// choose finds the address of one family without taking it.
func (a *Allocator) choose(owner Owner, family Family, request Request) (netip.Addr, error) {
	var held netip.Addr
	var departed []netip.Addr
	if r := a.owners.get(owner); r != nil {
		held, departed = r.addresses[slot(family)], r.departed
	}
	for _, address := range request.Addresses {
		if FamilyOf(address) != family {
			continue
		}
		if address == held {
			return held, nil
		}
		return address, a.available(owner, address, request.Pools)
	}
	if held.IsValid() {
		return held, nil
	}
	for _, address := range departed {
		if FamilyOf(address) == family && a.available(owner, address, request.Pools) == nil {
			return address, nil
		}
	}
	if address, ok := a.next(family, request.Pools); ok {
		return address, nil
	}
	return netip.Addr{}, a.exhausted(family, request.Pools)
}

// available says why owner cannot have an address that it does not hold.
func (a *Allocator) available(owner Owner, address netip.Addr, pools []string) error {
	if holder, ok := a.Holder(address); ok && holder.Owner != owner {
		return &TakenError{Address: address, Holder: holder}
	}
	return a.check(address, pools)
}

func (a *Allocator) next(family Family, pools []string) (netip.Addr, bool) {
	if len(pools) == 0 {
		for _, b := range a.blocks {
			if b.family != family {
				continue
			}
			if n, ok := b.next(); ok {
				return b.address(n), true
			}
		}
		return netip.Addr{}, false
	}
	for _, name := range pools {
		for _, b := range a.blocks {
			if b.pool != name || b.family != family {
				continue
			}
			if n, ok := b.next(); ok {
				return b.address(n), true
			}
		}
	}
	return netip.Addr{}, false
}

func (a *Allocator) exhausted(family Family, pools []string) error {
	e := &ExhaustedError{Family: family}
	for _, c := range a.Counts() {
		if c.Family == family && (len(pools) == 0 || slices.Contains(pools, c.Pool)) {
			e.Pools = append(e.Pools, c)
		}
	}
	return e
}

// commit makes wanted what owner holds. Every wanted address is owner's already, its own releasing one, or free.
func (a *Allocator) commit(owner Owner, wanted [2]netip.Addr) {
	r := a.owners.make(owner)
	for i, address := range wanted {
		if r.addresses[i] == address {
			continue
		}
		if r.addresses[i].IsValid() {
			a.release(r, i)
		}
		if address.IsValid() {
			a.take(r, address)
		}
	}
}
