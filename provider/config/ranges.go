package config

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// parseRange reads one entry of a pool and refuses what no Service could use.
func parseRange(text string) (netipx.IPRange, error) {
	r, err := readRange(strings.TrimSpace(text))
	if err != nil {
		return netipx.IPRange{}, err
	}
	for _, special := range neverVIPs {
		if r.Overlaps(netipx.RangeOfPrefix(special.network)) {
			return netipx.IPRange{}, fmt.Errorf("%s reaches into %s (%s); unicast addresses of the network are allowed", text, special.network, special.what)
		}
	}
	return r, nil
}

var neverVIPs = []struct {
	network netip.Prefix
	what    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network, RFC 791"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local; VRRP anchors are there"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast and reserved"},
	{netip.MustParsePrefix("::/127"), "unspecified and loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

func readRange(text string) (netipx.IPRange, error) {
	if low, high, isRange := strings.Cut(text, "-"); isRange {
		from, err1 := netip.ParseAddr(strings.TrimSpace(low))
		to, err2 := netip.ParseAddr(strings.TrimSpace(high))
		switch {
		case err1 != nil || err2 != nil:
		case from.Is4() != to.Is4():
			return netipx.IPRange{}, fmt.Errorf("%s mixes IPv4 and IPv6", text)
		case to.Less(from):
			return netipx.IPRange{}, fmt.Errorf("%s is upside down; write the lower address first: %s-%s", text, to, from)
		default:
			return netipx.IPRangeFrom(from, to), nil
		}
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		if p != p.Masked() {
			return netipx.IPRange{}, fmt.Errorf("%s has host bits; the network is %s", text, p.Masked())
		}
		return netipx.RangeOfPrefix(p), nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netipx.IPRangeFrom(a.Unmap(), a.Unmap()), nil
	}
	return netipx.IPRange{}, fmt.Errorf("%q; a network (192.0.2.0/26), a range (192.0.2.10-192.0.2.20) or an address is allowed", text)
}
