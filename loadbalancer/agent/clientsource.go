package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Services with ClientSource have their servers see the client's address, so that answers come back here for an address that is not
// ours (packages haproxy and nftables say how). Beside what they render it takes a routing rule, and the addresses that HAProxy checks
// such servers from, clientSourceProbes of limits.yaml. A check that passes has proven the way back, at that moment and from
// then on every few seconds; so no other probe is made. On a gateway that does not hold the VIP checks find nobody, since
// answers go to the one that does; when the VIP comes they pass within a check's time. That is the price of trusting nobody unproven.
//
// The rule and the addresses are of the kernel's and not of the State's: they are there while limits.yaml allows it, and are made again
// every minute.

const (
	// clientSourceEvery is how often it is looked whether limits.yaml has changed, and whether answers come back.
	clientSourceEvery = time.Second
	// clientSourceAgain is the time between two tries of what stands already: others flush rules.
	clientSourceAgain = time.Minute
	// returnPatience is how long a server may fail to answer before people are told: as when the VIP has just come.
	returnPatience = 5 * time.Second
	leadingIn      = "leading in what workers answer to clients' addresses, without which Services with source-address: client are not served"
)

// clientSource is what the agent knows of it.
type clientSource struct {
	// probes are what limits.yaml said when it could be read last. They are guarded by Agent.mu, and so are warnings.
	probes   []netip.Addr
	known    bool // that they were read, by this process or the one before
	warnings []wire.Warning
}

// clientSourceMark tells, as long as the machine runs, which addresses the agent has put on it.
func (p Paths) clientSourceMark() string {
	return filepath.Join(filepath.Dir(p.Track), "client-source")
}

