package site

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"golang.org/x/crypto/ssh/knownhosts"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// Site is all that the files of its gateways are made of.
type Site struct {
	// User is whose login the forced command belongs to, and the group that may connect to the agent's socket.
	User     string
	Gateways []desired.Gateway // sorted by name

	vips, servers []netip.Prefix
	interfaces    []string // of pools and of the control plane, beside the gateways' own
	routerIDs     agent.Interval
	controllers   []Key
	probes        []netip.Addr
	settings      []byte
}

// Options are what the cloud configuration does not say.
type Options struct {
	// ControllerKeys are lines of public keys, as in a .pub file. At least one.
	ControllerKeys []string
	// ServerPrefixes are further networks that traffic may be sent to, beside nodes.cidrs, nodes.podCIDRs, nodes.addresses and the
	// control plane's endpoints.
	ServerPrefixes []netip.Prefix
	// AgentSettings is YAML that is appended to every agent.yaml.
	AgentSettings []byte
}

// New tells every fault at once.
func New(c *config.Config, options Options) (*Site, error) {
	s := &Site{User: c.SSH.User, Gateways: c.DesiredGateways(), settings: options.AgentSettings, probes: c.Nodes.ClientSourceProbes}
	var faults []error
	var err error
	if s.vips, err = vipPrefixes(c); err != nil {
		faults = append(faults, err)
	}
	if s.servers, err = serverPrefixes(c, options.ServerPrefixes); err != nil {
		faults = append(faults, err)
	}
	if s.controllers, err = parseKeys(options.ControllerKeys); err != nil {
		faults = append(faults, err)
	}
	for _, name := range c.PoolInterfaces() {
		s.interfaces = append(s.interfaces, name)
	}
	if c.ControlPlane != nil && c.ControlPlane.Interface != "" {
		s.interfaces = append(s.interfaces, c.ControlPlane.Interface)
	}
	slices.Sort(s.interfaces)
	s.interfaces = slices.Compact(s.interfaces)
	count := max(1, len(s.Gateways)*(len(s.Gateways)-1))
	s.routerIDs = agent.Interval{First: c.VRRP.FirstRouterID, Last: c.VRRP.FirstRouterID + count - 1}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	// What is wrong with the settings shows on every gateway in the same way.
	if _, err := s.Files(s.Gateways[0].Name, Debian, nil); err != nil {
		return nil, err
	}
	return s, nil
}

// Gateway finds one by name; false: there is none.
func (s *Site) Gateway(name string) (desired.Gateway, bool) {
	i := slices.IndexFunc(s.Gateways, func(g desired.Gateway) bool { return g.Name == name })
	if i < 0 {
		return desired.Gateway{}, false
	}
	return s.Gateways[i], true
}

// InterfacesOf are the interfaces that a gateway needs, its own first.
func (s *Site) InterfacesOf(g desired.Gateway) []string {
	all := []string{g.Interface}
	for _, name := range s.interfaces {
		if name != g.Interface {
			all = append(all, name)
		}
	}
	return all
}

func vipPrefixes(c *config.Config) ([]netip.Prefix, error) {
	var set netipx.IPSetBuilder
	for _, pool := range c.AddressPools() {
		for _, r := range pool.Ranges {
			set.AddRange(r)
		}
	}
	if c.ControlPlane != nil {
		set.Add(c.ControlPlane.Address)
	}
	return prefixes(&set, "pools")
}

func serverPrefixes(c *config.Config, further []netip.Prefix) ([]netip.Prefix, error) {
	var set netipx.IPSetBuilder
	for _, p := range slices.Concat(c.Nodes.CIDRs, further) {
		set.AddPrefix(p.Masked())
	}
	for _, addresses := range c.Nodes.Addresses {
		for _, a := range addresses {
			set.Add(a)
		}
	}
	workers, err := prefixes(&set, "nodes")
	if err != nil {
		return nil, err
	}
	if len(workers) == 0 {
		return nil, errors.New("nodes.cidrs is not in the cloud configuration, so nothing tells which networks a gateway may send traffic to; " +
			"give nodes.cidrs, or --server-prefix with the workers' network")
	}
	for _, p := range slices.Concat(workers, c.Nodes.PodCIDRs) {
		set.AddPrefix(p)
	}
	if cp := c.DesiredControlPlane(); cp != nil {
		for _, e := range cp.Endpoints {
			set.Add(e.Addr())
		}
	}
	return prefixes(&set, "controlPlane.endpoints")
}

