package loadbalancer

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// newInstance is the random name of this Manager.
func newInstance() string { return rand.Text() }

// maxEpochJump is the farthest that an epoch may lie above the epoch object's and ours: a takeover every half minute for a year.
// Controllers claim above the highest epoch that they hear of, so that one near the end of the numbers, by a bug or by malice, would
// lock every later one out. The agents have the same bound for what peers hand on.
const maxEpochJump = 1 << 20

// absurd is the error of a gateway that tells of an epoch which nobody can have claimed; by says so of it when it does not itself. It
// is called with mu held.
func (m *Manager) absurd(gateway, by string, told desired.Fence) error {
	if known := max(m.fence.Epoch, m.stored); told.Epoch > known && told.Epoch-known > maxEpochJump {
		return &EpochError{Gateway: gateway, By: by, Told: told.Epoch, Known: known}
	}
	return nil
}

// holder asks the epoch object who leads.
func (m *Manager) holder(ctx context.Context) (instance string, err error) {
	asking, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	instance, epoch, err := m.epochs.Holder(asking)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored = max(m.stored, epoch)
	return instance, nil
}

// refence answers a gateway that knows a newer State than ours. Does another controller lead, this one ends
// (*DeposedError), and so it does when the object is gone, for then nobody says that the other one does not. Else the epoch
// object is older than the gateways (an etcd restored from a backup, a gateway that was away while we loaded): the epoch is
// claimed again above what the gateway told, so that nobody is locked out (invariant 4).
func (m *Manager) refence(ctx context.Context, r reply) error {
	m.mu.Lock()
	ours := m.fence
	m.mu.Unlock()
	newer := ours
	if r.fence != nil {
		newer = *r.fence
	}
	if r.code == wire.CodeSequence && newer.Epoch == ours.Epoch && newer.Instance == ours.Instance {
		m.mu.Lock()
		m.fence.Sequence = max(m.fence.Sequence, newer.Sequence) + 1
		m.mu.Unlock()
		return nil
	}
	if r.code == wire.CodeUnread {
		return m.readLate(ctx, r.gateway, newer)
	}
	return m.claimAbove(ctx, r.gateway.name, newer)
}

// claimAbove claims the epoch above a State of another controller that a gateway holds, or ends this Manager.
func (m *Manager) claimAbove(ctx context.Context, gateway string, newer desired.Fence) error {
	m.mu.Lock()
	ours := m.fence
	m.mu.Unlock()
	holder, err := m.holder(ctx)
	if err != nil {
		return fmt.Errorf("gateway %s knows a newer State (%s): ask the API server who leads: %w", gateway, newer, err)
	}
	if holder != m.instance {
		return &DeposedError{Ours: ours, Newer: newer}
	}
	epoch, err := m.claim(ctx, max(newer.Epoch, ours.Epoch)+1)
	if err != nil {
		return fmt.Errorf("gateway %s knows a newer State (%s): claim the epoch above it: %w", gateway, newer, err)
	}
	m.log.Warn("epoch claimed again, a gateway knew a newer one", "gateway", gateway, "told", newer, "epoch", epoch)
	m.mu.Lock()
	m.fence = desired.Fence{ClusterUID: ours.ClusterUID, Epoch: epoch, Instance: m.instance}
	m.revision++
	m.mu.Unlock()
	return nil
}

