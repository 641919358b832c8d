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

// SlotOf tells which of HAProxy's slots serves a frontend: the load balancer's (0), or one of the port's own, where it has other
// servers or they get a header; false: none does, but the shared pool of nodes, or nftables alone. nftables asks the checks of the load
// balancer's for datagrams.
func (l *LoadBalancer) SlotOf(f Frontend) (port uint16, ok bool) {
	switch {
	case l.PoolOf(f) == nil:
		return 0, false
	case f.Protocol == TCP && (f.Pool != nil || f.ProxyProtocol != ProxyNone):
		return f.Port, true
	}
	return 0, f.Pool == nil
}

// OwnServers is how many servers, each with its check, HAProxy has at most for the load balancer alone: once for each slot, and with
// ClientSource for each family of VIPs.
func (l *LoadBalancer) OwnServers(nodes []Node) (n int) {
	counted := map[uint16]bool{}
	for _, f := range l.Frontends {
		port, ok := l.SlotOf(f)
		if !ok || counted[port] {
			continue
		}
		counted[port] = true
		if pool := l.PoolOf(f); pool.AllNodes {
			n += len(nodes)
		} else {
			n += len(pool.Servers)
		}
	}
	if l.ClientSource && len(l.Addresses) > 1 { // one of each family
		n *= 2
	}
	return n
}

// Targets says whether connections of the load balancer that go to address may live on: new ones go there too, or the server
// drains. A node is reached at its other address too, by UDP and SCTP, and where it sees its clients'.
func (s *State) Targets(lb *LoadBalancer, address netip.Addr) bool {
	for _, pool := range lb.Pools() {
		if slices.ContainsFunc(pool.Servers, func(server Server) bool { return slices.Contains(s.AddressesOf(server), address) }) {
			return true
		}
	}
	shared := slices.ContainsFunc(lb.Frontends, func(f Frontend) bool { return lb.PoolOf(f) == nil })
	return shared && s.HasNode(address)
}

// AddressesOf are where a server is reached: at its address and, when it is a node that serves at NodePorts, at the node's other one.
func (s *State) AddressesOf(server Server) []netip.Addr {
	addresses := []netip.Addr{server.Address}
	if i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == server.Name }); i >= 0 && server.Port == 0 {
		addresses = append(addresses, s.Nodes[i].Addresses...)
	}
	return addresses
}

// HasNode says whether the address is one of a node's.
func (s *State) HasNode(address netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n Node) bool { return slices.Contains(n.Addresses, address) })
}

// Expanded gives the State as it is rendered: pools of AllNodes have the nodes as Servers, so that nobody else has to know
// AllNodes. It is the State itself when there is no such pool. Pools share their lists, which nobody may write.
func (s *State) Expanded() *State {
	all := func(p *Pool) bool { return p.AllNodes }
	if !slices.ContainsFunc(s.LoadBalancers, func(lb LoadBalancer) bool { return slices.ContainsFunc(lb.Pools(), all) }) {
		return s
	}
	servers := map[int][]Server{}
	fill := func(p **Pool) {
		if *p == nil || !(*p).AllNodes {
			return
		}
		filled := **p
		if _, known := servers[filled.Family]; !known {
			servers[filled.Family] = slices.Clip(NodeServers(s.Nodes, filled.Family))
		}
		filled.Servers, filled.AllNodes, filled.Family = servers[filled.Family], false, 0
		*p = &filled
	}
	expanded := *s
	expanded.LoadBalancers = slices.Clone(s.LoadBalancers)
	for i := range expanded.LoadBalancers {
		lb := &expanded.LoadBalancers[i]
		fill(&lb.Pool)
		lb.Frontends = slices.Clone(lb.Frontends)
		for j := range lb.Frontends {
			fill(&lb.Frontends[j].Pool)
		}
	}
	return &expanded
}

// NodeServers are these nodes as servers, as Pool.Family says.
func NodeServers(nodes []Node, family int) []Server {
	var servers []Server
	for _, node := range nodes {
		if address, ok := node.At(family); ok {
			servers = append(servers, Server{Name: node.Name, Address: address, Weight: 1})
		}
	}
	return servers
}

// portless says that a server of the pool is reached at the frontend's NodePort.
func (p *Pool) portless() bool {
	return p.AllNodes || slices.ContainsFunc(p.Servers, func(server Server) bool { return server.Port == 0 })
}
