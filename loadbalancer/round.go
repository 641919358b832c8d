package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// round is one push of the newest State and the calls that it answers.
type round struct {
	m      *Manager
	reason string
	// again asks also gateways that confirmed the target already.
	again    bool
	started  time.Time
	revision uint64
	calls    []*call
	attempts int
	// asked is set when all gateways were left out and those that answer were taken back.
	asked bool
	// fencings counts how often a gateway refused a State as not the newest.
	fencings map[*member]int
	// withheld are load balancers that stay in their last good form: the fault is among them and was not found yet.
	withheld map[desired.Key]bool
	// blamed were refused in this round.
	blamed   map[desired.Key]bool
	outcomes map[string]wire.Outcome
	target   *target
}

// runRound pushes until the gateways confirm, or gives up; what is wanted stays wanted then. Calls that come while it
// runs join the next one.
func (m *Manager) runRound(ctx context.Context, reason string, again bool) error {
	m.mu.Lock()
	r := &round{
		m: m, reason: reason, again: again, started: time.Now(), revision: m.revision, calls: m.joined,
		withheld: map[desired.Key]bool{}, blamed: map[desired.Key]bool{}, outcomes: map[string]wire.Outcome{},
		fencings: map[*member]int{},
	}
	m.joined = nil
	m.mu.Unlock()
	err := r.run(ctx)
	if ctx.Err() != nil {
		// The end of Run answers them.
		m.mu.Lock()
		m.joined = append(r.calls, m.joined...)
		m.mu.Unlock()
		return ctx.Err()
	}
	r.finish(err)
	m.tellWarned()
	if err == nil && len(r.withheld) > 0 {
		return fmt.Errorf("the fault of one among %d Services was not found yet", len(r.withheld))
	}
	return err
}

// maxAttempts bounds the States of one round: a fault among 1000 changed load balancers is found in some 20.
const maxAttempts = 64

// maxFencings is how often one gateway may say in a round that it knows a newer State, after which it is at fault itself: the others
// do not wait for it. Another controller that leads is known after one or two.
const maxFencings = 8

func (r *round) run(ctx context.Context) error {
	for r.attempts < maxAttempts {
		if err := r.aim(r.withheld); err != nil {
			return err
		}
		r.m.tellConcerns()
		gateways, err := r.gateways(ctx)
		if err != nil {
			return err
		}
		if err := r.m.confirmLead(ctx); err != nil {
			return err
		}
		again := r.again && r.attempts == 1
		replies := r.m.push(ctx, r.target, gateways, again)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if done, err := r.read(ctx, replies); done || err != nil {
			return err
		}
	}
	return r.m.gatewaysError(fmt.Sprintf("no gateway confirmed any of %d States", maxAttempts))
}

func (r *round) aim(withheld map[desired.Key]bool) error {
	r.attempts++
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	t, blamed, err := r.m.aim(withheld)
	for _, key := range blamed {
		r.blamed[key] = true
	}
	r.target = t
	return err
}

// retarget makes a State of these load balancers the target.
func (r *round) retarget(forms []*desired.LoadBalancer) error {
	r.attempts++
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	state := r.m.build(forms)
	if err := state.Validate(); err != nil {
		return fmt.Errorf("make the State: %w", err)
	}
	t, err := r.m.encode(state)
	if err != nil {
		return err
	}
	r.target = t
	return r.m.adopt(t)
}

// gateways are those that take part: all but the ones left out, and at a resync also those of them that answer. When all
// are left out, each that answers takes part, once.
func (r *round) gateways(ctx context.Context) ([]*member, error) {
	present := func(g *member) bool { return g.away == nil || g.back }
	if len(r.m.membersWhere(present)) > 0 {
		retried := r.again && r.attempts == 1
		return r.m.membersWhere(func(g *member) bool { return present(g) || retried && !g.silent }), nil
	}
	if !r.asked {
		r.asked = true
		r.m.greetAll(ctx, r.m.membersWhere(func(*member) bool { return true }))
		if answering := r.m.membersWhere(func(g *member) bool { return !g.silent }); len(answering) > 0 {
			return answering, nil
		}
	}
	return nil, r.m.gatewaysError("no gateway confirmed the change")
}

// read says whether the round is done, or prepares the next attempt.
func (r *round) read(ctx context.Context, replies []reply) (done bool, err error) {
	for _, reply := range replies {
		if reply.verdict == confirmed {
			r.outcomes[reply.gateway.name] = reply.outcome
		}
	}
	for _, reply := range replies {
		switch reply.verdict {
		case fenced:
			if r.fencings[reply.gateway]++; r.fencings[reply.gateway] > maxFencings {
				r.m.setAside(reply.gateway, reply.err, false)
				return false, nil
			}
			return false, r.m.refence(ctx, reply)
		case faulty:
			return false, r.findFault(ctx, reply)
		}
	}
	if slices.ContainsFunc(replies, func(r reply) bool { return r.outcome == wire.Stuck }) {
		// The others stay as they are; the retry goes on without this one.
		return false, r.m.gatewaysError("a gateway is stuck half-way")
	}
	if !r.confirmed() {
		return false, nil // all are left out now: the next attempt asks all or gives up
	}
	if r.misplaced() {
		return false, nil // a gateway went away: what only it was to hold goes to the others
	}
	r.succeed()
	return true, nil
}

