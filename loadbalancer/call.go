package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// call is one Ensure or Delete that waits for its answer.
type call struct {
	key    desired.Key
	ensure bool
	// addresses and until are set while it waits for a gateway to hold the VIPs.
	addresses []netip.Addr
	until     time.Time
	done      chan answer // holds one
}

type answer struct {
	ensured *Ensured
	err     error
}

func (c *call) answer(ensured *Ensured, err error) { c.done <- answer{ensured, err} }

func (c *call) String() string {
	if c.ensure {
		return "serve Service " + c.key.String()
	}
	return "remove Service " + c.key.String()
}

// join waits for the answer of the next round. It is called with mu held and releases it.
func (m *Manager) join(ctx context.Context, c *call) (*Ensured, error) {
	if m.ended {
		m.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", c, ErrStopped)
	}
	c.done = make(chan answer, 1)
	m.joined = append(m.joined, c)
	m.mu.Unlock()
	signal(m.wake)
	select {
	case a := <-c.done:
		return a.ensured, a.err
	case <-ctx.Done():
		// What is wanted stays wanted: a round does not depend on who waits for it.
		return nil, fmt.Errorf("%s: %w", c, context.Cause(ctx))
	}
}

// canonical is a copy in the form that it has in a State, where lists are sorted: the two are compared.
func canonical(lb desired.LoadBalancer) *desired.LoadBalancer {
	s := desired.State{LoadBalancers: []desired.LoadBalancer{lb.Clone()}}
	s.LoadBalancers[0].Addresses = nil
	s.Normalize()
	return &s.LoadBalancers[0]
}

// want notes the newest form of a Service and says whether it changed. It is called with mu held.
func (m *Manager) want(s Service) bool {
	key := s.LoadBalancer.Key
	entry := m.services[key]
	if entry == nil {
		entry = &service{}
		m.services[key] = entry
		// The Service came back before the gateways had let it go; the next State has it again.
		delete(m.leaving, key)
		delete(m.keeping, key)
		delete(m.unwritten, key)
		m.keepPublished(key, s.Published, s.Request.Sharing)
	}
	if entry.created = s.Created; s.Facts != nil {
		entry.facts = s.Facts
	}
	request := s.Request
	request.Moves = entry.moves(s)
	entry.named, entry.pinned = &s.Named, nil
	if s.Request.Moves {
		entry.pinned = slices.Clone(s.Request.Pools)
	}
	hopes := m.hope(s)
	return m.wantForm(s.LoadBalancer, request) || hopes
}

// moves says whether a Service gives up an address that lies in none of the pools that it names: it asked for that, and has
// not got it yet.
func (entry *service) moves(s Service) bool {
	return s.Request.Moves && (entry.request.Moves || entry.named != nil && *entry.named != s.Named)
}

// wantForm is want for a Service that is known, whose owner may have said nothing new.
func (m *Manager) wantForm(form desired.LoadBalancer, request ipam.Request) bool {
	lb, entry := canonical(form), m.services[form.Key]
	if form.UID != "" {
		entry.uid = form.UID
	}
	request.Families = slices.Clone(request.Families)
	request.Addresses = slices.Clone(request.Addresses)
	request.Pools = slices.Clone(request.Pools)
	request.Sharing.Ports = slices.Clone(request.Sharing.Ports)
	if entry.refused == nil && entry.want != nil && sameForm(*entry.want, *lb) && sameRequest(entry.request, request) {
		return false
	}
	entry.want, entry.request = lb, request
	entry.refused, entry.cautious, entry.banned, entry.settled = nil, false, false, false
	m.revision++
	return true
}

// keepPublished lets a Service that comes while we run, from another class or controller, keep the addresses in its
// status when they are free, in a pool and nobody else's by reservation. Those of Services that were there at the start were
// claimed before.
func (m *Manager) keepPublished(key desired.Key, published []netip.Addr, sharing ipam.Sharing) {
	for _, address := range published {
		if !m.replayed || m.addresses.Check(address) != nil || m.addresses.Reserved(ipam.Owner(key), address) != nil {
			continue
		}
		if m.addresses.Claim(ipam.Owner(key), address, sharing) == nil { // else it is taken, and the Service gets another one
			m.proven[address] = true // whoever answers for it did so for this Service
			m.vouchPublished(key, published, sharing)
		}
	}
}

// drop makes a Service unwanted. It is called with mu held.
func (m *Manager) drop(key desired.Key) {
	m.replays = slices.DeleteFunc(m.replays, func(r Replay) bool { return r.Key == key })
	if !m.replayed {
		m.dropped[key] = true
	}
	if _, ok := m.services[key]; !ok {
		return
	}
	delete(m.services, key)
	delete(m.wishes, key)
	m.depart(key)
	m.revision++
}

// ensured is the answer for a Service whose VIPs are held. What gateways warn single Services of is a concern (concerns.go): it may
// become true when nobody calls. It is called with mu held.
func (m *Manager) ensured(key desired.Key, addresses []netip.Addr) *Ensured {
	e := &Ensured{Addresses: slices.Clone(addresses), Warnings: m.outvoted(key)}
	for _, g := range m.members {
		if g.away != nil {
			e.Warnings = append(e.Warnings, wire.Warning{Reason: "GatewayAway", Message: GatewayError{g.name, g.away}.Error()})
			continue
		}
		for _, w := range g.warnings {
			if len(w.LoadBalancers) > 0 {
				continue
			}
			e.Warnings = append(e.Warnings, wire.Warning{Reason: w.Reason, Message: "gateway " + g.name + ": " + w.Message})
		}
	}
	return e
}

// holds says whether each address is held by a gateway that confirms, or by one of which such a gateway says so. It is called
// with mu held.
func (m *Manager) holds(addresses []netip.Addr) bool {
	for _, address := range addresses {
		if !slices.ContainsFunc(m.members, func(g *member) bool {
			return g.away == nil && (g.held[address] || m.relays(g, address))
		}) {
			return false
		}
	}
	return true
}

// relays says whether a gateway knows a peer that we do not reach, that holds the address, and that has got the newest good State
// from its peers (invariant 5). It is called with mu held.
func (m *Manager) relays(g *member, address netip.Addr) bool {
	if m.good == nil || m.good.Fence.Instance != m.instance {
		return false
	}
	return slices.ContainsFunc(g.peers, func(p wire.PeerStatus) bool {
		return p.Answers && p.Fence != nil && p.Fence.Instance == m.instance && p.Fence.Compare(m.good.Fence) >= 0 &&
			slices.Contains(p.Held, address) && slices.ContainsFunc(m.members, func(g *member) bool { return g.name == p.Gateway && g.away != nil })
	})
}
