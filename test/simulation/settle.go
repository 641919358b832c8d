package simulation

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/simulation/machine"
)

// settleTime is how long everything may take to become so once nothing is broken any more. The longest single wait of the
// product is ten minutes (agent's failedLast, retryCostly).
const settleTime = 15 * time.Minute

// degradedTime is how long what is left may take. The controller looks for a gateway that fell silent over a State after up to
// 160 s (Manager's revisitPauseMax), a gateway helps itself after up to a minute and its pauses.
const degradedTime = 12 * time.Minute

// retryTimeMost is Manager's longest pause before a failed round is tried again, and what a round may take with three gateways.
const retryTimeMost = 80 * time.Second

// settle ends all faults and waits until everything is as wanted (invariants 2, 4, 7). Three seeds of four have something
// missing for a while before: what is left has to do (invariant 5). In some of the rest everything fails for a while, and nobody but
// Manager tries again (2).
func (w *world) settle(h History) {
	w.heal()
	last := w.gateways[len(w.gateways)-1]
	switch w.seed % 4 {
	case 0:
		last.off.Store(true)
		last.machine.PowerOff()
		w.degraded(last)
		last.off.Store(false)
		last.powerOnNow()
	case 1:
		w.cutFor(time.Hour, "controllers>"+last.name)
		w.degraded(nil)
		w.heal()
	case 2:
		// A new controller does not know that a VIP of the former one never came to a gateway that takes no State (doc.go).
		if w.controllers > 1 || slices.ContainsFunc(h.Operations, func(o Operation) bool { return o.Kind == Forget || o.Kind == Restore }) {
			break
		}
		w.await(settleTime, 2, func() []string { return w.problems(nil, false) })
		last.machine.SetFull(true) // not in the middle of a transaction, which may be stuck then
		w.degraded(last)
		last.machine.SetFull(false)
		w.disturb()
	}
	if w.retriesOnly() {
		w.await(settleTime, 2, func() []string { return w.problems(nil, false) })
		w.unwritable()
	}
	w.await(settleTime, 2, func() []string { return w.problems(nil, false) })
}

// degraded lets a new Service come while something is missing; without is a gateway that has no power.
func (w *world) degraded(without *gateway) {
	w.note("degraded")
	w.disturb()
	plain := spec{balanced: true, ports: []uint16{8080}}
	w.cluster.create(desired.Key{Namespace: "default", Name: "late"}, plain)
	w.await(degradedTime, 5, func() []string { return w.problems(without, true) })
}

// unwritable fills all disks while a node comes or goes. Of that no Service tells Manager again, and the next resync is far.
func (w *world) unwritable() {
	w.note("all disks are full")
	w.disturb()
	for _, g := range w.gateways {
		g.machine.SetFull(true)
	}
	w.cluster.toggleNode(2)
	_ = w.wait(w.ctx, 12*time.Second)
	for _, g := range w.gateways {
		g.machine.SetFull(false)
	}
	w.note("the disks are empty again")
	w.disturb()
	w.await(retryTimeMost, 2, func() (problems []string) {
		nodes := w.cluster.nodeNames()
		for _, g := range w.gateways {
			if _, held := g.held(); held != nil && slices.EqualFunc(held.Nodes, nodes, func(n desired.Node, name string) bool { return n.Name == name }) {
				return nil
			}
		}
		return []string{fmt.Sprintf("no gateway has the nodes %v", nodes)}
	})
}

// await waits until there are no problems.
func (w *world) await(most time.Duration, invariant int, look func() []string) {
	begun := time.Now()
	var problems []string
	for time.Since(begun) < most && !w.failed() {
		_ = w.wait(w.ctx, time.Second)
		if problems = look(); len(problems) == 0 {
			w.note("settled after %s", time.Since(begun))
			return
		}
	}
	if !w.failed() {
		w.fail(invariant, "after %s: %v", most, problems)
	}
}