// confirmed says whether a gateway that takes part confirmed the target.
func (r *round) confirmed() bool {
	return len(r.m.membersWhere(func(g *member) bool { return g.away == nil && g.confirmed == r.target.fence() })) > 0
}

func (r *round) misplaced() bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.m.misplaced(r.target.state)
}

// succeed makes the target the last good State.
func (r *round) succeed() {
	m := r.m
	m.mu.Lock()
	m.good, m.goodBy = r.target.state, r.target.byKey
	if !slices.ContainsFunc(m.members, func(g *member) bool { return g.unread }) {
		m.read = r.target.fence() // all that take part hold it: it is the newest now, whatever a gateway holds that was away
	}
	m.settleRollout(m.good)
	if len(r.withheld) == 0 {
		m.made = r.revision
	}
	for key, entry := range m.services {
		lb := m.goodBy[key]
		entry.settled = lb != nil && entry.servable() && sameForm(*lb, *entry.want) &&
			slices.Equal(lb.Addresses, entry.want.Addresses)
		entry.request.Moves = entry.request.Moves && !entry.settled // it has moved, and no later edit of the pools moves it again
	}
	m.forget()
	m.vouchConfirmed(r.target)
	freed := append(m.free(), m.claimKept()...)
	m.mu.Unlock()
	signal(m.noted)
	for _, address := range freed {
		m.observer.tell(func(o Observer) { o.AddressFreed(address) })
	}
}

// finish answers the calls and tells the observer.
func (r *round) finish(err error) {
	m := r.m
	m.mu.Lock()
	summary := Round{
		Reason: r.reason, Fence: m.fence, Joined: len(r.calls), Duration: time.Since(r.started), Attempts: r.attempts,
		Outcomes: r.outcomes, Pools: m.addresses.Counts(), Gateways: m.statuses(), Err: err,
	}
	summary.HeldTwice, summary.HeldByNobody = m.countMisheld()
	if r.target != nil {
		summary.LoadBalancers, summary.VIPs = len(r.target.state.LoadBalancers), len(r.target.state.VIPs)
	}
	unheard := maps.Clone(r.blamed)
	for _, c := range r.calls {
		delete(unheard, c.key)
		later := len(m.joined)
		if r.settle(c, err); len(m.joined) > later {
			summary.Joined--
		}
	}
	notices := map[desired.Key]error{}
	for key := range unheard {
		if entry := m.services[key]; entry != nil && entry.refused != nil {
			notices[key] = entry.refused
		}
	}
	m.mu.Unlock()
	signal(m.watch)
	for _, key := range slices.SortedFunc(maps.Keys(notices), desired.Key.Compare) {
		m.observer.tell(func(o Observer) { o.ServiceNotice(key, notices[key]) })
	}
	m.observer.tell(func(o Observer) { o.RoundDone(summary) })
	m.log.Debug("round", "reason", r.reason, "fence", summary.Fence, "joined", summary.Joined, "attempts", r.attempts,
		"duration", summary.Duration, "err", err)
}

// settle answers one call, or lets it wait until a gateway holds the VIPs. It is called with mu held.
func (r *round) settle(c *call, err error) {
	m := r.m
	entry := m.services[c.key]
	switch {
	case c.ensure && entry == nil:
		c.answer(nil, fmt.Errorf("%s: it was removed meanwhile", c))
	case c.ensure && entry.want == nil:
		c.answer(nil, fmt.Errorf("%s: its spec was refused meanwhile", c))
	case c.ensure && entry.refused != nil:
		c.answer(nil, entry.refused)
	case c.ensure && entry.unassigned != nil:
		c.answer(nil, entry.unassigned)
	case err != nil:
		c.answer(nil, err)
	case c.ensure && r.withheld[c.key]:
		c.answer(nil, &WithheldError{Key: c.key})
	case c.ensure && (entry.unproven || entry.ungiven):
		m.joined = append(m.joined, c) // who proves its addresses, or writes them down, starts a round
	case c.ensure && m.goodBy[c.key] == nil:
		// A new form came while the round ran and this one was assigned nothing: the next round has it.
		m.joined = append(m.joined, c)
		signal(m.wake)
	case c.ensure:
		c.addresses = m.goodBy[c.key].Addresses
		c.until = time.Now().Add(m.settings.HoldTimeout)
		m.awaiting = append(m.awaiting, c)
	default:
		c.answer(nil, nil)
	}
}
