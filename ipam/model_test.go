package ipam_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"cloud-provider-haproxy/ipam"
)

// model is the allocator as one would write it without a thought of speed: lists that are walked.
type model struct {
	pools       []modelPool
	exclusions  []ipam.Exclusion
	parts       map[netip.Addr][]part
	excluded    map[netip.Addr]string
	quarantined map[netip.Addr]string
	reserved    []ipam.Reservation
	used        map[netip.Addr]bool // ever in use, or kept from being chosen
	freed       []netip.Addr        // longest free first
	departed    []pair              // in the order of release
	keyed       []netip.Addr        // held with a sharing key, in the order in which that began
	regained    map[pair]bool
}

type modelPool struct {
	name      string
	addresses []netip.Addr // sorted
	shares    bool         // across namespaces
}

type pair struct {
	address netip.Addr
	owner   ipam.Owner
}

// part is what one owner has of an address. All of it when there are no ports.
type part struct {
	owner     ipam.Owner
	key       string
	keyless   bool // beside others
	ports     []ipam.Port
	releasing bool
}

func newModel(pools []modelPool, exclusions []ipam.Exclusion) *model {
	return &model{pools: pools, exclusions: exclusions, parts: map[netip.Addr][]part{}, excluded: map[netip.Addr]string{},
		quarantined: map[netip.Addr]string{}, used: map[netip.Addr]bool{}, regained: map[pair]bool{}}
}

// config gives the pools as New wants them.
func (m *model) config() (pools []ipam.Pool) {
	for _, p := range m.pools {
		pool := ipam.Pool{Name: p.name, ShareAcrossNamespaces: p.shares}
		for _, address := range p.addresses {
			pool.Ranges = append(pool.Ranges, ipam.Exclude(address, "").Range)
		}
		pools = append(pools, pool)
	}
	return pools
}

// out says whether address is excluded by configuration.
func (m *model) out(address netip.Addr) bool {
	return slices.ContainsFunc(m.exclusions, func(e ipam.Exclusion) bool { return e.Range.Contains(address) })
}

func (m *model) poolOf(address netip.Addr) *modelPool {
	for i, p := range m.pools {
		if slices.Contains(p.addresses, address) && !m.out(address) {
			return &m.pools[i]
		}
	}
	return nil
}

func (m *model) reservers(address netip.Addr) (owners []ipam.Owner) {
	for _, r := range m.reserved {
		if r.Address == address {
			owners = append(owners, r.Owner)
		}
	}
	return owners
}

// marked says whether address is kept from being chosen.
func (m *model) marked(address netip.Addr) bool {
	_, excluded := m.excluded[address]
	_, quarantined := m.quarantined[address]
	return excluded || quarantined || m.reservers(address) != nil
}

func (m *model) held(owner ipam.Owner, family ipam.Family) netip.Addr {
	for address, parts := range m.parts {
		for _, p := range parts {
			if p.owner == owner && !p.releasing && ipam.FamilyOf(address) == family {
				return address
			}
		}
	}
	return netip.Addr{}
}

// find gives owner's part of address.
func (m *model) find(owner ipam.Owner, address netip.Addr, releasing bool) (part, bool) {
	for _, p := range m.parts[address] {
		if p.owner == owner && p.releasing == releasing {
			return p, true
		}
	}
	return part{}, false
}

// put replaces owner's parts of address; nil: it has none of the kind.
func (m *model) put(owner ipam.Owner, address netip.Addr, held, releasing *part) {
	before := m.keyOf(address)
	parts := slices.DeleteFunc(m.parts[address], func(p part) bool { return p.owner == owner })
	is := func(r pair) bool { return r.owner == owner && r.address == address }
	if held != nil {
		parts = append(parts, *held)
	}
	if releasing != nil {
		parts = append(parts, *releasing)
		if !slices.ContainsFunc(m.departed, is) {
			m.departed = append(m.departed, pair{address, owner})
		}
	} else {
		m.departed = slices.DeleteFunc(m.departed, is)
	}
	if m.parts[address] = parts; len(parts) == 0 {
		delete(m.parts, address)
		m.offer(address)
	} else {
		m.used[address] = true
		m.freed = slices.DeleteFunc(m.freed, func(a netip.Addr) bool { return a == address })
	}
	if after := m.keyOf(address); after != before {
		m.keyed = slices.DeleteFunc(m.keyed, func(a netip.Addr) bool { return a == address })
		if after != "" {
			m.keyed = append(m.keyed, address)
		}
	}
}

func (m *model) keyOf(address netip.Addr) string {
	for _, p := range m.parts[address] {
		if !p.releasing {
			return p.key
		}
	}
	return ""
}

// offer makes an address that nobody has choosable.
func (m *model) offer(address netip.Addr) {
	if m.poolOf(address) != nil && !m.marked(address) {
		m.freed = append(m.freed, address)
	}
}

// remark is called after marks changed.
func (m *model) remark(before func(netip.Addr) bool) {
	for _, address := range everything {
		if m.poolOf(address) == nil || len(m.parts[address]) > 0 || before(address) == m.marked(address) {
			continue
		}
		if m.marked(address) {
			m.used[address] = true
			m.freed = slices.DeleteFunc(m.freed, func(a netip.Addr) bool { return a == address })
		} else {
			m.offer(address)
		}
	}
}

// setPools keeps the order of what is freed and forgets what was used outside the new pools.
func (m *model) setPools(pools []modelPool, exclusions []ipam.Exclusion) {
	var freed []netip.Addr
	for _, p := range m.pools {
		for _, family := range []ipam.Family{ipam.IPv4, ipam.IPv6} {
			for _, address := range m.freed {
				if ipam.FamilyOf(address) == family && slices.Contains(p.addresses, address) {
					freed = append(freed, address)
				}
			}
		}
	}
	m.pools, m.exclusions, m.freed, m.used = pools, exclusions, nil, map[netip.Addr]bool{}
	for _, address := range freed {
		if m.poolOf(address) != nil {
			m.freed = append(m.freed, address)
			m.used[address] = true
		}
	}
	for _, address := range everything {
		if len(m.parts[address]) > 0 || m.marked(address) {
			m.used[address] = true
		}
	}
}

// kind names the type of an error.
func kind(err error) string {
	if err == nil {
		return ""
	}
	for _, target := range []error{new(ipam.ExhaustedError), new(ipam.OutsideError), new(ipam.ExcludedError),
		new(ipam.TakenError), new(ipam.SharingError), new(ipam.ReservedError), new(ipam.QuarantinedError),
		new(ipam.HoldsError), new(ipam.RequestError)} {
		if as := reflect.New(reflect.TypeOf(target)).Interface(); errors.As(err, as) {
			return reflect.TypeOf(target).Elem().Name()
		}
	}
	return err.Error()
}

func overlap(x, y []ipam.Port) bool {
	return slices.ContainsFunc(x, func(p ipam.Port) bool { return slices.Contains(y, p) })
}

func union(x, y []ipam.Port) []ipam.Port {
	return normal(append(slices.Clone(x), y...))
}

func minus(x, y []ipam.Port) []ipam.Port {
	return slices.DeleteFunc(slices.Clone(x), func(p ipam.Port) bool { return slices.Contains(y, p) })
}

func normal(ports []ipam.Port) []ipam.Port {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, ipam.Port.Compare)
	return slices.Compact(ports)
}
