package agent

import (
	"bytes"
	"context"
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// recover brings the machine to the committed State, whatever a transaction before was cut in or failed at. The caller
// holds the right to change the machine.
func (a *Agent) recover(ctx context.Context) {
	ctx, cancel := detached(ctx)
	defer cancel()
	held := a.held()
	if err := a.recommit(held); err != nil {
		a.log.Error("making the State that is held the committed one", "error", err)
		a.setFault(err)
		return
	}
	if held != nil {
		// The first State was committed, and only the removal of its journal was cut.
		if err := a.host.Remove(a.config.Paths.journalFile()); err != nil {
			a.log.Warn("forgetting what ran before the first State", "error", err)
		}
		a.reconcile(ctx)
		return
	}
	j, err := a.readJournal()
	if err == nil && j != nil {
		a.log.Warn("the first State was cut before its commit, restoring what ran before")
		err = a.restore(ctx, j)
	}
	if err != nil {
		a.log.Error("restoring what ran before the first State", "error", err)
	}
	a.setFault(err)
}

// recommit undoes a commit that was done although it failed, when its own way back failed too.
func (a *Agent) recommit(held *revision) error {
	committed, err := a.loadRevision()
	switch {
	case err != nil:
		return err
	case held == nil && committed == nil:
		return nil
	case held == nil:
		return a.host.Remove(a.config.Paths.stateFile())
	case committed == nil || !bytes.Equal(committed.signed.State, held.signed.State):
		return a.commit(held)
	}
	return nil
}

// reconcile leads what runs to the State that is held. There is no way back from it, since nothing older is better: a
// failure stands in status and is tried again. The caller holds the right to change the machine.
func (a *Agent) reconcile(ctx context.Context) {
	held := a.held()
	sound := len(a.faults()) == 0
	t := &transaction{agent: a, held: held, offered: held}
	result, err := t.establish(ctx)
	if sound {
		t.noteUnasked(err)
	}
	a.setFault(err)
	if err != nil {
		a.log.Error("making the machine what its State says", "error", err, "epoch", held.state.Fence.Epoch, "sequence", held.state.Fence.Sequence)
		return
	}
	logResult(a.log, "repair", result)
	if result.Outcome != wire.Unchanged {
		a.account(result)
	}
}

// establish is a transaction without a fence, a commit and a way back.
func (t *transaction) establish(ctx context.Context) (*wire.Result, error) {
	a := t.agent
	result, refusal := t.prepare(ctx)
	if refusal != nil {
		return nil, refusal
	}
	a.hold(t.want, nil)
	if result.Outcome == wire.Refused {
		return nil, fmt.Errorf("a daemon refuses its configuration: %s", faultList(result.Faults))
	}
	if t.work.none() {
		t.finishLeft(ctx)
		return result, nil
	}
	t.spend()
	_, err := a.makeTrue(ctx, t.work, t.want, t.before(), t.timed)
	if err != nil && t.work.haproxy == reload {
		err = &costlyError{err}
	}
	return result, err
}

// costlyError is a failure for which HAProxy was reloaded. Each further try leaves one more old worker with its connections.
type costlyError struct{ error }

func (e *costlyError) Unwrap() error { return e.error }

// drift says how what runs differs from the State that is held.
func (a *Agent) drift(seen *observation, before *desired.State) []string {
	current := a.rendered()
	if current == nil {
		return nil
	}
	w, err := a.compare(seen, current, before)
	if err != nil {
		return []string{err.Error()}
	}
	if w.runs() {
		return w.told()
	}
	return append(w.told(), w.written()...)
}
