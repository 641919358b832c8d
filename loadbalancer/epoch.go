package loadbalancer

import (
	"context"
	"crypto/rand"
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// newInstance is the random name of this Manager.
func newInstance() string { return rand.Text() }

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
		return m.readLate(ctx, newer)
	}
	return m.claimAbove(ctx, r.gateway.name, newer)
}

// claimAbove claims the epoch above a State of another controller that a gateway holds, or ends this Manager.
func (m *Manager) claimAbove(ctx context.Context, gateway string, newer desired.Fence) error {
	m.mu.Lock()
	ours := m.fence
	m.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	held, err := m.epochs.Held(asking, m.instance)
	if err != nil {
		return fmt.Errorf("gateway %s knows a newer State (%s): ask the API server who leads: %w", gateway, newer, err)
	}
	if !held {
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
// server that does not answer stops nobody.
func (m *Manager) confirmLead(ctx context.Context) error {
	if len(m.membersWhere(func(g *member) bool { return g.away != nil })) == 0 {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	held, err := m.epochs.Held(asking, m.instance)
	if err != nil || held {
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return &DeposedError{Ours: m.fence}
}

// rival is what a gateway that only its peers reach says that it holds.
type rival struct {
	gateway string
	fence   desired.Fence
}

// hearPeers notes whether a gateway that we do not reach holds another controller's State of our epoch or a newer one: the epoch
// object was deleted or is an older one (an etcd restored), and nobody could know of that State when ours was claimed. Its peers
// do not hand it ours, as nobody can say which of two States of one epoch is the newer. It is called with mu held.
func (m *Manager) hearPeers(by *member, peers []wire.PeerStatus) (news bool) {
	by.peers = peers
	for _, p := range peers {
		f := p.Fence
		if f == nil || !p.Answers || f.ClusterUID != m.fence.ClusterUID || f.Instance == m.instance || f.Epoch < m.fence.Epoch || by.away != nil {
			continue
		}
		m.rival = &rival{p.Gateway, *f}
		return true
	}
	return false
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
// were going to push would take back what that one told people, and might give their addresses to others: it is read now.
func (m *Manager) readLate(ctx context.Context, told desired.Fence) error {
	m.mu.Lock()
	ours := m.fence
	m.mu.Unlock()
	newest, err := m.readGateways(ctx, ours.ClusterUID, m.instance) // another gateway may have taken ours before
	if err != nil {
		return err
	}
	untold, err := m.untold(ctx, newest)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if newest == nil || newest.Fence.Compare(m.read) <= 0 {
		m.log.Warn("a gateway holds a newer State that cannot be read", "fence", told)
		m.read = told // who cannot be read must not stop us for ever
		return nil
	}
	m.log.Info("another controller was faster, its State is read", "fence", newest.Fence, "instance", newest.Fence.Instance)
	m.learn(newest, untold)
	return nil
}
