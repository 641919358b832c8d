package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// trouble is what goes wrong again and again beside all transactions: the reason of its warning, and what is being done.
type trouble struct{ reason, doing string }

func (t trouble) compare(other trouble) int {
	return cmp.Or(cmp.Compare(t.reason, other.reason), cmp.Compare(t.doing, other.doing))
}

// noteTrouble remembers a trouble for status, and tells the log when it changes. nil: it goes well.
func (a *Agent) noteTrouble(ctx context.Context, reason, doing string, err error) {
	if ctx.Err() != nil {
		return // the agent ends
	}
	switch changed := a.setTrouble(trouble{reason, doing}, err); {
	case changed && err != nil:
		a.log.Warn(doing, "error", err)
	case changed:
		a.log.Info("that goes well again", "what", doing)
	}
}

// setTrouble says whether that is news.
func (a *Agent) setTrouble(t trouble, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, known := a.troubles[t]
	switch {
	case err == nil:
		delete(a.troubles, t)
		return known
	case a.troubles == nil:
		a.troubles = map[trouble]string{}
	}
	a.troubles[t] = err.Error()
	return !known || was != err.Error()
}

// forgetTroubles is for what is not done any more, and so goes neither well nor wrong.
func (a *Agent) forgetTroubles(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.troubles, func(t trouble, _ string) bool { return t.reason == reason })
}

// troubleWarnings are told while they last; a.mu is held.
func (a *Agent) troubleWarnings() (warnings []wire.Warning) {
	for _, t := range slices.SortedFunc(maps.Keys(a.troubles), trouble.compare) {
		warnings = append(warnings, wire.Warning{Reason: t.reason, Message: t.doing + ": " + a.troubles[t]})
	}
	return warnings
}
