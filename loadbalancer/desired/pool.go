package desired

import (
	"net/netip"
	"slices"
	"time"
)

// DefaultDrainSeconds is State.DrainSeconds where it is 0.
const DefaultDrainSeconds = 300

// maxDrainSeconds is a day: HAProxy's old workers, which a reload leaves behind, live no longer either.
const maxDrainSeconds = 86400

// DrainTime is how long connections to a server that was taken out may live on.
func (s *State) DrainTime() time.Duration {
	seconds := s.DrainSeconds
	if seconds == 0 {
		seconds = DefaultDrainSeconds
	}
	return time.Duration(seconds) * time.Second
}

// Active gives the servers that take connections while all of them are healthy: the backups when there are only these.
func (p *Pool) Active() []Server {
	var active, backups []Server
	for _, server := range p.Servers {
		switch {
		case server.Drains:
		case server.Backup:
			backups = append(backups, server)
		default:
			active = append(active, server)
		}
	}
	if len(active) == 0 {
		return backups
	}
	return active
}

// PoolOf gives the servers of one of the load balancer's frontends; nil: the shared pool of nodes.
func (l *LoadBalancer) PoolOf(f Frontend) *Pool {
	if f.Pool != nil {
		return f.Pool
	}
	return l.Pool
}

// Pools are all the load balancer's own: none when the shared pool serves every frontend.
func (l *LoadBalancer) Pools() []*Pool {
	var pools []*Pool
	if l.Pool != nil {
		pools = append(pools, l.Pool)
	}
	for i := range l.Frontends {
		if pool := l.Frontends[i].Pool; pool != nil {
			pools = append(pools, pool)
		}
	}
	return pools
}

// Targets says whether connections of the load balancer that go to address may live on: new ones go there too, or the server
// drains. A node is reached at its other address too, by UDP and SCTP, and where it sees its clients'.
func (s *State) Targets(lb *LoadBalancer, address netip.Addr) bool {
	for _, pool := range lb.Pools() {
		if slices.ContainsFunc(pool.Servers, func(server Server) bool {
			return server.Address == address || server.Port == 0 && s.isNode(server.Name, address)
		}) {
			return true
		}
	}
	shared := slices.ContainsFunc(lb.Frontends, func(f Frontend) bool { return lb.PoolOf(f) == nil })
	return shared && s.HasNode(address)
}

func (s *State) isNode(name string, address netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Name == name && slices.Contains(n.Addresses, address) })
}

// HasNode says whether the address is one of a node's.
func (s *State) HasNode(address netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n Node) bool { return slices.Contains(n.Addresses, address) })
}
