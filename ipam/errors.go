package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// ExhaustedError says that no pool that may be used has a free address of Family.
type ExhaustedError struct {
	Family Family
	// Pools are the counts of the pools that were asked; none when no pool has addresses of Family.
	Pools []Count
}

func (e *ExhaustedError) Error() string {
	if len(e.Pools) == 0 {
		return fmt.Sprintf("no pool has %s addresses; add a range to a pool, or ask for the other family", e.Family)
	}
	parts := make([]string, len(e.Pools))
	remedy := "add a range to a pool or delete a Service"
	for i, c := range e.Pools {
		parts[i] = fmt.Sprintf("pool %q has %d, %d assigned", c.Pool, c.Size, c.Assigned)
		if c.Releasing > 0 {
			parts[i] += fmt.Sprintf(" and %d releasing until every gateway confirms", c.Releasing)
			remedy = "add a range to a pool or delete a Service, or " + releasingRemedy
		}
	}
	return fmt.Sprintf("no %s address is free (%s); %s", e.Family, strings.Join(parts, "; "), remedy)
}

// releasingRemedy is what somebody can do about an address that does not become free.
const releasingRemedy = "bring back the gateways that are away, or remove them from the configuration"

// OutsideError says that Address lies in no pool.
type OutsideError struct {
	Address netip.Addr
	// Pools are the names and ranges that Address could have been in.
	Pools []string
}

func (e *OutsideError) Error() string {
	return fmt.Sprintf("address %s is in no pool (%s)", e.Address, strings.Join(e.Pools, "; "))
}

// ExcludedError says that Address lies in a pool but must not be given to a Service.
type ExcludedError struct {
	Address netip.Addr
	Reason  string
}

func (e *ExcludedError) Error() string {
	return fmt.Sprintf("address %s is excluded: %s", e.Address, e.Reason)
}

// TakenError says that Address belongs to another owner.
type TakenError struct {
	Address netip.Addr
	Holder  Holder
}

func (e *TakenError) Error() string {
	if e.Holder.Releasing {
		return fmt.Sprintf("address %s is being released by Service %s: a gateway that is away may still hold it; %s",
			e.Address, e.Holder.Owner, releasingRemedy)
	}
	return fmt.Sprintf("address %s is held by Service %s", e.Address, e.Holder.Owner)
}

// HoldsError says that an owner claims a second address of one family.
type HoldsError struct {
	Owner   Owner
	Holds   netip.Addr
	Claimed netip.Addr
}

func (e *HoldsError) Error() string {
	return fmt.Sprintf("Service %s claims %s but holds %s", e.Owner, e.Claimed, e.Holds)
}

// RequestError says that a request contradicts itself or names what does not exist.
type RequestError struct{ Problem string }

func (e *RequestError) Error() string { return e.Problem }
