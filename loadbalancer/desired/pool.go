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

// Targets says whether connections of the load balancer that go to address may live on: new ones go there too, or the server
// drains.
func (s *State) Targets(lb *LoadBalancer, address netip.Addr) bool {
	if lb.Pool != nil {
		return slices.ContainsFunc(lb.Pool.Servers, func(server Server) bool { return server.Address == address })
	}
	return slices.ContainsFunc(s.Nodes, func(n Node) bool { return slices.Contains(n.Addresses, address) })
}
