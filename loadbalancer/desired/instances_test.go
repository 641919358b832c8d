package desired_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func gateways(names ...string) []desired.Gateway {
	var list []desired.Gateway
	for _, name := range names {
		list = append(list, desired.Gateway{Name: name})
	}
	return list
}

func instances(t testing.TB, first int, names ...string) []desired.Instance {
	t.Helper()
	list, err := desired.Instances(gateways(names...), first)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestInstances(t *testing.T) {
	tests := []struct {
		names []string
		first int
		want  string
	}{
		{[]string{"a"}, 51, "51 a"},
		{[]string{"b", "a"}, 51, "51 a b, 52 b a"},
		{[]string{"c", "a", "b"}, 1, "1 a b c, 2 b a c, 3 a c b, 4 b c a, 5 c a b, 6 c b a"},
	}
	for _, test := range tests {
		var got []string
		for _, i := range instances(t, test.first, test.names...) {
			got = append(got, fmt.Sprintf("%d %s", i.RouterID, strings.Join(i.Gateways, " ")))
		}
		if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.names, diff)
		}
	}
}

func TestInstancesBounds(t *testing.T) {
	many := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprintf("g%02d", i))
		}
		return names
	}
	tests := []struct {
		name  string
		names []string
		first int
		want  string
	}{
		{"last fits", many(2), 254, ""},
		{"last passes", many(2), 255, "2 gateways need 2 router IDs, 255 to 256; allowed are 1 to 255"},
		{"sixteen", many(16), 16, ""},
		{"sixteen from 17", many(16), 17, "need 240 router IDs, 17 to 256"},
		{"seventeen", many(17), 1, "need 272 router IDs"},
		{"first 0", many(1), 0, "1 gateways need 1 router IDs, 0 to 0"},
		{"none", nil, 1, "no gateway"},
		{"same name", []string{"a", "b", "a"}, 1, `two gateways have the same name: ["a" "a" "b"]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			list, err := desired.Instances(gateways(test.names...), test.first)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkPairs(t, list, len(test.names), test.first)
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want it to contain %q", err, test.want)
			}
		})
	}
}

func checkPairs(t *testing.T, list []desired.Instance, n, first int) {
	t.Helper()
	pairs := map[[2]string]bool{}
	for i, instance := range list {
		if instance.RouterID != first+i || len(instance.Gateways) != n {
			t.Errorf("instance %d is %+v", i, instance)
		}
		if !slices.IsSorted(instance.Gateways[2:]) {
			t.Errorf("further heirs of %+v are not in the order of names", instance)
		}
		pairs[[2]string(instance.Gateways)] = true
	}
	if len(pairs) != n*(n-1) {
		t.Errorf("got %d pairs, want %d", len(pairs), n*(n-1))
	}
}

func TestInstancesKeepRouterIDsWhenALaterGatewayIsAdded(t *testing.T) {
	two, three := instances(t, 51, "a", "b"), instances(t, 51, "a", "b", "c")
	for i := range two {
		if two[i].RouterID != three[i].RouterID || !slices.Equal(two[i].Gateways, three[i].Gateways[:2]) {
			t.Errorf("%+v became %+v", two[i], three[i])
		}
	}
}

// A State's meaning may not change with a release: these choices are fixed for ever.
func TestSpreadIsStableOverReleases(t *testing.T) {
	got := map[string]int{}
	list := instances(t, 1, "east", "north", "west")
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.250", "2001:db8::1", "2001:db8::2"} {
		got[a] = desired.Spread(addr(a), list)
	}
	want := map[string]int{
		"192.0.2.1": 5, "192.0.2.2": 1, "192.0.2.3": 6, "198.51.100.250": 4, "2001:db8::1": 2, "2001:db8::2": 5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// addresses are n neighbours: what a pool gives out.
func addresses(n int) []netip.Addr {
	list := []netip.Addr{addr("198.18.0.1")}
	for len(list) < n {
		list = append(list, list[len(list)-1].Next())
	}
	return list
}

func TestSpreadIsEven(t *testing.T) {
	const total = 1000
	for _, names := range [][]string{{"a"}, {"a", "b"}, {"gw1", "gw2", "gw3"}, {"n", "e", "s", "w"}} {
		list := instances(t, 51, names...)
		counts := make([]int, len(list))
		for _, a := range addresses(total) {
			counts[desired.Spread(a, list)-51]++
		}
		share := 1 / float64(len(list))
		// Four standard deviations of a fair draw.
		allowed := 4 * math.Sqrt(total*share*(1-share))
		for i, count := range counts {
			if math.Abs(float64(count)-total*share) > allowed {
				t.Errorf("%q: instance %+v has %d of %d, want %.0f +- %.0f", names, list[i], count, total, total*share, allowed)
			}
		}
		t.Logf("%q: %v", names, counts)
	}
}

func TestSpreadFollowsKeepalivedWhenAGatewayLeaves(t *testing.T) {
	three, two := instances(t, 51, "a", "b", "c"), instances(t, 90, "a", "c")
	heirs := func(list []desired.Instance, a netip.Addr) []string {
		id := desired.Spread(a, list)
		return list[slices.IndexFunc(list, func(i desired.Instance) bool { return i.RouterID == id })].Gateways
	}
	moved := 0
	for _, a := range addresses(3000) {
		before, after := heirs(three, a), heirs(two, a)
		switch {
		case before[0] != "b" && after[0] != before[0]:
			t.Fatalf("%s left %s, which stayed, for %s", a, before[0], after[0])
		case before[0] == "b" && after[0] != before[1]:
			t.Fatalf("%s: held by %s, heir %s, went to %s", a, before[0], before[1], after[0])
		case before[0] == "b":
			moved++
		}
	}
	if moved < 900 || moved > 1100 {
		t.Errorf("%d of 3000 were held by the gateway that left, want a third", moved)
	}
}

func TestSpreadKnowsNoOrderAndNoRouterID(t *testing.T) {
	low, high := instances(t, 1, "a", "b", "c"), instances(t, 101, "c", "b", "a")
	slices.Reverse(high)
	for _, a := range addresses(100) {
		if l, h := desired.Spread(a, low), desired.Spread(a, high); l != h-100 {
			t.Errorf("%s: instance %d of the first, %d of the same from 101 upward", a, l, h)
		}
	}
	if got := desired.Spread(addr("192.0.2.1"), nil); got != 0 {
		t.Errorf("without an instance: %d", got)
	}
}

func BenchmarkSpread(b *testing.B) {
	list := instances(b, 51, "a", "b", "c")
	a := addr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		desired.Spread(a, list)
	}
}
