package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// Family is an IP version.
type Family int

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String gives "IPv4" or "IPv6", as Kubernetes writes it.
func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// FamilyOf gives the family of a valid address.
func FamilyOf(address netip.Addr) Family {
	if address.Is4() {
		return IPv4
	}
	return IPv6
}

// Pool is a named set of addresses that Services may get.
type Pool struct {
	Name string
	// Ranges may be of both families and must not overlap each other or another pool's.
	Ranges []netipx.IPRange
	// Exclude are parts of Ranges that no Service gets.
	Exclude []netipx.IPRange
	// ShareAcrossNamespaces lets owners of different namespaces share an address.
	ShareAcrossNamespaces bool
}

// Exclusion keeps addresses of a pool from being given to a Service: those of gateways, nodes and the control plane,
// networks' and broadcasts'. It need not lie inside a pool.
type Exclusion struct {
	Range netipx.IPRange
	// Reason completes "192.0.2.1 is excluded: ...", e.g. "VRRP address of gateway gw1".
	Reason string
}

// Exclude is an Exclusion of a single address.
func Exclude(address netip.Addr, reason string) Exclusion {
	return Exclusion{Range: netipx.IPRangeFrom(address, address), Reason: reason}
}

// NetworkAndBroadcast excludes the addresses of prefix that hosts on it do not answer for: the first and last of an
// IPv4 network of at least four addresses (RFC 1122 section 3.2.1.3, RFC 3021 for /31), and the subnet-router anycast
// address, the first, of an IPv6 network (RFC 4291 section 2.6.1; RFC 6164 for /127).
func NetworkAndBroadcast(prefix netip.Prefix) []Exclusion {
	r := netipx.RangeOfPrefix(prefix)
	switch hostBits := prefix.Addr().BitLen() - prefix.Bits(); {
	case !r.IsValid() || hostBits < 2:
		return nil
	case prefix.Addr().Is4():
		return []Exclusion{
			Exclude(r.From(), "network address of "+prefix.Masked().String()),
			Exclude(r.To(), "broadcast address of "+prefix.Masked().String()),
		}
	default:
		return []Exclusion{Exclude(r.From(), "subnet-router anycast address of "+prefix.Masked().String())}
	}
}

// ParseRange reads a CIDR ("192.0.2.0/24"), a range ("192.0.2.10-192.0.2.20", both ends included) or one address.
// Spaces around the addresses are allowed. The error says what is wrong and, where it can be guessed, what was meant.
func ParseRange(s string) (netipx.IPRange, error) {
	r, err := parseRange(strings.TrimSpace(s))
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("address range %q: %w", s, err)
	}
	return r, nil
}

func parseRange(s string) (netipx.IPRange, error) {
	if s == "" {
		return netipx.IPRange{}, errors.New("is empty; want a CIDR, FIRST-LAST or one address")
	}
	if strings.Contains(s, "/") {
		return parseCIDR(s)
	}
	first, last, isRange := strings.Cut(s, "-")
	from, err := parseAddr(strings.TrimSpace(first))
	if err != nil {
		return netipx.IPRange{}, err
	}
	if !isRange {
		return netipx.IPRangeFrom(from, from), nil
	}
	to, err := parseAddr(strings.TrimSpace(last))
	if err != nil {
		return netipx.IPRange{}, err
	}
	if from.Is4() != to.Is4() {
		return netipx.IPRange{}, fmt.Errorf("%s and %s are of different families", from, to)
	}
	if to.Less(from) {
		return netipx.IPRange{}, fmt.Errorf("is upside down; did you mean %s-%s?", to, from)
	}
	return netipx.IPRangeFrom(from, to), nil
}

func parseCIDR(s string) (netipx.IPRange, error) {
	if strings.Contains(s, "-") {
		return netipx.IPRange{}, errors.New("mixes a CIDR and a range; want one of them")
	}
	address, _, _ := strings.Cut(s, "/")
	if _, err := parseAddr(address); err != nil {
		return netipx.IPRange{}, err
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("has no valid prefix length; want /0 to /32 (IPv4) or /128 (IPv6)")
	}
	if masked := prefix.Masked(); masked != prefix {
		return netipx.IPRange{}, fmt.Errorf("has host bits set; did you mean %s or the single address %s?",
			masked, prefix.Addr())
	}
	return netipx.RangeOfPrefix(prefix), nil
}

func parseAddr(s string) (netip.Addr, error) {
	address, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	case address.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s has a zone, which a floating address cannot have", address)
	case address.Is4In6():
		return netip.Addr{}, fmt.Errorf("%s is an IPv4 address written as IPv6; write %s", address, address.Unmap())
	}
	return address, nil
}
