package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// timer does one named stage of a transaction.
type timer func(name string, stage func() error) error

func untimed(_ string, stage func() error) error { return stage() }

// makeTrue swaps the staged files and leads what runs to want, in the order that suits growing and shrinking alike
// (DESIGN.md section 3, Order): the map grows, nftables, keepalived, the map shrinks. Then all of it is read back.
func (a *Agent) makeTrue(ctx context.Context, w *work, want *rendering, before *desired.State, timed timer) (*observation, error) {
	if err := timed("swap", func() error { return a.swap(w) }); err != nil {
		return nil, err
	}
	err := timed("runtime", func() error {
		if err := a.growHAProxy(ctx, w, want); err != nil {
			return err
		}
		if len(w.table) > 0 {
			if err := a.loadTable(ctx, want.content(a.config.Paths.frontFile())); err != nil {
				return err
			}
		}
		if err := a.turnKeepalived(ctx, w, want, before); err != nil {
			return err
		}
		return a.shrinkHAProxy(ctx, w)
	})
	if err != nil {
		return nil, err
	}
	var seen *observation
	err = timed("verify", func() (err error) { seen, err = a.verify(ctx, want, before); return err })
	return seen, err
}

func (a *Agent) swap(w *work) error {
	for _, f := range w.files {
		if err := a.host.Rename(f.staged(), f.path); err != nil {
			return fmt.Errorf("installing %s: %w", f.path, err)
		}
	}
	return nil
}

// verifyTries is how often a runtime change is completed that reading back finds incomplete: a connection that ended in
// between turns a server that could not be removed into one that can.
const verifyTries = 3

// verify reads everything back.
func (a *Agent) verify(ctx context.Context, want *rendering, before *desired.State) (*observation, error) {
	for try := 1; ; try++ {
		seen, left, err := a.difference(ctx, want, before)
		if err != nil {
			return nil, fmt.Errorf("reading back: %w", err)
		}
		if left.none() {
			a.noteWorker(seen.running)
			a.noteLeftover(left)
			return seen, nil
		}
		// A VRRP transition may have begun after the VIPs were seen in their places; it is not our doing and ends by itself.
		if len(left.vips) > 0 && try < verifyTries && a.settle(ctx, transitionTime(want.revision.state), want, before) == nil {
			continue
		}
		if left.haproxy == reload && try < verifyTries && a.waitForOldWorker(ctx) == nil {
			continue
		}
		if left.haproxy != nothing || left.diff.Empty() || try == verifyTries {
			return nil, fmt.Errorf("reading back: what runs is not what was applied: %s", strings.Join(left.told(), "; "))
		}
		if err := a.haproxy.Apply(ctx, left.diff); err != nil {
			return nil, fmt.Errorf("updating HAProxy once more: %w", err)
		}
	}
}

// difference is the work between what runs now and what is wanted.
func (a *Agent) difference(ctx context.Context, want *rendering, before *desired.State) (*observation, *work, error) {
	seen, err := a.observe(ctx)
	if err != nil {
		return nil, nil, err
	}
	w, err := a.compare(seen, want, before)
	return seen, w, err
}

// reestablish makes the machine what a State that was committed before says. tried is what may run instead. Its bytes ran before, so
// no daemon is asked again whether it likes them.
func (a *Agent) reestablish(ctx context.Context, r *revision, tried *rendering) (*observation, error) {
	current := a.rendered()
	if current == nil || current.revision != r {
		return nil, errors.New("the State that is held cannot be rendered on this machine")
	}
	back, config := *current, *current.config
	back.config = &config
	back.config.Succeed(tried.served, tried.slots)
	want, before := &back, tried.revision.state
	_, w, err := a.difference(ctx, want, before)
	if err != nil {
		return nil, err
	}
	if err := a.stage(w); err != nil {
		return nil, err
	}
	return a.makeTrue(ctx, w, want, before, untimed)
}

// restoreFirst goes back to the machine as it was before its first State.
func (a *Agent) restoreFirst(ctx context.Context) error {
	j, err := a.readJournal()
	if err != nil {
		return err
	}
	if j == nil {
		return errors.New("nothing tells what ran before the first State")
	}
	return a.restore(ctx, j)
}
