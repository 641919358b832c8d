package ipam_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/ipam"
)

// everything is the world of the machine, sorted: addresses of pools, of some pools only, and of none.
var everything = func() (all []netip.Addr) {
	for _, prefix := range []string{"10.0.0.0/29", "10.0.1.0/30", "203.0.113.1/32", "2001:db8::/126", "2001:db8::4/127"} {
		p := netip.MustParsePrefix(prefix)
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}()

// worlds are the configurations that a history moves between: pools that grow, shrink, merge, swap their order and go.
func worlds(t *rapid.T) ([]modelPool, []ipam.Exclusion) {
	v4, next, v6 := everything[:8], everything[8:12], everything[13:]
	one := []ipam.Exclusion{ipam.Exclude(v4[3], "a gateway")}
	switch rapid.IntRange(0, 3).Draw(t, "world") {
	case 0:
		return []modelPool{{name: "a", addresses: slices.Concat(v4[:6], v6[:4])}, {name: "b", addresses: next, shares: true}}, one
	case 1:
		return []modelPool{{name: "a", addresses: v4[2:]}, {name: "c", addresses: v6[2:]}}, nil
	case 2:
		return []modelPool{{name: "b", addresses: next[1:]}, {name: "a", addresses: slices.Concat(v4[:2], v6), shares: true}}, one
	default:
		return []modelPool{{name: "a", addresses: slices.Concat(v4, next)}}, one
	}
}

// machine runs the same history on an allocator, on its twin (same calls, same answers) and on the model.
type machine struct {
	*model
	a, twin *ipam.Allocator
}

var (
	someOwner = rapid.Custom(func(t *rapid.T) ipam.Owner {
		n := rapid.IntRange(0, 6).Draw(t, "owner")
		return ipam.Owner{Namespace: []string{"red", "red", "blue"}[n%3], Name: fmt.Sprintf("s%d", n)}
	})
	someAddress = rapid.SampledFrom(everything)
	somePorts   = rapid.Custom(func(t *rapid.T) []ipam.Port {
		return normal(rapid.SliceOfN(rapid.SampledFrom([]ipam.Port{{Protocol: "TCP", Number: 80}, {Protocol: "TCP", Number: 443},
			{Protocol: "UDP", Number: 80}, {Protocol: "TCP", Number: 8080}}), 1, 2).Draw(t, "ports"))
	})
	someSharing = rapid.Custom(func(t *rapid.T) ipam.Sharing {
		key := rapid.SampledFrom([]string{"", "", "", "k", "k", "k", "k", "z"}).Draw(t, "key")
		if key == "" && rapid.Bool().Draw(t, "no ports") {
			return ipam.Sharing{}
		}
		return ipam.Sharing{Key: key, Keyless: key == "" && rapid.Bool().Draw(t, "keyless"), Ports: somePorts.Draw(t, "ports")}
	})
	someMarks = rapid.Custom(func(t *rapid.T) map[netip.Addr]string {
		marks := map[netip.Addr]string{}
		for _, address := range rapid.SliceOfN(someAddress, 0, 3).Draw(t, "marks") {
			marks[address] = "because of " + address.String()
		}
		return marks
	})
)

// both calls f for the allocator and its twin and compares.
func (m *machine) both(t *rapid.T, f func(*ipam.Allocator) any) any {
	got, twin := f(m.a), f(m.twin)
	if !reflect.DeepEqual(got, twin) {
		t.Fatalf("the same history gives %v and %v", got, twin)
	}
	return got
}

type outcome struct {
	addresses []netip.Addr
	err       error
}

// judge compares an error with the kinds that the model allows.
func judge(t *rapid.T, what string, err error, kinds []string) {
	if err == nil && kinds != nil || err != nil && !slices.Contains(kinds, kind(err)) {
		t.Fatalf("%s: %s %v; the model allows %q", what, kind(err), err, kinds)
	}
}

// TestAgainstModel runs random histories. What it would find: two owners of one address, protocol and port; an address
// that changes unasked; one outside the pools, or withheld from its owner; one given away while releasing; a choice that
// is not the documented one; a refusal that changed something; anything that depends on the order of a map.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{model: newModel(worlds(t))}
		m.a, m.twin = m.fresh(t), m.fresh(t)
		actions := map[string]func(*rapid.T){
			"":                 m.check,
			"allocate":         m.drawAllocate,
			"allocate again":   m.drawAllocate, // as often as all that gives up
			"request":          m.drawRequest,
			"share":            m.drawShare,
			"share more":       m.drawShare,
			"claim":            m.drawClaim,
			"claim releasing":  m.drawClaimReleasing,
			"release":          m.drawRelease,
			"free":             m.drawFree,
			"free what can be": m.drawFree,
			"withdraw":         m.drawWithdraw,
			"reserve":          m.drawReserve,
			"mark":             m.drawMark,
			"pools":            m.drawPools,
			"sample":           m.drawSample,
		}
		for range 4 { // long histories reach what short ones do not
			t.Repeat(actions)
		}
	})
}

