package desired_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func prefixList(text string) (list []netip.Prefix) {
	for word := range strings.FieldsSeq(text) {
		list = append(list, prefix(word))
	}
	return list
}

func TestMergePrefixes(t *testing.T) {
	for _, test := range []struct{ name, of, want string }{
		{"none", "", ""},
		{"one inside another", "10.1.0.0/16 10.0.0.0/8", "10.0.0.0/8"},
		{"the same", "10.0.0.0/8 10.0.0.0/8 2001:db8::/32 2001:db8::/32", "10.0.0.0/8 2001:db8::/32"},
		{"host bits", "10.1.2.3/8 2001:db8::1/32", "10.0.0.0/8 2001:db8::/32"},
		{"halves", "10.128.0.0/9 10.0.0.0/9", "10.0.0.0/8"},
		{"quarters", "192.0.2.0/26 192.0.2.192/26 192.0.2.64/26 192.0.2.128/26", "192.0.2.0/24"},
		{"neighbours that are no halves of one", "192.0.2.64/26 192.0.2.128/26", "192.0.2.64/26 192.0.2.128/26"},
		{"halves of a half inside a whole", "10.0.0.0/8 10.0.0.0/9 10.128.0.0/9 11.0.0.0/8", "10.0.0.0/7"},
		{"single addresses", "192.0.2.1/32 192.0.2.0/32 2001:db8::/128 2001:db8::1/128", "192.0.2.0/31 2001:db8::/127"},
		{"everybody", "128.0.0.0/1 0.0.0.0/1 ::/1 8000::/1", "0.0.0.0/0 ::/0"},
		{"everybody of one family", "0.0.0.0/0 10.0.0.0/8 ::/1", "0.0.0.0/0 ::/1"},
		{"families whose bits are equal", "10.0.0.0/8 a00::/8", "10.0.0.0/8 a00::/8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			of := prefixList(test.of)
			before := slices.Clone(of)
			if diff := cmp.Diff(prefixList(test.want), desired.MergePrefixes(of), exact); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if !slices.Equal(before, of) {
				t.Errorf("the list was changed to %v", of)
			}
		})
	}
}

// prefixes are few enough to touch and contain each other.
func prefixes() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		low := byte(rapid.IntRange(0, 15).Draw(t, "low"))
		bits := rapid.IntRange(0, 4).Draw(t, "bits")
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, low}), 28+bits)
		}
		address := addr("2001:db8::").As16()
		address[15] = low
		return netip.PrefixFrom(netip.AddrFrom16(address), 124+bits)
	})
}

// Merged prefixes contain what the unmerged ones do, none overlaps another, and there are no fewer that would do.
func TestMergePrefixesKeepsWhatIsInside(t *testing.T) {
	contain := func(list []netip.Prefix, a netip.Addr) (n int) {
		for _, p := range list {
			if p.Contains(a) {
				n++
			}
		}
		return n
	}
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.SliceOfN(prefixes(), 0, 12).Draw(t, "prefixes")
		merged := desired.MergePrefixes(of)
		for _, first := range []netip.Addr{addr("192.0.2.0"), addr("2001:db8::")} {
			for a, n := first, 0; n < 16; a, n = a.Next(), n+1 {
				if want, got := min(contain(of, a), 1), contain(merged, a); got != want {
					t.Fatalf("%v became %v: %s lies in %d of them, want %d", of, merged, a, got, want)
				}
			}
		}
		if again := desired.MergePrefixes(merged); !slices.Equal(again, merged) {
			t.Fatalf("%v merged again is %v", merged, again)
		}
		if other := desired.MergePrefixes(rapid.Permutation(of).Draw(t, "order")); !slices.Equal(other, merged) {
			t.Fatalf("in another order %v is %v", merged, other)
		}
		for i := range merged {
			for j := range merged[:i] {
				a, b := merged[j], merged[i]
				if whole := netip.PrefixFrom(a.Addr(), max(a.Bits()-1, 0)).Masked(); a.Bits() == b.Bits() && whole.Contains(b.Addr()) {
					t.Fatalf("%s and %s are %s", a, b, whole)
				}
			}
		}
	})
}

func TestAdmittedTo(t *testing.T) {
	for _, test := range []struct {
		name, allow, deny string
		v4, v6            string // what is allowed and, behind a bar, denied
	}{
		{"everybody", "", "", "0.0.0.0/0 |", "::/0 |"},
		{"some", "10.0.0.0/8 10.1.0.0/16 2001:db8::/32", "", "10.0.0.0/8 |", "2001:db8::/32 |"},
		{"the other family only", "10.0.0.0/8", "", "10.0.0.0/8 |", "|"},
		{"all but some", "", "10.1.0.0/16 2001:db8::/32", "0.0.0.0/0 | 10.1.0.0/16", "::/0 | 2001:db8::/32"},
		{"some but some", "10.0.0.0/8 ::/0", "10.1.0.0/16", "10.0.0.0/8 | 10.1.0.0/16", "::/0 |"},
		{"nobody of a family", "10.0.0.0/8", "0.0.0.0/1 128.0.0.0/1", "|", "|"},
		{"denied where nobody is allowed", "10.0.0.0/8", "2001:db8::/32", "10.0.0.0/8 |", "|"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lb := desired.LoadBalancer{AllowSources: prefixList(test.allow), DenySources: prefixList(test.deny)}
			for address, want := range map[string]string{"192.0.2.10": test.v4, "2001:db8:1::10": test.v6} {
				allowed, denied, _ := strings.Cut(want, "|")
				allow, deny := lb.AdmittedTo(addr(address))
				if !slices.Equal(allow, prefixList(allowed)) || !slices.Equal(deny, prefixList(denied)) {
					t.Errorf("%s: %v but %v, want %s", address, allow, deny, want)
				}
			}
		})
	}
}

func TestValidateSources(t *testing.T) {
	lb := func(change func(lb *desired.LoadBalancer)) func(s *desired.State) {
		return func(s *desired.State) { change(&s.LoadBalancers[1]) }
	}
	const owner = "default/local loadBalancers[default/local]"
	runFaultTests(t, []faultTest{
		{"too many sources", lb(func(lb *desired.LoadBalancer) {
			lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 81, NodePort: 31081})
			for i := range 5001 {
				lb.DenySources = append(lb.DenySources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
			}
		}), []string{owner + ".allowSources: and denySources are 5001 prefixes for each of 4 frontends; allowed are 10000 together"}},
		{"sources", lb(func(lb *desired.LoadBalancer) {
			lb.AllowSources = []netip.Prefix{prefix("10.0.0.0/8"), {}}
			lb.DenySources = []netip.Prefix{netip.PrefixFrom(addr("10.0.0.0"), 33), prefix("::ffff:10.0.0.0/104")}
		}), []string{
			owner + ".allowSources[1]: is no prefix", owner + ".denySources[0]: is no prefix",
			owner + ".denySources[1]: ::ffff:10.0.0.0/104 is an IPv4 prefix in IPv6 form",
		}},
	})
}
