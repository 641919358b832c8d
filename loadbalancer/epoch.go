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
	asking, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	held, err := m.epochs.Held(asking, m.instance)
	if err != nil {
		return fmt.Errorf("gateway %s knows a newer State (%s): ask the API server who leads: %w", r.gateway.name, newer, err)
	}
	if !held {
		return &DeposedError{Ours: ours, Newer: newer}
	}
	epoch, err := m.claim(ctx, max(newer.Epoch, ours.Epoch)+1)
	if err != nil {
		return fmt.Errorf("gateway %s knows a newer State (%s): claim the epoch above it: %w", r.gateway.name, newer, err)
	}
	m.log.Warn("epoch claimed again, a gateway knew a newer one", "gateway", r.gateway.name, "told", newer, "epoch", epoch)
	m.mu.Lock()
	m.fence = desired.Fence{ClusterUID: ours.ClusterUID, Epoch: epoch, Instance: m.instance}
	m.mu.Unlock()
	return nil
}

// readLate answers a gateway that holds a State of another controller which was committed after we had read the gateways. What
// we were going to push takes back what that one told people, and may give their addresses to others: this Manager ends, and
// the next one reads everything. A State that cannot be read does not stop it for ever.
func (m *Manager) readLate(ctx context.Context, newer desired.Fence) error {
	m.mu.Lock()
	ours, read := m.fence, m.read
	m.mu.Unlock()
	newest, err := m.readGateways(ctx, ours.ClusterUID)
	if err != nil {
		return err
	}
	if newest != nil && newest.Fence.Compare(read) > 0 {
		return &DeposedError{Ours: ours, Newer: newest.Fence, Unread: true}
	}
	m.log.Warn("a gateway holds a newer State that cannot be read", "fence", newer)
	m.mu.Lock()
	m.read = newer
	m.mu.Unlock()
	return nil
}