// problems says what is not as wanted; without a gateway, or with one that no controller reaches, as far as that can be.
func (w *world) problems(without *gateway, degraded bool) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	leader := w.leader()
	if leaders := len(w.leading()); leader == nil || leaders > 1 {
		return []string{fmt.Sprintf("%d controllers lead", leaders)}
	}
	var state *desired.State
	for _, g := range w.gateways {
		if g == without {
			continue
		}
		a, _, _ := g.present()
		_, held := g.held()
		switch {
		case a == nil:
			add("%s has no agent", g.name)
		case held == nil:
			add("%s has no State", g.name)
		case state != nil && held.Fence != state.Fence:
			add("%s has %s and not %s", g.name, held.Fence, state.Fence)
		case !g.machine.Ready():
			add("%s is not current", g.name)
		}
		if held == nil || len(problems) > 0 {
			return problems
		}
		state = held
		for _, p := range differences(g.machine.Serving(), held) {
			add("%s: %s", g.name, p)
		}
	}
	if len(state.Releasing) > 0 && !degraded {
		add("still releasing %v", state.Releasing)
	}
	problems = append(problems, w.vipProblems(state)...)
	var stale []netip.Addr
	if without != nil {
		stale = without.machine.Held() // where it is alive and can take no State, its VIPs are served in their former forms
	}
	return append(problems, w.serviceProblems(leader, state, degraded, stale)...)
}

// leader is the controller that claimed last.
func (w *world) leader() (leader *controller) {
	for _, c := range w.leading() {
		if c.alive() && (leader == nil || c.newest() > leader.newest()) {
			leader = c
		}
	}
	return leader
}

func (c *controller) newest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *controller) lastError(key desired.Key) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[key]
}

func (w *world) vipProblems(state *desired.State) (problems []string) {
	for _, vip := range state.VIPs {
		var holders []string
		for _, g := range w.gateways {
			if slices.Contains(g.machine.Held(), vip.Address) {
				holders = append(holders, g.name)
			}
		}
		if len(holders) != 1 {
			problems = append(problems, fmt.Sprintf("VIP %s is held by %v", vip.Address, holders))
		}
	}
	return problems
}

// serviceProblems compares what users want with the State, and with what clients get.
func (w *world) serviceProblems(leader *controller, state *desired.State, degraded bool, stale []netip.Addr) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, lb := range state.LoadBalancers {
		if o := w.cluster.object(lb.Key); !o.wanted() || o.uid != lb.UID {
			add("%s (%s) is served and not wanted", lb.Key, lb.UID)
		}
	}
	for _, o := range w.cluster.all() {
		switch err := leader.lastError(o.key); {
		case !o.wanted():
			if o.deleting || o.finalizer {
				add("%s is not cleaned up: %v", o.key, err)
			}
		case o.spec.bad(), addressless(err), isAt(state, o.key, stale):
		case err != nil:
			add("%s: %v", o.key, err)
		case !holdsForm(state, o):
			add("%s (%+v) at %v is not served as its object says", o.key, o.spec, o.status)
		case !o.spec.closed:
			if !w.reached(o) {
				add("clients do not reach %s at %v", o.key, o.status)
			}
		}
	}
	return problems
}

// isAt says whether a load balancer of a State has one of these addresses.
func isAt(state *desired.State, key desired.Key, addresses []netip.Addr) bool {
	return slices.ContainsFunc(state.LoadBalancers, func(lb desired.LoadBalancer) bool {
		return lb.Key == key && slices.ContainsFunc(lb.Addresses, func(a netip.Addr) bool { return slices.Contains(addresses, a) })
	})
}

// reached says whether clients get to a Service at all of its ports.
func (w *world) reached(o *object) bool {
	for _, port := range o.spec.ports {
		if !slices.ContainsFunc(w.gateways, func(g *gateway) bool {
			s, refusal := g.machine.Connect(clientOf(o), to(o, port))
			if refusal != machine.Taken {
				return false
			}
			defer s.End()
			_, ok, _ := s.Target()
			return ok && w.cluster.serves(s.NodePort) == o.uid
		}) {
			return false
		}
	}
	return !o.spec.datagrams || slices.ContainsFunc(w.gateways, func(g *gateway) bool {
		server, refusal := g.machine.Datagram(clientOf(o), to(o, o.spec.ports[0]))
		return refusal == machine.Taken && w.cluster.serves(server.Port()) == o.uid
	})
}
