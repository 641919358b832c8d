package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// The kernel spreads flows of UDP and SCTP over the nodes and checks none. So the agent looks at HAProxy's checks, takes nodes
// that fail out of our nftables table, and ends what conntrack still sends to them. No controller is needed for it.
//
// What is known of the servers is remembered and not read anew for each transaction: a node that failed a moment ago would be a
// difference in our table that nobody asked for.

const (
	// flowsEvery is how often HAProxy's checks are looked at. It adds to the time that they take themselves.
	flowsEvery = 500 * time.Millisecond
	// healthLimit bounds the wait for HAProxy's answer: one that hangs changes nobody's fitness.
	healthLimit = 2 * time.Second
)

// What may go wrong again and again here.
const (
	datagramTrouble = "Datagrams"
	following       = "following the health of the nodes for UDP and SCTP"
	forwarding      = "letting the kernel forward, without which UDP and SCTP are not served"
	sweeping        = "ending flows of UDP and SCTP whose node or client is out, which takes the program conntrack (package conntrack, or conntrack-tools)"
)

// health is the state of each server by backend and name, in HAProxy's words; nil: not known.
type health map[string]map[string]string

func healthOf(backends map[string]*haproxy.RunningBackend) health {
	h := make(health, len(backends))
	for name, b := range backends {
		states := make(map[string]string, len(b.Servers))
		for _, s := range b.Servers {
			states[s.Name] = s.State
		}
		h[name] = states
	}
	return h
}

func (h health) equal(other health) bool {
	return (h == nil) == (other == nil) && maps.EqualFunc(h, other, maps.Equal[map[string]string, map[string]string])
}

// fit says whether a server gets new flows: one that is not there yet gets none before its first check, as with TCP.
func (h health) fit(backend, name string) bool {
	return h == nil || inService(h[backend][name])
}

func inService(state string) bool { return state == "UP" || state == "NOCHECK" }

// dead says whether a server fails its check: what it served before is lost.
func (h health) dead(backend, name string) bool { return h[backend][name] == "DOWN" }

// moved is what is known when load balancers have these slots: what was said of their servers where they were before counts until HAProxy
// tells of them here. Those in maintenance are not told of: a transaction that was cut has left them so.
func (h health) moved(slots haproxy.Slots, config *haproxy.Config) health {
	all := maps.Clone(h)
	for _, slot := range slots {
		before := config.Former(slot)
		if h == nil || before == "" {
			continue
		}
		states := map[string]string{}
		maps.Copy(states, h[before])
		for name, state := range h[slot] {
			if state != "MAINT" || states[name] == "" {
				states[name] = state
			}
		}
		all[slot] = states
	}
	return all
}

// own are a load balancer's servers of its own, in the words of the slot that checks them.
type own struct {
	health
	slots haproxy.Slots
}

func (o own) state(lb *desired.LoadBalancer, vip netip.Addr, name string) string {
	return o.health[o.slots.AtVIP(lb, vip)][name]
}

func (o own) fit(lb *desired.LoadBalancer, vip netip.Addr, name string) bool {
	return o.health == nil || inService(o.state(lb, vip, name))
}

// unfit gives the servers that the table leaves out.
func (h health) unfit(s *desired.State, slots haproxy.Slots) nftables.Unfit {
	u := nftables.Unfit{Nodes4: map[string]bool{}, Nodes6: map[string]bool{}, Servers: map[desired.Key]map[string]bool{},
		Servers6: map[desired.Key]map[string]bool{}}
	for _, n := range s.Nodes {
		u.Nodes4[n.Name], u.Nodes6[n.Name] = !h.fit(nodesBackend, n.Name), !h.fit(nodes6Backend, n.Name)
	}
	servers := own{h, slots}
	for _, lb := range s.LoadBalancers {
		if lb.Pool == nil || !hasDatagrams(lb) {
			continue
		}
		for _, vip := range lb.Addresses {
			of := u.Servers
			if lb.ClientSource && vip.Is6() {
				of = u.Servers6
			}
			of[lb.Key] = map[string]bool{}
			for _, server := range lb.Pool.Servers {
				// HAProxy checks no backup, and knows it by another name.
				of[lb.Key][server.Name] = !server.Backup && !servers.fit(&lb, vip, server.Name)
			}
		}
	}
	return u
}

