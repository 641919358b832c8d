package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// The backends of the shared pool, as haproxy.Render names them: the nodes by their first addresses, and by those of IPv6
// for IPv6-only Services; each once more without a check.
const (
	nodesBackend      = "nodes"
	nodesOpenBackend  = "nodes-open"
	nodes6Backend     = "nodes6"
	nodes6OpenBackend = "nodes6-open"
)

// status tells what is true now. While a transaction runs, what it has half done is not called drift.
func (a *Agent) status(ctx context.Context, role wire.Role) *wire.Status {
	counted := a.counters.snapshot()
	s := &wire.Status{Hello: *a.hello(ctx, role), Applied: counted.Applied, Reloads: counted.Reloads, Rounds: counted.Rounds,
		RuntimeUpdates: counted.RuntimeUpdates}
	quiet := a.tryAcquire()
	if quiet {
		defer a.release()
	}
	seen, err := a.observe(ctx)
	if err != nil {
		s.Drift = []string{err.Error()}
		return s
	}
	s.Drift, s.Differences = a.faults(), a.foundDifferences()
	held := a.held()
	s.Current, s.Peers, s.Drain = a.isCurrent(), a.peers.status(a.heldFence()), a.drainStatus(ctx, seen.addresses)
	if held != nil {
		s.Fence, s.Digest = held.state.Fence, held.digest
		s.Held = a.heldVIPs(seen.addresses, held.state)
		if quiet {
			s.Drift = append(s.Drift, a.drift(seen, nil)...)
		}
		s.Nodes = nodeStatus(seen.running, held.state)
		s.Warnings = append(s.Warnings, a.rendered().warnings()...)
		s.Warnings = append(s.Warnings, a.warnings(seen.running, held.state)...)
		s.Warnings = append(s.Warnings, a.doubts(held)...)
		s.Warnings = append(s.Warnings, a.misplaced(seen.addresses, held.state)...)
		s.Warnings = append(s.Warnings, strangers(seen.table)...)
		s.Warnings = append(s.Warnings, affinityNotShared(held.state, a.config.Gateway)...)
	}
	if a.isUnasked(seen) {
		s.Warnings = append(s.Warnings, a.unasked())
	}
	s.InSync = held != nil && len(s.Drift) == 0
	s.KeepalivedUp = seen.keepalived != nil
	if seen.running != nil {
		s.HAProxyUp = seen.running.Started
		s.Connections = uint64(seen.running.Connections)
		for _, r := range seen.running.Limited {
			s.Limited = append(s.Limited, wire.Limited(r))
		}
	}
	if seen.haproxy != nil {
		s.OldWorkers = max(0, len(a.childrenOf(seen.haproxy))-1)
	}
	s.Warnings = append(s.Warnings, a.peerWarnings()...)
	s.Warnings = append(s.Warnings, a.sysctls()...)
	return s
}

// isUnasked says whether HAProxy lives, as far as is known, and does not answer at its stats socket.
func (a *Agent) isUnasked(seen *observation) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return seen.haproxy != nil && seen.running == nil && a.hanging == ""
}

// unasked tells what becomes of it.
func (a *Agent) unasked() wire.Warning {
	mends := fmt.Sprintf("a reload makes it anew within %s", driftEvery)
	if a.config.Drift == driftReport {
		mends = "the reload that makes it anew waits for another State, or for a start of the agent (drift: report)"
	}
	return wire.Warning{Reason: "HAProxyUnasked", Message: fmt.Sprintf("HAProxy runs and cannot be asked at its stats socket %s, so no change reaches it; "+
		"if somebody removed or replaced the socket, %s; if this stays, look what lies there (HAProxy replaces a file, and no directory), or run on the gateway: "+
		"gatewayctl drain --local -- systemctl restart haproxy", a.config.Paths.HAProxySocket, mends)}
}

func (a *Agent) faults() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault == nil {
		return nil
	}
	return []string{a.fault.Error()}
}

func nodeStatus(running *haproxy.Running, s *desired.State) []wire.NodeStatus {
	var nodes []wire.NodeStatus
	for _, n := range s.Nodes {
		status := wire.NodeStatus{Name: n.Name}
		if running != nil {
			status.State = server(running, nodesBackend, n.Name).State
			if over6 := server(running, nodes6Backend, n.Name).State; over6 != status.State {
				status.StateIPv6 = over6
			}
			for _, backend := range []string{nodesBackend, nodesOpenBackend, nodes6Backend, nodes6OpenBackend} {
				status.Sessions += server(running, backend, n.Name).Total
			}
		}
		nodes = append(nodes, status)
	}
	return nodes
}

// server is the zero RunningServer when the backend or the server does not run.
func server(running *haproxy.Running, backend, name string) haproxy.RunningServer {
	if b := running.Backends[backend]; b != nil {
		return b.Servers[name]
	}
	return haproxy.RunningServer{}
}

// warnings are true now and stop nothing.
func (a *Agent) warnings(running *haproxy.Running, s *desired.State) []wire.Warning {
	a.mu.Lock()
	warnings := append(slices.Clone(a.foreign), a.troubleWarnings()...)
	warnings = append(warnings, a.rivals...)
	warnings = append(warnings, a.clients.warnings...)
	if a.hanging != "" {
		warnings = append(warnings, wire.Warning{Reason: "HAProxyHangs", Message: a.hanging})
	}
	a.mu.Unlock()
	if running == nil {
		return warnings
	}
	if allDown(running, nodesBackend, s.Nodes) {
		warnings = append(warnings, wire.Warning{Reason: "AllNodesDown",
			Message: "no node passes its health check, so connections go to all of them (fail open); look at the check's port and at the nodes"})
	}
	if slices.ContainsFunc(s.LoadBalancers, usesNodes6) && allDown(running, nodes6Backend, nodesWithIPv6(s)) {
		warnings = append(warnings, wire.Warning{Reason: "AllNodesDown",
			Message: "no node passes its health check at its IPv6 address, so connections of IPv6-only Services go to all of them (fail open); " +
				"look whether what answers the check's port listens on IPv6"})
	}
	return append(warnings, controlPlaneWarnings(running, s.ControlPlane)...)
}

