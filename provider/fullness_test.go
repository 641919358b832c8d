package provider

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func TestFullnessIsToldOnTheWayUp(t *testing.T) {
	count := func(assigned uint64) ipam.Count {
		return ipam.Count{Pool: "main", Family: ipam.IPv4, Size: 20, Assigned: assigned, Releasing: 1, Reserved: 1,
			Quarantined: 1}
	}
	f := newFullness()
	for i, step := range []struct {
		assigned uint64
		want     string // reason and a part of the message
	}{
		{11, ""}, // 14 of 20
		{12, "PoolFilling: pool main: 75 % of the IPv4 addresses are not free any more (15 of 20: 12 assigned, 1 " +
			"releasing, 1 reserved, 1 quarantined)"},
		{13, ""},
		{12, ""},
		{15, "PoolFilling: pool main: 90 % "},
		{17, "PoolExhausted: pool main has no free IPv4 address (20 of 20: 17 assigned, 1 releasing, 1 reserved, 1 " +
			"quarantined): new Services that no other pool serves will wait"},
		{17, ""},
		{16, ""}, // 95 %: below 100 only
		{17, "PoolExhausted: "},
		{11, ""},
		{17, "PoolExhausted: "}, // one Event for all three
		{0, ""},
		{12, "PoolFilling: pool main: 75 %"},
	} {
		var got []string
		for _, event := range f.look([]ipam.Count{count(step.assigned), {Pool: "empty", Family: ipam.IPv6}}) {
			got = append(got, event.reason+": "+event.message)
		}
		if all := strings.Join(got, "\n"); !strings.HasPrefix(all, step.want) || step.want == "" && all != "" {
			t.Errorf("step %d, %d assigned: %q, want %q", i, step.assigned, all, step.want)
		}
	}
}

// Families and pools are told apart, and one that was gone begins anew.
func TestFullnessOfEach(t *testing.T) {
	f := newFullness()
	full := func(pool string, family ipam.Family) ipam.Count {
		return ipam.Count{Pool: pool, Family: family, Size: 1, Assigned: 1}
	}
	for i, step := range []struct {
		counts []ipam.Count
		want   int
	}{
		{[]ipam.Count{full("a", ipam.IPv4)}, 1},
		{[]ipam.Count{full("a", ipam.IPv4), full("a", ipam.IPv6)}, 1},
		{[]ipam.Count{full("a", ipam.IPv4), full("a", ipam.IPv6), full("b", ipam.IPv4)}, 1},
		{[]ipam.Count{full("b", ipam.IPv4)}, 0},
		{[]ipam.Count{full("a", ipam.IPv4), full("b", ipam.IPv4)}, 1},
		{[]ipam.Count{{Pool: "v6", Family: ipam.IPv6, Size: ^uint64(0), Assigned: 1 << 40}}, 0},
	} {
		if got := f.look(step.counts); len(got) != step.want {
			t.Errorf("step %d: %v, want %d", i, got, step.want)
		}
	}
}
