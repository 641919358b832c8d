package desired

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// The functions of this file judge single values. Each returns what is wrong and what is allowed, or "". They are
// lists of what is allowed, not of what is known to hurt: these values end in configuration files and runtime commands
// of three programs with three ways to quote. They use no regexp because Validate sees ten thousands of values.

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

func isSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// labelProblem judges a DNS label (RFC 1123): namespaces, Services, ports, gateways.
func labelProblem(s string) string {
	if isLabel(s) {
		return ""
	}
	return fmt.Sprintf("%q is no DNS label; allowed are 1 to 63 lower-case letters, digits and '-', not '-' at either end", s)
}

// KeyProblem says what keeps a State with this name of a Service in it from being valid; "" when nothing does.
func KeyProblem(k Key) string {
	for _, part := range []string{k.Namespace, k.Name} {
		if problem := labelProblem(part); problem != "" {
			return problem
		}
	}
	return ""
}

// subdomainProblem judges a DNS subdomain (RFC 1123): node names.
func subdomainProblem(s string) string {
	if isSubdomain(s) {
		return ""
	}
	return fmt.Sprintf("%q is no DNS subdomain; allowed are DNS labels joined by '.', at most 253 characters", s)
}

// consistsOf says whether s has only ASCII letters, digits and characters of more.
func consistsOf(s, more string) bool {
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isUpper(c) && !isDigit(c) && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// identifierProblem judges UIDs, random instance names and pool names. An empty one is judged by the caller.
func identifierProblem(s string) string {
	if len(s) <= 128 && consistsOf(s, "-._") {
		return ""
	}
	return fmt.Sprintf("%q is no identifier; allowed are at most 128 letters, digits, '-', '.' and '_'", s)
}

// descriptionProblem judges what says who somebody is, for people: words with one space between them.
func descriptionProblem(s string) string {
	if s != "" && s == Description(s) {
		return ""
	}
	return fmt.Sprintf("%q is no description; allowed are words of letters, digits and characters of %s with a space between them, "+
		"1 to %d characters in all", s, descriptive, longestDescription)
}

const (
	descriptive        = "-._:()/,@+"
	longestDescription = 128
)

// Description makes what Validate allows as Quarantined.By of any text, which may have passed through a person's hands:
// no text that is only for people may stop a round.
func Description(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (r == ' ' || consistsOf(string(r), descriptive)) {
			return r
		}
		return '_'
	}, strings.Join(strings.Fields(text), " "))
	return cmp.Or(strings.TrimSpace(text[:min(len(text), longestDescription)]), "unknown")
}

func protocolProblem(p Protocol) string {
	if p == TCP || p == UDP || p == SCTP {
		return ""
	}
	return fmt.Sprintf("is %q; allowed are TCP, UDP and SCTP", p)
}

// interfaceProblem judges a network interface name: shorter than IFNAMSIZ (16), and of the characters that Linux
// allows those that mean nothing to keepalived and nft (nft takes a trailing '*' for a wildcard).
func interfaceProblem(s string) string {
	if 0 < len(s) && len(s) <= 15 && s != "." && s != ".." && consistsOf(s, "-._@+") {
		return ""
	}
	return fmt.Sprintf("%q is no interface name; allowed are 1 to 15 letters, digits, '-', '.', '_', '@' and '+'", s)
}

// PathProblem judges an HTTP path: it says what keeps a State with a check that asks for it from being valid; "" when nothing does. ';' is left out because it separates HAProxy's runtime commands.
func PathProblem(s string) string {
	if strings.HasPrefix(s, "/") && len(s) <= 256 && consistsOf(s, "/-._~%:@&+,=?") {
		return ""
	}
	return fmt.Sprintf("%q is no path; allowed are '/' and then at most 255 letters, digits and characters of /-._~%%:@&+,=?", s)
}

// CheckAddress says why an address cannot be a VIP, whatever else a State has.
func CheckAddress(a netip.Addr) error {
	if problem := addressProblem(a); problem != "" {
		return errors.New(problem)
	}
	return nil
}

// addressProblem judges an address that packets are sent to.
func addressProblem(a netip.Addr) string {
	if problem := machineAddressProblem(a); problem != "" {
		return problem
	}
	if a.IsLinkLocalUnicast() {
		return fmt.Sprintf("%s is a link-local address; %s", a, allowedAddress)
	}
	return ""
}

const allowedAddress = "allowed is a unicast address, IPv4 or IPv6, without zone"

// AddressProblem says what keeps a State with this address of a Service in it from being valid; "" when nothing does.
func AddressProblem(a netip.Addr) string { return addressProblem(a) }

// machineAddressProblem is addressProblem for a neighbour on a known interface, where IPv6 link-local is fine. IPv4
// link-local is not: 169.254.0.0/16 is where the anchors of VRRP instances are.
func machineAddressProblem(a netip.Addr) string {
	kind := ""
	switch {
	case !a.IsValid():
		return "is missing; " + allowedAddress
	case a.Zone() != "":
		kind = "has a zone"
	case a.Is4In6():
		kind = "is IPv4 written as IPv6 (IPv4-mapped)"
	case a.IsUnspecified():
		kind = "is the unspecified address"
	case a.IsLoopback():
		kind = "is a loopback address"
	case a.Is6() && [12]byte(a.AsSlice()[:12]) == [12]byte{}:
		// HAProxy and nft print it with dots (inet_ntop(3)), netip without: it would match no entry of the map.
		kind = "is IPv4 written as IPv6 (IPv4-compatible, RFC 4291 section 2.5.5.1)"
	case a.IsMulticast():
		kind = "is a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		kind = "is the broadcast address"
	case a.Is4() && a.IsLinkLocalUnicast():
		kind = "is a link-local address"
	default:
		return ""
	}
	return fmt.Sprintf("%s %s; %s", a, kind, allowedAddress)
}

// familiesProblem wants one address, or one of each family.
func familiesProblem(addresses []netip.Addr) string {
	four := 0
	for _, a := range addresses {
		if a.Is4() {
			four++
		}
	}
	if six := len(addresses) - four; len(addresses) == 0 || four > 1 || six > 1 {
		return fmt.Sprintf("has %d IPv4 and %d IPv6 addresses; allowed is at least one, and at most one of each", four, six)
	}
	return ""
}
