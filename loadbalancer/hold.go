package loadbalancer

import (
	"context"
	"net/netip"
	"time"
)

// Between a confirmed State and the VIP on the interface lie keepalived's reload and election, some 100 ms. Waiting for
// it inside the round would let one VIP that never comes delay everybody, so calls wait here while rounds go on.
const (
	holdPause    = 25 * time.Millisecond  // before the first question, doubled each time
	holdPauseMax = 400 * time.Millisecond // between two questions
	// For one answer: a gateway that hangs must not delay what the others say. An answer that is given up costs the
	// connection, so a gateway that is merely busy needs its time.
	holdAsk = 2 * time.Second
)

// awaitVIPs answers the calls that wait for a gateway to hold their VIPs, until ctx ends.
func (m *Manager) awaitVIPs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.watch:
		}
		for pause := holdPause; m.answerHeld(); pause = min(2*pause, holdPauseMax) {
			if !sleep(ctx, pause) {
				return
			}
			m.ask(ctx, m.present(), min(holdAsk, m.settings.AskTimeout), m.hearStatus)
		}
	}
}

// answerHeld answers the calls whose VIPs are held or whose time is up, and says whether others wait.
func (m *Manager) answerHeld() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiting := m.awaiting[:0]
	for _, c := range m.awaiting {
		switch {
		case m.holds(c.addresses):
			c.answer(m.ensured(c.key, c.addresses), nil)
		case !time.Now().Before(c.until):
			c.answer(nil, m.notHeld(c))
		default:
			waiting = append(waiting, c)
		}
	}
	clear(m.awaiting[len(waiting):])
	m.awaiting = waiting
	return len(waiting) > 0
}

func (m *Manager) notHeld(c *call) error {
	e := &NotHeldError{Key: c.key, Away: m.away()}
	for _, address := range c.addresses {
		if !m.holds([]netip.Addr{address}) {
			e.Addresses = append(e.Addresses, address)
		}
	}
	for _, g := range m.members {
		if g.away == nil {
			e.Gateways = append(e.Gateways, g.name)
		}
	}
	return e
}

// sleep waits and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
