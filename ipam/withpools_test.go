package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func withPools(t testing.TB, a *ipam.Allocator, exclusions []ipam.Exclusion, pools ...ipam.Pool) *ipam.Allocator {
	t.Helper()
	b, err := a.WithPools(pools, exclusions)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPoolsChangeUnderEverybody(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.6"), pool(t, "b", "2001:db8::1-2001:db8::9"))
	allocate(t, a, "dual", ipam.Request{Families: []ipam.Family{ipam.IPv4, ipam.IPv6}})
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25)})
	allocate(t, a, "gone", ipam.Request{})
	a.Release(owner("gone"))
	allocate(t, a, "freed", ipam.Request{})
	a.Release(owner("freed"))
	a.Free(addr("192.0.2.4"), owner("freed"))
	a.SetReserved(reserved("192.0.2.5", "kept"))
	a.SetQuarantined(map[netip.Addr]string{addr("198.51.100.1"): "00:00:5e:00:53:01"})

	b := withPools(t, a, []ipam.Exclusion{ipam.Exclude(addr("192.0.2.2"), "a new gateway")},
		pool(t, "c", "198.51.100.1-198.51.100.2"), pool(t, "a", "192.0.2.2-192.0.2.6"))
	for _, address := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"} {
		if got, want := b.Holders(addr(address)), a.Holders(addr(address)); !reflect.DeepEqual(got, want) || got == nil {
			t.Errorf("%s is of %v, was of %v", address, got, want)
		}
	}
	var excluded *ipam.ExcludedError
	var outside *ipam.OutsideError
	if !errors.As(b.Check(addr("192.0.2.2")), &excluded) || !errors.As(b.Check(addr("2001:db8::1")), &outside) {
		t.Error("what lost its place is not told")
	}
	for _, c := range []struct {
		name    string
		request ipam.Request
		want    string
	}{
		{"dual", ipam.Request{Families: []ipam.Family{ipam.IPv4, ipam.IPv6}}, "192.0.2.1 2001:db8::1"},
		{"dual", ipam.Request{Families: []ipam.Family{ipam.IPv4, ipam.IPv6}, Pools: []string{"c"}, Moves: true}, "192.0.2.1 2001:db8::1"},
		{"web", ipam.Request{Sharing: sharing("k", 80, 443)}, "192.0.2.2"},
		{"new", ipam.Request{}, "198.51.100.2"},
		{"kept", ipam.Request{}, "192.0.2.5"},
		{"later", ipam.Request{}, "192.0.2.6"},
		{"last", ipam.Request{}, "192.0.2.4"},
	} {
		if got := allocate(t, b, c.name, c.request); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
	if got := a.Addresses(owner("new")); got != nil {
		t.Errorf("the old allocator knows of %v", got)
	}
	if c := a.Counts()[0]; c.Assigned != 2 || c.Releasing != 1 {
		t.Errorf("the old allocator counts %+v", c)
	}
}

func TestFaultyPoolsAreRefusedAsAWhole(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	b, err := a.WithPools([]ipam.Pool{pool(t, "a", "192.0.2.1"), pool(t, "b", "192.0.2.0/24")}, nil)
	if b != nil || err == nil || !strings.Contains(err.Error(), `overlaps`) {
		t.Errorf("%v, %v", b, err)
	}
}

