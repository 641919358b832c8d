package wire

import (
	"fmt"
	"net/netip"
	"strings"
)

// Faults are what is wrong with the question, all of it; an agent that finds one asks nothing. Nothing wrong: nil. A name
// or an address that this gateway's links do not have is no fault but an answer.
func (p *Probe) Faults() []Fault {
	if n := len(p.Targets); n > MaxProbeTargets {
		return []Fault{{Field: "targets", Message: fmt.Sprintf("%d addresses are more than the %d of one probe", n, MaxProbeTargets)}}
	}
	var faults []Fault
	for n, target := range p.Targets {
		field := fmt.Sprintf("targets[%d]", n)
		if problem := unaskable(target.Address); problem != "" {
			faults = append(faults, Fault{Field: field + ".address", Message: problem})
		}
		if !isInterfaceName(target.Interface) {
			faults = append(faults, Fault{Field: field + ".interface", Message: fmt.Sprintf("%q is no name of a network interface", target.Interface)})
		}
	}
	return faults
}

// unaskable says why nobody could own an address; "" for one that somebody could.
func unaskable(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "is missing"
	case a.Zone() != "":
		return fmt.Sprintf("%s has a zone; name the interface beside it", a)
	case a.Is4In6():
		return fmt.Sprintf("%s is an IPv4 address in disguise; write %s", a, a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Sprintf("%s is no address of one machine", a)
	}
	return ""
}

// isInterfaceName follows the kernel's dev_valid_name; empty stands for the gateway's own interface.
func isInterfaceName(name string) bool {
	const longest = 15 // IFNAMSIZ without its NUL
	return len(name) <= longest && name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == '/' || r == ':' || r >= 0x7f
	})
}
