package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Peers are told with every hello which VIPs this gateway holds: for a controller that reaches it through a peer only (invariant 5),
// and for hand-overs. Hello is what works when nothing else does, so it runs no program: it tells what was seen last, and has it
// looked at again.

const (
	// lookPause is the least time between two looks: a drain asks ten times a second.
	lookPause = time.Second
	// lookLimit bounds a look at the machine that nobody waits for.
	lookLimit = 5 * time.Second
)

// lastHeld are the VIPs that were held when it was looked last: before the last hello, as a rule.
func (a *Agent) lastHeld() []netip.Addr {
	select {
	case a.looks <- struct{}{}:
	default: // it is to be looked at already
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seenHeld)
}

// followHeld looks which VIPs are held whenever somebody was told, until ctx ends.
func (a *Agent) followHeld(ctx context.Context) {
	for {
		a.lookAtHeld(ctx)
		if pause(ctx, lookPause) != nil {
			return
		}
		select {
		case <-a.looks:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) lookAtHeld(ctx context.Context) {
	held := a.held()
	if held == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	var vips []netip.Addr // nobody may count on what could not be seen
	addresses, err := a.readAddresses(ctx)
	if err == nil {
		vips = a.heldVIPs(addresses, held.state)
	} else if !errors.Is(ctx.Err(), context.Canceled) {
		a.log.Warn("looking which VIPs are held, for the peers", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seenHeld = vips
}
