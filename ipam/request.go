package ipam

import (
	"cmp"
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
	return cmp.Or(cmp.Compare(o.Namespace, other.Namespace), cmp.Compare(o.Name, other.Name))
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

// admits says whether an address of the pool may be chosen.
func (r *Request) admits(pool string) bool { return r.Pools == nil || slices.Contains(r.Pools, pool) }

// families says which families are asked for and refuses a request that contradicts itself.
func (a *Allocator) families(request *Request) ([]Family, error) {
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
		if err := claimable(address); err != nil {
			return nil, err
		}
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
		if _, ok := a.byPool[name]; !ok {
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
