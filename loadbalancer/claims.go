package loadbalancer

import (
	"maps"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Who has which address when a controller takes over, as States, statuses and the ledger say it (invariant 8). All of it is called with
// mu held.

// claimUndenied claims what gateways serve of Services whose status says nothing else, before what statuses say alone: nobody is given
// an address before every gateway confirmed a State without its former owner, so that a status that names another's is an old one. Of
// one Service's status and State nobody knows which is the older. It is called with mu held.
func (m *Manager) claimUndenied(terms map[hold]ipam.Sharing) {
	published := map[desired.Key][]netip.Addr{}
	for _, replay := range m.replays {
		published[replay.Key] = replay.Published
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.goodBy), desired.Key.Compare) {
		lb := m.goodBy[key]
		if _, exists := published[key]; !exists {
			continue
		}
		for _, address := range lb.Addresses {
			denied := slices.ContainsFunc(published[key], func(a netip.Addr) bool { return a != address && a.Is4() == address.Is4() })
			if !denied && m.addresses.Claim(ipam.Owner(key), address, terms[hold{address, key}]) == nil {
				m.proven[address] = true
			}
		}
	}
}

func (m *Manager) claimPublished(replay Replay, terms map[hold]ipam.Sharing) (notices []notice) {
	for _, address := range replay.Published {
		err := desired.CheckAddress(address)
		if err == nil {
			err = m.addresses.Claim(ipam.Owner(replay.Key), address, terms[hold{address, replay.Key}])
		}
		if err == nil {
			m.proven[address] = true
			m.vouchPublished(replay.Key, replay.Published, replay.Sharing)
			continue
		}
		notices = append(notices, notice{replay.Key, err})
	}
	return notices
}

// claimServed claims the addresses that gateways serve by a State, and for whom is gone, or disowned, has them on their way back.
// Errors mean that a published address, claimed before, won.
func (m *Manager) claimServed(state *desired.State, terms map[hold]ipam.Sharing, disowned map[desired.Key]bool) {
	if state == nil {
		return
	}
	sharers := map[netip.Addr]int{}
	for _, lb := range state.LoadBalancers {
		for _, address := range lb.Addresses {
			sharers[address]++
			m.proven[address] = true
		}
	}
	for _, r := range m.recalled() {
		if len(r.Ports) > 0 { // also when it is gone for longer: nobody else may claim its ports as a part of the whole address
			sharers[r.Address]++
		}
	}
	for _, lb := range state.LoadBalancers {
		owner, entry := ipam.Owner(lb.Key), m.services[lb.Key]
		gone := entry == nil || disowned[lb.Key]
		if gone {
			m.leaving[lb.Key] = departure{addresses: lb.Addresses}
		}
		for _, address := range lb.Addresses {
			if !gone && m.addresses.Claim(owner, address, terms[hold{address, lb.Key}]) == nil {
				continue
			}
			if sharers[address] > 1 || m.addresses.ClaimReleasing(owner, address, nil) != nil {
				// Others have the rest of it, perhaps since a State that no gateway told of.
				_ = m.addresses.ClaimReleasing(owner, address, frontendPorts(lb.Frontends))
			}
		}
	}
}

// recalled are what was on its way back by the State and by the ledger.
func (m *Manager) recalled() []desired.Releasing {
	recalled := slices.Concat(m.ledger.recalled, m.recalledGiven())
	if m.good == nil {
		return recalled
	}
	return slices.Concat(m.good.Releasing, recalled)
}

func frontendPorts(frontends []desired.Frontend) (ports []ipam.Port) {
	for _, f := range frontends {
		ports = append(ports, ipam.Port{Protocol: string(f.Protocol), Number: f.Port})
	}
	return ports
}

// claimReleasing repeats what was on its way back.
func (m *Manager) claimReleasing(releasing []desired.Releasing) {
	for _, r := range releasing {
		if m.addresses.ClaimReleasing(ipam.Owner(r.Owner), r.Address, ipamPorts(r.Ports)) == nil {
			m.proven[r.Address] = true
			m.since[hold{r.Address, r.Owner}] = released{
				since: desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}, ports: r.Ports,
			}
		}
	}
}
