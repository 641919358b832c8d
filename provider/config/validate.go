package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The values of healthCheck.type and controlPlane.check.type.
const (
	CheckKubeProxy = "kube-proxy"
	CheckTCP       = "tcp"
	CheckTLS       = "tls"
	CheckHTTPS     = "https"
	CheckNone      = "none"
)

// validate tells every fault that a completed configuration has.
func (c *Config) validate(f *faults) {
	if c.APIVersion != APIVersion {
		f.add("apiVersion", "%q; allowed is %s", c.APIVersion, APIVersion)
	}
	if c.Kind != Kind {
		f.add("kind", "%q; allowed is %s", c.Kind, Kind)
	}
	c.validateGateways(f)
	c.validateSSH(f)
	c.validateVRRP(f)
	c.validatePools(f)
	c.validateReservations(f)
	c.Nodes.validate(f)
	oneOf(f, "ipMode", c.IPMode, "VIP", "Proxy")
	if !labelKey(c.LoadBalancerClass) {
		f.add("loadBalancerClass", "%q; a label key with a prefix (%s) is allowed", c.LoadBalancerClass, LoadBalancerClass)
	}
	if time.Duration(c.ResyncInterval) < 5*time.Second {
		f.add("resyncInterval", "%s; 5s or more is allowed", c.ResyncInterval)
	}
	if c.ControlPlane != nil {
		c.validateControlPlane(f)
	}
}

func (c *Config) validateGateways(f *faults) {
	if len(c.Gateways) == 0 {
		f.add("gateways", "there is none; name at least one machine, better two")
	}
	names, sshHosts, vrrp := map[string]int{}, map[string]int{}, map[netip.Addr]int{}
	var first netip.Addr // the family of all
	for i, g := range c.Gateways {
		path := fmt.Sprintf("gateways[%d]", i)
		if !dnsLabel(g.Name) {
			f.add(path+".name", "%q; a DNS label (a-z, 0-9, -; at most 63) is allowed", g.Name)
		} else {
			once(f, names, path+".name", "gateways[%d].name", g.Name, i)
		}
		f.port(path+".sshPort", g.SSHPort)
		switch {
		case g.SSHAddress == "":
			f.add(path+".sshAddress", "is missing; a host name or an IP address is allowed")
		case !hostName(g.SSHAddress):
			f.add(path+".sshAddress", "%q; a host name or an IP address is allowed (the port belongs in sshPort)", g.SSHAddress)
		default:
			once(f, sshHosts, path+".sshAddress", "gateways[%d].sshAddress", fmt.Sprintf("%s port %d", g.SSHAddress, g.SSHPort), i)
		}
		interfaceName(f, path+".interface", g.Interface, true)
		switch {
		case !g.VRRPAddress.IsValid() && hostForm.MatchString(g.SSHAddress):
			f.add(path+".vrrpAddress", "is missing; it is needed because sshAddress is no IP address")
		case !g.VRRPAddress.IsValid(): // told as the fault of sshAddress
		case !hostAddress(g.VRRPAddress):
			f.add(path+".vrrpAddress", "%s; the unicast address of a machine is allowed", g.VRRPAddress)
		case first.IsValid() && g.VRRPAddress.Is4() != first.Is4():
			f.add(path+".vrrpAddress", "%s is of another family than %s of an earlier gateway; all IPv4 or all IPv6 is allowed", g.VRRPAddress, first)
		default:
			first = g.VRRPAddress
			once(f, vrrp, path+".vrrpAddress", "gateways[%d].vrrpAddress", g.VRRPAddress, i)
		}
	}
}

func (c *Config) validateSSH(f *faults) {
	if !loginName.MatchString(c.SSH.User) {
		f.add("ssh.user", "%q; a login name (a-z, 0-9, -, _; at most 32) is allowed", c.SSH.User)
	}
	if c.SSH.PrivateKeyFile == "" {
		f.add("ssh.privateKeyFile", "is missing; the path of the controller's private key is needed")
	}
	if c.SSH.KnownHostsFile == "" {
		f.add("ssh.knownHostsFile", "is missing; the path of a known_hosts file is needed, host keys are always checked")
	}
}