func usesNodes6(lb desired.LoadBalancer) bool {
	return lb.IPv6Only() && slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return lb.PoolOf(f) == nil })
}

func nodesWithIPv6(s *desired.State) []desired.Node {
	return slices.DeleteFunc(slices.Clone(s.Nodes), func(n desired.Node) bool {
		_, ok := n.IPv6()
		return !ok
	})
}

// allDown says whether none of the nodes, of which there are some, passes its check in a backend.
func allDown(running *haproxy.Running, backend string, nodes []desired.Node) bool {
	return len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n desired.Node) bool {
		return server(running, backend, n.Name).State != "DOWN"
	})
}

// doubts are about a State that keeps being served although it would not be accepted any more.
func (a *Agent) doubts(held *revision) []wire.Warning {
	warnings := a.doubtOrphan(held)
	if err := a.verifier.Verify(held.signed); err != nil {
		warnings = append(warnings, wire.Warning{Reason: "SignerRemoved",
			Message: fmt.Sprintf("the State that is served is not believed any more: %v; it is served until another one comes", err)})
	}
	if refusal := a.checkLimits(held.sent); refusal != nil {
		warnings = append(warnings, wire.Warning{Reason: "OutsideLimits", Message: refusal.Message + "; it is served until another State comes"})
	}
	return warnings
}

// strangers warns of adverts that were dropped. A machine that was a gateway once and runs on thinks that it holds the VIPs.
func strangers(table *nftables.Table) []wire.Warning {
	var warnings []wire.Warning
	for _, address := range table.Strangers() {
		warnings = append(warnings, wire.Warning{Reason: "StrangeVRRP", Message: fmt.Sprintf("%s sends VRRP adverts and is no gateway of this cluster "+
			"on this segment; they are dropped, but it may hold VIPs as well: if it was a gateway, stop keepalived there; if it is one, look why "+
			"its adverts come from another address or through a router", address)})
	}
	return warnings
}

// affinityNotShared warns of clients that stick until a failover and no longer: where the others cannot reach HAProxy of this gateway,
// neither learns whom the other has sent where. UDP and SCTP need not be told.
func affinityNotShared(s *desired.State, gateway string) []wire.Warning {
	sticks := slices.ContainsFunc(s.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.AffinitySeconds > 0 && len(doorsOf(&lb)) > 0 })
	self, err := s.Gateway(gateway)
	if !sticks || err != nil || len(s.Gateways) < 2 || haproxy.PeersAddress(s, haproxy.Local{Gateway: gateway}).Addr() == self.VRRPAddress {
		return nil
	}
	return []wire.Warning{{Reason: "AffinityNotShared", Message: fmt.Sprintf("the other gateways are not told which client of a Service with sessionAffinity "+
		"goes to which worker, nor do they tell, so such clients may change workers at a failover: HAProxy cannot listen at vrrpAddress %s, which is "+
		"of the link alone; give the gateway another one in the cloud config", self.VRRPAddress)}}
}

// lookAtForeign finds other people's firewall chains that drop what our table lets in.
func (a *Agent) lookAtForeign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	output, err := a.host.Run(ctx, nftables.RulesetArgv(), nil)
	if err != nil {
		a.log.Warn("reading the firewall", "error", err)
		return
	}
	findings, err := nftables.ForeignDrops(output.Stdout)
	if held := a.held(); err == nil && held != nil && servesDatagrams(held.state) {
		var forward []nftables.Finding
		forward, err = nftables.ForeignForwardDrops(output.Stdout)
		findings = append(findings, forward...)
	}
	if err != nil {
		a.log.Warn("reading the firewall", "error", err)
		return
	}
	var warnings []wire.Warning
	for _, f := range findings {
		warnings = append(warnings, wire.Warning{Reason: "ForeignFirewall",
			Message: fmt.Sprintf("%s; run: %s", f.Problem, strings.Join(f.Commands, " && "))})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.foreign = warnings
}

// lackingSysctl is a kernel setting that a gateway needs, and what this one has instead.
type lackingSysctl struct {
	nftables.Sysctl
	current string
}

func (a *Agent) lackingSysctls() (lacking []lackingSysctl) {
	for _, c := range nftables.Sysctls() {
		current, err := a.host.ReadFile(c.File())
		if err != nil || c.Met(string(current)) {
			continue // absent while its module is not loaded
		}
		lacking = append(lacking, lackingSysctl{c, strings.Join(strings.Fields(string(current)), " ")})
	}
	return lacking
}

// sysctls warns of kernel settings that could not be set.
func (a *Agent) sysctls() []wire.Warning {
	var lacking []string
	for _, c := range a.lackingSysctls() {
		lacking = append(lacking, fmt.Sprintf("%s=%s (it is %s)", c.Name, c.Value, c.current))
	}
	if len(lacking) == 0 {
		return nil
	}
	return []wire.Warning{{Reason: "Sysctl", Message: "kernel settings for a gateway are missing; " +
		"put them into /etc/sysctl.d/90-cloud-provider-haproxy.conf and run `sysctl --system`: " + strings.Join(lacking, ", ")}}
}
