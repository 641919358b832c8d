package loadbalancer

import (
	"context"
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

// unproven says whether nobody knows yet that the address is not in use by a stranger. What was ever in a State or in a
// Service's status is ours. It is called with mu held.
func (m *Manager) unproven(address netip.Addr) bool {
	return !m.proven[address] && m.asks(address)
}

// asks says whether an address lies in a pool that is looked for on the network. It is called with mu held.
func (m *Manager) asks(address netip.Addr) bool {
	p := m.poolFamily(address)
	return p.pool != "" && !m.pools.Unprobed[p.pool] && m.proxied[p] == ""
}

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

// withNext adds the addresses that would come next in pools where strangers answered just now, the more the longer that
// goes on: a Service does not ask for the leases of a whole DHCP range one after the other. It is called with mu held.
func (m *Manager) withNext(addresses []netip.Addr) []netip.Addr {
	asked := map[poolFamily]bool{}
	all := slices.Clone(addresses)
	for _, address := range addresses {
		if p := m.poolFamily(address); !asked[p] {
			asked[p] = true
			all = append(all, m.addresses.Next(p.pool, p.family, m.ahead[p])...)
		}
	}
	return all
}

// poolFamily is one kind of address of one pool.
type poolFamily struct {
	pool   string
	family ipam.Family
}

func (m *Manager) poolFamily(address netip.Addr) poolFamily {
	pool, _ := m.addresses.PoolOf(address)
	return poolFamily{pool, ipam.FamilyOf(address)}
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
		addresses := m.withNext(m.toProve())
		m.mu.Unlock()
		for batch := range slices.Chunk(addresses, wire.MaxProbeTargets) {
			conflicts := m.inspect(ctx, m.present(), batch)
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
	var notices []notice
	m.lookAhead(asked, conflicts)
	for _, address := range asked {
		holders, c := m.addresses.Holders(address), conflicts[address]
		switch {
		case !m.unproven(address): // it came with a Service that has it from before
		case c == nil && len(holders) > 0:
			m.proven[address] = true
		case c != nil:
			m.quarantine(c)
			for _, holder := range holders {
				if holder.Releasing {
					continue // deleted meanwhile, and no gateway ever heard of the address
				}
				told := *c
				told.Requested = m.withdraw(desired.Key(holder.Owner), address)
				notices = append(notices, notice{desired.Key(holder.Owner), &told})
			}
		}
	}
	m.reserve()
	m.revision++
	m.mu.Unlock()
	m.tellNotices(notices)
	signal(m.wake)
}

// lookAhead notes where to ask for more addresses the next time. It is called with mu held.
func (m *Manager) lookAhead(asked []netip.Addr, conflicts map[netip.Addr]*ConflictError) {
	ahead := map[poolFamily]int{}
	for _, address := range asked {
		if p := m.poolFamily(address); conflicts[address] != nil {
			ahead[p] = min(4*max(1, m.ahead[p]), wire.MaxProbeTargets/4)
		}
	}
	m.ahead = ahead
}

func (m *Manager) quarantine(c *ConflictError) {
	by := c.MAC
	if c.Node != "" {
		by += " (node " + c.Node + ")"
	}
	m.quarantined[c.Address] = Quarantine{Address: c.Address, By: by, Node: c.Node, Until: time.Now().Add(quarantineTime)}
}

// withdraw takes an address back that no gateway was told of, and gives the Service the one that is still served. It says
// whether the Service asked for the address by name.
func (m *Manager) withdraw(key desired.Key, address netip.Addr) (requested bool) {
	m.addresses.Withdraw(ipam.Owner(key), address)
	delete(m.vouched, hold{address, key})
	entry := m.services[key]
	if entry == nil || entry.want == nil {
		return false
	}
	// It waits for another one: unproven stays set until the next round has assigned that.
	entry.want.Addresses = slices.DeleteFunc(slices.Clone(entry.want.Addresses), func(a netip.Addr) bool { return a == address })
	if good := m.goodBy[key]; good != nil {
		for _, served := range good.Addresses {
			if served.Is4() == address.Is4() && m.addresses.Has(ipam.Owner(key), served) {
				_ = m.addresses.Claim(ipam.Owner(key), served, entry.request.Sharing) // its own: nothing is in the way
			}
		}
	}
	return slices.Contains(entry.request.Addresses, address)
}

// inspect asks the gateways who answers for the addresses, and gives the conflicts; nil when none can say. Pools whose
// addresses are all answered for by one machine have none from then on.
func (m *Manager) inspect(ctx context.Context, gateways []*member, addresses []netip.Addr) map[netip.Addr]*ConflictError {
	m.mu.Lock()
	targets := m.targetsOf(addresses)
	m.mu.Unlock()
	found := m.survey(ctx, gateways, targets)
	if found == nil {
		return nil
	}
	conflicts := strangers(found)
	m.leaveOutProxies(ctx, gateways, found, conflicts)
	return conflicts
}
