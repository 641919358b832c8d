package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"sigs.k8s.io/yaml"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Limits is limits.yaml: what the owner of this gateway allows any controller to ask of it (DESIGN.md invariant 13).
// What is not listed is not allowed; ports alone default to all.
type Limits struct {
	// VIPPrefixes contain every floating address.
	VIPPrefixes []netip.Prefix `json:"vipPrefixes"`
	// ServerPrefixes contain every address that traffic is sent to: nodes, servers of pools, API servers.
	ServerPrefixes []netip.Prefix `json:"serverPrefixes"`
	// Interfaces may hold VIPs, send VRRP adverts and be asked on who has an address.
	Interfaces []string `json:"interfaces"`
	// RouterIDs are the virtual_router_ids that are free for us on the network segment: "51" or "51-60".
	RouterIDs []Interval `json:"routerIDs"`
	// Ports are the ports that may be opened on VIPs: "443" or "1024-65535". Default all.
	Ports []Interval `json:"ports"`
	// ClientSourceProbes allow Services whose servers see their clients' addresses (annotation source-address: client), for which
	// HAProxy before 2.9 runs as root. They are addresses that nobody has, one of IPv4, one of IPv6 or both, from which HAProxy checks the
	// workers of such Services: ones that workers route like those of clients. Default none: it is not allowed.
	ClientSourceProbes []netip.Addr `json:"clientSourceProbes"`
}

// Interval is a range of numbers with both ends, written "first-last", or one number.
type Interval struct{ First, Last int }

// UnmarshalJSON reads "51-60", "51" or 51.
func (i *Interval) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	from, to, both := strings.Cut(text, "-")
	if !both {
		to = from
	}
	var err error
	if i.First, err = strconv.Atoi(strings.TrimSpace(from)); err == nil {
		i.Last, err = strconv.Atoi(strings.TrimSpace(to))
	}
	if err != nil {
		return fmt.Errorf("%q is no number and no range like 51-60", text)
	}
	return nil
}

func (i Interval) String() string {
	if i.First == i.Last {
		return strconv.Itoa(i.First)
	}
	return fmt.Sprintf("%d-%d", i.First, i.Last)
}

// DecodeLimits reads limits.yaml strictly and tells every fault at once.
func DecodeLimits(text []byte) (*Limits, error) {
	limits := &Limits{Ports: []Interval{{1, 65535}}}
	if err := yaml.UnmarshalStrict(text, limits); err != nil {
		return nil, fmt.Errorf("decoding the limits: %w", err)
	}
	var faults *multierror.Error
	ranges := func(field string, intervals []Interval, highest int) {
		for n, i := range intervals {
			if i.First < 1 || i.Last > highest || i.First > i.Last {
				faults = multierror.Append(faults, fmt.Errorf("%s[%d]: %s is no range within 1-%d", field, n, i, highest))
			}
		}
	}
	ranges("routerIDs", limits.RouterIDs, 255)
	ranges("ports", limits.Ports, 65535)
	for n := range limits.ClientSourceProbes {
		if problem := limits.probeFault(n); problem != "" {
			faults = multierror.Append(faults, fmt.Errorf("clientSourceProbes[%d]: %s", n, problem))
		}
	}
	if err := faults.ErrorOrNil(); err != nil {
		return nil, fmt.Errorf("the limits: %w", err)
	}
	return limits, nil
}

// readLimits reads the file anew for each State, so that an edit needs no restart. Without the file nothing is allowed.
func (a *Agent) readLimits() (*Limits, error) {
	path := a.config.Paths.Limits
	text, err := a.host.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist, so this gateway allows nothing; its owner has to list vipPrefixes, "+
			"serverPrefixes, interfaces and routerIDs there", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the limits: %w", err)
	}
	limits, err := DecodeLimits(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return limits, nil
}

// checkLimits refuses a State outside the limits file and tells every field that is.
func (a *Agent) checkLimits(s *desired.State) *wire.Refusal {
	path := a.config.Paths.Limits
	limits, err := a.readLimits()
	if err != nil {
		return &wire.Refusal{Code: wire.CodeLimits, Message: err.Error(), Remedy: "correct " + path + " on the gateway " + a.config.Gateway}
	}
	faults := limits.check(s, a.config.Gateway)
	if len(faults) == 0 {
		return nil
	}
	return &wire.Refusal{
		Code:    wire.CodeLimits,
		Message: fmt.Sprintf("the State is outside what %s allows: %s", path, faultList(faults)),
		Remedy:  "change the configuration, or let the gateway's owner widen " + path,
		Faults:  faults,
	}
}

// Outside names every field of a State that these limits would refuse on a gateway: bootstrap asks before it writes other ones.
func (l *Limits) Outside(s *desired.State, gateway string) []wire.Fault { return l.check(s, gateway) }

