package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// ExhaustedError says that no pool that may be used has a free address of Family.
type ExhaustedError struct {
	Family Family
	// Asked are the pools that may be used; nil: all.
	Asked []string
	// Pools are the counts of those that have addresses of Family.
	Pools []Count
	// Note is the request's.
	Note string
}

func (e *ExhaustedError) Error() string {
	text := e.problem()
	if e.Note != "" {
		text += "; " + e.Note
	}
	return text
}

func (e *ExhaustedError) problem() string {
	switch {
	case e.Asked != nil && len(e.Asked) == 0:
		return fmt.Sprintf("there is no pool that this Service may get an %s address from", e.Family)
	case len(e.Pools) == 0 && e.Asked != nil:
		return fmt.Sprintf("none of the pools that this Service may use (%s) has %s addresses; add a range to one, or ask for "+
			"another pool or the other family", few(e.Asked, ", "), e.Family)
	case len(e.Pools) == 0:
		return fmt.Sprintf("no pool has %s addresses; add a range to a pool, or ask for the other family", e.Family)
	}
	parts := make([]string, len(e.Pools))
	remedy := "add a range to a pool or delete a Service"
	for i, c := range e.Pools {
		parts[i] = fmt.Sprintf("pool %q has %s: %d assigned", c.Pool, counted(c.Size), c.Assigned)
		if c.Reserved > 0 {
			parts[i] += fmt.Sprintf(", %d reserved", c.Reserved)
		}
		if c.Quarantined > 0 {
			parts[i] += fmt.Sprintf(", %d quarantined because somebody else on the network answers for %s", c.Quarantined,
				map[bool]string{true: "it", false: "them"}[c.Quarantined == 1])
		}
		if c.Releasing > 0 {
			parts[i] += fmt.Sprintf(", %d releasing until every gateway confirms", c.Releasing)
			remedy = "add a range to a pool or delete a Service, or " + releasingRemedy
		}
	}
	return fmt.Sprintf("no %s address is free (%s); %s", e.Family, few(parts, "; "), remedy)
}

// counted gives "1 address" or "2 addresses".
func counted(n uint64) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

// maxListed bounds what an error lists: it is read as one line of a table.
const maxListed = 4

// few joins the first parts and counts the rest.
func few(parts []string, separator string) string {
	if more := len(parts) - maxListed; more > 0 {
		parts = append(parts[:maxListed:maxListed], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, separator)
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
	return fmt.Sprintf("address %s is in no pool (%s); request one of these, or add it to a pool", e.Address, few(e.Pools, "; "))
}

// ExcludedError says that Address lies in a pool but must not be given to a Service.
type ExcludedError struct {
	Address netip.Addr
	Reason  string
}

func (e *ExcludedError) Error() string {
	return fmt.Sprintf("address %s is excluded: %s; request another one", e.Address, e.Reason)
}

// TakenError says that Address belongs to another owner.
type TakenError struct {
	Address netip.Addr
	Holder  Holder
	// Key is the sharing key of who asked; the holder's is Holder.Sharing.Key. One of the two has none.
	Key string
}

func (e *TakenError) Error() string {
	const remedies = "request another address, or take it from that Service"
	remedy := "request another address, take it from that Service, or give both the same sharing key (annotation allow-shared-ip) " +
		"and different ports"
	switch {
	case e.Holder.Releasing:
		return fmt.Sprintf("address %s is being released by Service %s: a gateway that is away may still hold it; %s",
			e.Address, e.Holder.Owner, releasingRemedy)
	case e.Key != "":
		remedy = fmt.Sprintf("that Service has no sharing key, so that it shares with nobody: give it the key %q too, or %s",
			e.Key, remedies)
	case e.Holder.Sharing.Key != "":
		remedy = fmt.Sprintf("to share it, use that Service's sharing key, %q, and other ports, or %s",
			e.Holder.Sharing.Key, remedies)
	}
	return fmt.Sprintf("address %s is held by Service %s; %s", e.Address, e.Holder.Owner, remedy)
}

// SharingError says that Address is shared, or could be, but not with Holder on the terms that were asked for.
type SharingError struct {
	Address netip.Addr
	Holder  Holder
	// Problem completes "address 192.0.2.1 cannot be shared with Service default/web: ...".
	Problem string
}

func (e *SharingError) Error() string {
	return fmt.Sprintf("address %s cannot be shared with Service %s: %s", e.Address, e.Holder.Owner, e.Problem)
}

// ReservedError says that Address waits for another owner.
type ReservedError struct {
	Address netip.Addr
	Owner   Owner
}

func (e *ReservedError) Error() string {
	return fmt.Sprintf("address %s is reserved for Service %s; request another address, or remove that reservation",
		e.Address, e.Owner)
}

// QuarantinedError says that somebody else on the network answered for Address.
type QuarantinedError struct {
	Address netip.Addr
	// By says who.
	By string
}

func (e *QuarantinedError) Error() string {
	return fmt.Sprintf("address %s is quarantined: %s, which is no gateway, answered for it on the network; request another one",
		e.Address, e.By)
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
