package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// wish is which gateway a Service would like to hold its addresses.
type wish struct {
	gateway string
	created time.Time
}

// hope notes a Service's wish and says whether another gateway is named than before. It is called with mu held.
func (m *Manager) hope(s Service) (changed bool) {
	key := s.LoadBalancer.Key
	changed = m.wishes[key].gateway != s.PreferredGateway
	if s.PreferredGateway == "" {
		delete(m.wishes, key)
	} else {
		m.wishes[key] = wish{s.PreferredGateway, s.Created}
	}
	if changed {
		m.services[key].settled = false
		m.revision++
	}
	return changed
}

// granted gives the wish that counts for an address, and whose it is: of those who share it the oldest one's that has any.
// None: "". It is called with mu held.
func (m *Manager) granted(address netip.Addr) (gateway string, by desired.Key) {
	if len(m.wishes) == 0 {
		return "", desired.Key{}
	}
	var oldest wish
	for _, holder := range m.addresses.Holders(address) {
		key := desired.Key(holder.Owner)
		one, wishes := m.wishes[key]
		if !wishes || holder.Releasing {
			continue
		}
		if oldest.gateway == "" || cmp.Or(one.created.Compare(oldest.created), key.Compare(by)) < 0 {
			oldest, by = one, key
		}
	}
	return oldest.gateway, by
}

// outvoted warns a Service that an older one, which shares its address, wishes for another gateway. It is called with mu
// held.
func (m *Manager) outvoted(key desired.Key) (warnings []wire.Warning) {
	own := m.wishes[key].gateway
	if own == "" {
		return nil
	}
	for _, address := range m.addresses.Addresses(ipam.Owner(key)) {
		if gateway, by := m.granted(address); gateway != own {
			warnings = append(warnings, wire.Warning{Reason: "PreferredGatewayDiffers", Message: fmt.Sprintf(
				"preferred gateway %s: address %s is shared with the older Service %s, which prefers %s, and that counts; name "+
					"the same gateway in both, or take the annotation from one", own, address, by, gateway)})
		}
	}
	return warnings
}
