package loadbalancer

import (
	"net/netip"
	"reflect"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// place is the VRRP instance that moves a VIP.
type place struct {
	routerID int
	// since is the fence of the first State that put the VIP there; zero when that was before this Manager.
	since desired.Fence
	// without is the fence of the first State that put the VIP nowhere, zero while it has a place: that State may have been refused, so
	// that the VIP is where it was until the gateway that is first there has confirmed one.
	without desired.Fence
	// held is set when a gateway said that it holds the VIP: who takes it from there has the State, or is known to lack it.
	held bool
}

// placeFor says which instance moves a VIP. A VIP stays where it is, because moving it cuts its connections; a new one
// goes to an instance whose first gateway takes part in rounds. It is called with mu held.
//
// A gateway can be cut off from the controller alone: then it is alive, still the MASTER of its instances, and its heirs
// do not take over. A VIP put on such an instance would be held by nobody, so it is put elsewhere as long as that gateway
// was certainly never told of it. A VIP whose Service prefers a gateway goes there, also from where it is, unless that
// gateway is away.
func (m *Manager) placeFor(address netip.Addr) (routerID int) {
	p, placed := m.placed(address)
	stays := placed && !m.stranded(address, p)
	wished, _ := m.granted(address)
	if stays && wished == "" {
		return p.routerID
	}
	led := slices.DeleteFunc(slices.Clone(m.instances), func(i desired.Instance) bool {
		return m.member(i.Gateways[0]).away != nil
	})
	preferred := slices.DeleteFunc(slices.Clone(led), func(i desired.Instance) bool { return i.Gateways[0] != wished })
	there := slices.ContainsFunc(preferred, func(i desired.Instance) bool { return i.RouterID == p.routerID })
	switch {
	case len(preferred) > 0 && !(stays && there):
		return desired.Spread(address, preferred)
	case stays:
		return p.routerID
	case len(led) == 0:
		led = m.instances
	}
	return desired.Spread(address, led)
}

// placed gives where a VIP is, also when the target is without it. It is called with mu held.
func (m *Manager) placed(address netip.Addr) (p place, placed bool) {
	p, placed = m.places[address]
	return p, placed && (p.without.Epoch == 0 || m.first(p).confirmed.Compare(p.without) < 0)
}

// first is the gateway that moves the VIPs of a place as long as it is there.
func (m *Manager) first(p place) *member {
	i := slices.IndexFunc(m.instances, func(i desired.Instance) bool { return i.RouterID == p.routerID })
	return m.member(m.instances[i].Gateways[0])
}

// stranded says that a VIP stands where nobody can hold it: its gateway is away and was never offered a State with it,
// and no other gateway holds it. One that an heir has held is lost to a gateway that came back: that one may have taken the State
// from a peer while we did not hear it, so that it has to be known to hold an older one.
func (m *Manager) stranded(address netip.Addr, p place) bool {
	holder := m.first(p)
	if holder.away == nil || holder.offered.Compare(p.since) >= 0 || m.holds([]netip.Addr{address}) {
		return false
	}
	return !p.held || holder.told != nil && holder.told.Compare(p.since) < 0
}

// noteHeld notes which VIPs came to be held where they stand, by a gateway that holds the State by. It is called with mu held.
func (m *Manager) noteHeld(held []netip.Addr, by desired.Fence) {
	for _, address := range held {
		if p, placed := m.places[address]; placed && by.Compare(p.since) >= 0 {
			p.held = true
			m.places[address] = p
		}
	}
}

// misplaced says that a VIP of the State would now be put elsewhere.
func (m *Manager) misplaced(s *desired.State) bool {
	return slices.ContainsFunc(s.VIPs, func(vip desired.VIP) bool { return vip.RouterID != m.placeFor(vip.Address) })
}

// settlePlaces notes where a State that becomes the target puts its VIPs.
func (m *Manager) settlePlaces(s *desired.State) {
	places := make(map[netip.Addr]place, len(s.VIPs))
	for _, vip := range s.VIPs {
		p, placed := m.placed(vip.Address)
		if !placed || p.routerID != vip.RouterID {
			p = place{routerID: vip.RouterID, since: s.Fence}
		}
		p.without = desired.Fence{}
		places[vip.Address] = p
	}
	for address := range m.places {
		if _, has := places[address]; has {
			continue
		}
		if p, placed := m.placed(address); placed {
			if p.without.Epoch == 0 {
				p.without = s.Fence
			}
			places[address] = p
		}
	}
	m.places = places
}

// adoptPlaces takes over where the gateways have their VIPs now, unless the instances are others than configured: then
// all VIPs are spread anew.
func (m *Manager) adoptPlaces(s *desired.State) {
	if s == nil || !reflect.DeepEqual(s.Instances, m.instances) {
		return
	}
	for _, vip := range s.VIPs {
		m.places[vip.Address] = place{routerID: vip.RouterID}
	}
}

// member finds a gateway by name; every instance names configured ones only.
func (m *Manager) member(name string) *member {
	return m.members[slices.IndexFunc(m.members, func(g *member) bool { return g.name == name })]
}
