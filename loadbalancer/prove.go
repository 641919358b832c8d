package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Before a new address stands in a State, a gateway asks on the network whether somebody has it: that takes half a second,
// so it is done outside of rounds, for all new addresses at once, and rounds go on without them.

// quarantineTime is how long an address is left alone that a stranger answered for.
const quarantineTime = 10 * time.Minute

// proxySample is how many free addresses are asked for to tell a machine that answers for everything (proxy ARP) from one
// that has the address.
const proxySample = 4

// unproven says whether nobody knows yet that the address is not in use by a stranger. What was ever in a State or in a
// Service's status is ours. It is called with mu held.
func (m *Manager) unproven(address netip.Addr) bool {
	pool, pooled := m.addresses.PoolOf(address)
	return pooled && !m.proven[address] && m.probed(pool)
}

// probed says whether a pool's addresses are looked for on the network.
func (m *Manager) probed(pool string) bool { return !m.pools.Unprobed[pool] && m.proxied[pool] == "" }

// toProve are the addresses that Services wait for, sorted, each once. It is called with mu held.
func (m *Manager) toProve() []netip.Addr {
	waited := map[netip.Addr]bool{}
	for _, entry := range m.services {
		if !entry.unproven {
			continue
		}
		for _, address := range entry.want.Addresses {
			if m.unproven(address) {
				waited[address] = true
			}
		}
	}
	return sortedAddresses(waited)
}

// proveAddresses looks for new addresses on the network, until ctx ends.
func (m *Manager) proveAddresses(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.prove:
		}
		m.mu.Lock()
		addresses := m.toProve()
		m.mu.Unlock()
		for batch := range slices.Chunk(addresses, wire.MaxProbeTargets) {
			conflicts := m.inspect(ctx, m.membersWhere(func(g *member) bool { return g.away == nil }), batch)
			if ctx.Err() != nil {
				return
			}
			m.settleProof(batch, conflicts)
		}
	}
}

// settleProof lets Services have the addresses that nobody answered for; the others are quarantined, and Services that
// did not ask for one of them by name get another.
func (m *Manager) settleProof(asked []netip.Addr, conflicts map[netip.Addr]*ConflictError) {
	m.mu.Lock()
	for _, address := range asked {
		m.proven[address] = conflicts[address] == nil
	}
	var notices []notice
	for _, address := range sortedAddresses(conflicts) {
		m.quarantine(conflicts[address])
		for _, holder := range m.addresses.Holders(address) {
			if holder.Releasing {
				continue // deleted meanwhile, and no gateway ever heard of the address
			}
			told := *conflicts[address]
			told.Requested = m.withdraw(desired.Key(holder.Owner), address)
			notices = append(notices, notice{desired.Key(holder.Owner), &told})
		}
	}
	m.reserve()
	m.revision++
	m.mu.Unlock()
	m.tellNotices(notices)
	signal(m.wake)
}

func (m *Manager) quarantine(c *ConflictError) {
	by := c.MAC
	if c.Node != "" {
		by += " (node " + c.Node + ")"
	}
	m.quarantined[c.Address] = Quarantine{Address: c.Address, By: by, Until: time.Now().Add(quarantineTime)}
	delete(m.proven, c.Address)
}

// withdraw takes an address back that no gateway was told of, and gives the Service the one that is still served. It says
// whether the Service asked for the address by name.
func (m *Manager) withdraw(key desired.Key, address netip.Addr) (requested bool) {
	m.addresses.Withdraw(ipam.Owner(key), address)
	entry := m.services[key]
	if entry == nil {
		return false
	}
	if good := m.goodBy[key]; good != nil {
		for _, served := range good.Addresses {
			if served.Is4() == address.Is4() && m.addresses.Has(ipam.Owner(key), served) {
				_ = m.addresses.Claim(ipam.Owner(key), served, entry.request.Sharing) // its own: nothing is in the way
			}
		}
	}
	return slices.Contains(entry.request.Addresses, address)
}

