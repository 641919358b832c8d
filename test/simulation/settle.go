package simulation

import (
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/simulation/machine"
)

// settleTime is how long everything may take to become so once nothing is broken any more. The longest single wait of the
// product is ten minutes (agent's failedLast, retryCostly).
const settleTime = 15 * time.Minute

// settle ends all faults and waits until everything is as wanted (invariants 2, 4, 7).
func (w *world) settle() {
	w.heal()
	begun := time.Now()
	var problems []string
	for time.Since(begun) < settleTime && !w.failed() {
		_ = w.wait(w.ctx, time.Second)
		if problems = w.problems(); len(problems) == 0 {
			w.note("settled after %s", time.Since(begun))
			return
		}
	}
	if !w.failed() {
		w.fail(2, "%s after everything was mended: %v", settleTime, problems)
	}
}

// problems says what is not as wanted.
func (w *world) problems() (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	leader := w.leader()
	if leaders := len(w.leading()); leader == nil || leaders > 1 {
		return []string{fmt.Sprintf("%d controllers lead", leaders)}
	}
	var state *desired.State
	for _, g := range w.gateways {
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
	if len(state.Releasing) > 0 {
		add("still releasing %v", state.Releasing)
	}
	problems = append(problems, w.vipProblems(state)...)
	return append(problems, w.serviceProblems(leader, state)...)
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
func (w *world) serviceProblems(leader *controller, state *desired.State) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, lb := range state.LoadBalancers {
		// A bad one that was made anew has the last good form of its name: Manager.Replay knows no UID of what does not translate.
		if o := w.cluster.object(lb.Key); !o.wanted() || o.uid != lb.UID && !o.spec.bad() {
			add("%s (%s) is served and not wanted", lb.Key, lb.UID)
		}
	}
	for _, o := range w.cluster.all() {
		switch err := leader.lastError(o.key); {
		case !o.wanted():
			if o.deleting || o.finalizer {
				add("%s is not cleaned up: %v", o.key, err)
			}
		case o.spec.bad(), addressless(err):
		case err != nil:
			add("%s: %v", o.key, err)
		case !holdsForm(state, o):
			add("%s (%+v) is not served as its object says", o.key, o)
		case !o.spec.closed:
			if !w.reached(o) {
				add("clients do not reach %s at %v", o.key, o.status)
			}
		}
	}
	return problems
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
	return true
}
