package desired

import (
	"net/netip"
	"slices"
)

// AdmittedTo says whose connections to one of the load balancer's addresses are taken: those from allow that are not from
// deny. One allowed prefix of length 0 is everybody; none is nobody. Both lists are merged and of the address' family.
func (l LoadBalancer) AdmittedTo(address netip.Addr) (allow, deny []netip.Prefix) {
	everybody := netip.PrefixFrom(address, 0).Masked()
	allow, deny = ofFamily(l.AllowSources, address), ofFamily(l.DenySources, address)
	if len(l.AllowSources) == 0 {
		allow = []netip.Prefix{everybody}
	}
	if len(allow) == 0 || slices.Contains(deny, everybody) {
		return nil, nil
	}
	return allow, deny
}

func ofFamily(prefixes []netip.Prefix, address netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(MergePrefixes(prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != address.Is4() })
}

// MergePrefixes gives the fewest prefixes that contain the same addresses, sorted: 10.0.0.0/8 for 10.1.2.3/8 with
// 10.1.0.0/16, and for 10.0.0.0/9 with 10.128.0.0/9. It changes nothing. nft needs it: of intervals that overlap it
// refuses the whole table. An invalid prefix stays, for Validate to find.
func MergePrefixes(prefixes []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	// A prefix comes right before what lies in it: families apart, by address, the shorter first.
	slices.SortFunc(sorted, netip.Prefix.Compare)
	var merged []netip.Prefix
	for _, p := range sorted {
		if n := len(merged); n > 0 && (merged[n-1] == p || merged[n-1].Contains(p.Addr())) {
			continue
		}
		merged = append(merged, p)
		for n := len(merged); n > 1 && halves(merged[n-2], merged[n-1]); n-- {
			merged = append(merged[:n-2], parent(merged[n-2]))
		}
	}
	return merged
}

// halves says whether two prefixes, none of which contains the other, are one together.
func halves(a, b netip.Prefix) bool {
	return a.Bits() > 0 && a.Bits() == b.Bits() && a.Addr().Is4() == b.Addr().Is4() && parent(a) == parent(b)
}

func parent(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() }
