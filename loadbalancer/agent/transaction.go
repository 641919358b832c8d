package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// apply makes a State true on this machine, wholly or not at all. A refusal changed nothing.
func (a *Agent) apply(ctx context.Context, signed desired.Signed) (*wire.Result, *wire.Refusal) {
	return a.applyAfter(ctx, signed, nil)
}

// applyAfter is apply for a sender who says what it knew: see checkRead.
func (a *Agent) applyAfter(ctx context.Context, signed desired.Signed, read *desired.Fence) (*wire.Result, *wire.Refusal) {
	return a.transact(ctx, signed, func(ctx context.Context, t *transaction) (*wire.Result, *wire.Refusal) {
		if refusal := checkRead(a.fencing(t.held, t.offered.state.Fence), t.offered, read); refusal != nil {
			return nil, refusal
		}
		result, refusal := t.run(ctx)
		if refusal != nil {
			return nil, refusal
		}
		a.account(result)
		if result.Fence == t.offered.state.Fence {
			a.confirm("a controller's State was applied")
		}
		return result, nil
	})
}

// plan tells what apply would do, up to and without the swap.
func (a *Agent) plan(ctx context.Context, signed desired.Signed) (*wire.Result, *wire.Refusal) {
	return a.transact(ctx, signed, func(ctx context.Context, t *transaction) (*wire.Result, *wire.Refusal) {
		result, refusal := t.prepare(ctx)
		if refusal != nil {
			return nil, refusal
		}
		if err := a.unstage(t.work); err != nil {
			return nil, internal(err)
		}
		return result, nil
	})
}

// transact begins a transaction with a State that is acceptable, and with the right to change the machine.
func (a *Agent) transact(ctx context.Context, signed desired.Signed,
	act func(context.Context, *transaction) (*wire.Result, *wire.Refusal)) (*wire.Result, *wire.Refusal) {
	offered, refusal := decode(signed)
	if refusal != nil {
		return nil, refusal
	}
	if err := a.acquire(ctx); err != nil {
		return nil, internal(err)
	}
	defer a.release()
	ctx, cancel := detached(ctx)
	defer cancel()
	held := a.held()
	if refusal := a.acceptable(held, offered); refusal != nil {
		return nil, refusal
	}
	result, refusal := act(ctx, &transaction{agent: a, held: held, offered: offered})
	if refusal != nil && refusal.Fence == nil && held != nil && len(a.faults()) == 0 { // one that is stuck runs what no fence says
		fence := held.state.Fence
		refusal.Fence = &fence
	}
	return result, refusal
}

func internal(err error) *wire.Refusal {
	return &wire.Refusal{Code: wire.CodeInternal, Message: err.Error(), Remedy: "nothing was changed; see the agent's log on the gateway"}
}

// transaction leads from the State that is held to the one that is offered.
type transaction struct {
	agent   *Agent
	held    *revision // nil: the first State of this machine
	offered *revision
	stages  []wire.Stage
	// committing is true from when the commit was tried: a write that failed may have been done all the same.
	committing bool

	seen *observation
	want *rendering
	work *work
	// leaves is what is done of a difference that is otherwise only reported; nil when it is not.
	leaves *work
	// unasked are the changes that undo what nobody asked for; nil when the machine was not known to be sound.
	unasked []string
	// wished is set when HAProxy is reloaded for wishes alone, granted when some of them waited until now.
	wished, granted bool
	// renewed is set when somebody else has started the worker that answers.
	renewed bool
}

// run does all of it. Until the swap a failure is a refusal or the outcome Refused; after it the way back is taken.
func (t *transaction) run(ctx context.Context) (*wire.Result, *wire.Refusal) {
	a := t.agent
	result, refusal := t.prepare(ctx)
	if refusal != nil || result.Outcome == wire.Refused {
		return result, refusal
	}
	if t.held == nil {
		if err := a.writeJournal(t.seen, t.want); err != nil {
			return nil, internal(errors.Join(err, a.host.Remove(a.config.Paths.journalFile()), a.unstage(t.work)))
		}
	}
	seen, err, sound := t.seen, error(nil), len(a.faults()) == 0
	if t.work.none() {
		t.finishLeft(ctx)
	} else {
		t.spend()
		seen, err = a.makeTrue(ctx, t.work, t.want, t.before(), t.timed)
	}
	if sound {
		t.noteUnasked(err)
	}
	if err == nil {
		err = t.timed("commit", t.keep)
	}
	if err != nil {
		t.back(ctx, result, err)
		return result, nil
	}
	t.finish(result, seen)
	return result, nil
}

