package loadbalancer

import (
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Facts are what is so in the cluster, whatever a Service's spec asks for beside: where its ports are reached now. They hold for
// every form of it that is served, also while the newest one is refused. NodePorts and addresses of pods are given to others
// when a Service has them no more: a form with yesterday's would lead its clients there. Nobody writes Facts once they are told.
type Facts struct {
	// Nodes is the pool that its nodes are without any wish of the Service's but which of them it chooses: with policy Local the
	// nodes that have its endpoints, checked at its healthCheckNodePort.
	Nodes desired.Pool
	// Unchosen is set when which nodes the Service chooses cannot be read: of those that serve, the ones among Nodes go on.
	Unchosen bool
	// Ports are all of the spec.
	Ports []PortFacts
}

// PortFacts are those of one port.
type PortFacts struct {
	desired.Port
	// Name is the port's in the spec, by which EndpointSlices know it; possibly empty.
	Name string
	// NodePort is where nodes have it; 0: pods alone do.
	NodePort uint16
	// Pods are all endpoints that gateways may connect to. They have to be told of a Service of which HasPods.
	Pods []desired.Server
}

// Of gives a form with the facts in place of its own. What else it says stays: ports, addresses, knobs. One that says what is so
// already comes back as it is, in canonical order.
func (f *Facts) Of(form desired.LoadBalancer) desired.LoadBalancer { return f.in(form, true) }

// without is Of that adds no server: what is gone leaves the form, and that is all.
func (f *Facts) without(form desired.LoadBalancer, nodes []desired.Node) desired.LoadBalancer {
	cautious := *f
	if cautious.Nodes.AllNodes {
		cautious.Nodes.Servers, cautious.Nodes.AllNodes = desired.NodeServers(nodes, f.Nodes.Family), false
	}
	cautious.Unchosen = true
	return cautious.in(form, false)
}

func (f *Facts) in(form desired.LoadBalancer, adds bool) desired.LoadBalancer {
	lb := form.Clone()
	moved := map[uint16]uint16{}
	for i := range lb.Frontends {
		fr := &lb.Frontends[i]
		was := fr.NodePort
		f.reach(fr, adds)
		if fr.Protocol == desired.TCP && was != 0 && fr.NodePort != 0 {
			moved[was] = fr.NodePort
		}
	}
	for _, pool := range lb.Pools() {
		if to, ok := moved[pool.Check.Port]; ok && !pool.Local { // with policy Local another port is checked
			pool.Check.Port = to
		}
	}
	nodesServe := func(fr desired.Frontend) bool { return fr.Pool == nil }
	if lb.Pool != nil || slices.ContainsFunc(lb.Frontends, nodesServe) {
		lb.Pool = f.poolOfNodes(lb.Pool)
	}
	one := desired.State{LoadBalancers: []desired.LoadBalancer{lb}}
	one.Normalize()
	return one.LoadBalancers[0]
}

// reach has one of the form's frontends lead where its port is served now.
func (f *Facts) reach(fr *desired.Frontend, adds bool) {
	now := f.port(*fr)
	switch {
	case podsServe(*fr) && now == nil: // the spec has another port in its place, perhaps of the same pods
		fr.Pool.Servers = among(fr.Pool.Servers, f.pods())
	case podsServe(*fr) && adds:
		fr.Pool.Servers = slices.Clone(now.Pods)
	case podsServe(*fr):
		fr.Pool.Servers = among(fr.Pool.Servers, now.Pods)
	case now != nil && now.NodePort != 0:
		fr.NodePort = now.NodePort
		if fr.Pool != nil {
			fr.Pool = f.poolOfNodes(fr.Pool)
		}
	case now == nil && f.hasNodePort(fr.Protocol, fr.NodePort):
	default: // its NodePort is nobody's, or another Service's by now: its pods serve it, or it refuses connections
		pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone}}
		if now != nil && adds {
			pool.Servers = slices.Clone(now.Pods)
		}
		fr.NodePort, fr.Pool = 0, pool
	}
}

// port finds what is known of a frontend: by its number or, since that is what a port is to EndpointSlices, by its name.
func (f *Facts) port(fr desired.Frontend) *PortFacts {
	for _, same := range []func(PortFacts) bool{
		func(p PortFacts) bool { return p.Port == desired.Port{Protocol: fr.Protocol, Port: fr.Port} },
		func(p PortFacts) bool { return p.Protocol == fr.Protocol && p.Name == fr.Name },
	} {
		if i := slices.IndexFunc(f.Ports, same); i >= 0 {
			return &f.Ports[i]
		}
	}
	return nil
}

func (f *Facts) hasNodePort(protocol desired.Protocol, nodePort uint16) bool {
	return slices.ContainsFunc(f.Ports, func(p PortFacts) bool { return p.Protocol == protocol && p.NodePort == nodePort })
}

// pods are the endpoints of all ports.
func (f *Facts) pods() (all []desired.Server) {
	for _, port := range f.Ports {
		all = append(all, port.Pods...)
	}
	return all
}

// poolOfNodes gives a pool of nodes the nodes that serve now, and the check that goes with the policy. Without one the shared pool
// serves, but not with policy Local: its nodes without an endpoint drop connections.
func (f *Facts) poolOfNodes(p *desired.Pool) *desired.Pool {
	now := f.Nodes
	now.Servers = slices.Clone(now.Servers)
	switch {
	case p == nil && !now.Local:
		return nil
	case p == nil:
		return &now
	}
	pool := *p
	switch {
	case pool.Local && now.Local && pool.Check.Kind == now.Check.Kind:
		pool.Check.Port = now.Check.Port // how often it is asked is a wish
	case pool.Local || now.Local:
		pool.Check = now.Check
	}
	pool.Local = now.Local
	switch {
	case f.Unchosen && p.AllNodes && !now.Local:
	case f.Unchosen && !p.AllNodes:
		pool.Servers = among(p.Servers, now.Servers)
	default:
		pool.AllNodes, pool.Family, pool.Servers = now.AllNodes, now.Family, now.Servers
	}
	return &pool
}

// among gives those servers that are now, as they are now.
func among(servers, now []desired.Server) (left []desired.Server) {
	for _, server := range servers {
		i := slices.IndexFunc(now, func(s desired.Server) bool {
			return s.Name == server.Name && s.Address == server.Address && s.Port == server.Port
		})
		if i >= 0 {
			left = append(left, now[i])
		}
	}
	return left
}

// podsServe says that pods are the servers of a frontend: nodes have no port for it.
func podsServe(fr desired.Frontend) bool { return fr.Pool != nil && fr.NodePort == 0 }
