package loadbalancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// reply is what one gateway answered to a State.
type reply struct {
	gateway *member
	verdict verdict
	outcome wire.Outcome
	// err says why it did not confirm.
	err error
	// faults are set for faulty. fence is what the gateway says that it holds.
	faults []wire.Fault
	fence  *desired.Fence
	// code tells the fenced ones apart.
	code wire.Code
}

// verdict is what a reply means for the round.
type verdict int

const (
	confirmed verdict = iota
	silent            // the agent could not be asked, or did not answer in time
	unfit             // the gateway refuses or fails for a reason of its own
	faulty            // the gateway finds fault with the State
	fenced            // the gateway knows a newer State
)

// judge reads an answer to t.
func judge(g *member, t *target, result *wire.Result, err error) reply {
	r := reply{gateway: g, err: err}
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok { // the client says around it which gateway refused what
		r.faults, r.fence, r.code = refusal.Faults, refusal.Fence, refusal.Code
		switch refusal.Code {
		case wire.CodeInvalid, wire.CodeLimits:
			r.verdict = faulty
		case wire.CodeEpoch, wire.CodeSequence, wire.CodeUnread:
			r.verdict = fenced
		default:
			r.verdict = unfit
		}
		return r
	}
	if err != nil {
		r.verdict = silent
		return r
	}
	r.outcome, r.faults, r.fence = result.Outcome, result.Faults, &result.Fence
	switch result.Outcome {
	case wire.Unchanged, wire.Runtime, wire.Reloaded:
		if result.Digest != t.digest || result.Fence != t.fence() {
			r.verdict = unfit
			r.err = fmt.Errorf("gateway %s says that it holds %s after it was given %s; see `gatewayctl status`", g.name,
				result.Fence, t.fence())
		}
	case wire.RolledBack, wire.Refused:
		r.verdict, r.err = faulty, outcomeError(g, result)
	default:
		r.verdict, r.err = unfit, outcomeError(g, result)
	}
	return r
}

// declined says that the gateway answered, that what it holds is what it held, and what that is.
func (r reply) declined() bool {
	if r.fence == nil {
		return false
	}
	switch r.verdict {
	case unfit, faulty, fenced:
		return r.outcome == "" || r.outcome == wire.RolledBack || r.outcome == wire.Refused
	}
	return false
}

func outcomeError(g *member, result *wire.Result) error {
	text := "gateway " + g.name + ": " + string(result.Outcome)
	if result.Outcome == wire.Stuck {
		text += " (a person is needed: see the agent's log on the gateway)"
	}
	for _, fault := range result.Faults {
		text += "; " + fault.Message
	}
	return errors.New(text)
}

// push gives t to these gateways, one after the other, the one with the fewest affected VIPs first (invariant 11; doc.go
// says why never two at once). It stops at the first gateway that finds fault, is fenced, or is stuck; one that is
// silent or unfit is passed over. A gateway that confirmed t already is asked again only when again is set.
func (m *Manager) push(ctx context.Context, t *target, gateways []*member, again bool) (replies []reply) {
	for _, g := range m.hail(ctx, m.queue(t, gateways, again)) {
		r := m.apply(ctx, t, g)
		replies = append(replies, r)
		if r.verdict == faulty || r.verdict == fenced || r.outcome == wire.Stuck {
			break
		}
	}
	return replies
}

// hailTimeout is how long a gateway may take to say that it is there before it gets a State. Connecting anew takes some
// 100 ms.
const hailTimeout = 2 * time.Second

// hail leaves out the gateways that do not say at once that they are there: behind a machine that has just died, on a
// connection that looks alive, the others would wait for ApplyTimeout. A single gateway delays nobody.
func (m *Manager) hail(ctx context.Context, gateways []*member) []*member {
	if len(gateways) < 2 {
		return gateways
	}
	m.greetAll(ctx, gateways)
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(gateways, func(g *member) bool { return g.silent })
}

// greetAll asks gateways whether they are there while a round waits. A single one delays nobody else.
func (m *Manager) greetAll(ctx context.Context, gateways []*member) {
	timeout := m.settings.AskTimeout
	if len(gateways) > 1 {
		timeout = min(timeout, hailTimeout)
	}
	m.ask(ctx, gateways, timeout, func(ctx context.Context, g *member) { m.greet(ctx, g) })
}

// queue orders the gateways that still have to confirm t: those that rounds leave out come last, and take turns, or the
// first of two broken ones would keep the State from the other when that is mended.
func (m *Manager) queue(t *target, gateways []*member, again bool) []*member {
	m.mu.Lock()
	defer m.mu.Unlock()
	affected := affectedVIPs(m.good, t.state)
	count := func(g *member) (n int) {
		for _, address := range affected {
			if g.held[address] {
				n++
			}
		}
		return n
	}
	var queue []*member
	for _, g := range gateways {
		if again || g.confirmed != t.fence() || g.away != nil {
			queue = append(queue, g)
		}
	}
	slices.SortStableFunc(queue, func(a, b *member) int {
		return cmp.Or(cmp.Compare(a.failures, b.failures), cmp.Compare(count(a), count(b)), cmp.Compare(a.name, b.name))
	})
	return queue
}

