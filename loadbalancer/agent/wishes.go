package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A load balancer may wish for what HAProxy has by a reload alone: timeouts of its own, a time of affinity that nobody had before. Each
// reload leaves an old worker with everybody's long connections, so nobody's wishes may cause many. Those that are too many wait: the load
// balancer keeps what it had, or has what is usual, everything else goes on at run time, and people are told what waits until when.

const (
	// wishBurst reloads for wishes alone are done at once, and one more each wishEvery.
	wishBurst = 5
	wishEvery = 10 * time.Minute
)

// bucket says when the next reload for wishes may be.
type bucket struct {
	// full is when wishBurst reloads may be done at once again.
	full time.Time
}

// next is now or later.
func (b bucket) next(now time.Time) time.Time {
	at := b.full.Add(-(wishBurst - 1) * wishEvery)
	if at.Before(now) {
		return now
	}
	return at
}

func (b *bucket) take(now time.Time) {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(wishEvery)
}

// wish is what one load balancer wishes for.
type wish struct {
	desired.Key
	what string
}

func (w wish) compare(other wish) int {
	return cmp.Or(w.Key.Compare(other.Key), strings.Compare(w.what, other.what))
}

// wishes are those that wait.
type wishes struct {
	told  []wish // sorted
	until time.Time
}

// warnings tells what waits in a rendering, each owner his own; nil: there is none.
func (r *rendering) warnings() (warnings []wire.Warning) {
	if r == nil {
		return nil
	}
	until := r.waits.until.UTC().Format(time.RFC3339)
	for _, w := range r.waits.told {
		warnings = append(warnings, wire.Warning{Reason: "ReloadWaits", Message: fmt.Sprintf("HAProxy has to be reloaded for %s: %s; there were %d reloads for "+
			"such wishes lately, and each leaves an old worker behind, so the next one is at %s; until then it keeps what it had",
			w.Key, w.what, wishBurst, until), LoadBalancers: []desired.Key{w.Key}})
	}
	return capped(warnings, "more load balancers wait for a reload of HAProxy, until "+until)
}

// mostTold is how many warnings of one reason are told one by one.
const mostTold = 10

// capped gives those who are too many one text together: it says no number, for it is told anew whenever it changes.
func capped(warnings []wire.Warning, text string) []wire.Warning {
	if len(warnings) <= mostTold {
		return warnings
	}
	rest := wire.Warning{Reason: warnings[0].Reason, Message: text}
	for _, w := range warnings[mostTold:] {
		rest.LoadBalancers = append(rest.LoadBalancers, w.LoadBalancers...)
	}
	slices.SortFunc(rest.LoadBalancers, desired.Key.Compare)
	rest.LoadBalancers = slices.Compact(rest.LoadBalancers)
	return append(warnings[:mostTold:mostTold], rest)
}

// curb lets wishes wait when HAProxy would be reloaded for nothing else, too often.
func (t *transaction) curb(ctx context.Context) error {
	a := t.agent
	current := a.rendered()
	defer func() { t.granted = current != nil && len(current.waits.told) > 0 && len(t.want.waits.told) == 0 }()
	if t.work.haproxy != reload || t.seen.running == nil {
		return nil
	}
	served, waits := t.want, wishes{}
	// What a load balancer had before may need a reload too, with what else has changed about it; what is usual does not.
	for _, before := range []*rendering{current, nil} {
		state, told := withhold(served, before, t.seen.running)
		if len(told) == 0 {
			break
		}
		waits.told = append(waits.told, told...)
		var err error
		if served, err = a.renderWithout(ctx, t.offered, state, waits, t.seen.running); err != nil {
			return err
		}
	}
	if len(waits.told) == 0 {
		return nil
	}
	work, err := a.compare(t.seen, served, t.before())
	if err != nil || work.haproxy != nothing {
		return err // it is reloaded anyway
	}
	now := time.Now()
	if served.waits.until = a.granted.next(now); !served.waits.until.After(now) {
		t.wished = true
		return nil
	}
	slices.SortFunc(waits.told, wish.compare)
	served.waits.told = slices.Compact(waits.told)
	t.want, t.work = served, work
	return nil
}

// spend counts a reload for wishes alone that is about to be done.
func (t *transaction) spend() {
	if t.wished {
		t.agent.granted.take(time.Now())
	}
}

// withhold gives the State that HAProxy serves without the wishes in it that take a reload, and says which these are. before is what runs;
// nil: the usual takes the place of what a load balancer had.
func withhold(want, before *rendering, running *haproxy.Running) (*desired.State, []wish) {
	had := map[desired.Key]desired.LoadBalancer{}
	if before != nil {
		for _, lb := range before.served.LoadBalancers {
			had[lb.Key] = lb
		}
	}
	served := *want.served
	served.LoadBalancers = slices.Clone(served.LoadBalancers)
	var told []wish
	for i := range served.LoadBalancers {
		lb := &served.LoadBalancers[i]
		short := slices.ContainsFunc(want.short, func(t haproxy.Tenant) bool { return t.Key == lb.Key })
		if short && lb.Timeouts != nil {
			lb.Timeouts = had[lb.Key].Timeouts
			told = append(told, wish{lb.Key, "timeouts"})
		}
		if lb.AffinitySeconds > 0 && servesTCP(lb) && !running.HasAffinity(lb.AffinitySeconds) {
			told = append(told, wish{lb.Key, fmt.Sprintf("affinity of %d s", lb.AffinitySeconds)})
			lb.AffinitySeconds = had[lb.Key].AffinitySeconds
			if lb.AffinitySeconds == 0 || !running.HasAffinity(lb.AffinitySeconds) {
				lb.AffinitySeconds = haproxy.UsualAffinity
			}
		}
	}
	return &served, told
}

func servesTCP(lb *desired.LoadBalancer) bool {
	return slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Protocol == desired.TCP })
}

// wishDue says whether a wish has waited long enough.
func (a *Agent) wishDue(now time.Time) bool {
	current := a.rendered()
	return current != nil && len(current.waits.told) > 0 && !now.Before(current.waits.until)
}