// prepare observes, renders, compares, stages and checks. It changes nothing that runs.
func (t *transaction) prepare(ctx context.Context) (*wire.Result, *wire.Refusal) {
	a := t.agent
	err := t.timed("observe", func() (err error) { t.seen, err = a.observe(ctx); return err })
	if err != nil {
		return nil, internal(err)
	}
	err = t.timed("render", func() (err error) { t.want, err = a.render(ctx, t.offered, t.seen.running); return err })
	if err != nil {
		return nil, unrenderable(err)
	}
	if t.work, err = a.compare(t.seen, t.want, t.before()); err != nil {
		return nil, internal(err)
	}
	if err := t.curb(ctx); err != nil {
		return nil, unrenderable(err)
	}
	t.renewed = a.isRenewed(t.seen.running)
	compared := t.work
	t.findUnasked(ctx)
	result := &wire.Result{Outcome: t.work.outcome(), Reasons: t.work.reasons, Changes: t.work.told()}
	t.describe(result, t.held, t.want, t.seen)
	if t.work.none() {
		a.noteLeftover(compared)
		return result, nil
	}
	var faults []wire.Fault
	err = t.timed("check", func() (err error) {
		if err = a.stage(t.work); err == nil {
			faults, err = a.check(ctx, t.work, t.seen, t.want)
		}
		return err
	})
	if err != nil {
		return nil, internal(errors.Join(err, a.unstage(t.work)))
	}
	if len(faults) > 0 {
		result.Outcome, result.Faults = wire.Refused, faults
		if err := a.unstage(t.work); err != nil {
			a.log.Warn("removing staged files", "error", err)
		}
	}
	return result, nil
}

func (t *transaction) before() *desired.State {
	if t.held == nil {
		return nil
	}
	return t.held.state
}

// keep commits. The same State once more needs no new commit.
func (t *transaction) keep() error {
	if t.held != nil && bytes.Equal(t.held.signed.State, t.offered.signed.State) {
		return nil
	}
	t.committing = true
	return t.agent.commit(t.offered)
}

// finish tells what is true after success.
func (t *transaction) finish(result *wire.Result, seen *observation) {
	a := t.agent
	a.discard(a.rendered(), t.want)
	a.hold(t.want, nil)
	a.settleOrphan()
	if t.held == nil {
		// A journal beside a committed State means nothing; the next start removes it if this does not.
		if err := a.host.Remove(a.config.Paths.journalFile()); err != nil {
			a.log.Warn("forgetting what ran before the first State", "error", err)
		}
	}
	t.describe(result, t.offered, t.want, seen)
}

// describe fills in what a gateway that holds r and was just seen so has to tell; of wishes, those that wait in shown.
func (t *transaction) describe(result *wire.Result, r *revision, shown *rendering, seen *observation) {
	result.Stages = t.stages
	result.Warnings = shown.warnings()
	if r == nil {
		return
	}
	result.Fence, result.Digest = r.state.Fence, r.digest
	result.Held = t.agent.heldVIPs(seen.addresses, r.state)
	result.Warnings = append(result.Warnings, t.agent.warnings(seen.running, r.state)...)
}

// back undoes: to what the State that is held says, or to what stood on the machine before its first State.
func (t *transaction) back(ctx context.Context, result *wire.Result, cause error) {
	a := t.agent
	a.log.Warn("rolling back", "error", cause)
	ctx, cancel := detached(ctx)
	defer cancel()
	var seen *observation
	err := t.timed("rollback", func() (err error) {
		if err := t.uncommit(); err != nil {
			return err
		}
		if t.held == nil {
			return a.restoreFirst(ctx)
		}
		if seen, err = a.reestablish(ctx, t.held, t.want); err == nil {
			a.discard(t.want, a.rendered())
		}
		return err
	})
	result.Faults = []wire.Fault{{Message: cause.Error()}}
	result.Outcome = wire.RolledBack
	if err != nil {
		result.Outcome = wire.Stuck
		result.Faults = append(result.Faults, wire.Fault{Message: "rolling back: " + err.Error()})
		a.setFault(errors.Join(cause, fmt.Errorf("rolling back: %w", err)))
	}
	result.Fence, result.Digest, result.Held = desired.Fence{}, "", nil
	if seen == nil {
		seen = t.seen
	}
	t.describe(result, t.held, a.rendered(), seen)
}

// uncommit makes the State that was held the committed one again. On a full disk the commit had no effect, and a way back that
// wrote the same bytes once more would be stuck for the same reason.
func (t *transaction) uncommit() error {
	if !t.committing {
		return nil
	}
	return t.agent.recommit(t.held)
}

// timed does one stage and notes how long it took.
func (t *transaction) timed(name string, stage func() error) error {
	begun := time.Now()
	err := stage()
	t.stages = append(t.stages, wire.Stage{Name: name, Duration: time.Since(begun)})
	return err
}

// account counts what a transaction did.
func (a *Agent) account(result *wire.Result) {
	err := a.counters.count(a.host, a.config.Paths.countersFile(), func(t *tally) {
		t.Rounds[result.Outcome]++
		switch result.Outcome {
		case wire.Reloaded:
			for _, reason := range result.Reasons {
				t.Reloads[class(reason)]++
			}
		case wire.Runtime:
			t.RuntimeUpdates++
		}
		if result.Outcome == wire.Runtime || result.Outcome == wire.Reloaded {
			t.Applied = time.Now()
		}
	})
	if err != nil {
		a.log.Warn("counting", "error", err)
	}
}

// class is a reason without what is particular to one moment: its first number, and what follows a colon.
func class(reason string) string {
	before, _, _ := strings.Cut(reason, ":")
	return strings.TrimLeft(before, "0123456789 ")
}
