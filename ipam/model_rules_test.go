package ipam_test

import (
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
)

// terms are those on which owner has address, or would have it, when it asks for sharing.
func (m *model) terms(owner ipam.Owner, address netip.Addr, sharing ipam.Sharing, repeats bool) ipam.Sharing {
	if sharing.Key != "" && len(sharing.Ports) > 0 {
		return ipam.Sharing{Key: sharing.Key, Ports: sharing.Ports}
	}
	own, held := m.find(owner, address, false)
	if repeats && sharing.Keyless && len(sharing.Ports) > 0 {
		return sharing
	}
	ports := sharing.Ports
	if len(ports) == 0 {
		ports = own.ports
	}
	is := func(p part) bool { return p.owner != owner }
	beside := slices.ContainsFunc(m.parts[address], is)
	besideKeyless := slices.ContainsFunc(m.parts[address], func(p part) bool { return is(p) && p.keyless })
	waits := slices.ContainsFunc(m.reservers(address), func(o ipam.Owner) bool { return o != owner })
	reserved := slices.Contains(m.reservers(address), owner)
	_, returns := m.find(owner, address, true)
	switch {
	case repeats, sharing.Key != "", len(ports) == 0:
	case own.keyless && (beside || waits), !own.keyless && besideKeyless && (held || returns || reserved), !held && reserved && waits:
		return ipam.Sharing{Keyless: true, Ports: ports}
	}
	return ipam.Sharing{}
}

// conflicts gives the kinds of errors that other owners' parts of address are reason for; none: owner can have it. What it
// repeats to have, gives up or waits for it, the namespace rule does not keep from it.
func (m *model) conflicts(owner ipam.Owner, address netip.Addr, sharing ipam.Sharing, repeats bool) (kinds []string) {
	own, held := m.find(owner, address, false)
	_, returns := m.find(owner, address, true)
	sharing = m.terms(owner, address, sharing, repeats)
	if held && own.key == sharing.Key && own.keyless == sharing.Keyless && slices.Equal(own.ports, sharing.Ports) {
		return nil
	}
	pool := m.poolOf(address)
	had := repeats || held || returns || slices.Contains(m.reservers(address), owner)
	alone := sharing.Key == "" && !sharing.Keyless
	for _, other := range m.parts[address] {
		switch {
		case other.owner == owner:
		case len(other.ports) == 0, alone && !held:
			kinds = append(kinds, "TakenError")
		case !other.releasing && other.keyless != sharing.Keyless && !alone && !held && !repeats:
			kinds = append(kinds, "TakenError")
		case alone,
			!other.releasing && other.key != sharing.Key && !other.keyless && !sharing.Keyless,
			!other.releasing && !had && other.owner.Namespace != owner.Namespace && (pool == nil || !pool.shares),
			overlap(other.ports, sharing.Ports):
			kinds = append(kinds, "SharingError")
		}
	}
	return kinds
}

// refusals gives the kinds of errors with which owner may be refused an address that it does not hold.
func (m *model) refusals(owner ipam.Owner, address netip.Addr, sharing ipam.Sharing) []string {
	if kinds := m.conflicts(owner, address, sharing, false); kinds != nil {
		return kinds
	}
	_, excluded := m.excluded[address]
	_, quarantined := m.quarantined[address]
	// Who is expected at a reserved address comes first.
	reservers := m.reservers(address)
	absent := func(expected ipam.Owner) bool { _, holds := m.find(expected, address, false); return !holds }
	switch {
	case excluded || m.out(address):
		return []string{"ExcludedError"}
	case m.poolOf(address) == nil:
		return []string{"OutsideError"}
	case !slices.Contains(reservers, owner) && slices.ContainsFunc(reservers, absent):
		return []string{"ReservedError"}
	case quarantined:
		return []string{"QuarantinedError"}
	}
	return nil
}

// choose gives the address of one family that owner is to have, or the kinds of errors that it may be refused with.
func (m *model) choose(owner ipam.Owner, family ipam.Family, r ipam.Request) (netip.Addr, []string) {
	held := m.held(owner, family)
	for _, address := range r.Addresses {
		switch {
		case ipam.FamilyOf(address) != family:
		case address == held:
			return held, m.conflicts(owner, held, r.Sharing, false)
		default:
			return address, m.refusals(owner, address, r.Sharing)
		}
	}
	admitted := func(address netip.Addr) bool {
		pool := m.poolOf(address)
		return pool != nil && (r.Pools == nil || slices.Contains(r.Pools, pool.name))
	}
	if held.IsValid() && (!r.Moves || m.poolOf(held) == nil || admitted(held) || slices.Contains(m.reservers(held), owner)) {
		return held, m.conflicts(owner, held, r.Sharing, false)
	}
	may := func(address netip.Addr) bool {
		return ipam.FamilyOf(address) == family && address != held && m.refusals(owner, address, r.Sharing) == nil
	}
	for _, d := range m.departed {
		if d.owner == owner && admitted(d.address) && may(d.address) {
			return d.address, nil
		}
	}
	for _, address := range everything {
		if slices.Contains(m.reservers(address), owner) && may(address) {
			return address, nil
		}
	}
	for _, address := range m.keyed {
		if r.Sharing.Key != "" && m.keyOf(address) == r.Sharing.Key && admitted(address) && may(address) {
			return address, nil
		}
	}
	for _, name := range m.order(r) {
		if address, ok := m.next(name, family); ok {
			return address, nil
		}
	}
	return netip.Addr{}, []string{"ExhaustedError"}
}

