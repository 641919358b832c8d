package agent

import (
	"context"
	"maps"
	"slices"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// noteTrouble remembers for status what goes wrong again and again beside all transactions, and tells the log when it changes. nil:
// it goes well.
func (a *Agent) noteTrouble(ctx context.Context, doing string, err error) {
	if ctx.Err() != nil {
		return // the agent ends
	}
	switch changed := a.setTrouble(doing, err); {
	case changed && err != nil:
		a.log.Warn(doing, "error", err)
	case changed:
		a.log.Info("that goes well again", "what", doing)
	}
}

// setTrouble says whether that is news.
func (a *Agent) setTrouble(doing string, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, known := a.troubles[doing]
	switch {
	case err == nil:
		delete(a.troubles, doing)
		return known
	case a.troubles == nil:
		a.troubles = map[string]string{}
	}
	a.troubles[doing] = err.Error()
	return !known || was != err.Error()
}

// forgetTroubles is for what is not done any more, and so goes neither well nor wrong.
func (a *Agent) forgetTroubles(doing ...string) {
	for _, what := range doing {
		a.setTrouble(what, nil)
	}
}

// datagramTroubles are the warnings about them; a.mu is held.
func (a *Agent) datagramTroubles() (warnings []wire.Warning) {
	for _, doing := range slices.Sorted(maps.Keys(a.troubles)) {
		warnings = append(warnings, wire.Warning{Reason: "Datagrams", Message: doing + ": " + a.troubles[doing]})
	}
	return warnings
}
