package simulation

import (
	"context"
	"time"

	"cloud-provider-haproxy/test/simulation/machine"
)

// Result is what came of a history.
type Result struct {
	Violations []Violation
	// Told is what happened, when it was asked for.
	Told []string
	// Excused says that a known limit of the design was met, after which less is demanded.
	Excused bool
	// Lasted is the time that passed in the history.
	Lasted time.Duration
}

// Run lets a history happen. It must be called in a bubble of testing/synctest, and returns when all of it has ended.
func Run(ctx context.Context, h History, texts *machine.Texts, trace bool) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := newWorld(ctx, h, texts, trace)
	w.run(h)
	cancel()
	w.group.Wait()
	excused := w.checks.excused()
	w.mu.Lock()
	defer w.mu.Unlock()
	return Result{Violations: w.violations, Told: w.told, Excused: excused, Lasted: time.Since(w.begun)}
}