// some draws an address that is in use, or any.
func (m *machine) some(t *rapid.T) netip.Addr {
	var inUse []netip.Addr
	for _, address := range everything {
		if len(m.parts[address]) > 0 {
			inUse = append(inUse, address)
		}
	}
	if len(inUse) == 0 || rapid.IntRange(0, 2).Draw(t, "any") == 0 {
		return someAddress.Draw(t, "address")
	}
	return rapid.SampledFrom(inUse).Draw(t, "address in use")
}

func (m *machine) fresh(t *rapid.T) *ipam.Allocator {
	a, err := ipam.New(m.config(), m.exclusions)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (m *machine) allocate(t *rapid.T, owner ipam.Owner, r ipam.Request) {
	addresses, kinds := m.model.allocate(owner, r)
	got := m.both(t, func(a *ipam.Allocator) any {
		addresses, err := a.Allocate(owner, r)
		return outcome{addresses, err}
	}).(outcome)
	judge(t, fmt.Sprintf("Allocate(%s, %+v)", owner, r), got.err, kinds)
	if !slices.Equal(got.addresses, addresses) {
		t.Fatalf("Allocate(%s, %+v) = %v, want %v", owner, r, got.addresses, addresses)
	}
}

func (m *machine) draw(t *rapid.T) ipam.Request {
	r := ipam.Request{
		Families: rapid.SampledFrom([][]ipam.Family{{4}, {4}, {6}, {4, 6}, {6, 4}}).Draw(t, "families"),
		Moves:    rapid.Bool().Draw(t, "moves"),
	}
	r.FirstSuffices = rapid.Bool().Draw(t, "first suffices")
	names := m.order(ipam.Request{})
	switch rapid.IntRange(0, 3).Draw(t, "pools") {
	case 0:
		r.Pools = []string{}
	case 1:
		r.Pools = rapid.Permutation(names).Draw(t, "order")
	case 2:
		r.Pools = []string{rapid.SampledFrom(names).Draw(t, "pool")}
	}
	return r
}

func (m *machine) drawAllocate(t *rapid.T) { m.allocate(t, someOwner.Draw(t, "owner"), m.draw(t)) }

func (m *machine) drawRequest(t *rapid.T) {
	r := m.draw(t)
	r.Addresses = []netip.Addr{m.some(t)}
	if family := ipam.FamilyOf(r.Addresses[0]); !slices.Contains(r.Families, family) {
		r.Families = []ipam.Family{family}
	}
	r.Sharing = someSharing.Draw(t, "sharing")
	m.allocate(t, someOwner.Draw(t, "owner"), r)
}

func (m *machine) drawShare(t *rapid.T) {
	r := m.draw(t)
	r.Sharing = someSharing.Draw(t, "sharing")
	m.allocate(t, someOwner.Draw(t, "owner"), r)
}

func (m *machine) drawClaim(t *rapid.T) {
	owner, address, sharing := someOwner.Draw(t, "owner"), m.some(t), someSharing.Draw(t, "sharing")
	kinds := m.claim(owner, address, sharing)
	err, _ := m.both(t, func(a *ipam.Allocator) any { return a.Claim(owner, address, sharing) }).(error)
	judge(t, fmt.Sprintf("Claim(%s, %s, %+v)", owner, address, sharing), err, kinds)
}

func (m *machine) drawClaimReleasing(t *rapid.T) {
	owner, address, ports := someOwner.Draw(t, "owner"), m.some(t), somePorts.Draw(t, "ports")
	if rapid.Bool().Draw(t, "all of it") {
		ports = nil
	}
	kinds := m.claimReleasing(owner, address, ports)
	err, _ := m.both(t, func(a *ipam.Allocator) any { return a.ClaimReleasing(owner, address, ports) }).(error)
	judge(t, fmt.Sprintf("ClaimReleasing(%s, %s, %v)", owner, address, ports), err, kinds)
}

func (m *machine) drawRelease(t *rapid.T) {
	owner := someOwner.Draw(t, "owner")
	var want []netip.Addr
	for _, family := range []ipam.Family{ipam.IPv4, ipam.IPv6} {
		if address := m.held(owner, family); address.IsValid() {
			m.release(owner, address)
			want = append(want, address)
		}
	}
	if got := m.both(t, func(a *ipam.Allocator) any { return a.Release(owner) }).([]netip.Addr); !slices.Equal(got, want) {
		t.Fatalf("Release(%s) = %v, want %v", owner, got, want)
	}
}

func (m *machine) drawFree(t *rapid.T) {
	owner, address := someOwner.Draw(t, "owner"), m.some(t)
	if len(m.departed) > 0 && rapid.IntRange(0, 4).Draw(t, "any") > 0 {
		d := rapid.SampledFrom(m.departed).Draw(t, "releasing")
		owner, address = d.owner, d.address
	}
	want := m.free(owner, address)
	if got := m.both(t, func(a *ipam.Allocator) any { return a.Free(address, owner) }); got != want {
		t.Fatalf("Free(%s, %s) = %v, want %v", address, owner, got, want)
	}
}

func (m *machine) drawWithdraw(t *rapid.T) {
	owner, address := someOwner.Draw(t, "owner"), m.some(t)
	if held := m.held(owner, ipam.FamilyOf(address)); held.IsValid() && rapid.Bool().Draw(t, "its own") {
		address = held
	}
	want := m.withdraw(owner, address)
	if got := m.both(t, func(a *ipam.Allocator) any { return a.Withdraw(owner, address) }); got != want {
		t.Fatalf("Withdraw(%s, %s) = %v, want %v", owner, address, got, want)
	}
}

func (m *machine) drawReserve(t *rapid.T) {
	before := m.model.reserved
	m.reserved = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ipam.Reservation {
		r := ipam.Reservation{Address: m.some(t), Owner: someOwner.Draw(t, "owner")}
		if parts := m.parts[r.Address]; len(parts) > 0 && rapid.Bool().Draw(t, "for who has it") {
			r.Owner = rapid.SampledFrom(parts).Draw(t, "part").owner
		}
		return r
	}), 0, 4).Draw(t, "reserved")
	after := m.model.reserved
	m.remark(func(address netip.Addr) bool {
		m.model.reserved = before
		defer func() { m.model.reserved = after }()
		return m.marked(address)
	})
	m.a.SetReserved(after)
	m.twin.SetReserved(rapid.Permutation(after).Draw(t, "order"))
}

