package loadbalancer

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// findFault answers a gateway that found fault with the target: it refuses the load balancers at fault, or takes the
// gateway for the one at fault. The round is repeated for the rest.
func (r *round) findFault(ctx context.Context, reply reply) error {
	problems := map[desired.Key][]string{}
	for _, fault := range reply.faults {
		if fault.LoadBalancer != nil {
			problems[*fault.LoadBalancer] = append(problems[*fault.LoadBalancer], faultText(fault))
		}
	}
	if len(problems) == 0 {
		return r.bisect(ctx, reply)
	}
	r.m.mu.Lock()
	changed := false
	others := slices.ContainsFunc(r.m.members, func(g *member) bool { return g != reply.gateway && g.away == nil })
	for _, key := range slices.SortedFunc(maps.Keys(problems), desired.Key.Compare) {
		if r.m.refuse(key, r.target.byKey[key], reply.gateway.name, problems[key], !others) {
			r.blamed[key] = true
			changed = true
		}
	}
	r.m.mu.Unlock()
	if !changed {
		// What it refuses is served well elsewhere: taking it away from everybody would hurt more than this gateway's
		// absence does.
		r.m.setAside(reply.gateway, reply.err, false)
		return nil
	}
	r.asked = false // who answers so has been left out for something else: a State with less may be what it takes
	return nil
}

// problems are what the gateway found, for people.
func (r reply) problems() (all []string) {
	for _, fault := range r.faults {
		all = append(all, faultText(fault))
	}
	if len(all) == 0 {
		all = []string{r.err.Error()}
	}
	return all
}

func faultText(f wire.Fault) string {
	if f.Field == "" {
		return f.Message
	}
	return f.Field + ": " + f.Message
}

// refuse makes a load balancer that was refused in this form fall back to its last good form, and, when that is the form
// at fault and banning is allowed, leaves it out. It says whether the State changes. It is called with mu held.
func (m *Manager) refuse(key desired.Key, form *desired.LoadBalancer, gateway string, problems []string, ban bool) bool {
	entry := m.services[key]
	switch {
	case form == nil:
		return false // the gateway blames one that it was not given
	case entry == nil:
		return true // it was removed while the gateway looked at it
	}
	good := m.lastForm(key)
	newForm := good == nil || !reflect.DeepEqual(*good, *form)
	fault := &ServiceFaultError{Key: key, Gateway: gateway, Problems: problems, Kept: newForm && good != nil}
	switch {
	case newForm && (entry.want == nil || !sameForm(*entry.want, *form)):
		return true // a newer form came while the gateway looked at this one
	case newForm:
		entry.refused, entry.settled = fault, false
	case ban && !entry.banned:
		entry.refused, entry.settled, entry.banned = fault, false, true
	default:
		return false
	}
	m.log.Warn("load balancer is refused", "service", key, "gateway", gateway, "problems", problems, "kept", fault.Kept)
	return true
}

// blameLocally refuses the load balancers whose faults Validate found. It is called with mu held.
func (m *Manager) blameLocally(faults desired.Faults, forms map[desired.Key]*desired.LoadBalancer) (blamed []desired.Key) {
	problems := map[desired.Key][]string{}
	for _, fault := range faults {
		if fault.Owner != nil {
			problems[*fault.Owner] = append(problems[*fault.Owner], fault.String())
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(problems), desired.Key.Compare) {
		if m.refuse(key, forms[key], "", problems[key], true) {
			blamed = append(blamed, key)
		}
	}
	return blamed
}

// suspects are the load balancers that stand in the target and not so in the last good State, sorted.
func (r *round) suspects() []desired.Key {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	var suspects []desired.Key
	for _, lb := range r.target.state.LoadBalancers {
		if good := r.m.goodBy[lb.Key]; good == nil || !reflect.DeepEqual(*good, lb) {
			suspects = append(suspects, lb.Key)
		}
	}
	return suspects
}

// bisect finds the load balancers at fault when the gateway cannot name them, by offering it States in which some of the
// changed ones stay in their last good form. When it refuses the State with all of them in their last good form, the
// fault is the gateway's own and it is left out.
func (r *round) bisect(ctx context.Context, reply reply) error {
	if stopped, err := r.stopRollout(ctx, reply); stopped || err != nil {
		return err
	}
	suspects := r.suspects()
	b := &bisection{round: r, ctx: ctx, gateway: reply.gateway, refused: r.target, withheld: map[desired.Key]bool{}}
	for _, key := range suspects {
		b.withheld[key] = true
	}
	if len(suspects) == 0 || b.offer(nil) == faulty {
		r.m.setAside(reply.gateway, reply.err, false)
		return b.err
	}
	if b.last.verdict == confirmed {
		b.search(suspects)
	}
	if b.exhausted {
		r.withheld = b.withheld
	}
	// Else all is decided, or the gateway left in the middle and the others judge.
	return b.err
}

// searchAttempts bounds the States that one search offers; it leaves some for the rest of the round.
const searchAttempts = maxAttempts - 8

// bisection is one search for load balancers at fault.
type bisection struct {
	round   *round
	ctx     context.Context
	gateway *member
	// refused is the State that is looked into. What is wanted meanwhile waits for the next attempt: a fault that comes
	// in the middle would be blamed on somebody else.
	refused *target
	// withheld are the suspects that were not accepted.
	withheld map[desired.Key]bool
	// last is the newest answer. The search ends early when the gateway no longer judges States (left), or too many
	// were offered (exhausted).
	last            reply
	left, exhausted bool
	err             error
}

// search accepts or refuses each of the suspects, as long as the search may go on.
func (b *bisection) search(suspects []desired.Key) {
	switch verdict := b.offer(suspects); {
	case b.left || b.exhausted:
	case verdict == confirmed:
		for _, key := range suspects {
			delete(b.withheld, key)
		}
	case len(suspects) == 1:
		m := b.round.m
		m.mu.Lock()
		if m.refuse(suspects[0], b.refused.byKey[suspects[0]], b.gateway.name, b.last.problems(), false) {
			b.round.blamed[suspects[0]] = true
		}
		m.mu.Unlock()
	default:
		half := len(suspects) / 2
		b.search(suspects[:half])
		b.search(suspects[half:])
	}
}

// offer gives the gateway a State with these suspects, and those accepted before, in their new form.
func (b *bisection) offer(suspects []desired.Key) verdict {
	if b.exhausted = b.exhausted || b.round.attempts >= searchAttempts; b.exhausted || b.left {
		return unfit
	}
	if b.err = b.round.retarget(b.forms(suspects)); b.err == nil {
		b.last = b.round.m.apply(b.ctx, b.round.target, b.gateway)
		b.err = b.ctx.Err()
	}
	b.left = b.err != nil || b.last.verdict != confirmed && b.last.verdict != faulty
	return b.last.verdict
}

// forms are those of the refused State, but the last good ones of the suspects that are withheld and not offered.
func (b *bisection) forms(offered []desired.Key) (forms []*desired.LoadBalancer) {
	m := b.round.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range b.refused.state.LoadBalancers {
		lb := &b.refused.state.LoadBalancers[i]
		if b.withheld[lb.Key] && !slices.Contains(offered, lb.Key) {
			lb = m.lastForm(lb.Key)
		}
		if lb != nil {
			forms = append(forms, lb)
		}
	}
	return forms
}