func (m *model) order(r ipam.Request) []string {
	if r.Pools != nil {
		return r.Pools
	}
	var names []string
	for _, p := range m.pools {
		names = append(names, p.name)
	}
	return names
}

// next is the lowest of the pool that was never used, else the longest free.
func (m *model) next(name string, family ipam.Family) (netip.Addr, bool) {
	for _, p := range m.pools {
		for _, address := range p.addresses {
			if p.name == name && ipam.FamilyOf(address) == family && !m.used[address] && !m.out(address) {
				return address, true
			}
		}
	}
	for _, address := range m.freed {
		if pool := m.poolOf(address); pool.name == name && ipam.FamilyOf(address) == family {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// allocate gives what owner has now, or the kinds of errors that it may be refused with.
func (m *model) allocate(owner ipam.Owner, r ipam.Request) ([]netip.Addr, []string) {
	var addresses []netip.Addr
	for i, family := range r.Families {
		address, kinds := m.choose(owner, family, r)
		if kinds != nil {
			if i > 0 && r.FirstSuffices && kinds[0] == "ExhaustedError" {
				continue
			}
			return nil, kinds
		}
		addresses = append(addresses, address)
	}
	for _, family := range []ipam.Family{ipam.IPv4, ipam.IPv6} {
		if held := m.held(owner, family); held.IsValid() && !slices.Contains(addresses, held) {
			m.release(owner, held)
		}
		for _, address := range addresses {
			if ipam.FamilyOf(address) == family {
				m.take(owner, address, m.terms(owner, address, r.Sharing, false))
			}
		}
	}
	return addresses, nil
}

// take gives owner address on the terms of sharing.
func (m *model) take(owner ipam.Owner, address netip.Addr, sharing ipam.Sharing) {
	now := &part{owner: owner, key: sharing.Key, keyless: sharing.Keyless, ports: sharing.Ports}
	old, held := m.find(owner, address, false)
	back, was := m.find(owner, address, true)
	if was && !held && (sharing.Ports == nil || len(back.ports) == 0 || overlap(back.ports, sharing.Ports)) {
		m.regained[pair{address, owner}] = true
	}
	going := &part{owner: owner, releasing: true}
	switch {
	case sharing.Ports == nil:
		going = nil
	case held && old.ports == nil, was && len(back.ports) == 0:
	default:
		going.ports = minus(union(old.ports, back.ports), sharing.Ports)
		if len(going.ports) == 0 {
			going = nil
		}
	}
	m.put(owner, address, now, going)
}

// release makes an address that owner holds releasing.
func (m *model) release(owner ipam.Owner, address netip.Addr) {
	held, _ := m.find(owner, address, false)
	back, _ := m.find(owner, address, true)
	going := &part{owner: owner, releasing: true}
	if slices.ContainsFunc(m.parts[address], func(p part) bool { return p.owner != owner }) {
		going.ports = union(held.ports, back.ports)
	}
	delete(m.regained, pair{address, owner})
	m.put(owner, address, nil, going)
}

// withdraw forgets what owner holds of address, unless some gateway may serve it.
func (m *model) withdraw(owner ipam.Owner, address netip.Addr) bool {
	if _, held := m.find(owner, address, false); !held {
		return false
	}
	if m.regained[pair{address, owner}] {
		m.release(owner, address)
		return true
	}
	var going *part
	if back, was := m.find(owner, address, true); was {
		going = &back
	}
	m.put(owner, address, nil, going)
	return true
}

// claim repeats that owner holds address.
func (m *model) claim(owner ipam.Owner, address netip.Addr, sharing ipam.Sharing) []string {
	if kinds := m.conflicts(owner, address, sharing, true); kinds != nil {
		return kinds
	}
	if held := m.held(owner, ipam.FamilyOf(address)); held.IsValid() && held != address {
		return []string{"HoldsError"}
	}
	m.take(owner, address, m.terms(owner, address, sharing, true))
	return nil
}

// claimReleasing repeats that owner gave up ports of address.
func (m *model) claimReleasing(owner ipam.Owner, address netip.Addr, ports []ipam.Port) []string {
	for _, other := range m.parts[address] {
		mine := other.owner == owner && (other.releasing || len(other.ports) > 0)
		if !mine && (len(ports) == 0 || len(other.ports) == 0 || overlap(ports, other.ports)) {
			return []string{"TakenError"}
		}
	}
	held, has := m.find(owner, address, false)
	back, was := m.find(owner, address, true)
	going := &part{owner: owner, releasing: true}
	if len(ports) > 0 && !(was && len(back.ports) == 0) {
		going.ports = minus(union(ports, back.ports), held.ports)
		if len(going.ports) == 0 {
			going = nil
		}
	}
	var now *part
	if has {
		now = &held
	}
	m.put(owner, address, now, going)
	return nil
}

// free ends owner's release of address.
func (m *model) free(owner ipam.Owner, address netip.Addr) bool {
	if _, was := m.find(owner, address, true); !was {
		return false
	}
	var now *part
	if held, has := m.find(owner, address, false); has {
		now = &held
	}
	m.put(owner, address, now, nil)
	return true
}
