package ipam_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/ipam"
)

// model is the allocator as one would write it without a thought of speed.
type model struct {
	pool      []netip.Addr // in order
	excluded  map[netip.Addr]string
	held      map[netip.Addr]ipam.Owner
	releasing map[netip.Addr]ipam.Owner
	used      map[netip.Addr]bool // ever taken
	freed     []netip.Addr        // longest free first
}

func (m *model) free(address netip.Addr) bool {
	_, held := m.held[address]
	_, releasing := m.releasing[address]
	_, excluded := m.excluded[address]
	return !held && !releasing && !excluded && slices.Contains(m.pool, address)
}

func (m *model) of(owner ipam.Owner) (netip.Addr, bool) {
	for address, holder := range m.held {
		if holder == owner {
			return address, true
		}
	}
	return netip.Addr{}, false
}

func (m *model) take(owner ipam.Owner, address netip.Addr) {
	m.held[address] = owner
	m.used[address] = true
	delete(m.releasing, address)
	m.freed = slices.DeleteFunc(m.freed, func(a netip.Addr) bool { return a == address })
}

func (m *model) release(owner ipam.Owner) {
	if address, ok := m.of(owner); ok {
		delete(m.held, address)
		m.releasing[address] = owner
	}
}

// next is the lowest never used, else the longest free.
func (m *model) next() (netip.Addr, bool) {
	for _, address := range m.pool {
		if m.free(address) && !m.used[address] {
			return address, true
		}
	}
	if len(m.freed) > 0 {
		return m.freed[0], true
	}
	return netip.Addr{}, false
}

// check compares everything that can be seen.
func (m *model) check(t *rapid.T, a *ipam.Allocator) {
	for _, address := range append(slices.Clone(m.pool), addr("203.0.113.1")) {
		holders := a.Holders(address)
		ok := len(holders) > 0
		var got ipam.Holder
		if ok {
			got = holders[0]
		}
		want, held := m.held[address]
		if releasing, is := m.releasing[address]; is {
			if !ok || !got.Releasing || got.Owner != releasing {
				t.Fatalf("Holder(%s) = %v, %v; want releasing by %s", address, got, ok, releasing)
			}
		} else if ok != held || got.Owner != want || got.Releasing {
			t.Fatalf("Holder(%s) = %v, %v; want %s, %v", address, got, ok, want, held)
		}
	}
	var assigned, releasing uint64
	for _, address := range m.pool {
		if _, ok := m.held[address]; ok {
			assigned++
		}
		if _, ok := m.releasing[address]; ok {
			releasing++
		}
	}
	want := ipam.Count{Pool: "a", Family: ipam.IPv4, Size: uint64(len(m.pool) - len(m.excluded)), Assigned: assigned,
		Releasing: releasing}
	if got := a.Counts()[0]; got != want {
		t.Fatalf("counts %+v, want %+v", got, want)
	}
}

// TestAgainstModel runs random histories. What it would find: two owners of one address, an address that changes
// unasked, one outside the pool, one given away while releasing, a choice that is not next-fit.
func TestAgainstModel(t *testing.T) {
	pools := []ipam.Pool{pool(t, "a", "10.0.0.0-10.0.0.5", "10.0.0.10-10.0.0.13")}
	rapid.Check(t, func(t *rapid.T) {
		a, err := ipam.New(pools, []ipam.Exclusion{ipam.Exclude(addr("10.0.0.3"), "gateway")})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{excluded: map[netip.Addr]string{}, held: map[netip.Addr]ipam.Owner{},
			releasing: map[netip.Addr]ipam.Owner{}, used: map[netip.Addr]bool{}}
		for _, n := range []byte{0, 1, 2, 4, 5, 10, 11, 12, 13} {
			m.pool = append(m.pool, netip.AddrFrom4([4]byte{10, 0, 0, n}))
		}
		owners := rapid.Custom(func(t *rapid.T) ipam.Owner {
			return owner(fmt.Sprintf("s%d", rapid.IntRange(0, 11).Draw(t, "owner")))
		})
		addresses := rapid.SampledFrom(append(slices.Clone(m.pool), addr("203.0.113.1")))
		t.Repeat(map[string]func(*rapid.T){
			"":         func(t *rapid.T) { m.check(t, a) },
			"allocate": func(t *rapid.T) { m.allocate(t, a, owners.Draw(t, "owner")) },
			"request":  func(t *rapid.T) { m.request(t, a, owners.Draw(t, "owner"), addresses.Draw(t, "address")) },
			"claim":    func(t *rapid.T) { m.claim(t, a, owners.Draw(t, "owner"), addresses.Draw(t, "address")) },
			"claim releasing": func(t *rapid.T) {
				o, address := owners.Draw(t, "owner"), addresses.Draw(t, "address")
				_, held := m.held[address]
				by, releasing := m.releasing[address]
				want := !held && (!releasing || by == o)
				if err := a.ClaimReleasing(o, address, nil); (err == nil) != want {
					t.Fatalf("ClaimReleasing(%s, %s): %v", o, address, err)
				}
				if want && !releasing {
					m.take(o, address)
					delete(m.held, address)
					m.releasing[address] = o
				}
			},
			"release": func(t *rapid.T) {
				o := owners.Draw(t, "owner")
				a.Release(o)
				m.release(o)
			},
			"free": func(t *rapid.T) {
				address := addresses.Draw(t, "address")
				_, want := m.releasing[address]
				if got := a.Free(address, m.releasing[address]); got != want {
					t.Fatalf("Free(%s) = %v, want %v", address, got, want)
				}
				delete(m.releasing, address)
				if want && m.free(address) {
					m.freed = append(m.freed, address)
				}
			},
			"exclude": func(t *rapid.T) {
				m.exclude(a, rapid.SliceOfNDistinct(rapid.SampledFrom(m.pool), 0, 3, rapid.ID).Draw(t, "excluded"))
			},
		})
	})
}

