package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Sharing says with whom an owner may share its addresses: owners with the same Key whose Ports are disjoint, of one
// namespace unless the pool allows more. Without a Key, or without Ports, it shares with nobody new.
type Sharing struct {
	Key string
	// Keyless lets Claim put owners without a Key beside others: they were there already, because another controller let them
	// share, or because their keys were taken off while nobody looked. They stay, each with Ports of its own and any Key later,
	// and nobody joins them. Allocate does not read it.
	Keyless bool
	// Ports are the owner's, also when it has no Key.
	Ports []Port
}

// Port is one port of a transport protocol.
type Port struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string
	Number   uint16
}

// String gives "TCP 80".
func (p Port) String() string { return fmt.Sprintf("%s %d", p.Protocol, p.Number) }

// Compare orders by protocol, then number.
func (p Port) Compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Protocol, other.Protocol), cmp.Compare(p.Number, other.Number))
}

// normal is s with sorted ports of its own; the zero Sharing when it shares with nobody.
func (s Sharing) normal() Sharing {
	if s.alone() || len(s.Ports) == 0 {
		return Sharing{}
	}
	return Sharing{Key: s.Key, Keyless: s.Key == "", Ports: sortedPorts(s.Ports)}
}

// alone says whether its owner shares with nobody.
func (s Sharing) alone() bool { return s.Key == "" && !s.Keyless }

func (s Sharing) equal(other Sharing) bool {
	return s.Key == other.Key && s.Keyless == other.Keyless && slices.Equal(s.Ports, other.Ports)
}

func sortedPorts(ports []Port) []Port {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, Port.Compare)
	return slices.Compact(ports)
}

// both gives the ports that are in x and in y.
func both(x, y []Port) []Port {
	return slices.DeleteFunc(slices.Clone(x), func(p Port) bool { return !slices.Contains(y, p) })
}

func overlap(x, y []Port) bool {
	return slices.ContainsFunc(x, func(p Port) bool { return slices.Contains(y, p) })
}

// without gives the ports that are in x only.
func without(x, y []Port) []Port {
	return slices.DeleteFunc(slices.Clone(x), func(p Port) bool { return slices.Contains(y, p) })
}

// tenant is one owner of a shared address. Its sharing is zero while it only releases ports.
type tenant struct {
	record  *record
	sharing Sharing
}

// tenants are all who hold or release the address of s, in the order in which they came.
func (a *Allocator) tenants(s seat) []tenant {
	switch i := a.at(s); i {
	case none:
		return nil
	case several:
		return a.shared[s.address]
	default:
		return []tenant{{record: a.owners.record(i)}}
	}
}

// tenancy gives the index of r's tenant, -1 when there is none.
func tenancy(tenants []tenant, r *record) int {
	return slices.IndexFunc(tenants, func(t tenant) bool { return t.record == r })
}

// holders gives what t has of address: what it holds, then what it releases.
func (a *Allocator) holders(t tenant, address netip.Addr) []Holder {
	var all []Holder
	if t.record.holds(address) {
		all = append(all, Holder{Owner: t.record.owner,
			Sharing: Sharing{Key: t.sharing.Key, Keyless: t.sharing.Keyless, Ports: slices.Clone(t.sharing.Ports)}})
	}
	if d := a.departing(t.record, address); d != nil {
		all = append(all, Holder{Owner: t.record.owner, Releasing: true, Sharing: Sharing{Ports: slices.Clone(d.ports)}})
	}
	return all
}

// companion finds the oldest address that owners with the same key hold and that one more can share. It looks at every
// address with that key: they are few, but for a key whose owners all have the same port.
func (a *Allocator) companion(q *asking, family Family) (seat, bool) {
	if q.sharing.Key == "" {
		return seat{}, false
	}
	for _, address := range a.keys[q.sharing.Key] {
		if FamilyOf(address) != family {
			continue
		}
		s := a.seat(address)
		if s.block == nil || !q.request.admits(s.block.pool) {
			continue
		}
		if _, problem := a.obstacle(q, s, a.shared[address]); problem == fits && a.available(q, s) == nil {
			return s, true
		}
	}
	return seat{}, false
}

// sharingAt gives the terms on which q has the address of s, or would have it: those that it asks for. Only, without a key it
// stays keyless beside others, and comes back to others without one.
func (a *Allocator) sharingAt(q *asking, s seat) Sharing {
	if q.sharing.Key != "" || q.repeats || len(a.shared) == 0 && len(a.reservedFor) == 0 {
		return q.sharing
	}
	var own Sharing
	beside, keyless := false, false
	for _, t := range a.shared[s.address] {
		if t.record == q.record {
			own = t.sharing
		} else {
			beside, keyless = true, keyless || t.sharing.Keyless
		}
	}
	reserved := a.marks[s.address].reserved
	waits := slices.ContainsFunc(reserved, func(o Owner) bool { return o != q.owner }) // for another one
	switch {
	case own.Keyless && (beside || waits):
	case !own.Keyless && keyless && a.had(q, s):
	case waits && slices.Contains(reserved, q.owner) && !q.holds(s): // they shared it
	default:
		return q.sharing
	}
	ports := q.request.Sharing.Ports
	if len(ports) == 0 {
		ports = own.Ports
	}
	return Sharing{Keyless: true, Ports: ports}.normal()
}