func TestMoves(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.2"), pool(t, "b", "198.51.100.1"))
	allocate(t, a, "web", ipam.Request{Pools: []string{"a"}})
	for _, c := range []struct {
		name    string
		request ipam.Request
		want    string
	}{
		{"not asked to move", ipam.Request{Pools: []string{"b"}}, "192.0.2.1"},
		{"its pool is named", ipam.Request{Pools: []string{"b", "a"}, Moves: true}, "192.0.2.1"},
		{"all pools", ipam.Request{Moves: true}, "192.0.2.1"},
		{"moves", ipam.Request{Pools: []string{"b"}, Moves: true}, "198.51.100.1"},
		{"back to what it releases", ipam.Request{Pools: []string{"a"}, Moves: true}, "192.0.2.1"},
	} {
		if got := allocate(t, a, "web", c.request); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	a.Free(addr("198.51.100.1"), owner("web"))
	allocate(t, a, "other", ipam.Request{Pools: []string{"b"}})
	if _, err := a.Allocate(owner("web"), ipam.Request{Pools: []string{"b"}, Moves: true}); err == nil {
		t.Error("moved to a pool without an address")
	}
	_, err := a.Allocate(owner("web"), ipam.Request{Pools: []string{}, Moves: true, Note: `pool "a" is for namespace red`})
	if err == nil || err.Error() != `there is no pool that this Service may get an IPv4 address from; pool "a" is for namespace red` {
		t.Errorf("moved out of every pool: %v", err)
	}
	if got := a.Addresses(owner("web")); len(got) != 1 || got[0] != addr("192.0.2.1") {
		t.Errorf("a refused move left %v", got)
	}
}

func TestPoolExcludes(t *testing.T) {
	p := pool(t, "a", "192.0.2.0/29")
	p.Exclude = pool(t, "", "192.0.2.0-192.0.2.2", "198.51.100.0/24").Ranges
	a := newAllocator(t, nil, p, pool(t, "b", "198.51.100.7"))
	if got := allocate(t, a, "web", ipam.Request{}); got != "192.0.2.3" {
		t.Errorf("web = %s", got)
	}
	if got := allocate(t, a, "b", ipam.Request{Pools: []string{"b"}}); got != "198.51.100.7" {
		t.Errorf("b = %s, want what another pool leaves out", got)
	}
	_, err := a.Allocate(owner("new"), ipam.Request{Addresses: []netip.Addr{addr("192.0.2.1")}})
	if err == nil || err.Error() != `address 192.0.2.1 is excluded: pool "a" leaves it out; request another one` {
		t.Errorf("requested: %v", err)
	}
	if got := a.Counts()[0].Size; got != 5 {
		t.Errorf("size %d", got)
	}
}

func TestSample(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.5", "2001:db8::/64"))
	allocate(t, a, "one", ipam.Request{})
	allocate(t, a, "two", ipam.Request{})
	allocate(t, a, "asked", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.5")}})
	a.Release(owner("one"))
	a.Free(addr("192.0.2.1"), owner("one"))
	if got := join(a.Sample("a", ipam.IPv4, 9)); got != "192.0.2.1 192.0.2.4 192.0.2.3" {
		t.Errorf("sample %s, want what is taken last first", got)
	}
	if got := join(a.Sample("a", ipam.IPv6, 2)); got != "2001:db8::ffff:ffff:ffff:ffff 2001:db8::ffff:ffff:ffff:fffe" {
		t.Errorf("sample %s", got)
	}
	if a.Sample("b", ipam.IPv4, 2) != nil || a.Sample("a", 5, 2) != nil {
		t.Error("a sample of no pool")
	}
}

// TestNext: what Allocate takes one after the other.
func TestNext(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.6", "2001:db8::/64"))
	for _, name := range []string{"one", "two", "three"} {
		allocate(t, a, name, ipam.Request{})
	}
	allocate(t, a, "asked", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.5")}})
	for _, name := range []string{"two", "one"} {
		address := a.Addresses(owner(name))[0]
		a.Release(owner(name))
		a.Free(address, owner(name))
	}
	next := a.Next("a", ipam.IPv4, 9)
	if got := join(next); got != "192.0.2.4 192.0.2.6 192.0.2.2 192.0.2.1" {
		t.Errorf("next are %s", got)
	}
	if got := join(a.Next("a", ipam.IPv4, 3)); got != join(next[:3]) {
		t.Errorf("the next three are %s", got)
	}
	for i, want := range next {
		if got := allocate(t, a, fmt.Sprint("new", i), ipam.Request{}); got != want.String() {
			t.Errorf("number %d was %s, want %s", i, got, want)
		}
	}
	if got := join(a.Next("a", ipam.IPv6, 2)); got != "2001:db8:: 2001:db8::1" {
		t.Errorf("next are %s", got)
	}
	if len(a.Next("a", ipam.IPv4, 9)) != 0 || a.Next("b", ipam.IPv4, 2) != nil || a.Next("a", 5, 2) != nil {
		t.Error("something is next where nothing is")
	}
}

func join(addresses []netip.Addr) string {
	parts := make([]string, len(addresses))
	for i, address := range addresses {
		parts[i] = address.String()
	}
	return strings.Join(parts, " ")
}
