package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/provider/config/strict"
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
func (c *Config) validate(f *strict.Faults) {
	if c.APIVersion != APIVersion {
		f.Add("apiVersion", "%q; allowed is %s", c.APIVersion, APIVersion)
	}
	if c.Kind != Kind {
		f.Add("kind", "%q; allowed is %s", c.Kind, Kind)
	}
	c.validateGateways(f)
	c.validateSSH(f)
	c.validateVRRP(f)
	c.validatePools(f)
	c.validateReservations(f)
	c.Nodes.validate(f)
	c.validatePodCIDRs(f)
	c.validateClientSourceProbes(f)
	oneOf(f, "ipMode", c.IPMode, "VIP", "Proxy")
	if !labelKey(c.LoadBalancerClass) {
		f.Add("loadBalancerClass", "%q; a label key with a prefix (%s) is allowed", c.LoadBalancerClass, LoadBalancerClass)
	}
	if time.Duration(c.ResyncInterval) < 5*time.Second {
		f.Add("resyncInterval", "%s; 5s or more is allowed", c.ResyncInterval)
	}
	if c.ControlPlane != nil {
		c.validateControlPlane(f)
	}
}

func (c *Config) validateGateways(f *strict.Faults) {
	if len(c.Gateways) == 0 {
		f.Add("gateways", "there is none; name at least one machine, better two")
	}
	names, sshHosts, vrrp := map[string]int{}, map[string]int{}, map[netip.Addr]int{}
	var first netip.Addr // the family of all
	for i, g := range c.Gateways {
		path := fmt.Sprintf("gateways[%d]", i)
		if named(f, path+".name", g.Name) {
			once(f, names, path+".name", "gateways[%d].name", g.Name, i)
		}
		portNumber(f, path+".sshPort", g.SSHPort)
		switch {
		case g.SSHAddress == "":
			f.Add(path+".sshAddress", "is missing; a host name or an IP address is allowed")
		case !hostName(g.SSHAddress):
			f.Add(path+".sshAddress", "%q; a host name or an IP address is allowed (the port belongs in sshPort)", g.SSHAddress)
		default:
			once(f, sshHosts, path+".sshAddress", "gateways[%d].sshAddress", fmt.Sprintf("%s port %d", g.SSHAddress, g.SSHPort), i)
		}
		interfaceName(f, path+".interface", g.Interface, true)
		switch {
		case !g.VRRPAddress.IsValid() && hostForm.MatchString(g.SSHAddress):
			f.Add(path+".vrrpAddress", "is missing; it is needed because sshAddress is no IP address")
		case !g.VRRPAddress.IsValid(): // told as the fault of sshAddress
		case !hostAddress(g.VRRPAddress):
			f.Add(path+".vrrpAddress", "%s; the unicast address of a machine is allowed", g.VRRPAddress)
		case first.IsValid() && g.VRRPAddress.Is4() != first.Is4():
			f.Add(path+".vrrpAddress", "%s is of another family than %s of an earlier gateway; all IPv4 or all IPv6 is allowed", g.VRRPAddress, first)
		default:
			first = g.VRRPAddress
			once(f, vrrp, path+".vrrpAddress", "gateways[%d].vrrpAddress", g.VRRPAddress, i)
		}
	}
}

func (c *Config) validateSSH(f *strict.Faults) {
	if !loginName.MatchString(c.SSH.User) {
		f.Add("ssh.user", "%q; a login name (a-z, 0-9, -, _; at most 32) is allowed", c.SSH.User)
	}
	if c.SSH.PrivateKeyFile == "" {
		f.Add("ssh.privateKeyFile", "is missing; the path of the controller's private key is needed")
	}
	if c.SSH.KnownHostsFile == "" {
		f.Add("ssh.knownHostsFile", "is missing; the path of a known_hosts file is needed, host keys are always checked")
	}
}

func (c *Config) validateVRRP(f *strict.Faults) {
	instances := max(1, len(c.Gateways)*(len(c.Gateways)-1))
	switch first, last := c.VRRP.FirstRouterID, c.VRRP.FirstRouterID+instances-1; {
	case first < 1 || first > 255:
		f.Add("vrrp.firstRouterID", "%d; 1 to 255 is allowed", first)
	case last > 255:
		f.Add("vrrp.firstRouterID", "%d gateways need %d router IDs, %d to %d, but 255 is the last; %s", len(c.Gateways), instances, first, last, highestFirst(instances))
	}
	interval := time.Duration(c.VRRP.AdvertInterval)
	if interval < 10*time.Millisecond || interval > 40950*time.Millisecond || interval%(10*time.Millisecond) != 0 {
		f.Add("vrrp.advertInterval", "%s; 10ms to 40.95s in steps of 10ms is allowed", interval)
	}
	if delay := time.Duration(c.VRRP.PreemptDelay); delay < 0 || delay > 1000*time.Second || delay%time.Second != 0 {
		f.Add("vrrp.preemptDelay", "%s; 0s to 1000s in whole seconds is allowed", delay)
	}
}

