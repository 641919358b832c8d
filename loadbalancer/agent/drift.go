package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// What becomes of a difference between the machine and its State that no transaction made.
const (
	driftRepair = "repair"
	driftReport = "report"
)

const (
	// driftEvery is how often the machine is compared with its State when nobody asks for it.
	driftEvery = time.Minute
	// mostDifferences is how many are remembered, for a controller that was away when they were found.
	mostDifferences = 20
)

// watchDrift compares the machine with the State that is held, whether there is a controller or not. What is known to be
// wrong is watchDaemons' to repair, which knows how often it may try.
func (a *Agent) watchDrift(ctx context.Context) {
	ticker := time.NewTicker(driftEvery)
	defer ticker.Stop()
	for {
		a.correctSysctls(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		// It waits for its turn, and is not put off for a minute: somebody may ask for the status again and again.
		if a.acquire(ctx) != nil {
			return
		}
		if a.held() != nil && len(a.faults()) == 0 {
			a.recover(ctx)
		}
		a.release()
	}
}

// repeats is true when the State that is held is to be made true once more: whatever differs then, nobody asked for, but for wishes of it
// that waited.
func (t *transaction) repeats() bool {
	return t.held != nil && !t.granted && bytes.Equal(t.held.signed.State, t.offered.signed.State)
}

// findUnasked looks for differences that nobody asked for before the transaction undoes them.
func (t *transaction) findUnasked(ctx context.Context) {
	a, sound := t.agent, len(t.agent.faults()) == 0
	switch {
	case t.held == nil:
	case t.repeats():
		a.suspect(t.work, t.seen, t.want)
		if sound && a.config.Drift == driftReport {
			t.leave(ctx)
		}
	case sound:
		held := a.rendered()
		a.suspect(t.work, t.seen, held)
		w, err := a.compare(t.seen, held, nil)
		if err != nil {
			a.log.Warn("comparing the machine with the State that is held", "error", err)
			return
		}
		a.suspect(w, t.seen, held)
		t.unasked = w.unasked(t.seen)
	}
}

// suspect adds what cannot be read back: installed is what the daemons' files have to say before the work. Who edited one may
// have made the daemon read it, and put things into it that it does not tell: only a reload makes sure.
func (a *Agent) suspect(w *work, seen *observation, installed *rendering) {
	p := a.config.Paths
	file := seen.files[p.HAProxy]
	if w.haproxy == nothing && file != nil && haproxy.GenerationOf(file) != installed.config.Generation {
		w.haproxy, w.reasons = reload, []string{"haproxy.cfg was edited, and HAProxy may have loaded that"}
		w.changes = append(w.changes, "reload HAProxy: "+w.reasons[0])
	}
	file = seen.files[p.Keepalived]
	if w.keepalived == nothing && file != nil && !bytes.Equal(file, installed.content(p.Keepalived)) {
		w.keepalived, w.vips = reload, nil
		w.changes = append(w.changes, "reload keepalived: its configuration was edited, and it may have read that")
	}
}

// leave takes everything off the list of work: somebody wants to look at the difference first. What is not the difference stays:
// servers whose last connection has ended. Nor does a table stay away that is all that is between clients and the machine's daemons.
func (t *transaction) leave(ctx context.Context) {
	a, w := t.agent, t.work
	w.astray = len(w.vips) > 0 && a.settle(ctx, transitionTime(t.want.revision.state), t.want, nil) != nil
	t.leaves = &work{diff: w.diff.Finishing()}
	if !t.seen.table.Present() {
		t.leaves.table, w.table = w.table, nil
	}
	if t.renewed && w.haproxy == nothing {
		// Somebody started HAProxy. What its files cannot tell it is no difference that somebody made.
		t.leaves.diff, w.diff = w.diff, haproxy.Diff{}
	}
	t.unasked, t.work = w.unasked(t.seen), &work{}
	a.noteDifference(wire.Difference{Changes: t.unasked, Left: true})
}

// finishLeft does what is to be done although differences are left. What fails is found by the next comparison.
func (t *transaction) finishLeft(ctx context.Context) {
	a, w := t.agent, t.leaves
	a.noteWorker(t.seen.running)
	if w == nil || w.runs() {
		return
	}
	if err := a.haproxy.Apply(ctx, w.diff); err != nil {
		a.log.Warn("removing servers whose last connection has ended", "error", err)
	}
	if len(w.table) > 0 {
		a.replaceTable(ctx, w.table, t.want)
	}
}

// unasked are the changes that a machine needs which should need none. A VRRP transition that was seen half-way is no
// difference: VIPs count when they did not come right by themselves.
func (w *work) unasked(seen *observation) []string {
	changes := w.diff.Unasked()
	for _, reason := range w.reasons {
		changes = append(changes, map[step]string{reload: "reload", start: "start"}[w.haproxy]+" HAProxy: "+reason)
	}
	changes = append(changes, w.table...)
	switch w.keepalived {
	case start:
		changes = append(changes, "start keepalived: it was not running")
	case reload:
		changes = append(changes, "reload keepalived: somebody started it, or edited its configuration")
	}
	if w.astray {
		changes = append(changes, w.vips...)
	}
	for _, f := range w.files {
		changes = append(changes, f.edits(seen.files[f.path])...)
	}
	return few(changes)
}

// noteUnasked notes what the transaction undid, or failed to undo, that nobody had asked for.
func (t *transaction) noteUnasked(err error) {
	if t.work == nil || t.agent.config.Drift == driftReport && t.repeats() {
		return
	}
	d := wire.Difference{Changes: t.unasked}
	if t.repeats() {
		d.Changes = t.work.unasked(t.seen)
	}
	if err != nil {
		d.Problem = err.Error()
	}
	t.agent.noteDifference(d)
}

// edits says how the file on the disk differs, a few lines of it.
func (f file) edits(has []byte) []string {
	if has == nil {
		return []string{"write " + f.path + ": it was gone"}
	}
	const mostLines, longest = 5, 120
	lines := func(verb string, from, besides []byte) (edits []string) {
		known := make(map[string]int)
		for line := range strings.Lines(string(besides)) {
			known[line]++
		}
		for line := range strings.Lines(string(from)) {
			if known[line]--; known[line] >= 0 {
				continue
			}
			if len(edits) == mostLines {
				return append(edits, "write "+f.path+": and more lines")
			}
			edits = append(edits, fmt.Sprintf("write %s: %s %.*q", f.path, verb, longest, strings.TrimSuffix(line, "\n")))
		}
		return edits
	}
	edits := append(lines("it had", has, f.content), lines("it lacked", f.content, has)...)
	if len(edits) == 0 {
		edits = []string{"write " + f.path + ": its lines had another order"}
	}
	return edits
}

// noteDifference remembers a difference for status, and tells it to the log. One that is left is told when it is new.
func (a *Agent) noteDifference(d wire.Difference) {
	if a.rememberDifference(d) {
		a.log.Warn("this machine was not what its State says", "left", d.Left, "changes", d.Changes, "problem", d.Problem)
	}
}

// rememberDifference says whether that is news.
func (a *Agent) rememberDifference(d wire.Difference) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.Left {
		news := !slices.Equal(a.left, d.Changes)
		a.left = d.Changes
		if !news {
			return false
		}
	}
	if len(d.Changes) == 0 {
		return false
	}
	d.Found = time.Now()
	a.differences = append(a.differences, d)
	a.differences = a.differences[max(0, len(a.differences)-mostDifferences):]
	return true
}

func (a *Agent) foundDifferences() []wire.Difference {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.differences)
}

// correctSysctls sets the kernel settings that a gateway needs, which belong to the product as its files do. What cannot be
// set stays a warning of status.
func (a *Agent) correctSysctls(ctx context.Context) {
	if a.config.Drift == driftReport || a.held() == nil {
		return
	}
	var changes []string
	for _, c := range a.lackingSysctls() {
		_, err := a.host.Run(ctx, []string{"sysctl", "--quiet", "--write", c.Name + "=" + c.Value}, nil)
		if now, read := a.host.ReadFile(c.File()); err == nil && read == nil && !c.Met(string(now)) {
			err = errors.New("the kernel keeps its own value")
		}
		if err != nil {
			a.log.Debug("setting a kernel setting", "name", c.Name, "error", err)
			continue
		}
		changes = append(changes, fmt.Sprintf("set %s=%s: it was %s", c.Name, c.Value, c.current))
	}
	a.noteDifference(wire.Difference{Changes: changes})
}