// confirmLead ends this Manager when it does not hold the epoch object any more and some gateway is away: that one may have a newer
// leader's State, and the others would not refuse ours. It would tell people what is taken back as soon as the gateways meet. An API
// server that does not answer stops nobody. Its answer, or that there is none, holds for leadPause.
func (m *Manager) confirmLead(ctx context.Context) error {
	m.mu.Lock()
	away := slices.ContainsFunc(m.members, func(g *member) bool { return g.away != nil })
	asked := !m.ledAt.IsZero() && time.Since(m.ledAt) < leadPause
	m.mu.Unlock()
	if !away || asked {
		return nil
	}
	holder, err := m.holder(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ledAt = time.Now(); err != nil || holder == m.instance {
		return ctx.Err()
	}
	return &DeposedError{Ours: m.fence}
}

// leadPause is for how long an answer to who leads is believed: a round may push many States, and an API server that does not answer
// costs an AskTimeout.
const leadPause = time.Second

// rival is what a gateway that only its peers reach says that it holds.
type rival struct {
	gateway string
	fence   desired.Fence
}

// hearPeers notes whether a gateway that we do not reach holds another controller's State of our epoch or a newer one: the epoch
// object was deleted or is an older one (an etcd restored), and nobody could know of that State when ours was claimed. Its peers
// do not hand it ours, as nobody can say which of two States of one epoch is the newer. An absurd epoch is told, once. It is called
// with mu held.
func (m *Manager) hearPeers(by *member, peers []wire.PeerStatus) (rivaled bool, findings []error) {
	by.peers = peers
	absurd := map[string]uint64{}
	for _, p := range peers {
		f := p.Fence
		if f == nil || !p.Answers || f.ClusterUID != m.fence.ClusterUID || f.Instance == m.instance || f.Epoch < m.fence.Epoch || by.away != nil {
			continue
		}
		if err := m.absurd(p.Gateway, by.name, *f); err != nil {
			if absurd[p.Gateway] = f.Epoch; by.absurd[p.Gateway] != f.Epoch {
				findings = append(findings, err)
			}
			continue
		}
		m.rival = &rival{p.Gateway, *f}
		rivaled = true
	}
	by.absurd = absurd
	return rivaled, findings
}

// faceRival claims the epoch above a State that was heard of through a peer.
func (m *Manager) faceRival(ctx context.Context) error {
	m.mu.Lock()
	r := m.rival
	m.rival = nil
	if r != nil && r.fence.Epoch < m.fence.Epoch {
		r = nil // claimed above it meanwhile
	}
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := m.claimAbove(ctx, r.gateway, r.fence); err != nil {
		m.mu.Lock()
		m.rival = r
		m.mu.Unlock()
		return err
	}
	return nil
}

// readLate answers a gateway that holds a State of another controller which was committed after we had read the gateways. What we
// were going to push would take back what that one told people, and might give their addresses to others: it is read now. A gateway
// that does not answer in time is left out until it does.
func (m *Manager) readLate(ctx context.Context, g *member, told desired.Fence) error {
	m.mu.Lock()
	ours := m.fence
	g.unread = true
	m.mu.Unlock()
	states, err := m.readGateways(ctx, ours.ClusterUID)
	if err != nil {
		return err
	}
	m.mu.Lock()
	state, unreadable := m.unread(states, g), g.away != nil && !g.silent
	if state == nil && unreadable {
		m.log.Warn("a gateway holds a newer State that cannot be read", "gateway", g.name, "fence", told, "err", g.away)
		m.read = told // it must not stop us for ever
	}
	m.mu.Unlock()
	if state == nil {
		return nil // or it has taken ours meanwhile
	}
	untold, err := m.untold(ctx, state)
	if err != nil {
		return err
	}
	m.log.Info("another controller was faster, its State is read", "fence", state.Fence, "instance", state.Fence.Instance)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learn(state, untold)
	return nil
}

// unread gives the newest of the States that we have not read; the one of this gateway when two claimed the same epoch, and none of ours:
// another gateway may have taken that before. It is called with mu held.
func (m *Manager) unread(states []*desired.State, of *member) *desired.State {
	others := slices.Clone(states)
	for i, state := range others {
		if state != nil && (state.Fence.Instance == m.instance || !state.Fence.NewTo(m.read)) {
			others[i] = nil
		}
	}
	newest := newestOf(others)
	if own := others[slices.Index(m.members, of)]; own != nil && own.Fence.NewTo(newest.Fence) {
		return own
	}
	return newest
}
