package loadbalancer

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// patrolled is how many VIPs of one gateway one patrol looks at: with a resync of 60 s a question each half second.
const patrolled = 128

// patrol looks, at every resync, whether somebody edited the ledger, whether quarantined addresses are free again, whether
// proxy ARP has ended, and whether somebody answers for VIPs that gateways hold, until ctx ends.
func (m *Manager) patrol(ctx context.Context) {
	for sleep(ctx, m.settings.Resync) {
		m.readLedger(ctx)
		m.retryProxied(ctx, m.present())
		m.retryQuarantined(ctx)
		for _, g := range m.membersWhere(func(g *member) bool { return g.away == nil && len(g.held) > 0 }) {
			m.inspectHeld(ctx, g)
		}
	}
}

// retryQuarantined gives addresses back that nobody answers for any more, and those that are not asked about any more. When
// no gateway can say, they stay where they are.
func (m *Manager) retryQuarantined(ctx context.Context) {
	m.mu.Lock()
	var asked, settled []netip.Addr
	for _, address := range m.expired(time.Now()) {
		if m.unproven(address) {
			asked = append(asked, address)
		} else {
			settled = append(settled, address)
		}
	}
	m.mu.Unlock()
	present := m.present()
	conflicts := map[netip.Addr]*ConflictError{}
	for batch := range slices.Chunk(asked, wire.MaxProbeTargets) {
		if found := m.inspect(ctx, present, batch); found != nil {
			settled = append(settled, batch...)
			maps.Copy(conflicts, found)
		}
	}
	if ctx.Err() == nil && len(settled) > 0 {
		m.settleQuarantine(settled, conflicts)
	}
}

// settleQuarantine ends the quarantine of addresses, or begins it anew for those with a conflict.
func (m *Manager) settleQuarantine(addresses []netip.Addr, conflicts map[netip.Addr]*ConflictError) {
	var freed []netip.Addr
	m.mu.Lock()
	for _, address := range addresses {
		if c := conflicts[address]; c != nil {
			m.quarantine(c)
			continue
		}
		delete(m.quarantined, address)
		freed = append(freed, address)
	}
	m.reserve()
	m.revision++
	m.mu.Unlock()
	for _, address := range freed {
		m.log.Info("address is free again", "address", address)
		m.observer.tell(func(o Observer) { o.AddressFreed(address) })
	}
	signal(m.wake)
}

// inspectHeld tells the owners of VIPs that somebody else answers for: connections go astray. It looks at some of the VIPs
// each time, in turn.
func (m *Manager) inspectHeld(ctx context.Context, g *member) {
	m.mu.Lock()
	var held []netip.Addr
	for _, address := range sortedAddresses(g.held) {
		if m.asks(address) {
			held = append(held, address)
		}
	}
	next := 0
	if i := slices.IndexFunc(held, g.inspected.Less); i > 0 {
		next = i
	}
	turn := append(held[next:len(held):len(held)], held[:next]...)
	turn = turn[:min(len(turn), patrolled)]
	m.mu.Unlock()
	if len(turn) == 0 {
		return
	}
	conflicts := m.inspect(ctx, []*member{g}, turn)
	if conflicts == nil {
		return // the gateway cannot say
	}
	m.mu.Lock()
	g.inspected = turn[len(turn)-1]
	var notices []notice
	for _, address := range turn {
		c := conflicts[address]
		switch {
		case c == nil:
			delete(m.contested, address)
		case !g.held[address] || m.contested[address] == c.MAC:
			// It moved while we asked, or is told already.
		default:
			m.contested[address] = c.MAC
			c.Held = true
			for _, holder := range m.addresses.Holders(address) {
				notices = append(notices, notice{desired.Key(holder.Owner), c})
			}
		}
	}
	m.mu.Unlock()
	m.tellNotices(notices)
}

// expired are the addresses whose quarantine is over, sorted.
func (m *Manager) expired(now time.Time) (addresses []netip.Addr) {
	for _, address := range sortedAddresses(m.quarantined) {
		if !now.Before(m.quarantined[address].Until) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}
