package ipam

import (
	"fmt"
	"slices"
	"strings"
)

// problem is why an owner cannot have an address beside another one.
type problem int

const (
	fits problem = iota
	isTaken
	isReleasing // all of it
	otherKey
	otherNamespace
	samePorts
	portsReturn
	// The last two meet an owner that holds the address and changes its terms.
	keyStays
	keyReturns
)

// conflict says why q cannot have, or go on having, the address of s: *TakenError or *SharingError.
func (a *Allocator) conflict(q *asking, s seat) error {
	if cell := a.at(s); cell == none || q.record != nil && cell == q.record.id {
		return nil
	}
	other, problem := a.obstacle(q, s, a.tenants(s))
	if problem == fits {
		return nil
	}
	for _, holder := range a.holders(other, s.address) {
		if holder.Releasing != (problem == isReleasing || problem == portsReturn || problem == keyReturns) {
			continue
		}
		if problem == isTaken || problem == isReleasing {
			return &TakenError{Address: s.address, Holder: holder, Key: q.sharing.Key}
		}
		text := problem.explain(a.sharingAt(q, s), holder.Sharing)
		if problem == keyStays {
			text = fmt.Sprintf("the sharing key %q cannot change while it is shared with %s; keep the key, or request another "+
				"address", holder.Sharing.Key, a.others(q.record, s))
		}
		return &SharingError{Address: s.address, Holder: holder, Problem: text}
	}
	return nil
}

// others names who holds the address of s beside r.
func (a *Allocator) others(r *record, s seat) string {
	var names []string
	for _, t := range a.tenants(s) {
		if t.record != r && t.record.holds(s.address) {
			names = append(names, t.record.owner.String())
		}
	}
	return strings.Join(names, ", ")
}

// obstacle gives the first of the others that keeps q from the address of s.
func (a *Allocator) obstacle(q *asking, s seat, tenants []tenant) (tenant, problem) {
	wanted := a.sharingAt(q, s)
	if q.holds(s) && tenants[tenancy(tenants, q.record)].sharing.equal(wanted) {
		return tenant{}, fits // what it has it keeps, also when its pool would not allow that any more
	}
	for _, t := range tenants {
		if t.record == q.record {
			continue
		}
		if p := a.against(q, wanted, s, t); p != fits {
			return t, p
		}
	}
	return tenant{}, fits
}

// against says what keeps q, on the terms of wanted, from the address of s beside t.
func (a *Allocator) against(q *asking, wanted Sharing, s seat, t tenant) problem {
	held := q.holds(s)
	if t.record.holds(s.address) {
		sameTerms := t.sharing.Key == wanted.Key && t.sharing.Keyless == wanted.Keyless
		switch {
		case t.sharing.alone() || wanted.alone() && !held:
			return isTaken
		case sameTerms || (t.sharing.Keyless || wanted.Keyless) && (held || q.repeats):
		case t.sharing.Keyless || wanted.Keyless:
			return isTaken
		case held && !a.keyless(q, s):
			return keyStays
		default:
			return otherKey
		}
		switch {
		case !a.had(q, s) && t.record.owner.Namespace != q.owner.Namespace && !s.sharedAcrossNamespaces():
			return otherNamespace
		case overlap(wanted.Ports, t.sharing.Ports):
			return samePorts
		}
	}
	if d := a.departing(t.record, s.address); d != nil {
		switch {
		case len(d.ports) == 0 || wanted.alone() && !held:
			return isReleasing
		case wanted.alone():
			return keyReturns
		case overlap(wanted.Ports, d.ports):
			return portsReturn
		}
	}
	return fits
}

// keyless says whether q has the address of s without a key beside others.
func (a *Allocator) keyless(q *asking, s seat) bool {
	return slices.ContainsFunc(a.shared[s.address], func(t tenant) bool { return t.record == q.record && t.sharing.Keyless })
}

// had says whether q was at the address of s before: the namespace rule decides who may join, not who may stay or come back.
func (a *Allocator) had(q *asking, s seat) bool {
	return q.repeats || q.holds(s) || a.departing(q.record, s.address) != nil || slices.Contains(a.reservedFor[q.owner], s.address)
}

// explain completes "address 192.0.2.1 cannot be shared with Service default/web: ...".
func (p problem) explain(wanted, other Sharing) string {
	common := list(both(wanted.Ports, other.Ports))
	switch p {
	case otherKey:
		return fmt.Sprintf("its sharing key is %q, not %q; use the same key, or another address", other.Key, wanted.Key)
	case otherNamespace:
		return "it is of another namespace, and the pool does not share addresses across namespaces; use another address"
	case samePorts:
		if wanted.Keyless {
			return fmt.Sprintf("it has %s too; use other ports, and the same sharing key for both (annotation allow-shared-ip), or "+
				"another address", common)
		}
		return fmt.Sprintf("it has %s too; use other ports, or another address", common)
	case portsReturn:
		return fmt.Sprintf("its %s is still on the way back, for a gateway that is away may serve it; %s", common, releasingRemedy)
	default:
		return fmt.Sprintf("its %s is still on the way back, so that the sharing key must stay; keep the key, or %s",
			list(other.Ports), releasingRemedy)
	}
}

func list(ports []Port) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = p.String()
	}
	return strings.Join(parts, ", ")
}
