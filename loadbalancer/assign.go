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
		var refused []desired.Key
		err := state.Validate()
		if err == nil {
			if t, err = m.encode(state); err != nil {
				return nil, blamed, err
			}
			if refused = m.overload(state, len(t.signed.State)); len(refused) == 0 {
				if err = m.adopt(t); err != nil {
					return nil, blamed, err
				}
				return t, blamed, nil
			}
		}
		var faults desired.Faults
		if errors.As(err, &faults) {
			refused = m.blameLocally(faults, byKey(state))
		}
		if len(refused) == 0 {
			return nil, blamed, fmt.Errorf("make the State: %w", err)
		}
		blamed = append(blamed, refused...)
	}
}

// encode makes a target of a State, not signed yet: the present one if that says what state says.
func (m *Manager) encode(state *desired.State) (*target, error) {
	digest, err := state.Digest()
	if err != nil {
		return nil, err
	}
	if m.target != nil && m.target.digest == digest && m.target.fence() == m.fence {
		return m.target, nil
	}
	canonical, err := state.Canonical()
	if err != nil {
		return nil, err
	}
	return &target{state: state, byKey: byKey(state), signed: desired.Signed{State: canonical}, digest: digest}, nil
}

// adopt makes it the target.
func (m *Manager) adopt(t *target) (err error) {
	if t == m.target {
		m.markDepartures(t.state)
		return nil
	}
	if size := len(t.signed.State); size > mostBytes {
		return &StateTooLargeError{size, mostBytes}
	}
	if t.signed, err = m.signer.Sign(t.signed.State); err != nil {
		return fmt.Errorf("sign the State: %w", err)
	}
	m.target, m.fence = t, t.fence()
	for _, vip := range t.state.VIPs {
		m.proven[vip.Address] = true // ours from now on, whoever answers for it later
	}
	m.settlePlaces(t.state)
	m.markDepartures(t.state)
	return nil
}

func byKey(s *desired.State) map[desired.Key]*desired.LoadBalancer {
	all := make(map[desired.Key]*desired.LoadBalancer, len(s.LoadBalancers))
	for i := range s.LoadBalancers {
		all[s.LoadBalancers[i].Key] = &s.LoadBalancers[i]
	}
	return all
}

// assign gives every wanted load balancer its addresses, in the order of keys (invariant 10). New ones have to be proven
// before they stand in a State (prove.go).
func (m *Manager) assign(withheld map[desired.Key]bool) {
	pools := make(map[string]bool, len(m.pools.Pools))
	for _, pool := range m.pools.Pools {
		pools[pool.Name] = true
	}
	for _, key := range m.keys() {
		entry := m.services[key]
		if entry.want == nil || entry.refused != nil || withheld[key] {
			continue
		}
		addresses, err := m.addresses.Allocate(ipam.Owner(key), ofThesePools(entry.request, pools))
		entry.unassigned, entry.unproven, entry.ungiven = m.advise(err), false, false
		if err == nil {
			entry.want.Addresses = addresses
			entry.unproven, entry.ungiven = slices.ContainsFunc(addresses, m.unproven), m.ungiven(key, addresses)
		}
		if entry.ungiven {
			signal(m.noted)
		}
		if entry.unproven {
			signal(m.prove)
		}
	}
}

// ofThesePools leaves out pools that are gone since the request was made: whoever changed the pools has to make it anew,
// and until then the Service keeps what it has.
func ofThesePools(request ipam.Request, pools map[string]bool) ipam.Request {
	gone := func(name string) bool { return !pools[name] }
	if slices.ContainsFunc(request.Pools, gone) {
		request.Pools = slices.DeleteFunc(slices.Clone(request.Pools), gone)
		request.Moves = false
	}
	return request
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
	settings := m.common()
	s := &desired.State{
		Schema:       desired.Schema,
		Fence:        fence,
		Gateways:     m.settings.Gateways,
		VRRP:         settings.vrrp,
		Instances:    m.instances,
		ControlPlane: settings.controlPlane,
		NodeCheck:    settings.nodeCheck,
		DrainSeconds: m.settings.DrainSeconds,
	}
	vips := map[netip.Addr]bool{}
	add := func(address netip.Addr) {
		if vips[address] {
			return
		}
		vips[address] = true
		pool, _ := m.addresses.PoolOf(address)
		device := m.pools.PoolInterface[pool]
		if s.ControlPlane != nil && s.ControlPlane.Address == address {
			device = m.settings.ControlPlaneInterface // whatever pool it lies in: it served before the cluster did
		}
		s.VIPs = append(s.VIPs, desired.VIP{
			Address:   address,
			Interface: device,
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
	m.dropVIPs(s, vips)
	for _, node := range settings.nodes {
		// A machine that came up with an address of a VIP must not cost the Service its VIP: the machine is left out.
		if !slices.ContainsFunc(node.Addresses, func(a netip.Addr) bool { return vips[a] }) {
			s.Nodes = append(s.Nodes, node)
		}
	}
	s.Releasing = m.departures(byKey(s), fence)
	m.summarize(s)
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
	lb := m.fallback(key)
	if withheld {
		lb = m.safest(key)
	}
	if lb == nil || entry.banned {
		return nil
	}
	for _, address := range lb.Addresses {
		if !m.addresses.Has(ipam.Owner(key), address) {
			return nil // given to another since: never two owners (invariant 8)
		}
	}
	return lb
}

// lastForm is a Service's last good form. What the gateways serve of another object of its name is none: the NodePorts may be
// another's by now, and nobody would ever take it away.
func (m *Manager) lastForm(key desired.Key) *desired.LoadBalancer {
	lb, entry := m.goodBy[key], m.services[key]
	if lb != nil && entry != nil && lb.UID != "" && entry.uid != "" && lb.UID != entry.uid {
		return nil
	}
	return lb
}

func sameForm(a, b desired.LoadBalancer) bool {
	a.Addresses, b.Addresses = nil, nil
	return reflect.DeepEqual(a, b)
}

func sameRequest(a, b ipam.Request) bool { return reflect.DeepEqual(a, b) }