func (c *Config) validateVRRP(f *faults) {
	instances := max(1, len(c.Gateways)*(len(c.Gateways)-1))
	switch first, last := c.VRRP.FirstRouterID, c.VRRP.FirstRouterID+instances-1; {
	case first < 1 || first > 255:
		f.add("vrrp.firstRouterID", "%d; 1 to 255 is allowed", first)
	case last > 255:
		f.add("vrrp.firstRouterID", "%d gateways need %d router IDs, %d to %d, but 255 is the last; %s", len(c.Gateways), instances, first, last, highestFirst(instances))
	}
	interval := time.Duration(c.VRRP.AdvertInterval)
	if interval < 10*time.Millisecond || interval > 40950*time.Millisecond || interval%(10*time.Millisecond) != 0 {
		f.add("vrrp.advertInterval", "%s; 10ms to 40.95s in steps of 10ms is allowed", interval)
	}
}

func highestFirst(instances int) string {
	if instances > 255 {
		return "name fewer gateways"
	}
	return fmt.Sprintf("1 to %d is allowed", 256-instances)
}

func (n *Nodes) validate(f *faults) {
	oneOf(f, "nodes.addressType", n.AddressType, "InternalIP", "ExternalIP")
	for _, name := range sortedKeys(n.Addresses) {
		path := "nodes.addresses." + name
		v4, v6 := 0, 0
		for _, a := range n.Addresses[name] {
			if !Reachable(a) {
				f.add(path, "%s; an address that other machines can connect to is allowed: unicast, neither loopback nor link-local, without a zone", a)
			}
			if a.Is4() {
				v4++
			} else {
				v6++
			}
		}
		if v4 > 1 || v6 > 1 || v4+v6 == 0 {
			f.add(path, "holds %d IPv4 and %d IPv6 addresses; at most one of each is allowed, and at least one in all", v4, v6)
		}
	}
	for i, p := range n.CIDRs {
		if p.IsValid() && p != p.Masked() {
			f.add(fmt.Sprintf("nodes.cidrs[%d]", i), "%s has host bits; the network is %s", p, p.Masked())
		}
	}
	h := n.HealthCheck
	const path = "nodes.healthCheck"
	if !oneOf(f, path+".type", h.Type, CheckKubeProxy, CheckTCP, CheckNone) {
		return
	}
	validateCheck(f, path, h.Type, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
}

func (c *Config) validateControlPlane(f *faults) {
	p := c.ControlPlane
	switch {
	case !p.Address.IsValid():
		f.add("controlPlane.address", "is missing; the floating address of the API server is needed")
	case !hostAddress(p.Address):
		f.add("controlPlane.address", "%s; a unicast address is allowed", p.Address)
	}
	for i, g := range c.Gateways {
		if p.Address.IsValid() && g.VRRPAddress == p.Address {
			f.add("controlPlane.address", "%s is gateways[%d].vrrpAddress; it must be an address of its own, which keepalived moves", p.Address, i)
		}
	}
	f.port("controlPlane.port", p.Port)
	interfaceName(f, "controlPlane.interface", p.Interface, false)
	if len(p.Endpoints) == 0 {
		f.add("controlPlane.endpoints", "is empty; name the API servers")
	}
	seen := map[netip.AddrPort]int{}
	for i, text := range p.Endpoints {
		path := fmt.Sprintf("controlPlane.endpoints[%d]", i)
		e, err := parseEndpoint(text)
		switch {
		case err != nil || e.Port() == 0 || !hostAddress(e.Addr()):
			f.add(path, "%q; an address or address:port (192.0.2.11, [2001:db8::11]:6443) is allowed", text)
		case e.Addr() == p.Address:
			f.add(path, "%s is controlPlane.address itself; an API server's own address is allowed", text)
		default:
			once(f, seen, path, "controlPlane.endpoints[%d]", e, i)
		}
	}
	if port, same := commonPort(p.Endpoints); p.EndpointsFromNodes && !same && port != 0 {
		f.add("controlPlane.endpointsFromNodes", "the endpoints have different ports, so that a Node's is not known; give all of them one port, or leave this out")
	}
	p.validateExtraPorts(f)
	h := p.Check
	const path = "controlPlane.check"
	if !oneOf(f, path+".type", h.Type, CheckHTTPS, CheckTLS, CheckTCP, CheckNone) {
		return
	}
	switch web := h.Type == CheckHTTPS; {
	case web && h.CAFile.Path == "":
		f.add(path+".caFile", "is missing; type https verifies the API server with it (type tls completes the handshake and asks for nothing)")
	case !web && h.CAFile.Path != "":
		f.add(path+".caFile", "%s; type %s verifies no certificate, leave it out or take https", h.CAFile.Path, h.Type)
	}
	if _, same := commonPort(p.Endpoints); !same && h.Port == 0 && h.Type != CheckNone && len(p.Endpoints) > 0 {
		f.add(path+".port", "is missing; it is needed because the endpoints have different ports")
		return
	}
	if len(p.Endpoints) == 0 && h.Port == 0 {
		return // told above
	}
	validateCheck(f, path, h.Type, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
}

func (p *ControlPlane) validateExtraPorts(f *faults) {
	seen := map[int]int{}
	for i, e := range p.ExtraPorts {
		path := fmt.Sprintf("controlPlane.extraPorts[%d]", i)
		f.port(path+".port", e.Port)
		if e.EndpointPort != e.Port { // told above
			f.port(path+".endpointPort", e.EndpointPort)
		}
		if e.Port == p.Port {
			f.add(path+".port", "%d is controlPlane.port; each may be there once", e.Port)
			continue
		}
		once(f, seen, path+".port", "controlPlane.extraPorts[%d].port", e.Port, i)
	}
}

func validateCheck(f *faults, path, kind string, port int, uri string, interval Duration, rise, fall int) {
	web := kind == CheckKubeProxy || kind == CheckHTTPS
	switch {
	case kind == CheckNone && port != 0:
		f.add(path+".port", "%d; type none checks nothing, leave the port out", port)
	case kind == CheckTCP && port == 0:
		f.add(path+".port", "is missing; type tcp needs a port that every worker listens on, for example 10250 (kubelet)")
	case kind != CheckNone:
		f.port(path+".port", port)
	}
	switch {
	case web && !uriPath.MatchString(uri):
		f.add(path+".path", "%q; a path that begins with / and has no spaces is allowed", uri)
	case !web && uri != "":
		f.add(path+".path", "%q; type %s asks for no path, leave it out", uri, kind)
	}
	if d := time.Duration(interval); d < 100*time.Millisecond || d > time.Hour || d%time.Millisecond != 0 {
		f.add(path+".interval", "%s; 100ms to 1h in whole milliseconds is allowed", d)
	}
	for _, count := range []struct {
		name  string
		value int
	}{{"rise", rise}, {"fall", fall}} {
		if count.value < 1 || count.value > 100 {
			f.add(path+"."+count.name, "%d; 1 to 100 is allowed", count.value)
		}
	}
}

var (
	label     = `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`
	labelForm = regexp.MustCompile(`^` + label + `$`)
	hostForm  = regexp.MustCompile(`^(?i:` + label + `(\.` + label + `)*\.?)$`)
	keyForm   = regexp.MustCompile(`^` + label + `(\.` + label + `)*/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	loginName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	linkName  = regexp.MustCompile(`^[^\s/"'{}#!:]{1,15}$`) // IFNAMSIZ, and nothing that keepalived.conf or nft would read otherwise
	uriPath   = regexp.MustCompile(`^/[!-~]*$`)
)

func dnsLabel(s string) bool { return labelForm.MatchString(s) }
func labelKey(s string) bool { return keyForm.MatchString(s) }

func hostName(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return hostAddress(a)
	}
	return hostForm.MatchString(s) && len(s) <= 253
}

// hostAddress says whether an address can be one machine's on a network: unicast, not loopback, without a zone.
func hostAddress(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == "" &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Reachable says whether another machine can connect to a node's address without naming an interface.
func Reachable(a netip.Addr) bool { return hostAddress(a) && !a.IsLinkLocalUnicast() }

func interfaceName(f *faults, path, name string, needed bool) {
	switch {
	case name == "" && needed:
		f.add(path, "is missing; the name of a network interface (eth0) is needed")
	case name != "" && !linkName.MatchString(name):
		f.add(path, "%q; the name of a network interface (at most 15 characters, such as eth0) is allowed", name)
	}
}

func (f *faults) port(path string, port int) {
	if port < 1 || port > 65535 {
		f.add(path, "%d; 1 to 65535 is allowed", port)
	}
}

func oneOf(f *faults, path, value string, allowed ...string) bool {
	if slices.Contains(allowed, value) {
		return true
	}
	f.add(path, "%q; allowed is %s", value, strings.Join(allowed, ", "))
	return false
}

// once notes a fault when key was seen before; other is the path of the first one, with %d for its index.
func once[K comparable](f *faults, seen map[K]int, path, other string, key K, index int) bool {
	if first, twice := seen[key]; twice {
		f.add(path, "%v is %s too; each may be there once", key, fmt.Sprintf(other, first))
		return false
	}
	seen[key] = index
	return true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