func (m *model) allocate(t *rapid.T, a *ipam.Allocator, o ipam.Owner) {
	want, ok := m.of(o)
	if !ok {
		// Its own releasing one, the one released first; the model does not keep that order, so take any.
		for address, by := range m.releasing {
			if _, excluded := m.excluded[address]; by == o && slices.Contains(m.pool, address) && !excluded {
				want, ok = netip.Addr{}, true
			}
		}
		if !ok {
			want, ok = m.next()
		}
	}
	got, err := a.Allocate(o, ipam.Request{})
	switch {
	case (err == nil) != ok:
		t.Fatalf("Allocate(%s) = %v, %v; the model has %s, %v", o, got, err, want, ok)
	case err != nil:
		return
	case want.IsValid() && got[0] != want:
		t.Fatalf("Allocate(%s) = %s, want %s", o, got[0], want)
	case !want.IsValid() && m.releasing[got[0]] != o:
		t.Fatalf("Allocate(%s) = %s, which it was not releasing", o, got[0])
	}
	m.take(o, got[0])
}

func (m *model) request(t *rapid.T, a *ipam.Allocator, o ipam.Owner, address netip.Addr) {
	holder, held := m.held[address]
	by, releasing := m.releasing[address]
	_, excluded := m.excluded[address]
	want := held && holder == o ||
		!held && (!releasing || by == o) && slices.Contains(m.pool, address) && !excluded
	_, err := a.Allocate(o, ipam.Request{Addresses: []netip.Addr{address}})
	if (err == nil) != want {
		t.Fatalf("request of %s by %s: %v", address, o, err)
	}
	if want && holder != o {
		m.release(o)
		m.take(o, address)
	}
}

func (m *model) claim(t *rapid.T, a *ipam.Allocator, o ipam.Owner, address netip.Addr) {
	holder, held := m.held[address]
	by, releasing := m.releasing[address]
	own, has := m.of(o)
	want := (!held || holder == o) && (!releasing || by == o) && (!has || own == address)
	if err := a.Claim(o, address, ipam.Sharing{}); (err == nil) != want {
		t.Fatalf("Claim(%s, %s): %v", o, address, err)
	}
	if want {
		m.take(o, address)
	}
}

func (m *model) exclude(a *ipam.Allocator, excluded []netip.Addr) {
	reasons := map[netip.Addr]string{}
	for _, address := range excluded {
		reasons[address] = "node"
	}
	a.SetExcluded(reasons)
	before := m.excluded
	m.excluded = map[netip.Addr]string{}
	for _, address := range slices.SortedFunc(maps.Keys(before), netip.Addr.Compare) {
		if _, stays := reasons[address]; !stays && m.free(address) {
			m.freed = append(m.freed, address)
			m.used[address] = true
		}
	}
	m.excluded = reasons
	for address := range reasons {
		m.freed = slices.DeleteFunc(m.freed, func(a netip.Addr) bool { return a == address })
	}
}