// prefixes gives the merged networks, and empties the builder.
func prefixes(set *netipx.IPSetBuilder, field string) ([]netip.Prefix, error) {
	merged, err := set.IPSet()
	if err != nil {
		return nil, fmt.Errorf("%s: merging the networks: %w", field, err)
	}
	*set = netipx.IPSetBuilder{}
	return merged.Prefixes(), nil
}

// limits is limits.yaml of one gateway.
func (s *Site) limits(g desired.Gateway) string {
	quoted := func(prefixes []netip.Prefix) string {
		var words []string
		for _, p := range prefixes {
			words = append(words, `"`+p.String()+`"`)
		}
		return strings.Join(words, ", ")
	}
	var names []string
	for _, name := range s.InterfacesOf(g) {
		names = append(names, fmt.Sprintf("%q", name)) // eth0.5 and 1e3 are names, too
	}
	return fmt.Sprintf(`# %s: what the owner of this gateway allows any controller to ask of it. A State outside is
# refused as a whole. Made by gatewayctl bootstrap of the cloud configuration. An edit is not overwritten without --adopt.

# The pools, and the control plane's address.
vipPrefixes: [%s]

# The workers, and the API servers behind the control plane's address.
serverPrefixes: [%s]

# Interfaces that may hold floating addresses, send VRRP adverts and be asked on who has an address.
interfaces: [%s]

# VRRP router IDs of this site's gateways.
routerIDs: [%s]

# Ports that may be opened on floating addresses: all, since Services choose theirs.
ports: ["1-65535"]
%s`, LimitsFile, quoted(s.vips), quoted(s.servers), strings.Join(names, ", "), `"`+s.routerIDs.String()+`"`, s.clientSourceProbes())
}

// clientSourceProbes is the last part of limits.yaml; empty: what it allows is not allowed.
func (s *Site) clientSourceProbes() string {
	if len(s.probes) == 0 {
		return ""
	}
	var words []string
	for _, p := range s.probes {
		words = append(words, fmt.Sprintf("%q", p))
	}
	return fmt.Sprintf(`
# HAProxy may connect to workers from clients' addresses (annotation source-address: client), before version 2.9 as root, and
# checks from these that answers come back.
clientSourceProbes: [%s]
`, strings.Join(words, ", "))
}

// agentConfig is agent.yaml of one gateway.
func (s *Site) agentConfig(g desired.Gateway) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# %s: what this gateway is called, and where the others are. Made by gatewayctl bootstrap of the\n"+
		"# cloud configuration. An edit is not overwritten without --adopt; further settings belong into the file of --agent-settings.\n", AgentFile)
	fmt.Fprintf(&text, "gateway: %q\ngroup: %q\npeers:\n  user: %q\n", g.Name, s.User, s.User)
	if len(s.Gateways) > 1 {
		text.WriteString("  gateways:\n")
	}
	for _, other := range s.Gateways {
		if other.Name != g.Name {
			fmt.Fprintf(&text, "  - {name: %q, sshAddress: %q}\n", other.Name, other.SSHAddress)
		}
	}
	text.Write(s.settings)
	return text.String()
}

// knownHosts are the lines for the given gateways' host keys, each named as its clients dial it.
func knownHosts(gateways []desired.Gateway, known map[string]Acquaintance) string {
	var text strings.Builder
	for _, g := range gateways {
		for _, key := range known[g.Name].HostKeys {
			text.WriteString(knownhosts.Line([]string{g.SSHAddress}, key) + "\n")
		}
	}
	return text.String()
}
