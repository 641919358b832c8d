package loadbalancer

import (
	"net/netip"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// SetEndpoints tells the API servers that the cluster's Nodes name, for Settings.EndpointsFromNodes. They come beside those of
// Settings.ControlPlane. No endpoint changes nothing: a cluster without an API server does not say so, so whoever reads
// that has read something wrong, and what is known stays, over restarts too.
func (m *Manager) SetEndpoints(endpoints []netip.AddrPort) {
	m.mu.Lock()
	m.endpoints = slices.Clone(endpoints)
	m.revision++
	m.mu.Unlock()
	signal(m.wake)
}

// controlPlane is the API server's frontend as it stands in the next State. It is called with mu held.
func (m *Manager) controlPlane() *desired.ControlPlane {
	settled := m.settings.ControlPlane
	if settled == nil || !m.settings.EndpointsFromNodes {
		return settled
	}
	more := m.endpoints
	if len(more) == 0 && m.good != nil && m.good.ControlPlane != nil && m.good.ControlPlane.Address == settled.Address {
		more = m.good.ControlPlane.Endpoints
	}
	p := *settled
	p.Endpoints = slices.Clone(settled.Endpoints)
	for _, endpoint := range more {
		if !slices.Contains(p.Endpoints, endpoint) {
			p.Endpoints = append(p.Endpoints, endpoint)
		}
	}
	return &p
}

// dropVIPs leaves out the API servers at addresses of VIPs. A Node may tell of one that the machine held before the gateways
// did, and the State would be refused as a whole. Those of the configuration stay: it is for a person to mend.
func (m *Manager) dropVIPs(s *desired.State, vips map[netip.Addr]bool) {
	if s.ControlPlane == nil || !m.settings.EndpointsFromNodes {
		return
	}
	s.ControlPlane.Endpoints = slices.DeleteFunc(s.ControlPlane.Endpoints, func(e netip.AddrPort) bool {
		return vips[e.Addr()] && !slices.Contains(m.settings.ControlPlane.Endpoints, e)
	})
}
