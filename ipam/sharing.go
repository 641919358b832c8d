package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Sharing says with whom an owner may share its addresses: owners with the same Key whose Ports are disjoint, of one
// namespace unless the pool allows more. Without a Key, or without Ports, it shares with nobody.
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

// String gives "TCP 80".
func (p Port) String() string { return fmt.Sprintf("%s %d", p.Protocol, p.Number) }

// Compare orders by protocol, then number.
func (p Port) Compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Protocol, other.Protocol), cmp.Compare(p.Number, other.Number))
}

// normal is s with sorted ports of its own; the zero Sharing when it shares with nobody.
func (s Sharing) normal() Sharing {
	if s.Key == "" || len(s.Ports) == 0 {
		return Sharing{}
	}
	return Sharing{Key: s.Key, Ports: sortedPorts(s.Ports)}
}

func (s Sharing) equal(other Sharing) bool {
	return s.Key == other.Key && slices.Equal(s.Ports, other.Ports)
}

func sortedPorts(ports []Port) []Port {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, Port.Compare)
	return slices.Compact(ports)
}

// both gives the ports that are in x and in y; without those that are in x only.
func both(x, y []Port) []Port {
	return slices.DeleteFunc(slices.Clone(x), func(p Port) bool { return !slices.Contains(y, p) })
}

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
			Sharing: Sharing{Key: t.sharing.Key, Ports: slices.Clone(t.sharing.Ports)}})
	}
	if d := a.departing(t.record, address); d != nil {
		all = append(all, Holder{Owner: t.record.owner, Releasing: true, Sharing: Sharing{Ports: slices.Clone(d.ports)}})
	}
	return all
}

// conflict says why an owner cannot have, or go on having, the address of s on the terms of sharing: *TakenError or
// *SharingError. It looks at the other tenants only.
func (a *Allocator) conflict(owner Owner, r *record, s seat, sharing Sharing) error {
	cell := a.at(s)
	if cell == none || r != nil && cell == r.id {
		return nil
	}
	tenants := a.tenants(s)
	held := r != nil && r.holds(s.address)
	if held && tenants[tenancy(tenants, r)].sharing.equal(sharing) {
		return nil // what it has it keeps, also when its pool would not allow that any more
	}
	for _, t := range tenants {
		if t.record == r {
			continue
		}
		for _, other := range a.holders(t, s.address) {
			if problem := a.clash(owner, held, s, sharing, other); problem != "" {
				return &SharingError{Address: s.address, Holder: other, Problem: problem}
			}
			if sharing.Key == "" && !held || other.whole() {
				return &TakenError{Address: s.address, Holder: other}
			}
		}
	}
	return nil
}

// whole says whether h has the address for itself.
func (h Holder) whole() bool { return len(h.Sharing.Ports) == 0 }

// clash says what keeps an owner from sharing the address of s with other; "" when nothing does, or when one of them
// shares with nobody, which no change of the terms would mend.
func (a *Allocator) clash(owner Owner, held bool, s seat, sharing Sharing, other Holder) string {
	common := both(sharing.Ports, other.Sharing.Ports)
	switch {
	case other.whole() || sharing.Key == "" && !held:
		return ""
	case other.Releasing && sharing.Key == "":
		return fmt.Sprintf("its %s is still on the way back; keep the sharing key until then", list(other.Sharing.Ports))
	case other.Releasing && len(common) > 0:
		return fmt.Sprintf("its %s is still on the way back: a gateway that is away may serve it; %s", list(common), releasingRemedy)
	case other.Releasing:
		return ""
	case held && sharing.Key != other.Sharing.Key:
		return fmt.Sprintf("both have it with the sharing key %q, which cannot change while an address is shared; "+
			"keep the key, or request another address", other.Sharing.Key)
	case sharing.Key != other.Sharing.Key:
		return fmt.Sprintf("its sharing key is %q, not %q; use the same key, or another address", other.Sharing.Key, sharing.Key)
	case !held && owner.Namespace != other.Owner.Namespace && !s.sharedAcrossNamespaces():
		return "it is of another namespace, and the pool does not share addresses across namespaces; use another address"
	case len(common) > 0:
		return fmt.Sprintf("it has %s too; use other ports, or another address", list(common))
	}
	return ""
}

func list(ports []Port) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = p.String()
	}
	return strings.Join(parts, ", ")
}

// companion finds the oldest address that owners with the same key hold and that one more can share.
func (a *Allocator) companion(q *asking, family Family) (seat, bool) {
	if q.sharing.Key == "" {
		return seat{}, false
	}
	for _, address := range a.keys[q.sharing.Key] {
		if FamilyOf(address) != family {
			continue
		}
		if s := a.seat(address); s.block != nil && q.request.admits(s.block.pool) && a.available(q, s) == nil {
			return s, true
		}
	}
	return seat{}, false
}
