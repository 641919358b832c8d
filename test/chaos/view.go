package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

const (
	flowRate = 200
	holdSize = 50
	// holdEvery is how often a connection that is held says something.
	holdEvery = 500 * time.Millisecond
	// holdPatience is how long it waits for the echo: TCP repeats what a short outage swallowed.
	holdPatience = 10 * time.Second
)

// view is what a client sees of one VIP.
type view struct {
	opened int
	// failed are the new connections that did not come about, short those that did and were lost before their answer: the ones
	// that were under way when their gateway was.
	failed, short int
	errors        map[string]int
	gap           time.Duration // longest time without an answer
	slowest       time.Duration // answer that came
	// first and last are when the first and the last of the connections were begun that failed, since the start.
	first, last time.Duration
	cut         int
	lost        map[string]int // why, of those that were cut
}

// eyes look at one VIP until they are closed.
type eyes struct {
	flow *lab.Running[traffic.Report]
	hold *lab.Running[traffic.HoldReport]
}

func open(ctx context.Context, client *lab.Host, target string, patience time.Duration) (*eyes, error) {
	hold, err := client.StartHold(ctx, traffic.Hold{Targets: []string{target}, Count: holdSize, Timeout: holdPatience, Every: holdEvery})
	if err != nil {
		return nil, err
	}
	flow, err := client.StartFlow(ctx, traffic.Flow{Targets: []string{target}, Rate: flowRate, Timeout: patience})
	return &eyes{flow, hold}, err
}

func (e *eyes) close() (view, error) {
	flow, err := e.flow.Stop()
	if err != nil {
		return view{}, err
	}
	hold, err := e.hold.Stop()
	v := view{opened: flow.Opened, failed: flow.Unconnected, short: flow.Failed - flow.Unconnected, errors: flow.Errors,
		gap: flow.LongestGap, slowest: flow.Longest, cut: len(hold.Cut), lost: map[string]int{}}
	for n, failure := range flow.Failures { // the first hundred; one may fail later and have been begun earlier
		if n == 0 {
			v.first = failure.After
		}
		v.first, v.last = min(v.first, failure.After), max(v.last, failure.After)
	}
	for _, c := range hold.Cut {
		v.lost[c.Error]++
	}
	return v, err
}

// reasons are why connections failed or were cut, for people.
func (v view) reasons() string {
	var words []string
	for _, counts := range []map[string]int{v.errors, v.lost} {
		for _, why := range slices.Sorted(maps.Keys(counts)) {
			words = append(words, fmt.Sprintf("%d %s", counts[why], why))
		}
	}
	if v.failed+v.short > 0 {
		words = append(words, fmt.Sprintf("begun after %s to %s", seconds(v.first), seconds(v.last)))
	}
	return strings.Join(words, ", ")
}

// worse has the worst of two views.
func (v view) worse(than view) view {
	return view{
		opened: v.opened + than.opened, failed: max(v.failed, than.failed), short: max(v.short, than.short),
		gap: max(v.gap, than.gap), slowest: max(v.slowest, than.slowest), cut: max(v.cut, than.cut),
	}
}

// String is the view on one line.
func (v view) String() string {
	line := fmt.Sprintf("%d of %d failed, %d cut, no answer for %s, %d of %d long ones cut", v.failed, v.opened, v.short, seconds(v.gap), v.cut, holdSize)
	if why := v.reasons(); why != "" {
		line += " (" + why + ")"
	}
	return line
}
