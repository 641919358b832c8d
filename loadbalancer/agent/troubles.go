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
	said := ""
	if err != nil {
		said = err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.troubles[doing]
	switch {
	case said == was:
		return
	case err == nil:
		delete(a.troubles, doing)
		a.log.Info("that goes well again", "what", doing)
		return
	case a.troubles == nil:
		a.troubles = map[string]string{}
	}
	a.troubles[doing] = said
	a.log.Warn(doing, "error", err)
}

// forgetTroubles is for when nothing is done that could go wrong.
func (a *Agent) forgetTroubles() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.troubles)
}

// datagramTroubles are the warnings about them; a.mu is held.
func (a *Agent) datagramTroubles() (warnings []wire.Warning) {
	for _, doing := range slices.Sorted(maps.Keys(a.troubles)) {
		warnings = append(warnings, wire.Warning{Reason: "Datagrams", Message: doing + ": " + a.troubles[doing]})
	}
	return warnings
}
