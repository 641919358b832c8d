package ipam_test

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/ipam"
)

// seen is everything that can be asked of an allocator.
func (m *machine) seen(a *ipam.Allocator) any {
	holders := map[netip.Addr][]ipam.Holder{}
	checks := map[netip.Addr]string{}
	for _, address := range everything {
		holders[address], checks[address] = a.Holders(address), kind(a.Check(address))
	}
	return []any{holders, checks, a.Counts(), a.Releasing()}
}

// check compares everything that can be seen with the model.
func (m *machine) check(t *rapid.T) {
	m.both(t, m.seen)
	var releasing []ipam.Released
	for _, address := range everything {
		want := m.holders(t, address)
		if got := m.a.Holders(address); !reflect.DeepEqual(got, want) {
			t.Fatalf("Holders(%s) = %+v, want %+v", address, got, want)
		}
		for _, h := range want {
			if !m.a.Has(h.Owner, address) {
				t.Fatalf("%s has not %s, of which it is %+v", h.Owner, address, h)
			}
			if h.Releasing {
				releasing = append(releasing, ipam.Released{Address: address, Owner: h.Owner, Ports: h.Sharing.Ports})
			}
		}
		pool, pooled := m.a.PoolOf(address)
		if p := m.poolOf(address); pooled != (p != nil) || pooled && p.name != pool {
			t.Fatalf("PoolOf(%s) = %s, %v, want %v", address, pool, pooled, p)
		}
	}
	if got := m.a.Releasing(); !slices.EqualFunc(got, releasing, func(x, y ipam.Released) bool { return reflect.DeepEqual(x, y) }) {
		t.Fatalf("Releasing() = %+v, want %+v", got, releasing)
	}
	if got, want := m.a.Counts(), m.counts(); !slices.Equal(got, want) {
		t.Fatalf("Counts() = %+v, want %+v", got, want)
	}
}

// holders are the model's parts of address, of which no two owners have the same port.
func (m *machine) holders(t *rapid.T, address netip.Addr) (all []ipam.Holder) {
	parts := m.parts[address]
	for i, p := range parts {
		for _, other := range parts[:i] {
			if other.owner != p.owner && (len(p.ports) == 0 || len(other.ports) == 0 || overlap(p.ports, other.ports)) {
				t.Fatalf("%s is of %+v and %+v", address, other, p)
			}
		}
		all = append(all, ipam.Holder{Owner: p.owner, Releasing: p.releasing, Sharing: ipam.Sharing{Key: p.key, Keyless: p.keyless, Ports: p.ports}})
	}
	slices.SortStableFunc(all, func(x, y ipam.Holder) int {
		return cmp.Or(x.Owner.Compare(y.Owner), cmp.Compare(btoi(x.Releasing), btoi(y.Releasing)))
	})
	return all
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *machine) counts() (counts []ipam.Count) {
	for _, p := range m.pools {
		for _, family := range []ipam.Family{ipam.IPv4, ipam.IPv6} {
			c := ipam.Count{Pool: p.name, Family: family}
			inPool := false
			for _, address := range p.addresses {
				if ipam.FamilyOf(address) == family && !m.out(address) {
					inPool = true
					m.count(&c, address)
				}
			}
			if inPool {
				counts = append(counts, c)
			}
		}
	}
	return counts
}

func (m *machine) count(c *ipam.Count, address netip.Addr) {
	_, excluded := m.excluded[address]
	_, quarantined := m.quarantined[address]
	parts := m.parts[address]
	if !excluded || len(parts) > 0 {
		c.Size++
	}
	switch {
	case slices.ContainsFunc(parts, func(p part) bool { return !p.releasing }):
		c.Assigned++
	case len(parts) > 0:
		c.Releasing++
	case excluded:
	case quarantined:
		c.Quarantined++
	case m.reservers(address) != nil:
		c.Reserved++
	}
}
