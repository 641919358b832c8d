package config

import (
	"fmt"
	"net/netip"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
)

// parseRange reads one entry of a pool and refuses what no Service could use.
func parseRange(text string) (netipx.IPRange, error) {
	r, err := ipam.ParseRange(text)
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