// affectedVIPs are those of load balancers that differ, or all when something differs that all have in common.
func affectedVIPs(old, new *desired.State) (affected []netip.Addr) {
	common := func(s *desired.State) desired.State {
		c := *s
		c.Fence, c.LoadBalancers, c.VIPs, c.Releasing = desired.Fence{}, nil, nil, nil
		c.ControlPlane = nil
		c.Pools, c.Reserved, c.Quarantined = nil, nil, nil
		return c
	}
	if old == nil || !reflect.DeepEqual(common(old), common(new)) {
		for _, vip := range new.VIPs {
			affected = append(affected, vip.Address)
		}
		return affected
	}
	if !reflect.DeepEqual(old.ControlPlane, new.ControlPlane) {
		for _, p := range []*desired.ControlPlane{old.ControlPlane, new.ControlPlane} {
			if p != nil {
				affected = append(affected, p.Address)
			}
		}
	}
	before, after := byKey(old), byKey(new)
	for key, lb := range after {
		if was := before[key]; was == nil || !reflect.DeepEqual(was, lb) {
			affected = append(affected, lb.Addresses...)
		}
	}
	for key, lb := range before {
		if after[key] == nil {
			affected = append(affected, lb.Addresses...)
		}
	}
	return affected
}

// apply gives t to one gateway and notes what it says.
func (m *Manager) apply(ctx context.Context, t *target, g *member) reply {
	timed, cancel := context.WithTimeoutCause(ctx, m.settings.ApplyTimeout, &noAnswerError{m.settings.ApplyTimeout})
	defer cancel()
	m.mu.Lock()
	read := m.read
	g.offered = t.fence()
	m.mu.Unlock()
	result, err := g.ApplyAfter(timed, t.signed, read)
	if err == nil && result == nil {
		err = fmt.Errorf("gateway %s answered nothing", g.name)
	}
	r := judge(g, t, result, err)
	if ctx.Err() != nil {
		return r // we gave up, not the gateway
	}
	m.mu.Lock()
	if r.fence != nil {
		if err := m.absurd(g.name, "", *r.fence); err != nil { // whatever it holds, it is nothing of ours
			r.verdict, r.err, r.fence = unfit, err, &desired.Fence{}
		}
	}
	if result != nil {
		g.hear(result.Held, result.Warnings)
		m.noteHeld(result.Held, result.Fence)
	}
	if r.fence != nil {
		g.told = r.fence
	}
	if r.declined() { // it says itself what it has instead: a new VIP of its instances goes elsewhere (place.go)
		g.offered = *r.fence
	}
	switch r.verdict {
	case confirmed:
		g.confirmed, g.pause, g.unread = t.fence(), 0, false
	case silent:
		g.until = time.Now().Add(g.pause)
		g.pause = min(max(2*g.pause, revisitPause), revisitPauseMax)
	}
	m.mu.Unlock()
	switch r.verdict {
	case confirmed:
		m.setAside(g, nil, false)
	case silent, unfit:
		m.setAside(g, r.err, r.verdict == silent)
	}
	return r
}

// setAside notes why rounds leave g out, or with nil that they do not any more, and tells when that is news.
func (m *Manager) setAside(g *member, why error, unasked bool) {
	m.mu.Lock()
	news := (g.away == nil) != (why == nil) || why != nil && g.away.Error() != why.Error()
	g.away, g.silent, g.back = why, unasked, false
	if unasked {
		g.told = nil
	}
	if g.failures++; why == nil {
		g.failures = 0
	}
	status := g.status()
	m.mu.Unlock()
	if !news {
		return
	}
	if why != nil {
		m.log.Warn("gateway is left out", "gateway", g.name, "err", why)
	} else {
		m.log.Info("gateway confirms again", "gateway", g.name, "fence", status.Confirmed)
	}
	m.observer.tell(func(o Observer) { o.GatewayChanged(status) })
}

// noAnswerError is why a call ended that took too long; gateway.Client puts it into its error.
type noAnswerError struct{ within time.Duration }

func (e *noAnswerError) Error() string { return fmt.Sprintf("no answer within %s", e.within) }
func (e *noAnswerError) Unwrap() error { return context.DeadlineExceeded }

// ask calls f for each gateway at once, each with the timeout.
func (m *Manager) ask(ctx context.Context, gateways []*member, timeout time.Duration,
	f func(context.Context, *member)) {
	var group sync.WaitGroup
	for _, g := range gateways {
		group.Go(func() {
			timed, cancel := context.WithTimeoutCause(ctx, timeout, &noAnswerError{timeout})
			defer cancel()
			f(timed, g)
		})
	}
	group.Wait()
}

// present are the gateways that rounds do not leave out.
func (m *Manager) present() []*member {
	return m.membersWhere(func(g *member) bool { return g.away == nil })
}

// membersWhere gives the gateways of which f is true.
func (m *Manager) membersWhere(f func(*member) bool) (found []*member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.members {
		if f(g) {
			found = append(found, g)
		}
	}
	return found
}

// gatewaysError collects why gateways do not confirm.
func (m *Manager) gatewaysError(problem string) *GatewaysError {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &GatewaysError{Problem: problem, Gateways: m.away()}
}

// away lists the gateways that rounds leave out. It is called with mu held.
func (m *Manager) away() (all []GatewayError) {
	for _, g := range m.members {
		if g.away != nil {
			all = append(all, GatewayError{Name: g.name, Err: g.away})
		}
	}
	return all
}
