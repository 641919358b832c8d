package loadbalancer

import (
	"context"
	"reflect"
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
	entry := m.services[key]
	switch {
	case entry == nil:
		return false
	case sources == nil:
		if m.lastForm(key) == nil {
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

// Refill tells what is so in the cluster now: nodes and endpoints come and go, and NodePorts change, without a change of what the
// Service wishes, also while its newest spec is refused. The next round serves it.
func (m *Manager) Refill(key desired.Key, facts *Facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry := m.services[key]
	if entry == nil {
		for i := range m.replays {
			if r := &m.replays[i]; r.Key == key && r.Service == nil {
				r.Facts = facts
			}
		}
		return
	}
	if entry.facts != nil && reflect.DeepEqual(entry.facts, facts) {
		return
	}
	before := m.fallback(key)
	entry.facts, entry.cautious = facts, false
	var changed bool
	if entry.want != nil && entry.refused == nil {
		changed = m.wantForm(facts.Of(*entry.want), entry.request)
	}
	if !entry.servable() && !reflect.DeepEqual(before, m.fallback(key)) {
		entry.banned, changed = false, true
		m.revision++
	}
	if changed {
		signal(m.wake)
	}
}

// HasPods says whether pods serve a port of the Service, in the form that is wanted or in the one that is served: then it matters
// where they are, whatever the newest spec says. Before Load nobody knows, so that it may.
func (m *Manager) HasPods(key desired.Key) bool {
	select {
	case <-m.loaded:
	default:
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, good := m.services[key], m.goodBy[key]
	return good != nil && slices.ContainsFunc(good.Frontends, podsServe) ||
		entry != nil && entry.want != nil && slices.ContainsFunc(entry.want.Frontends, podsServe)
}

// stays gives the form that a Service keeps when its newest spec is refused, and what it asks for: the one that is wanted or,
// when there is none or it was refused, the last good one. It is called with mu held.
func (m *Manager) stays(key desired.Key) (*desired.LoadBalancer, ipam.Request) {
	entry := m.services[key]
	if entry.want != nil && entry.refused == nil {
		return entry.want, entry.request
	}
	if good := m.fallback(key); good != nil {
		return good, requestToStay(good, entry.request.Sharing)
	}
	return nil, ipam.Request{}
}

// fallback is how a Service is served while its newest form is not: its last good form, with today's facts. What a gateway refuses of
// these is not added, and what is gone leaves the form all the same. It is called with mu held.
func (m *Manager) fallback(key desired.Key) *desired.LoadBalancer {
	good, entry := m.lastForm(key), m.services[key]
	if good == nil || entry == nil || entry.facts == nil {
		return good
	}
	if entry.cautious {
		return m.safest(key)
	}
	kept := entry.facts.Of(*good)
	return &kept
}

// safest is fallback without anything that gateways have not accepted yet. It is called with mu held.
func (m *Manager) safest(key desired.Key) *desired.LoadBalancer {
	good, entry := m.lastForm(key), m.services[key]
	if good == nil || entry == nil || entry.facts == nil {
		return good
	}
	kept := entry.facts.without(*good, m.nodes)
	return &kept
}

// requestToStay asks for the addresses that a load balancer has and for no other, also when its Service holds another one for a form that
// was refused. No pool is asked.
func requestToStay(lb *desired.LoadBalancer, sharing ipam.Sharing) ipam.Request {
	request := ipam.Request{Addresses: slices.Clone(lb.Addresses), Pools: []string{}, Sharing: sharing}
	for _, address := range lb.Addresses {
		request.Families = append(request.Families, ipam.FamilyOf(address))
	}
	return request
}
