package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// revisitPause is the time between two questions to a gateway that is silent; revisitPauseMax to one that answers them
	// and falls silent over each State.
	revisitPause    = 5 * time.Second
	revisitPauseMax = 160 * time.Second
	// A failed round is tried again after retryMin, doubled each time up to retryMax. News start a round at once.
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// Run runs rounds and resyncs until ctx ends, which is no error. A transaction that is under way on a gateway then ends
// there by itself, wholly old or wholly new. The only other error is *DeposedError: another controller leads. Callers
// that wait get ErrStopped.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer func() {
		cancel()
		background.Wait()
		m.surveys.Wait()
		m.end()
	}()
	background.Go(func() { m.awaitVIPs(ctx) })
	background.Go(func() { m.proveAddresses(ctx) })
	background.Go(func() { m.keepLedger(ctx) })
	background.Go(func() { m.patrol(ctx) })
	background.Go(func() { m.revisit(ctx) })
	background.Go(func() { m.takeCensus(ctx) })

	resync := time.NewTicker(m.settings.Resync)
	defer resync.Stop()
	retry := time.NewTimer(retryMin)
	retry.Stop()
	defer retry.Stop()
	signal(m.wake) // to load
	backoff := retryMin
	for {
		reason, again := "", false
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			reason = "change"
		case <-retry.C:
			reason = "retry"
		case <-resync.C:
			reason, again = "resync", true
		}
		err := m.turn(ctx, reason, again)
		var deposed *DeposedError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &deposed):
			return err
		case err != nil:
			m.log.Warn("round failed, it will be tried again", "in", backoff, "err", err)
			retry.Reset(backoff)
			backoff = min(2*backoff, retryMax)
		default:
			retry.Stop()
			backoff = retryMin
		}
	}
}

// turn does what is to be done: load, take over, a round.
func (m *Manager) turn(ctx context.Context, reason string, again bool) error {
	if err := m.Load(ctx); err != nil {
		if ctx.Err() == nil {
			m.failJoined(err)
		}
		return err
	}
	if m.takesOver() {
		m.readAgain(ctx)
		if err := m.confirmGone(ctx); err != nil {
			m.failJoined(err)
			return err
		}
	}
	if !m.takeOver() {
		return nil // Replay and SetNodes wake us
	}
	if err := m.faceRival(ctx); err != nil {
		if ctx.Err() == nil {
			m.failJoined(err)
		}
		return err
	}
	m.mu.Lock()
	change := m.revision != m.made || len(m.joined) > 0
	m.mu.Unlock()
	repair := len(m.membersWhere(func(g *member) bool { return g.back })) > 0
	switch {
	case again:
	case !change && !repair:
		return nil
	case !change:
		reason = "repair"
	}
	if err := m.runRound(ctx, reason, again); err != nil || !again {
		return err
	}
	m.ask(ctx, m.present(), m.settings.AskTimeout, m.hearStatus)
	return nil
}

// failJoined answers everybody who waits for a round.
func (m *Manager) failJoined(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.joined {
		c.answer(nil, err)
	}
	m.joined = nil
}

// end answers everybody who waits, and everybody who comes later.
func (m *Manager) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, c := range append(m.joined, m.awaiting...) {
		c.answer(nil, fmt.Errorf("%s: %w", c, ErrStopped))
	}
	m.joined, m.awaiting = nil, nil
}

// revisit asks silent gateways whether they are back, until ctx ends: such a gateway is repaired at once, not at the next
// resync.
func (m *Manager) revisit(ctx context.Context) {
	for sleep(ctx, revisitPause) {
		silent := m.membersWhere(func(g *member) bool { return g.silent && !time.Now().Before(g.until) })
		m.ask(ctx, silent, m.settings.AskTimeout, func(ctx context.Context, g *member) {
			if m.greet(ctx, g) {
				signal(m.wake)
			}
		})
	}
}

// greet asks a gateway whether it is there, notes it, and says whether it is back. It wakes nobody: a round that asks
// would wake itself, for ever.
func (m *Manager) greet(ctx context.Context, g *member) (back bool) {
	hello, err := g.Hello(ctx)
	if err != nil {
		if !errors.Is(context.Cause(ctx), context.Canceled) {
			m.setAside(g, err, true)
		}
		return false
	}
	m.hearLinks(g, hello.Links)
	m.mu.Lock()
	defer m.mu.Unlock()
	g.back, g.silent, g.told = g.back || g.silent, false, hello.Fence
	return g.back
}

// readStatus asks a gateway what is true there, and notes it. A gateway that does not answer (nil) is left to the next round.
func (m *Manager) readStatus(ctx context.Context, g *member) *wire.Status {
	status, err := g.Status(ctx)
	if err != nil {
		m.log.Debug("status", "gateway", g.name, "err", err)
		return nil
	}
	m.mu.Lock()
	g.hear(status.Held, status.Warnings)
	m.noteHeld(status.Held, status.Fence)
	news := g.inSync != status.InSync
	g.inSync, g.drift = status.InSync, status.Drift
	told := g.status()
	rivaled, absurd := m.hearPeers(g, status.Peers)
	findings := slices.Concat(g.findings(status), g.drainNews(status.Drain), absurd)
	m.mu.Unlock()
	if rivaled {
		signal(m.wake)
	}
	m.answerHeld()
	if news {
		m.log.Warn("gateway in sync", "gateway", g.name, "inSync", status.InSync, "drift", status.Drift)
		m.observer.tell(func(o Observer) { o.GatewayChanged(told) })
	}
	for _, finding := range findings {
		m.log.Warn("gateway found something", "gateway", g.name, "finding", finding)
		m.observer.tell(func(o Observer) { o.Notice(finding) })
	}
	return status
}

// hearStatus is readStatus for who waits until something is true.
func (m *Manager) hearStatus(ctx context.Context, g *member) { m.readStatus(ctx, g) }
