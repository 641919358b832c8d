package agent

import (
	"context"
	"errors"
	"time"
)

const (
	// daemonsEvery is how often it is seen to that the daemons run.
	daemonsEvery = time.Second
	// retryFirst and retryLast bound the time between two tries to repair what cannot be repaired.
	retryFirst = time.Second
	retryLast  = 30 * time.Second
	// retryCostly is retryLast for a repair that reloads HAProxy each time (DESIGN.md invariant 11).
	retryCostly = 10 * time.Minute
	// leftoverEvery is how often removed servers are looked at that still had connections.
	leftoverEvery = 5 * time.Second
	// foreignEvery is how often other people's firewalls are looked at.
	foreignEvery = time.Minute
)

// watchDaemons starts what has to run and does not, repeats a repair that failed, and finishes what had to wait.
func (a *Agent) watchDaemons(ctx context.Context) {
	ticker := time.NewTicker(daemonsEvery)
	defer ticker.Stop()
	var foreignAt time.Time
	var repairs, renewals backoff
	// Once more soon after the start: a reload that an agent before us began may still be under way.
	leftoverAt, again := time.Now().Add(leftoverEvery), true
	for {
		select {
		case now := <-ticker.C:
			if now.After(foreignAt) {
				a.lookAtForeign(ctx)
				a.lookAtRivals(ctx)
				foreignAt = now.Add(foreignEvery)
			}
			broken, renewed := a.broken(), a.workerIsNew()
			due, renewal := repairs.due(broken, now), renewals.due(renewed, now)
			if !broken { // else each of these would reload once more what does not come right by that
				due = renewal || (again || a.hasLeftover()) && now.After(leftoverAt) || a.wishDue(now)
			}
			if !due || !a.repair(ctx, broken) {
				continue
			}
			leftoverAt, again = now.Add(leftoverEvery), false
			if broken {
				repairs.tried(now, a.longestWait())
			}
			if renewed {
				renewals.tried(now, a.longestWait())
			}
		case <-ctx.Done():
			return
		}
	}
}

// backoff is when something is tried again.
type backoff struct {
	at   time.Time
	wait time.Duration
}

// due forgets what was tried when there is no need any more.
func (b *backoff) due(needed bool, now time.Time) bool {
	if !needed {
		*b = backoff{}
	}
	return needed && now.After(b.at)
}

func (b *backoff) tried(now time.Time, most time.Duration) {
	b.wait = max(b.wait, retryFirst)
	b.at = now.Add(b.wait)
	b.wait = min(2*b.wait, most)
}

// broken is true when what runs is known to be wrong, or a State is held and what it needs does not run. A daemon that
// somebody stopped is left alone where differences are only reported.
func (a *Agent) broken() bool {
	if len(a.faults()) > 0 {
		return true
	}
	if a.held() == nil || a.config.Drift == driftReport {
		return false
	}
	for _, d := range []Daemon{a.config.HAProxy, a.config.Keepalived} {
		if running, err := a.alive(d); err == nil && running == nil {
			return true
		}
	}
	return false
}

func (a *Agent) longestWait() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if costly := (*costlyError)(nil); errors.As(a.fault, &costly) {
		return retryCostly
	}
	return retryLast
}

// noteLeftover remembers, from a comparison that found no other work, or work that is left, whether removed servers are still to
// be deleted.
func (a *Agent) noteLeftover(w *work) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leftover = len(w.diff.Deferred) > 0 || !w.diff.Finishing().Empty()
}

func (a *Agent) hasLeftover() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leftover
}

// repair leads what runs to what is committed, unless a transaction is doing so already. What is broken may be so
// because a package was upgraded: what the programs were asked once is asked anew.
func (a *Agent) repair(ctx context.Context, broken bool) bool {
	if !a.tryAcquire() {
		return false
	}
	defer a.release()
	if !broken && len(a.faults()) > 0 {
		return false // a transaction has just failed: that is for repairs, and counts as one
	}
	if broken {
		a.rules = nil
		a.readVersions(ctx)
	}
	a.recover(ctx)
	return true
}
