package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// haproxyFaults says which load balancer is behind each line that HAProxy refuses.
func haproxyFaults(output []byte, config *haproxy.Config) []wire.Fault {
	var faults []wire.Fault
	for _, m := range haproxy.ParseCheck(output) {
		if m.Severity != "ALERT" {
			continue
		}
		fault := wire.Fault{Field: fmt.Sprintf("%s:%d", filepath.Base(config.Local.ConfigFile), m.Line), Message: m.Text}
		if key, owned := config.Owner(m.Line); owned {
			fault.LoadBalancer = &key
		}
		faults = append(faults, fault)
	}
	if len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: filepath.Base(config.Local.ConfigFile), Message: string(bytes.TrimSpace(output))})
	}
	return faults
}

// checkPorts tries the ports that HAProxy is going to listen on and has not yet. A port that cannot be had would
// refuse connections on all frontends for two seconds, and HAProxy's own check does not see it.
func (a *Agent) checkPorts(ctx context.Context, w *work, seen *observation, want *desired.State) []wire.Fault {
	if w.haproxy == nothing {
		return nil
	}
	services, control, peers := true, want.ControlPlane != nil, true
	place := haproxy.PeersAddress(want, a.haproxyLocal())
	// An HAProxy of ours has the ports of the State that is held.
	if held := a.held(); held != nil && w.haproxy == reload && (seen.running == nil || seen.running.Generation != "") {
		services, control = false, control && held.state.ControlPlane == nil
		peers = !haproxy.ListensForPeers(seen.running, seen.files[a.config.Paths.HAProxy], a.haproxyLocal(), place)
	}
	var faults []wire.Fault
	try := func(needed bool, field string, port int, addresses ...netip.Addr) {
		for _, address := range addresses {
			if !needed {
				return
			}
			if err := a.tryBind(netip.AddrPortFrom(address, uint16(port))); err != nil {
				faults = append(faults, wire.Fault{Field: field,
					Message: fmt.Sprintf("HAProxy could not listen: %v; %s", err, a.remedyForPort(ctx, field, port))})
			}
		}
	}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	try(services, "servicesPort", a.config.ServicesPort, loopback...)
	try(control, "controlPlanePort", a.config.ControlPlanePort, loopback...)
	try(peers, "peersPort", a.config.PeersPort, place.Addr())
	return faults
}

// remedyForPort names who listens on a port, as far as ss tells: of other users' programs it does so only with a right
// that the agent does without.
func (a *Agent) remedyForPort(ctx context.Context, field string, port int) string {
	argv := []string{"ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", fmt.Sprintf("sport = :%d", port)}
	output, err := a.host.Run(ctx, argv, nil)
	if err != nil {
		a.log.Warn("asking who listens on a port", "port", port, "error", err)
	}
	if users := listeners(output.Stdout); len(users) > 0 {
		return fmt.Sprintf("stop %s, or give another %s in agent.yaml", strings.Join(users, " and "), field)
	}
	return fmt.Sprintf("`ss -ltnp sport = :%d`, as root, tells which program that is: stop it, or give another %s in agent.yaml", port, field)
}

// listeners reads who it is from what ss(8) writes behind a socket: users:(("nginx",pid=35,fd=6),("nginx",pid=36,fd=6)).
func listeners(said []byte) []string {
	var all []string
	for _, user := range regexp.MustCompile(`\("([^"]*)",pid=(\d+),`).FindAllSubmatch(said, -1) {
		all = append(all, fmt.Sprintf("%s (process %s)", user[1], user[2]))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// checkKeepalived checks the staged file. keepalived exits with 0 also when it complains, so each word is a fault.
func (a *Agent) checkKeepalived(ctx context.Context, want *rendering) ([]wire.Fault, error) {
	argv := keepalived.CheckArgv(a.config.Paths.Keepalived + ".staged")
	output, refused, err := a.ask(ctx, a.program(a.config.Keepalived, argv), nil)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(a.config.Paths.Keepalived)
	var faults []wire.Fault
	for _, m := range keepalived.ParseCheck(output) {
		fault := wire.Fault{Field: fmt.Sprintf("%s:%d", name, m.Line), Message: m.Text}
		vip, _ := keepalived.Behind(want.content(a.config.Paths.Keepalived), m.Line)
		faults = append(faults, ofAll(owners(want.revision.state, vip, desired.Port{}), fault)...)
	}
	if refused && len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: name, Message: "keepalived refuses the file and does not say why"})
	}
	return faults, nil
}

// nftablesFaults says which load balancers are behind each line that nft refuses.
func nftablesFaults(output []byte, want *rendering) []wire.Fault {
	const name = "front.nft"
	var faults []wire.Fault
	for _, m := range nftables.ParseCheck(output) {
		fault := wire.Fault{Field: fmt.Sprintf("%s:%d", name, m.Line), Message: m.Text}
		vip, port := nftables.Behind(want.script(), m.Line)
		faults = append(faults, ofAll(owners(want.revision.state, vip, port), fault)...)
	}
	if len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: name, Message: string(bytes.TrimSpace(output))})
	}
	return faults
}

// owners are the load balancers that have an address, and this port of it unless that is the zero Port.
func owners(s *desired.State, address netip.Addr, port desired.Port) (keys []desired.Key) {
	for _, lb := range s.LoadBalancers {
		open := func(f desired.Frontend) bool {
			return port.Port == 0 || f.Protocol == port.Protocol && f.Port == port.Port
		}
		if slices.Contains(lb.Addresses, address) && slices.ContainsFunc(lb.Frontends, open) {
			keys = append(keys, lb.Key)
		}
	}
	return keys
}

