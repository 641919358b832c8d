package loadbalancer

import (
	"context"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Refuse tells that a Service's newest spec cannot be served as it says: the form that is served or wanted stays. Who may
// connect does not wait for the rest to be mended: sources, those of the spec, hold for that form from now on. They are nil
// when the spec does not say them in a way that can be read; then what is served stays open to whom it is, and what no
// gateway serves yet is not going to be. Errors are Ensure's: somebody may still connect to whom the spec closes the Service.
func (m *Manager) Refuse(ctx context.Context, key desired.Key, sources *Sources) error {
	m.mu.Lock()
	if !m.replayed && m.services[key] == nil {
		defer m.mu.Unlock()
		for i := range m.replays {
			if m.replays[i].Key == key {
				m.replays[i].refuse(sources)
			}
		}
		return nil
	}
	if !m.restrict(key, sources) {
		m.mu.Unlock()
		return nil
	}
	_, err := m.join(ctx, &call{key: key, ensure: true})
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lastForm(key) == nil {
		return nil // nobody serves it yet, and whoever does it later serves the new form
	}
	return err
}

// refuse is Refuse for a Service that nobody served in this life.
func (r *Replay) refuse(sources *Sources) {
	r.Sources = sources
	switch {
	case r.Service == nil:
	case sources != nil:
		service := *r.Service // the caller's stays as it is
		service.LoadBalancer.AllowSources, service.LoadBalancer.DenySources = sources.Allow, sources.Deny
		r.Service = &service
	case len(r.Published) == 0:
		r.Service = nil
	}
}

// restrict makes sources those of the form that is wanted or, when there is none or it was refused, of the last good one.
// It says whether that changes anything. It is called with mu held.
func (m *Manager) restrict(key desired.Key, sources *Sources) (changed bool) {
	entry, good := m.services[key], m.lastForm(key)
	switch {
	case entry == nil:
		return false
	case sources == nil:
		if good == nil {
			entry.want, entry.unassigned, entry.unproven, entry.ungiven, entry.refused = nil, nil, false, false, nil
		}
		return false
	}
	form, request := m.stays(key)
	if form == nil {
		return false
	}
	restricted := form.Clone()
	restricted.AllowSources, restricted.DenySources = slices.Clone(sources.Allow), slices.Clone(sources.Deny)
	return m.wantForm(restricted, request)
}

// PortServers are the servers of a frontend that has a pool of its own.
type PortServers struct {
	Port    desired.Port
	Servers []desired.Server
}

// Refill gives the form that stays other servers, if it has a pool of its own, and so its frontends: nodes and endpoints come and
// go without a change of the Service, also while its newest spec is refused. The next round serves it. What has no pool stays
// without.
func (m *Manager) Refill(key desired.Key, servers []desired.Server, ofPorts ...PortServers) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.services[key] == nil {
		return
	}
	form, request := m.stays(key)
	if form == nil || len(form.Pools()) == 0 {
		return
	}
	refilled := form.Clone()
	if refilled.Pool != nil {
		refilled.Pool.Servers = slices.Clone(servers)
	}
	for _, of := range ofPorts {
		for i := range refilled.Frontends {
			f := &refilled.Frontends[i]
			if f.Pool != nil && of.Port == (desired.Port{Protocol: f.Protocol, Port: f.Port}) {
				f.Pool.Servers = slices.Clone(of.Servers)
			}
		}
	}
	if !sameForm(*canonical(refilled), *form) && m.wantForm(refilled, request) {
		signal(m.wake)
	}
}

// stays gives the form that a Service keeps when its newest spec is refused, and what it asks for: the one that is wanted or,
// when there is none or it was refused, the last good one. It is called with mu held.
func (m *Manager) stays(key desired.Key) (*desired.LoadBalancer, ipam.Request) {
	entry, good := m.services[key], m.lastForm(key)
	switch {
	case entry.want != nil && entry.refused == nil:
		return entry.want, entry.request
	case good != nil:
		return good, requestToStay(good, entry.request.Sharing)
	default:
		return nil, ipam.Request{}
	}
}

// requestToStay asks for the addresses that a load balancer has and for no other: what it holds comes first, and no pool is
// asked.
func requestToStay(lb *desired.LoadBalancer, sharing ipam.Sharing) ipam.Request {
	request := ipam.Request{Pools: []string{}, Sharing: sharing}
	for _, address := range lb.Addresses {
		request.Families = append(request.Families, ipam.FamilyOf(address))
	}
	return request
}