func hasDatagrams(lb desired.LoadBalancer) bool {
	return slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Protocol != desired.TCP })
}

func servesDatagrams(s *desired.State) bool {
	return slices.ContainsFunc(s.LoadBalancers, hasDatagrams)
}

// followFlows keeps the table at the nodes that are fit, until ctx ends.
func (a *Agent) followFlows(ctx context.Context) {
	ticker := time.NewTicker(flowsEvery)
	defer ticker.Stop()
	sweep, unsteady := sweeper{since: map[flow]time.Time{}}, damper{}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		a.noteTrouble(ctx, "Forwarding", "looking whether this machine is a router", a.noticeRouting(ctx))
		current := a.rendered()
		if current == nil || !servesDatagrams(current.revision.state) && !sweep.unfinished() {
			a.forgetTroubles(datagramTrouble)
			continue
		}
		a.noteTrouble(ctx, datagramTrouble, following, a.followHealth(ctx, unsteady))
		a.noteTrouble(ctx, datagramTrouble, forwarding, a.forward(ctx))
		a.noteTrouble(ctx, datagramTrouble, sweeping, a.sweep(ctx, &sweep))
	}
}

// followHealth asks HAProxy, and changes the table when somebody's fitness did.
func (a *Agent) followHealth(ctx context.Context, unsteady damper) error {
	asked := a.rendered()
	asking, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	state, err := a.haproxy.ServersState(asking)
	if err != nil {
		return nil // watchHAProxy tells; who was fit stays so
	}
	backends, err := haproxy.ParseServers(state)
	if err != nil {
		return err
	}
	now := healthOf(backends)
	unsteady.calm(now, a.healthNow(), time.Now())
	if now.equal(a.healthNow()) {
		return nil
	}
	return a.refront(ctx, func() {
		// What was seen half-way through a transaction, a server between `add server` and `enable server`, is not true any more.
		if a.rendered() == asked {
			a.setHealth(now)
		}
	})
}

// refront renders our table anew after a change of what the agent knows beside the State, and loads it when it differs.
func (a *Agent) refront(ctx context.Context, change func()) error {
	if err := a.acquire(ctx); err != nil {
		return nil // the agent ends
	}
	defer a.release()
	change()
	current := a.rendered()
	if current == nil || len(a.faults()) > 0 {
		return nil // the next rendering knows it
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	front, table, err := a.renderFront(ctx, current.revision.state, current.slots, current.config)
	if err != nil {
		a.setFault(err) // what was learnt is learnt: nobody would come back to it
		return err
	}
	changes := current.table.Diff(table)
	if len(changes) == 0 {
		return nil
	}
	next := *current
	next.table, next.files = table, slices.Clone(current.files)
	path := a.config.Paths.frontFile()
	i := slices.IndexFunc(next.files, func(f file) bool { return f.path == path })
	next.files[i].content = front
	// From here on the new one is what is wanted: a failure is mended by the next comparison.
	a.mu.Lock()
	a.current = &next
	a.mu.Unlock()
	err = a.host.WriteFile(path, front, next.files[i].mode)
	if err == nil {
		err = a.loadTable(ctx, front)
	}
	if err != nil {
		err = fmt.Errorf("changing the nodes of UDP and SCTP: %w", err)
		a.setFault(err)
		return err
	}
	a.log.Info("changed what the firewall does with UDP and SCTP", "nodes", a.healthNow().told())
	return nil
}

// told are the nodes of the shared pool that are not fit.
func (h health) told() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(h[nodesBackend])) {
		if !h.fit(nodesBackend, name) {
			names = append(names, name+" "+h[nodesBackend][name])
		}
	}
	return names
}

func (a *Agent) healthNow() health {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.health
}

func (a *Agent) setHealth(h health) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.health = h
}

// firstHealth takes over what is known of the servers when nothing is known yet, so that an agent that starts finds the table
// as the one before it left it.
func (a *Agent) firstHealth(running *haproxy.Running) {
	if running != nil && a.healthNow() == nil {
		a.setHealth(healthOf(running.Backends))
	}
}
