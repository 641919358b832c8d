package loadbalancer

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A machine with proxy ARP answers for whatever is asked for. To tell it from one that has an address, it is asked for others
// that nobody should have. It is a proxy when
//   - none of them stays silent, and none of those that were asked for in the same question: a proxy misses nothing, while a
//     machine with some addresses does not have the next one as well;
//   - it answers for three in all, at least one of them asked for only to find out. A node with kube-proxy in IPVS mode
//     answers for any number of VIPs in use, and for none that is free.
// One that somebody else answers for says nothing either way.
//
// A machine that has every address that can be asked for is taken for a proxy: a firewall that translates the whole pool.
// When there are too few to tell, it is taken for one that has the address.

// proxySample is how many free addresses of a pool are asked for, spreadSample how many elsewhere on its network.
const (
	proxySample  = 4
	spreadSample = 8
)

// trial finds out whether machines that answer for addresses of one pool and family are proxies.
type trial struct {
	poolFamily
	suspects []*ConflictError
	// asked are the addresses of the question that they answered to. sample are others that nobody should have, targets the
	// questions for them.
	asked, sample []netip.Addr
	targets       []wire.ProbeTarget
}

// leaveOutProxies takes away the conflicts with machines that answer for everything. Their pools are not asked for from then
// on.
func (m *Manager) leaveOutProxies(ctx context.Context, gateways []*member, found map[netip.Addr]sighting,
	conflicts map[netip.Addr]*ConflictError) {
	trials := m.trials(found, conflicts)
	sampled := m.surveyTrials(ctx, gateways, trials)
	maps.Copy(sampled, found)
	for _, t := range trials {
		for _, c := range t.suspects {
			if t.convicts(c.MAC, sampled) {
				m.distrust(t.poolFamily, c)
				delete(conflicts, c.Address)
			}
		}
	}
}

// trials are those that conflicts call for.
func (m *Manager) trials(found map[netip.Addr]sighting, conflicts map[netip.Addr]*ConflictError) []*trial {
	m.mu.Lock()
	defer m.mu.Unlock()
	byPool := map[poolFamily]*trial{}
	var trials []*trial
	for _, address := range sortedAddresses(conflicts) {
		p := m.poolFamily(address)
		if byPool[p] == nil {
			byPool[p] = &trial{poolFamily: p, sample: m.sample(p, address)}
			trials = append(trials, byPool[p])
		}
		byPool[p].suspects = append(byPool[p].suspects, conflicts[address])
	}
	for _, address := range sortedAddresses(found) {
		t := byPool[m.poolFamily(address)]
		if t != nil && !slices.Contains(t.sample, address) {
			t.asked = append(t.asked, address)
		}
	}
	// Where somebody was silent there is no proxy, and no more to be asked.
	trials = slices.DeleteFunc(trials, func(t *trial) bool {
		_, silent := tally("", t.asked, found)
		return silent > 0
	})
	for _, t := range trials {
		for _, address := range t.sample {
			t.targets = append(t.targets, wire.ProbeTarget{Address: address, Interface: m.pools.PoolInterface[t.pool]})
		}
	}
	return trials
}

// surveyTrials asks for the samples of all trials at once.
func (m *Manager) surveyTrials(ctx context.Context, gateways []*member, trials []*trial) map[netip.Addr]sighting {
	var targets []wire.ProbeTarget
	for _, t := range trials {
		targets = append(targets, t.targets...)
	}
	all := map[netip.Addr]sighting{}
	for batch := range slices.Chunk(targets, wire.MaxProbeTargets) {
		maps.Copy(all, m.survey(ctx, gateways, batch))
	}
	return all
}

// convicts says whether a machine answers for everything.
func (t *trial) convicts(mac string, found map[netip.Addr]sighting) bool {
	asked, _ := tally(mac, t.asked, found)
	sampled, silent := tally(mac, t.sample, found)
	return silent == 0 && sampled >= 1 && asked+sampled >= 3
}

// tally counts the addresses that a machine answers for, and those that nobody does.
func tally(mac string, addresses []netip.Addr, found map[netip.Addr]sighting) (answered, silent int) {
	for _, address := range addresses {
		s := found[address]
		switch {
		case slices.ContainsFunc(s.Neighbors, func(n wire.Neighbor) bool { return n.MAC == mac }):
			answered++
		case s.Asked && len(s.Neighbors) == 0:
			silent++
		}
	}
	return answered, silent
}

