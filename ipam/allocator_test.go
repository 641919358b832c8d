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

func pool(t testing.TB, name string, ranges ...string) ipam.Pool {
	t.Helper()
	p := ipam.Pool{Name: name}
	for _, s := range ranges {
		r, err := ipam.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p
}

func newAllocator(t testing.TB, exclusions []ipam.Exclusion, pools ...ipam.Pool) *ipam.Allocator {
	t.Helper()
	a, err := ipam.New(pools, exclusions)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func owner(name string) ipam.Owner { return ipam.Owner{Namespace: "default", Name: name} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func allocate(t testing.TB, a *ipam.Allocator, name string, request ipam.Request) string {
	t.Helper()
	got, err := a.Allocate(owner(name), request)
	if err != nil {
		t.Fatalf("Allocate(%s, %v): %v", name, request, err)
	}
	return join(got)
}

func TestFreedAddressIsReusedLast(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.3"))
	for i, want := range []string{"192.0.2.1", "192.0.2.2"} {
		if got := allocate(t, a, string(rune('a'+i)), ipam.Request{}); got != want {
			t.Fatalf("allocation %d = %s, want %s", i, got, want)
		}
	}
	a.Release(owner("b"))
	a.Free(addr("192.0.2.2"), owner("b"))
	a.Release(owner("a"))
	a.Free(addr("192.0.2.1"), owner("a"))
	for i, want := range []string{"192.0.2.3", "192.0.2.2", "192.0.2.1"} {
		if got := allocate(t, a, string(rune('c'+i)), ipam.Request{}); got != want {
			t.Errorf("allocation %d after the release = %s, want %s", i, got, want)
		}
	}
}

func TestSameOwnerKeepsItsAddress(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.0/24"), pool(t, "b", "198.51.100.0/24"))
	first := allocate(t, a, "web", ipam.Request{Pools: []string{"b"}})
	if got := allocate(t, a, "web", ipam.Request{}); got != first {
		t.Errorf("asked again without the pool: %s, was %s", got, first)
	}
	requested := addr("192.0.2.77")
	if got := allocate(t, a, "web", ipam.Request{Addresses: []netip.Addr{requested}}); got != "192.0.2.77" {
		t.Errorf("requested 192.0.2.77, got %s", got)
	}
	if got := a.Releasing(); len(got) != 1 || got[0].Address.String() != first {
		t.Errorf("releasing = %v, want the former address %s", got, first)
	}
	if got := allocate(t, a, "web", ipam.Request{}); got != "192.0.2.77" {
		t.Errorf("the request was dropped: %s, want to keep 192.0.2.77", got)
	}
}

func TestReleasingIsGivenToItsLastOwnerOnly(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	allocate(t, a, "web", ipam.Request{})
	a.Release(owner("web"))
	_, err := a.Allocate(owner("other"), ipam.Request{})
	var exhausted *ipam.ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Pools[0].Releasing != 1 {
		t.Fatalf("a releasing address was given away, or: %v", err)
	}
	if !strings.Contains(err.Error(), "1 releasing until every gateway confirms") {
		t.Errorf("the text does not tell of releasing addresses: %v", err)
	}
	_, err = a.Allocate(owner("other"), ipam.Request{Addresses: []netip.Addr{addr("192.0.2.1")}})
	var taken *ipam.TakenError
	if !errors.As(err, &taken) || !taken.Holder.Releasing || taken.Holder.Owner != owner("web") {
		t.Errorf("requested a releasing address: %v", err)
	}
	if got := allocate(t, a, "web", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("the last owner got %s", got)
	}
	if a.Free(addr("192.0.2.1"), owner("web")) {
		t.Error("a held address was freed")
	}
	a.Release(owner("web"))
	if !a.Free(addr("192.0.2.1"), owner("web")) {
		t.Error("a releasing address was not freed")
	}
	if got := allocate(t, a, "other", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("after Free: %s", got)
	}
}

func TestFamilies(t *testing.T) {
	both := []ipam.Family{ipam.IPv6, ipam.IPv4}
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.0/24"), pool(t, "b", "2001:db8::1-2001:db8::2"))
	if got := allocate(t, a, "dual", ipam.Request{Families: both}); got != "2001:db8::1 192.0.2.0" {
		t.Errorf("dual = %s", got)
	}
	if got := allocate(t, a, "dual", ipam.Request{Families: both[1:]}); got != "192.0.2.0" {
		t.Errorf("the second family was dropped: %s", got)
	}
	if got := allocate(t, a, "default", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("no family asked for: %s, want IPv4", got)
	}
	allocate(t, a, "six", ipam.Request{Families: both[:1]})
	_, err := a.Allocate(owner("required"), ipam.Request{Families: []ipam.Family{ipam.IPv4, ipam.IPv6}})
	if _, ok := errors.AsType[*ipam.ExhaustedError](err); !ok {
		t.Errorf("both required, IPv6 exhausted: %v", err)
	}
	if got := a.Addresses(owner("required")); got != nil {
		t.Errorf("the failed request left %v behind", got)
	}
	got := allocate(t, a, "preferred", ipam.Request{Families: []ipam.Family{ipam.IPv4, ipam.IPv6}, FirstSuffices: true})
	if got != "192.0.2.2" {
		t.Errorf("both preferred, IPv6 exhausted: %s", got)
	}
}

func TestRefusals(t *testing.T) {
	a := newAllocator(t, []ipam.Exclusion{ipam.Exclude(addr("192.0.2.5"), "VRRP address of gateway gw1")},
		pool(t, "a", "192.0.2.0/29"), pool(t, "b", "198.51.100.0/29"))
	allocate(t, a, "web", ipam.Request{})
	a.SetExcluded(map[netip.Addr]string{addr("192.0.2.6"): "address of node n1"})
	for _, c := range []struct {
		name    string
		request ipam.Request
		want    error
		text    string
	}{
		{"taken", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.0")}}, new(ipam.TakenError),
			"address 192.0.2.0 is held by Service default/web; request another address, take it from that Service, or give both the same sharing " +
				"key (annotation allow-shared-ip) and different ports"},
		{"outside", ipam.Request{Addresses: []netip.Addr{addr("203.0.113.9")}}, new(ipam.OutsideError),
			"address 203.0.113.9 is in no pool (a: 192.0.2.0-192.0.2.4, 192.0.2.6-192.0.2.7; " +
				"b: 198.51.100.0-198.51.100.7); request one of these, or add it to a pool"},
		{"excluded", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.5")}}, new(ipam.ExcludedError),
			"address 192.0.2.5 is excluded: VRRP address of gateway gw1"},
		{"excluded at run time", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.6")}}, new(ipam.ExcludedError),
			"address 192.0.2.6 is excluded: address of node n1"},
		{"unknown pool", ipam.Request{Pools: []string{"c"}}, new(ipam.RequestError), `there is no pool "c"; there are ["a" "b"]`},
		{"wrong family", ipam.Request{Families: []ipam.Family{ipam.IPv6}, Addresses: []netip.Addr{addr("192.0.2.1")}},
			new(ipam.RequestError), "address 192.0.2.1 is requested, but the Service wants [IPv6] only"},
		{"two of a family", ipam.Request{Addresses: []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")},
			Families: []ipam.Family{ipam.IPv4}}, new(ipam.RequestError), "a Service has one address of each family"},
		{"no IPv6 in this pool", ipam.Request{Families: []ipam.Family{ipam.IPv6}, Pools: []string{"b", "a"}}, new(ipam.ExhaustedError),
			`none of the pools that this Service may use (b, a) has IPv6 addresses; add a range to one, or ask for another pool or the other family`},
		{"no IPv6 pool", ipam.Request{Families: []ipam.Family{ipam.IPv6}}, new(ipam.ExhaustedError),
			"no pool has IPv6 addresses"},
	} {
		before := a.Counts()
		_, err := a.Allocate(owner("other"), c.request)
		if reflect.TypeOf(err) != reflect.TypeOf(c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %T %v; want %T with %q", c.name, err, err, c.want, c.text)
		}
		if !reflect.DeepEqual(a.Counts(), before) {
			t.Errorf("%s: the refusal changed %v to %v", c.name, before, a.Counts())
		}
	}
}

func TestClaim(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.0/30"))
	for _, c := range []struct{ owner, address, fault string }{
		{"web", "192.0.2.1", ""},
		{"web", "192.0.2.1", ""},
		{"web", "192.0.2.2", "Service default/web claims 192.0.2.2 but holds 192.0.2.1"},
		{"web", "2001:db8::1", ""}, // outside every pool, kept
		{"other", "192.0.2.1", "address 192.0.2.1 is held by Service default/web"},
		{"other", "2001:db8::1", "address 2001:db8::1 is held by Service default/web"},
		{"other", "::ffff:192.0.2.3", "is not an IPv4 or IPv6 address that a Service can have"},
	} {
		err := a.Claim(owner(c.owner), addr(c.address), ipam.Sharing{})
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("Claim(%s, %s): %v, want %q", c.owner, c.address, err, c.fault)
		}
	}
	if err := a.ClaimReleasing(owner("gone"), addr("192.0.2.0"), nil); err != nil {
		t.Error(err)
	}
	if got := allocate(t, a, "new", ipam.Request{}); got != "192.0.2.2" {
		t.Errorf("new = %s, want the only one that is neither held nor releasing and lowest", got)
	}
	want := ipam.Count{Pool: "a", Family: ipam.IPv4, Size: 4, Assigned: 2, Releasing: 1}
	if got := a.Counts()[0]; got != want {
		t.Errorf("counts = %+v, want %+v", got, want)
	}
	a.Release(owner("web"))
	if !a.Free(addr("2001:db8::1"), owner("web")) {
		t.Error("an address outside every pool was not freed")
	}
	if a.Holders(addr("2001:db8::1")) != nil {
		t.Error("an address outside every pool is still held after Free")
	}
}

func TestWholeSlash64(t *testing.T) {
	a := newAllocator(t, ipam.NetworkAndBroadcast(netip.MustParsePrefix("2001:db8::/64")), pool(t, "six", "2001:db8::/64"))
	last := addr("2001:db8::ffff:ffff:ffff:ffff")
	if got := allocate(t, a, "last", ipam.Request{Addresses: []netip.Addr{last}}); got != last.String() {
		t.Errorf("requested the last: %s", got)
	}
	if got := allocate(t, a, "first", ipam.Request{}); got != "2001:db8::1" {
		t.Errorf("first = %s", got)
	}
	if got := a.Counts()[0].Size; got != 1<<64-1 {
		t.Errorf("size = %d, want saturation", got)
	}
	whole := newAllocator(t, nil, pool(t, "six", "2001:db8::/64"))
	if got := whole.Counts()[0].Size; got != 1<<64-1 {
		t.Errorf("size of a whole /64 = %d, want saturation", got)
	}
}

func TestClaimedRunsAreJumped(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "10.0.0.0/16"))
	// From the top and from both sides, so that runs merge on either end.
	for _, n := range []int{5, 3, 4, 9, 8, 7, 1, 2, 6} {
		if err := a.Claim(owner(string(rune('a'+n))), netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), ipam.Sharing{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := allocate(t, a, "x", ipam.Request{}); got != "10.0.0.0" {
		t.Errorf("x = %s", got)
	}
	if got := allocate(t, a, "y", ipam.Request{}); got != "10.0.0.10" {
		t.Errorf("y = %s", got)
	}
}

// TestErrorsFitAnEvent: an Event's note has 1024 bytes, however many pools there are.
func TestErrorsFitAnEvent(t *testing.T) {
	var pools []ipam.Pool
	for i := range 100 {
		pools = append(pools, pool(t, fmt.Sprintf("a-rather-long-name-of-a-pool-%d", i), fmt.Sprintf("10.0.%d.1", i)))
	}
	a := newAllocator(t, nil, pools...)
	for i := range 100 {
		allocate(t, a, fmt.Sprint(i), ipam.Request{})
	}
	for _, request := range []ipam.Request{
		{},
		{Families: []ipam.Family{ipam.IPv6}, Pools: names(pools)},
		{Addresses: []netip.Addr{addr("192.0.2.1")}},
	} {
		_, err := a.Allocate(owner("new"), request)
		if err == nil || len(err.Error()) > 600 || !strings.Contains(err.Error(), "96 more") {
			t.Errorf("%d bytes: %v", len(fmt.Sprint(err)), err)
		}
	}
}

func names(pools []ipam.Pool) (all []string) {
	for _, p := range pools {
		all = append(all, p.Name)
	}
	return all
}
