package loadbalancer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// target is a State that gateways are to confirm.
type target struct {
	state  *desired.State
	byKey  map[desired.Key]*desired.LoadBalancer
	signed desired.Signed
	digest string
}

func (t *target) fence() desired.Fence { return t.state.Fence }

// aim makes the wanted State the target, with the load balancers of withheld in their last good form. When nothing but
// the fence would change, the target stays. Load balancers that are at fault by themselves are refused on the way. It is
// called with mu held.
func (m *Manager) aim(withheld map[desired.Key]bool) (t *target, blamed []desired.Key, err error) {
	m.assign(withheld)
	for {
		state := m.build(m.forms(withheld))
		err := state.Validate()
		if err == nil {
			t, err = m.retarget(state)
			return t, blamed, err
		}
		var faults desired.Faults
		errors.As(err, &faults)
		refused := m.blameLocally(faults, byKey(state))
		if len(refused) == 0 {
			return nil, blamed, fmt.Errorf("make the State: %w", err)
		}
		blamed = append(blamed, refused...)
	}
}

// retarget makes state the target unless it says what the present target says.
func (m *Manager) retarget(state *desired.State) (*target, error) {
	digest, err := state.Digest()
	if err != nil {
		return nil, err
	}
	if m.target != nil && m.target.digest == digest && m.target.fence() == m.fence {
		m.markDepartures(m.target.state)
		return m.target, nil
	}
	canonical, err := state.Canonical()
	if err != nil {
		return nil, err
	}
	signed, err := m.signer.Sign(canonical)
	if err != nil {
		return nil, fmt.Errorf("sign the State: %w", err)
	}
	m.target = &target{state: state, byKey: byKey(state), signed: signed, digest: digest}
	m.fence = state.Fence
	m.settlePlaces(state)
	m.markDepartures(state)
	return m.target, nil
}

func byKey(s *desired.State) map[desired.Key]*desired.LoadBalancer {
	all := make(map[desired.Key]*desired.LoadBalancer, len(s.LoadBalancers))
	for i := range s.LoadBalancers {
		all[s.LoadBalancers[i].Key] = &s.LoadBalancers[i]
	}
	return all
}

// markDepartures notes from which fence on addresses and load balancers are gone, for those that go now. What a State
// has again has not departed. An address that some State between had again counts from anew: see invariant 8.
func (m *Manager) markDepartures(s *desired.State) {
	for _, r := range s.Releasing {
		m.since[r.Address] = desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}
	}
	for _, vip := range s.VIPs {
		delete(m.since, vip.Address)
	}
	for key, going := range m.leaving {
		if going.since.Epoch == 0 {
			going.since = s.Fence
			m.leaving[key] = going
		}
	}
}

// assign gives every wanted load balancer its addresses, in the order of keys (invariant 10).
func (m *Manager) assign(withheld map[desired.Key]bool) {
	for _, key := range m.keys() {
		entry := m.services[key]
		if entry.want == nil || entry.refused != nil || withheld[key] {
			continue
		}
		addresses, err := m.addresses.Allocate(ipam.Owner(key), entry.request)
		entry.unassigned = err
		if err == nil {
			entry.want.Addresses = addresses
		}
	}
}

func (m *Manager) keys() []desired.Key {
	return slices.SortedFunc(maps.Keys(m.services), desired.Key.Compare)
}

// forms are how the load balancers shall stand in the State, in the order of keys.
func (m *Manager) forms(withheld map[desired.Key]bool) (forms []*desired.LoadBalancer) {
	for _, key := range m.keys() {
		if lb := m.form(key, withheld[key]); lb != nil {
			forms = append(forms, lb)
		}
	}
	return forms
}