// sample are free addresses of a pool, or, where it has too few, others on the network of its address near: free ones of
// other pools, or some that are in no pool. It is called with mu held.
func (m *Manager) sample(p poolFamily, near netip.Addr) []netip.Addr {
	sample := m.addresses.Sample(p.pool, p.family, proxySample)
	network, known := m.networkOf(near)
	if len(sample) >= 2 || !known {
		return sample
	}
	for _, other := range m.pools.Pools {
		if len(sample) >= proxySample {
			break
		}
		for _, address := range m.addresses.Sample(other.Name, p.family, proxySample) {
			if other.Name != p.pool && network.Contains(address) {
				sample = append(sample, address)
			}
		}
	}
	if len(sample) < 2 {
		sample = append(sample, slices.DeleteFunc(spread(network, spreadSample), m.known)...)
	}
	return sample
}

// known says whether an address is a pool's, or one of those that are nobody's to have or some machine's that we know of. It is
// called with mu held.
func (m *Manager) known(address netip.Addr) bool {
	_, outside := errors.AsType[*ipam.OutsideError](m.addresses.Check(address))
	return !outside || len(m.addresses.Holders(address)) > 0
}

// networkOf is the smallest network of a gateway's link that has the address. It is called with mu held.
func (m *Manager) networkOf(address netip.Addr) (network netip.Prefix, known bool) {
	for _, g := range m.members {
		for _, link := range g.links {
			for _, prefix := range link.Prefixes {
				if prefix.Contains(address) && (!known || prefix.Bits() > network.Bits()) {
					network, known = prefix, true
				}
			}
		}
	}
	return network, known
}

// spread are n addresses all over a network, or all of a small one: machines crowd at its ends.
func spread(network netip.Prefix, n int64) (all []netip.Addr) {
	bits := network.Addr().BitLen()
	first := new(big.Int).SetBytes(network.Masked().Addr().AsSlice())
	size := new(big.Int).Lsh(big.NewInt(1), uint(bits-network.Bits()))
	for k := int64(1); k <= n; k++ {
		number := new(big.Int).Mul(size, big.NewInt(k))
		number.Div(number, big.NewInt(n+1)).Add(number, first)
		address, _ := netip.AddrFromSlice(number.FillBytes(make([]byte, bits/8)))
		all = append(all, address)
	}
	return slices.Compact(all)
}

// distrust turns the questions off for a pool and family, and says so once.
func (m *Manager) distrust(p poolFamily, c *ConflictError) {
	m.mu.Lock()
	_, known := m.proxied[p]
	m.proxied[p] = c.MAC
	m.revision++ // who waits for an address of it need not wait any more
	m.mu.Unlock()
	signal(m.wake)
	if !known {
		m.tellProxy(&ProxyARPError{Pool: p.pool, Family: p.family, MAC: c.MAC, Gateway: c.Gateway})
	}
}

// retryProxied turns the questions on again where nobody answers for everything any more.
func (m *Manager) retryProxied(ctx context.Context, gateways []*member) {
	m.mu.Lock()
	proxied := maps.Clone(m.proxied)
	var trials []*trial
	for _, p := range slices.SortedFunc(maps.Keys(proxied), poolFamily.compare) {
		t := &trial{poolFamily: p, sample: m.addresses.Sample(p.pool, p.family, proxySample)}
		t.targets = m.targetsOf(t.sample)
		trials = append(trials, t)
	}
	m.mu.Unlock()
	found := m.surveyTrials(ctx, gateways, trials)
	for _, t := range trials {
		mac := proxied[t.poolFamily]
		// Some that stay silent while it answers for others may be frames that were lost.
		if answered, silent := tally(mac, t.sample, found); answered > 0 || silent == 0 {
			continue
		}
		m.mu.Lock()
		delete(m.proxied, t.poolFamily)
		m.mu.Unlock()
		m.tellProxy(&ProxyARPError{Pool: t.pool, Family: t.family, MAC: mac, Gateway: found[t.sample[0]].gateway, Ended: true})
	}
}

func (p poolFamily) compare(q poolFamily) int {
	return cmp.Or(cmp.Compare(p.pool, q.pool), cmp.Compare(p.family, q.family))
}

func (m *Manager) tellProxy(news *ProxyARPError) {
	if news.Ended {
		m.log.Info("proxy ARP ended", "news", news.Error())
	} else {
		m.log.Warn("proxy ARP", "err", news)
	}
	m.observer.tell(func(o Observer) { o.Notice(news) })
}