func highestFirst(instances int) string {
	if instances > 255 {
		return "name fewer gateways"
	}
	return fmt.Sprintf("1 to %d is allowed", 256-instances)
}

func (n *Nodes) validate(f *strict.Faults) {
	oneOf(f, "nodes.addressType", n.AddressType, "InternalIP", "ExternalIP")
	for _, name := range sortedKeys(n.Addresses) {
		path := strict.Key("nodes.addresses", name)
		v4, v6, unread := 0, 0, false
		for i, a := range n.Addresses[name] {
			at := strict.Index(path, i)
			if !Reachable(a) {
				f.Add(at, "%s; an address that other machines can connect to is allowed: unicast, neither loopback nor "+
					"link-local, without a zone", a)
			}
			if a.Is4() {
				v4++
			} else {
				v6++
			}
			unread = unread || f.Unread(at)
		}
		if !unread && (v4 > 1 || v6 > 1 || v4+v6 == 0) {
			f.Add(path, "holds %d IPv4 and %d IPv6 addresses; at most one of each is allowed, and at least one in all", v4, v6)
		}
	}
	for i, p := range n.CIDRs {
		if p.IsValid() && p != p.Masked() {
			f.Add(fmt.Sprintf("nodes.cidrs[%d]", i), "%s has host bits; the network is %s", p, p.Masked())
		}
	}
	if d := time.Duration(n.DrainTime); d < time.Second || d > 24*time.Hour || d%time.Second != 0 {
		f.Add("nodes.drainTime", "%s; 1s to 24h in whole seconds is allowed", n.DrainTime)
	}
	h := n.HealthCheck
	const path = "nodes.healthCheck"
	kind := h.Type
	if !oneOf(f, path+".type", kind, CheckKubeProxy, CheckTCP, CheckNone) || f.Unread(path+".type") {
		kind = ""
	}
	if kind == CheckTCP && h.Port == 0 {
		f.Add(path+".port", "is missing; type tcp needs a port that every worker listens on, for example 10250 (kubelet)")
	}
	validateCheck(f, path, kind, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
}

func (c *Config) validateControlPlane(f *strict.Faults) {
	p := c.ControlPlane
	switch {
	case !p.Address.IsValid():
		f.Add("controlPlane.address", "is missing; the floating address of the API server is needed")
	case !hostAddress(p.Address):
		f.Add("controlPlane.address", "%s; a unicast address is allowed", p.Address)
	}
	for i, g := range c.Gateways {
		if p.Address.IsValid() && g.VRRPAddress == p.Address {
			f.Add("controlPlane.address", "%s is gateways[%d].vrrpAddress; it must be an address of its own, which keepalived moves", p.Address, i)
		}
	}
	portNumber(f, "controlPlane.port", p.Port)
	interfaceName(f, "controlPlane.interface", p.Interface, false)
	if len(p.Endpoints) == 0 {
		f.Add("controlPlane.endpoints", "is empty; name the API servers")
	}
	seen := map[netip.AddrPort]int{}
	for i, text := range p.Endpoints {
		path := fmt.Sprintf("controlPlane.endpoints[%d]", i)
		e, err := parseEndpoint(text)
		switch {
		case err != nil || e.Port() == 0 || !hostAddress(e.Addr()):
			f.Add(path, "%q; an address or address:port (192.0.2.11, [2001:db8::11]:6443) is allowed", text)
		case e.Addr() == p.Address:
			f.Add(path, "%s is controlPlane.address itself; an API server's own address is allowed", text)
		default:
			once(f, seen, path, "controlPlane.endpoints[%d]", e, i)
		}
	}
	if _, differ := commonPort(p.Endpoints); p.EndpointsFromNodes && differ {
		f.Add("controlPlane.endpointsFromNodes", "the endpoints have different ports, so that a Node's is not known; "+
			"give all of them one port, or leave this out")
	}
	p.validateExtraPorts(f)
	p.validateCheck(f)
}

func (p *ControlPlane) validateCheck(f *strict.Faults) {
	const path = "controlPlane.check"
	h := p.Check
	kind := h.Type
	known := oneOf(f, path+".type", kind, CheckHTTPS, CheckTLS, CheckTCP, CheckNone)
	// The default depends on caFile.
	if !known || f.Unread(path+".type") || kind == CheckTLS && f.Unread(path+".caFile") {
		kind = ""
	}
	switch {
	case kind == CheckHTTPS && h.CAFile.Path == "":
		f.Add(path+".caFile", "is missing; type https verifies the API server with it (type tls completes the handshake and "+
			"asks for nothing)")
	case kind != CheckHTTPS && kind != "" && h.CAFile.Path != "":
		f.Add(path+".caFile", "%s; type %s verifies no certificate, leave it out or take https", h.CAFile.Path, kind)
	}
	if _, differ := commonPort(p.Endpoints); differ && h.Port == 0 && kind != CheckNone {
		f.Add(path+".port", "is missing; it is needed because the endpoints have different ports")
	}
	validateCheck(f, path, kind, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
}

func (p *ControlPlane) validateExtraPorts(f *strict.Faults) {
	seen := map[int]int{}
	for i, e := range p.ExtraPorts {
		path := fmt.Sprintf("controlPlane.extraPorts[%d]", i)
		portNumber(f, path+".port", e.Port)
		if e.EndpointPort != e.Port { // told above
			portNumber(f, path+".endpointPort", e.EndpointPort)
		}
		if e.Port == p.Port {
			f.Add(path+".port", "%d is controlPlane.port; each may be there once", e.Port)
			continue
		}
		once(f, seen, path+".port", "controlPlane.extraPorts[%d].port", e.Port, i)
	}
}

// validateCheck judges what checks of workers and of API servers have in common. Of a kind that is unknown, "", it judges
// what holds for all kinds. A port that is missing, 0, has been told.
func validateCheck(f *strict.Faults, path, kind string, port int, uri string, interval Duration, rise, fall int) {
	web := kind == CheckKubeProxy || kind == CheckHTTPS
	switch {
	case kind == CheckNone && port != 0:
		f.Add(path+".port", "%d; type none checks nothing, leave the port out", port)
	case port != 0:
		portNumber(f, path+".port", port)
	}
	switch {
	case web && !uriPath.MatchString(uri):
		f.Add(path+".path", "%q; a path that begins with / and has no spaces is allowed", uri)
	case !web && kind != "" && uri != "":
		f.Add(path+".path", "%q; type %s asks for no path, leave it out", uri, kind)
	}
	if d := time.Duration(interval); d < 100*time.Millisecond || d > time.Hour || d%time.Millisecond != 0 {
		f.Add(path+".interval", "%s; 100ms to 1h in whole milliseconds is allowed", d)
	}
	for _, count := range []struct {
		name  string
		value int
	}{{"rise", rise}, {"fall", fall}} {
		if count.value < 1 || count.value > 100 {
			f.Add(path+"."+count.name, "%d; 1 to 100 is allowed", count.value)
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

// named says whether a name is a DNS label, and tells what it is otherwise.
func named(f *strict.Faults, path, name string) bool {
	switch {
	case dnsLabel(name):
		return true
	case name == "":
		f.Add(path, "is missing; a DNS label (a-z, 0-9, -; at most 63) is needed")
	default:
		f.Add(path, "%q; a DNS label (a-z, 0-9, -; at most 63) is allowed", name)
	}
	return false
}

func interfaceName(f *strict.Faults, path, name string, needed bool) {
	switch {
	case name == "" && needed:
		f.Add(path, "is missing; the name of a network interface (eth0) is needed")
	case name != "" && !linkName.MatchString(name):
		f.Add(path, "%q; the name of a network interface (at most 15 characters, such as eth0) is allowed", name)
	}
}

func portNumber(f *strict.Faults, path string, port int) {
	if port < 1 || port > 65535 {
		f.Add(path, "%d; 1 to 65535 is allowed", port)
	}
}

func oneOf(f *strict.Faults, path, value string, allowed ...string) bool {
	if slices.Contains(allowed, value) {
		return true
	}
	f.Add(path, "%q; allowed is %s", value, strings.Join(allowed, ", "))
	return false
}

// once notes a fault when key was seen before; other is the path of the first one, with %d for its index.
func once[K comparable](f *strict.Faults, seen map[K]int, path, other string, key K, index int) bool {
	if first, twice := seen[key]; twice {
		f.Add(path, "%v is %s too; each may be there once", key, fmt.Sprintf(other, first))
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