// build makes a State of these load balancers with the next fence. It changes nothing.
func (m *Manager) build(forms []*desired.LoadBalancer) *desired.State {
	fence := m.fence
	fence.Sequence++
	s := &desired.State{
		Schema:       desired.Schema,
		Fence:        fence,
		Gateways:     m.settings.Gateways,
		VRRP:         m.settings.VRRP,
		Instances:    m.instances,
		ControlPlane: m.settings.ControlPlane,
		NodeCheck:    m.settings.NodeCheck,
	}
	vips := map[netip.Addr]bool{}
	add := func(address netip.Addr) {
		if vips[address] {
			return
		}
		vips[address] = true
		pool, _ := m.addresses.PoolOf(address)
		s.VIPs = append(s.VIPs, desired.VIP{
			Address:   address,
			Interface: m.settings.PoolInterface[pool],
			RouterID:  m.placeFor(address),
		})
	}
	if s.ControlPlane != nil {
		add(s.ControlPlane.Address)
	}
	for _, lb := range forms {
		s.LoadBalancers = append(s.LoadBalancers, *lb)
		for _, address := range lb.Addresses {
			add(address)
		}
	}
	for _, node := range m.nodes {
		// A machine that came up with an address of a VIP must not cost the Service its VIP: the machine is left out.
		if !slices.ContainsFunc(node.Addresses, func(a netip.Addr) bool { return vips[a] }) {
			s.Nodes = append(s.Nodes, node)
		}
	}
	for _, r := range m.addresses.Releasing() {
		if vips[r.Address] {
			continue // the last good form of its owner still has it
		}
		since, ok := m.since[r.Address]
		if !ok {
			since = fence
		}
		s.Releasing = append(s.Releasing, desired.Releasing{Address: r.Address, Owner: desired.Key(r.Owner),
			SinceEpoch: since.Epoch, SinceSequence: since.Sequence})
	}
	for _, c := range m.addresses.Counts() {
		s.Pools = append(s.Pools, desired.PoolSummary{Name: c.Pool, Family: int(c.Family), Size: c.Size,
			Assigned: c.Assigned, Releasing: c.Releasing})
	}
	// The clone owns every slice: the wanted forms change while the State is on its way.
	s = s.Clone()
	s.Normalize()
	return s
}

// form is how a Service stands in the State: as wanted, or in its last good form; nil when it has neither.
func (m *Manager) form(key desired.Key, withheld bool) *desired.LoadBalancer {
	entry := m.services[key]
	if entry.servable() && !withheld {
		return entry.want
	}
	lb := m.goodBy[key]
	if lb == nil || entry.banned {
		return nil
	}
	for _, address := range lb.Addresses {
		if holder, ok := m.addresses.Holder(address); !ok || holder.Owner != ipam.Owner(key) {
			return nil // given to another since: never two owners (invariant 8)
		}
	}
	return lb
}

// depart releases what a Service that is no more holds. It is called with mu held.
func (m *Manager) depart(key desired.Key) {
	held := m.addresses.Release(ipam.Owner(key))
	served := m.goodBy[key]
	if m.target != nil && m.target.byKey[key] != nil {
		served = m.target.byKey[key]
	}
	if served == nil {
		return // no gateway ever heard of it
	}
	if len(served.Addresses) > 0 {
		held = served.Addresses
	}
	m.leaving[key] = departure{addresses: slices.Clone(held)}
}

// free gives addresses back to their pools that every configured gateway confirmed to be without.
func (m *Manager) free() (freed []netip.Addr) {
	for _, r := range m.addresses.Releasing() {
		since, ok := m.since[r.Address]
		if !ok || slices.ContainsFunc(m.members, func(g *member) bool { return g.confirmed.Compare(since) < 0 }) {
			continue
		}
		m.addresses.Free(r.Address)
		delete(m.since, r.Address)
		freed = append(freed, r.Address)
	}
	return freed
}

// forget drops the load balancers that the target is without. Every gateway that is not left out has confirmed it: a
// round does not succeed before.
func (m *Manager) forget() {
	maps.DeleteFunc(m.leaving, func(_ desired.Key, going departure) bool { return going.since.Epoch > 0 })
}

func sameForm(a, b desired.LoadBalancer) bool {
	a.Addresses, b.Addresses = nil, nil
	return reflect.DeepEqual(a, b)
}

func sameRequest(a, b ipam.Request) bool { return reflect.DeepEqual(a, b) }