func (m *machine) drawMark(t *rapid.T) {
	old := [2]map[netip.Addr]string{m.excluded, m.quarantined}
	marks := someMarks.Draw(t, "marks")
	which := rapid.IntRange(0, 1).Draw(t, "excluded or quarantined")
	*[]*map[netip.Addr]string{&m.excluded, &m.quarantined}[which] = marks
	m.remark(func(address netip.Addr) bool {
		_, excluded := old[0][address]
		_, quarantined := old[1][address]
		return excluded || quarantined || m.reservers(address) != nil
	})
	for _, a := range []*ipam.Allocator{m.a, m.twin} {
		if which == 0 {
			a.SetExcluded(marks)
		} else {
			a.SetQuarantined(marks)
		}
	}
}

// drawPools goes to other pools, or gives the twin the same pools again, which must change nothing.
func (m *machine) drawPools(t *rapid.T) {
	var err error
	if rapid.Bool().Draw(t, "the same") {
		if m.twin, err = m.twin.WithPools(m.config(), m.exclusions); err != nil {
			t.Fatal(err)
		}
		return
	}
	old := m.a
	before := m.seen(old)
	m.setPools(worlds(t))
	if m.a, err = old.WithPools(m.config(), m.exclusions); err != nil {
		t.Fatal(err)
	}
	if m.twin, err = m.twin.WithPools(m.config(), m.exclusions); err != nil {
		t.Fatal(err)
	}
	m.check(t)
	if after := m.seen(old); !reflect.DeepEqual(after, before) {
		t.Fatalf("WithPools changed the old allocator from %v to %v", before, after)
	}
}

func (m *machine) drawSample(t *rapid.T) {
	pool := rapid.SampledFrom(m.pools).Draw(t, "pool")
	family := rapid.SampledFrom([]ipam.Family{4, 6}).Draw(t, "family")
	n := rapid.IntRange(0, 6).Draw(t, "n")
	var free []netip.Addr
	for _, address := range pool.addresses {
		if ipam.FamilyOf(address) == family && !m.out(address) && !m.marked(address) && len(m.parts[address]) == 0 {
			free = append(free, address)
		}
	}
	sample := m.both(t, func(a *ipam.Allocator) any { return a.Sample(pool.name, family, n) }).([]netip.Addr)
	if len(sample) != min(n, len(free)) {
		t.Fatalf("Sample(%s, %s, %d) = %v of the free %v", pool.name, family, n, sample, free)
	}
	first, _ := m.next(pool.name, family)
	for i, address := range sample {
		if !slices.Contains(free, address) || slices.Contains(sample[:i], address) || address == first && n < len(free) {
			t.Fatalf("Sample(%s, %s, %d) = %v of the free %v, of which %s is first in turn", pool.name, family, n, sample, free, first)
		}
	}
}