// inspect asks the first of the gateways that can say who answers for the addresses, and gives the conflicts. Pools whose
// addresses are all answered for by one machine have none from then on. When no gateway can say, there is none.
func (m *Manager) inspect(ctx context.Context, gateways []*member, addresses []netip.Addr) map[netip.Addr]*ConflictError {
	for _, g := range gateways {
		answers, err := m.probe(ctx, g, addresses)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			m.log.Warn("addresses could not be looked for on the network", "gateway", g.name, "addresses", len(addresses), "err", err)
			continue
		}
		conflicts := strangers(g.name, answers)
		m.leaveOutProxies(ctx, g, conflicts)
		return conflicts
	}
	return nil
}

// probe asks one gateway.
func (m *Manager) probe(ctx context.Context, g *member, addresses []netip.Addr) ([]wire.ProbeAnswer, error) {
	m.mu.Lock()
	targets := make([]wire.ProbeTarget, len(addresses))
	for i, address := range addresses {
		pool, _ := m.addresses.PoolOf(address)
		targets[i] = wire.ProbeTarget{Address: address, Interface: m.pools.PoolInterface[pool]}
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, m.settings.AskTimeout, &noAnswerError{m.settings.AskTimeout})
	defer cancel()
	probed, err := g.Probe(ctx, targets)
	if err != nil {
		return nil, err
	}
	if len(probed.Answers) != len(targets) {
		return nil, fmt.Errorf("gateway %s answered %d of %d questions", g.name, len(probed.Answers), len(targets))
	}
	return probed.Answers, nil
}

// strangers are the answers of machines that are no gateways; a node before others, because its name helps.
func strangers(gateway string, answers []wire.ProbeAnswer) map[netip.Addr]*ConflictError {
	conflicts := map[netip.Addr]*ConflictError{}
	for _, answer := range answers {
		for _, n := range answer.Neighbors {
			if known := conflicts[answer.Address]; n.Gateway != "" || known != nil && (n.Node == "" || known.Node != "") {
				continue
			}
			conflicts[answer.Address] = &ConflictError{Address: answer.Address, Gateway: gateway, MAC: n.MAC, Node: n.Node}
		}
	}
	return conflicts
}

// leaveOutProxies takes away the conflicts of pools in which one machine answers for free addresses that nobody can have
// at once.
func (m *Manager) leaveOutProxies(ctx context.Context, g *member, conflicts map[netip.Addr]*ConflictError) {
	type question struct {
		pool   string
		family ipam.Family
	}
	suspects := map[question]map[string]bool{} // the MACs
	m.mu.Lock()
	for address, c := range conflicts {
		pool, _ := m.addresses.PoolOf(address)
		q := question{pool, ipam.FamilyOf(address)}
		if suspects[q] == nil {
			suspects[q] = map[string]bool{}
		}
		suspects[q][c.MAC] = true
	}
	samples := map[question][]netip.Addr{}
	for q := range suspects {
		samples[q] = m.addresses.Sample(q.pool, q.family, proxySample)
	}
	m.mu.Unlock()
	for q, sample := range samples {
		if len(sample) < 2 {
			continue // too few to tell one machine with an address from one with all
		}
		answers, err := m.probe(ctx, g, sample)
		if err != nil {
			m.log.Warn("proxy ARP could not be looked for", "gateway", g.name, "pool", q.pool, "err", err)
			continue
		}
		for _, mac := range slices.Sorted(maps.Keys(suspects[q])) {
			if answersAll(mac, answers) {
				m.distrust(q.pool, &ProxyARPError{Pool: q.pool, MAC: mac, Gateway: g.name})
				maps.DeleteFunc(conflicts, func(_ netip.Addr, c *ConflictError) bool { return c.MAC == mac })
			}
		}
	}
}

func answersAll(mac string, answers []wire.ProbeAnswer) bool {
	return !slices.ContainsFunc(answers, func(a wire.ProbeAnswer) bool {
		return !slices.ContainsFunc(a.Neighbors, func(n wire.Neighbor) bool { return n.MAC == mac })
	})
}

// distrust turns the questions off for a pool, and says so once.
func (m *Manager) distrust(pool string, why *ProxyARPError) {
	m.mu.Lock()
	_, pooled := m.proxied[pool]
	m.proxied[pool] = why.MAC
	m.mu.Unlock()
	if !pooled {
		m.log.Warn("proxy ARP", "err", why)
		m.observer.tell(func(o Observer) { o.Notice(why) })
	}
}