// check names every field of s that is outside the limits on the gateway.
func (l *Limits) check(s *desired.State, gateway string) []wire.Fault {
	c := limitsCheck{limits: l}
	for n, g := range s.Gateways {
		if g.Name == gateway {
			c.networkInterface(nil, fmt.Sprintf("gateways[%d].interface", n), g.Interface)
		}
	}
	for n, i := range s.Instances {
		if !contains(l.RouterIDs, i.RouterID) {
			c.fault(nil, fmt.Sprintf("instances[%d].routerID", n), fmt.Sprintf("%d is not in routerIDs of the gateway's limits.yaml (%s)", i.RouterID, list(l.RouterIDs)))
		}
	}
	owners := ownersOf(s)
	for n, v := range s.VIPs {
		field := fmt.Sprintf("vips[%d]", n)
		c.address(owners[v.Address], field+".address", v.Address, "vipPrefixes", l.VIPPrefixes)
		if v.Interface != "" {
			c.networkInterface(owners[v.Address], field+".interface", v.Interface)
		}
	}
	for n, node := range s.Nodes {
		for m, address := range node.Addresses {
			c.address(nil, fmt.Sprintf("nodes[%d].addresses[%d]", n, m), address, "serverPrefixes", l.ServerPrefixes)
		}
	}
	for n := range s.LoadBalancers {
		c.loadBalancer(fmt.Sprintf("loadBalancers[%d]", n), &s.LoadBalancers[n])
	}
	if cp := s.ControlPlane; cp != nil {
		c.port(nil, "controlPlane.port", cp.Port)
		for n, e := range cp.ExtraPorts {
			c.port(nil, fmt.Sprintf("controlPlane.extraPorts[%d].port", n), e.Port)
		}
		for n, e := range cp.Endpoints {
			c.address(nil, fmt.Sprintf("controlPlane.endpoints[%d]", n), e.Addr(), "serverPrefixes", l.ServerPrefixes)
		}
	}
	return c.faults
}

// ownersOf maps a VIP to the one load balancer that has it; a shared one is nobody's own fault.
func ownersOf(s *desired.State) map[netip.Addr]*desired.Key {
	owners := make(map[netip.Addr]*desired.Key)
	for n := range s.LoadBalancers {
		lb := &s.LoadBalancers[n]
		for _, address := range lb.Addresses {
			if _, shared := owners[address]; shared {
				owners[address] = nil
				continue
			}
			owners[address] = &lb.Key
		}
	}
	return owners
}

type limitsCheck struct {
	limits *Limits
	faults []wire.Fault
}

func (c *limitsCheck) fault(owner *desired.Key, field, message string) {
	c.faults = append(c.faults, wire.Fault{LoadBalancer: owner, Field: field, Message: message})
}

func (c *limitsCheck) loadBalancer(field string, lb *desired.LoadBalancer) {
	for n, f := range lb.Frontends {
		c.port(&lb.Key, fmt.Sprintf("%s.frontends[%d].port", field, n), f.Port)
	}
	c.clientSource(field, lb)
	c.pool(&lb.Key, field+".pool", lb.Pool)
	for n, f := range lb.Frontends {
		c.pool(&lb.Key, fmt.Sprintf("%s.frontends[%d].pool", field, n), f.Pool)
	}
}

func (c *limitsCheck) pool(owner *desired.Key, field string, pool *desired.Pool) {
	if pool == nil {
		return
	}
	for n, server := range pool.Servers {
		c.address(owner, fmt.Sprintf("%s.servers[%d].address", field, n), server.Address, "serverPrefixes", c.limits.ServerPrefixes)
	}
}

func (c *limitsCheck) networkInterface(owner *desired.Key, field, name string) {
	if !slices.Contains(c.limits.Interfaces, name) {
		c.fault(owner, field, fmt.Sprintf("%q is not in interfaces of the gateway's limits.yaml (%s)", name, list(c.limits.Interfaces)))
	}
}

func (c *limitsCheck) port(owner *desired.Key, field string, port uint16) {
	if !contains(c.limits.Ports, int(port)) {
		c.fault(owner, field, fmt.Sprintf("%d is not in ports of the gateway's limits.yaml (%s)", port, list(c.limits.Ports)))
	}
}

func (c *limitsCheck) address(owner *desired.Key, field string, address netip.Addr, name string, allowed []netip.Prefix) {
	inside := func(p netip.Prefix) bool { return p.Contains(address) }
	if !slices.ContainsFunc(allowed, inside) {
		c.fault(owner, field, fmt.Sprintf("%s is not in %s of the gateway's limits.yaml (%s)", address, name, list(allowed)))
	}
}

func contains(intervals []Interval, number int) bool {
	return slices.ContainsFunc(intervals, func(i Interval) bool { return i.First <= number && number <= i.Last })
}

func list[T any](allowed []T) string {
	if len(allowed) == 0 {
		return "none is listed"
	}
	words := make([]string, len(allowed))
	for n, a := range allowed {
		words[n] = fmt.Sprint(a)
	}
	return strings.Join(words, ", ")
}

// faultList is the faults as one line, the first few of them.
func faultList(faults []wire.Fault) string {
	const most = 5
	var words []string
	for n, f := range faults {
		if n == most {
			words = append(words, fmt.Sprintf("and %d more", len(faults)-most))
			break
		}
		words = append(words, strings.TrimPrefix(f.Field+": "+f.Message, ": "))
	}
	return strings.Join(words, "; ")
}