// ofAll is a fault of each of these load balancers; of nobody in particular when there are none.
func ofAll(keys []desired.Key, fault wire.Fault) []wire.Fault {
	if len(keys) == 0 {
		return []wire.Fault{fault}
	}
	var faults []wire.Fault
	for _, key := range keys {
		fault.LoadBalancer = &key
		faults = append(faults, fault)
	}
	return faults
}

// checkAddresses finds new VIPs that this machine has already, as an address of its own or left by somebody: it would answer
// for them whoever is MASTER, and keepalived would take its own address away when it is not. Those of the State that is held
// are keepalived's. Before the first State an address that looks like a VIP, with the full prefix, may be too: of a keepalived
// that a State before ruled.
func (a *Agent) checkAddresses(seen *observation, s *desired.State) ([]wire.Fault, error) {
	holding, err := keepalived.Held(seen.addresses, s, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	held := a.held()
	ours := func(p keepalived.Place) bool {
		if held == nil {
			return p.Bits == p.Address.BitLen()
		}
		return slices.ContainsFunc(held.state.VIPs, func(v desired.VIP) bool { return v.Address == p.Address })
	}
	var faults []wire.Fault
	for _, p := range slices.Concat(holding.Places, holding.Misplaced) {
		if ours(p) {
			continue
		}
		n := slices.IndexFunc(s.VIPs, func(v desired.VIP) bool { return v.Address == p.Address })
		faults = append(faults, ofAll(owners(s, p.Address, desired.Port{}), wire.Fault{Field: fmt.Sprintf("vips[%d].address", n),
			Message: fmt.Sprintf("the gateway %s has %s itself, on %s; exclude the address from the pool, or take it off there (`ip address delete %s/%d dev %s`) "+
				"and remove it from the network configuration", a.config.Gateway, p.Address, p.Interface, p.Address, p.Bits, p.Interface)})...)
	}
	return faults, nil
}

// checkServers finds new servers that are addresses of this machine: HAProxy would connect to the gateway's own daemons, past the
// chain that keeps clients from them, for whoever may write an EndpointSlice (kubernetes issue 103675). What is served already
// stays: an address that the machine got later is no fault of the State.
func (a *Agent) checkServers(seen *observation, s *desired.State) ([]wire.Fault, error) {
	here, err := keepalived.Here(seen.addresses)
	if err != nil {
		return nil, fmt.Errorf("looking for servers that are this machine: %w", err)
	}
	var faults []wire.Fault
	for n := range s.LoadBalancers {
		lb := &s.LoadBalancers[n]
		eachServer(lb, func(field string, server desired.Server) {
			if device, own := here[server.Address]; own && !a.serves(lb.Key, server.Address) {
				faults = append(faults, wire.Fault{LoadBalancer: &lb.Key, Field: fmt.Sprintf("loadBalancers[%d].%s", n, field),
					Message: fmt.Sprintf("the gateway %s has %s itself, on %s, and sends no client to its own daemons; take it out of "+
						"the Service's EndpointSlices", a.config.Gateway, server.Address, device)})
			}
		})
	}
	return faults, nil
}

// eachServer goes over the servers of all pools of a load balancer.
func eachServer(lb *desired.LoadBalancer, do func(field string, server desired.Server)) {
	pool := func(field string, p *desired.Pool) {
		if p == nil {
			return
		}
		for n, server := range p.Servers {
			do(fmt.Sprintf("%s.servers[%d].address", field, n), server)
		}
	}
	pool("pool", lb.Pool)
	for n, f := range lb.Frontends {
		pool(fmt.Sprintf("frontends[%d].pool", n), f.Pool)
	}
}

// serves says whether the State that is held has the address as a server of this load balancer.
func (a *Agent) serves(key desired.Key, address netip.Addr) (has bool) {
	held := a.held()
	if held == nil {
		return false
	}
	for n := range held.state.LoadBalancers {
		if lb := &held.state.LoadBalancers[n]; lb.Key == key {
			eachServer(lb, func(_ string, server desired.Server) { has = has || server.Address == address })
		}
	}
	return has
}

// checkInterfaces finds VIPs on interfaces that this machine lacks, which keepalived's own check does not see: it would
// keep every instance with such a VIP in state FAULT. So it would without the address that it sends adverts from, until it
// is told again; that is nobody's fault but this machine's, hence an error.
func (a *Agent) checkInterfaces(seen *observation, s *desired.State) ([]wire.Fault, error) {
	holding, err := keepalived.Held(seen.addresses, s, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	for _, g := range s.Gateways {
		if g.Name == a.config.Gateway && !holding.Source {
			return nil, fmt.Errorf("keepalived cannot send adverts: this machine has no usable address %s on %s; "+
				"look at `ip address`, and at vrrpAddress and interface of %s in the controller's configuration", g.VRRPAddress, g.Interface, g.Name)
		}
	}
	var faults []wire.Fault
	for _, name := range holding.Missing {
		for n, v := range s.VIPs {
			if v.Interface == name {
				faults = append(faults, ofAll(owners(s, v.Address, desired.Port{}), wire.Fault{Field: fmt.Sprintf("vips[%d].interface", n),
					Message: fmt.Sprintf("the gateway %s has no interface %q", a.config.Gateway, name)})...)
			}
		}
	}
	return faults, nil
}