// clientSourceProbes reads what the owner allows now. A file that cannot be read takes nothing away: it may be half edited.
func (a *Agent) clientSourceProbes() []netip.Addr {
	a.mu.Lock()
	probes, known := a.clients.probes, a.clients.known
	a.mu.Unlock()
	switch limits, err := a.readLimits(); {
	case err == nil:
		probes = limits.ClientSourceProbes
	case !known:
		probes = a.markedProbes()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients.probes, a.clients.known = probes, true
	return probes
}

// markedProbes are those that an agent put on the machine.
func (a *Agent) markedProbes() (probes []netip.Addr) {
	text, err := a.host.ReadFile(a.config.Paths.clientSourceMark())
	if err != nil {
		return nil // nothing was put there since the boot
	}
	for word := range strings.FieldsSeq(string(text)) {
		if address, err := netip.ParseAddr(word); err == nil {
			probes = append(probes, address)
		}
	}
	return probes
}

// keepClientSource prepares the kernel and watches who answers, until ctx ends.
func (a *Agent) keepClientSource(ctx context.Context) {
	ticker := time.NewTicker(clientSourceEvery)
	defer ticker.Stop()
	var told []netip.Addr
	var when time.Time
	silent := map[string]time.Time{}
	for {
		probes := a.clientSourceProbes()
		if when.IsZero() || !slices.Equal(told, probes) || len(probes) > 0 && time.Since(when) >= clientSourceAgain {
			told, when = probes, time.Now()
			a.noteTrouble(ctx, "ClientSource", leadingIn, a.leadAnswersIn(ctx, probes))
		}
		a.watchReturns(ctx, silent)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// leadAnswersIn gives the machine the addresses and the rule, and takes off those that are not allowed any more. What an agent
// before this one has put there stands in the mark.
func (a *Agent) leadAnswersIn(ctx context.Context, probes []netip.Addr) error {
	mark, marked := a.config.Paths.clientSourceMark(), a.markedProbes()
	for _, address := range marked {
		if slices.Contains(probes, address) {
			continue
		}
		for _, argv := range nftables.ClientSourceRemovalArgvs([]netip.Addr{address}) {
			_, _ = a.host.Run(ctx, argv, nil) // one that fails finds nothing to remove
		}
	}
	if len(probes) == 0 {
		if len(marked) == 0 {
			return nil
		}
		return a.host.Remove(mark)
	}
	if err := a.host.WriteFile(mark, []byte(strings.Join(words(probes), "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("noting which addresses are ours: %w", err)
	}
	var faults []error
	for _, argv := range nftables.ClientSourceArgvs(probes) {
		_, err := a.host.Run(ctx, argv, nil)
		if failed := (*CommandError)(nil); errors.As(err, &failed) && nftables.ClientSourceThere(failed.Output.Stderr) {
			continue
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func words(addresses []netip.Addr) (all []string) {
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

// watchReturns finds the servers whose answers to clients' addresses do not come back, and tells people for as long as they do not.
// silent says since when.
func (a *Agent) watchReturns(ctx context.Context, silent map[string]time.Time) {
	current := a.rendered()
	var found map[string]wire.Warning
	if current != nil && slices.ContainsFunc(current.revision.state.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.ClientSource }) {
		running, err := a.readHAProxy(ctx)
		addresses, failed := a.readAddresses(ctx)
		if err != nil || failed != nil {
			return // who watches HAProxy tells
		}
		found = astray(current, running, a.heldVIPs(addresses, current.revision.state))
	}
	now := time.Now()
	for server := range silent {
		if _, still := found[server]; !still {
			delete(silent, server)
		}
	}
	var warnings []wire.Warning
	for _, server := range slices.Sorted(maps.Keys(found)) {
		since, known := silent[server]
		if !known {
			silent[server], since = now, now
		}
		if now.Sub(since) >= returnPatience {
			warnings = append(warnings, found[server])
		}
	}
	warnings = capped(warnings, "more nodes get no connections of Services with annotation source-address: client, for the reason that is told of others")
	a.mu.Lock()
	more := len(warnings) > len(a.clients.warnings)
	a.clients.warnings = warnings
	a.mu.Unlock()
	if more {
		a.log.Warn("workers do not send answers to clients back to this gateway", "warnings", warnings)
	}
}

// noAnswer is what HAProxy says of a check that heard nothing at all, not even that nobody listens.
const noAnswer = "L4TOUT"

// astray gives, by "Service at VIP, server", who is silent to an address of clients although the shared pool's check hears of the
// node. Whoever fails both is down.
func astray(current *rendering, running *haproxy.Running, held []netip.Addr) map[string]wire.Warning {
	s, found := current.revision.state, map[string]wire.Warning{}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, vip := range lb.Addresses {
			if !lb.ClientSource || !slices.Contains(held, vip) {
				continue
			}
			probe := probeOf(current.config.Local.ClientSourceProbes, vip)
			for _, n := range s.Nodes {
				has := server(running, current.slots.AtVIP(lb, vip), n.Name)
				if has.State == "DOWN" && has.LastCheck == noAnswer && server(running, nodesBackend, n.Name).State != "DOWN" {
					found[fmt.Sprintf("%s at %s, %s", lb.Key, vip, n.Name)] = noReturn(lb, vip, n.Name, has.Addr, probe)
				}
			}
		}
	}
	return found
}

func probeOf(probes []netip.Addr, vip netip.Addr) netip.Addr {
	probe, _ := desired.OfFamily(probes, desired.FamilyOf(vip))
	return probe
}

// noReturn says what to do on the worker. The next hop has to move with the VIP: the VIP itself does, where it is on the worker's network.
func noReturn(lb *desired.LoadBalancer, vip netip.Addr, node string, address, probe netip.Addr) wire.Warning {
	ip := "ip"
	if vip.Is6() {
		ip = "ip -6"
	}
	return wire.Warning{Reason: "NoReturnPath", Message: fmt.Sprintf("node %s (%s) gets no connections of Service %s at %s: its answers to %s do not come back "+
		"to this gateway, and those to clients would not either (annotation source-address: client); on the node route both through an address that "+
		"moves with the Service's: %s route replace %s via %s, and the same for the networks of clients",
		node, address, lb.Key, vip, probe, ip, probe, vip), LoadBalancers: []desired.Key{lb.Key}}
}

// vipsOfRoot are the VIPs of the State while HAProxy runs as root: of root's many connections those at a VIP are HAProxy's, since nobody
// else of this machine is reached there. Those to servers cannot be told from others then; the worker that answers ends these (departed.go).
func (a *Agent) vipsOfRoot() map[netip.Addr]bool {
	current := a.rendered()
	if current == nil || !current.config.Local.Root() {
		return nil
	}
	vips := map[netip.Addr]bool{}
	for _, v := range current.revision.state.VIPs {
		vips[v.Address] = true
	}
	return vips
}

// probeFault judges one of clientSourceProbes. An address of a network that workers are on is answered without any route.
func (l *Limits) probeFault(n int) string {
	p := l.ClientSourceProbes[n]
	inside := func(prefix netip.Prefix) bool { return prefix.Contains(p) }
	switch {
	case !p.IsGlobalUnicast() || p.Is4In6() || p.Zone() != "":
		return fmt.Sprintf("%s is no address that a client could have", p)
	case slices.ContainsFunc(l.ClientSourceProbes[:n], func(other netip.Addr) bool { return other.Is4() == p.Is4() }):
		return fmt.Sprintf("%s is a second address of its family; one is enough", p)
	case slices.ContainsFunc(l.VIPPrefixes, inside):
		return fmt.Sprintf("%s is in vipPrefixes; name an address that nobody has", p)
	case slices.ContainsFunc(l.ServerPrefixes, inside):
		return fmt.Sprintf("%s is in serverPrefixes: workers there answer without a route; name an address that they route like those of clients", p)
	}
	return ""
}

// clientSource names the VIPs of a load balancer that may not keep its clients' addresses.
func (c *limitsCheck) clientSource(field string, lb *desired.LoadBalancer) {
	if !lb.ClientSource {
		return
	}
	for _, vip := range lb.Addresses {
		if probeOf(c.limits.ClientSourceProbes, vip).IsValid() {
			continue
		}
		family, example := "IPv4", "203.0.113.1"
		if vip.Is6() {
			family, example = "IPv6", "3fff::1"
		}
		c.fault(&lb.Key, field+".clientSource", fmt.Sprintf("annotation source-address: client needs an address of %s in clientSourceProbes of the gateway's limits.yaml (%s), by which its owner lets "+
			"HAProxy connect from clients' addresses, before version 3.0 as root: name one that nobody has and that workers route like those of clients, "+
			"as in clientSourceProbes: [%s]", family, list(c.limits.ClientSourceProbes), example))
	}
}
