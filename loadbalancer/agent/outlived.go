package agent

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Connections of HAProxy outlive what they were made for: a port that is gone, a Service, a node, a pod. The worker that answers can
// end those to its servers (departed.go); the old ones that a reload has left behind are asked by nobody, and a port has no server. So
// the kernel is asked which connections processes of HAProxy's user have, and each is held against the State alone: nothing has to be
// remembered, and an agent that starts anew finds the same ones.

// ends tells which connections may not live on, and for how long they may still.
type ends struct {
	state    *desired.State
	open     map[netip.AddrPort]bool
	guests   map[netip.AddrPort]guests
	targets  map[uint16][]*desired.LoadBalancer
	control  controlPlanes
	checks   map[uint16]bool
	gateways map[netip.Addr]bool
	former   formerly
}

// formerly is what this agent remembers of States that it held before. The next agent knows nothing of it.
type formerly struct {
	drains  map[netip.AddrPort]formerDrain
	control controlPlanes
}

// formerDrain is the drain time of a load balancer that had a port of a VIP, or of its servers (then without an address).
type formerDrain struct {
	time time.Duration
	left time.Time
}

// controlPlanes are what connections of the control plane are known by: its VIP, the API servers and their ports. All are kept
// that this agent has known: watches live on while the configuration changes.
type controlPlanes struct {
	vips, servers map[netip.Addr]bool
	ports         map[uint16]bool
}

// and gives these with those of one more State.
func (c controlPlanes) and(s *desired.State) controlPlanes {
	all := controlPlanes{map[netip.Addr]bool{}, map[netip.Addr]bool{}, map[uint16]bool{}}
	maps.Copy(all.vips, c.vips)
	maps.Copy(all.servers, c.servers)
	maps.Copy(all.ports, c.ports)
	for _, lb := range s.LoadBalancers {
		for _, address := range lb.Addresses {
			delete(all.vips, address) // a Service has it now
		}
	}
	if s.ControlPlane == nil {
		return all
	}
	all.vips[s.ControlPlane.Address] = true
	for _, endpoint := range s.ControlPlane.Endpoints {
		all.servers[endpoint.Addr()], all.ports[endpoint.Port()] = true, true
	}
	for _, extra := range s.ControlPlane.ExtraPorts {
		all.ports[extra.EndpointPort] = true
	}
	return all
}

// drainTimeOf is how long connections of a load balancer live on that its State has no place for.
func drainTimeOf(s *desired.State, lb *desired.LoadBalancer) time.Duration {
	if lb.DrainSeconds > 0 {
		return time.Duration(lb.DrainSeconds) * time.Second
	}
	return s.DrainTime()
}

func newEnds(s *desired.State, former formerly) ends {
	e := ends{state: s, former: former, guests: guestsOf(s), open: map[netip.AddrPort]bool{},
		targets: map[uint16][]*desired.LoadBalancer{}, control: former.control.and(s), checks: map[uint16]bool{s.NodeCheck.Port: true},
		gateways: map[netip.Addr]bool{}}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, d := range doorsOf(lb) {
			e.open[d] = true
		}
		for _, port := range targetPorts(lb) {
			e.targets[port] = append(e.targets[port], lb)
		}
		for _, pool := range lb.Pools() {
			e.checks[pool.Check.Port] = true
		}
	}
	if c := s.ControlPlane; c != nil {
		e.checks[c.Check.Port] = true
	}
	for _, g := range s.Gateways {
		e.gateways[g.VRRPAddress] = true
	}
	return e
}

// doorsOf are the ports of TCP that clients of a load balancer connect to.
func doorsOf(lb *desired.LoadBalancer) (doors []netip.AddrPort) {
	for _, f := range lb.Frontends {
		if f.Protocol != desired.TCP {
			continue
		}
		for _, address := range lb.Addresses {
			doors = append(doors, netip.AddrPortFrom(address, f.Port))
		}
	}
	return doors
}

// targetPorts are the ports of TCP at which its servers are reached, each once.
func targetPorts(lb *desired.LoadBalancer) (ports []uint16) {
	for _, f := range lb.Frontends {
		if f.Protocol != desired.TCP {
			continue
		}
		if f.NodePort != 0 {
			ports = append(ports, f.NodePort)
		}
		if pool := lb.PoolOf(f); pool != nil {
			for _, server := range pool.Servers {
				if server.Port != 0 {
					ports = append(ports, server.Port)
				}
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// patience is how long a connection may live on that is found to have to end. One of the control plane never has to, whatever becomes
// of its ports: watches live for hours, and its API servers are nobody's to judge here.
func (e ends) patience(c connection) (left time.Duration, why string) {
	peer := c.client.Addr()
	switch g, restricted := e.guests[c.vip]; {
	case restricted && !g.welcome(peer):
		return g.drain, unwelcomeClient
	case e.open[c.vip] || !c.ofHAProxy || peer.IsLoopback() || e.gateways[peer] || e.control.vips[c.vip.Addr()] || e.control.ports[c.client.Port()]:
		return 0, ""
	}
	owners := e.targets[c.client.Port()]
	if len(owners) == 0 && (e.control.servers[peer] || e.checks[c.client.Port()]) {
		return 0, "" // an API server's former port, of which an agent before this one knew; a check of HAProxy's own
	}
	if slices.ContainsFunc(owners, func(lb *desired.LoadBalancer) bool { return e.state.Targets(lb, peer) }) {
		return 0, ""
	}
	for _, lb := range owners {
		left = max(left, drainTimeOf(e.state, lb))
	}
	for _, at := range []netip.AddrPort{c.vip, netip.AddrPortFrom(netip.Addr{}, c.client.Port())} {
		if former, known := e.former.drains[at]; known && left == 0 {
			left = former.time
		}
	}
	if left == 0 {
		left = e.state.DrainTime()
	}
	return left, outlivedState
}

// Why connections are ended, for people.
const (
	unwelcomeClient = "their client may not connect any more"
	outlivedState   = "their port, or their server, is not the Service's any more"
)

// sameConnections says whether what one State has a place for, the other has as well. Both ways: what returns is found to be
// welcome, so that its time is counted anew when it leaves again.
func sameConnections(a, b *desired.State) bool {
	return maps.EqualFunc(guestsOf(a), guestsOf(b), guests.equal) && !loses(a, b) && !loses(b, a)
}

// loses says whether a State has no place for connections that the one before it had: ports of VIPs, servers, whole load balancers.
func loses(before, now *desired.State) bool {
	has := make(map[desired.Key]*desired.LoadBalancer, len(now.LoadBalancers))
	for i := range now.LoadBalancers {
		has[now.LoadBalancers[i].Key] = &now.LoadBalancers[i]
	}
	addresses := map[netip.Addr]bool{}
	for _, n := range now.Nodes {
		for _, a := range n.Addresses {
			addresses[a] = true
		}
	}
	if slices.ContainsFunc(before.Nodes, func(n desired.Node) bool {
		return slices.ContainsFunc(n.Addresses, func(a netip.Addr) bool { return !addresses[a] })
	}) {
		return true
	}
	return slices.ContainsFunc(before.LoadBalancers, func(was desired.LoadBalancer) bool {
		is := has[was.Key]
		return is == nil || lacks(doorsOf(is), doorsOf(&was)) || lacks(targetPorts(is), targetPorts(&was)) ||
			len(was.Pools()) == 0 && len(is.Pools()) > 0 || lacks(serversOf(is), serversOf(&was)) && len(is.Pools()) > 0
	})
}

// lacks says whether something of all is not in some.
func lacks[T comparable](some, all []T) bool {
	if slices.Equal(some, all) {
		return false
	}
	has := make(map[T]bool, len(some))
	for _, one := range some {
		has[one] = true
	}
	return slices.ContainsFunc(all, func(one T) bool { return !has[one] })
}

func serversOf(lb *desired.LoadBalancer) (servers []netip.AddrPort) {
	for _, pool := range lb.Pools() {
		for _, server := range pool.Servers {
			servers = append(servers, netip.AddrPortFrom(server.Address, server.Port))
		}
	}
	return servers
}

// and gives what is remembered when one more State is a former one.
func (f formerly) and(before *desired.State) formerly {
	now := time.Now()
	all := formerly{map[netip.AddrPort]formerDrain{}, f.control.and(before)}
	for at, drain := range f.drains {
		if now.Sub(drain.left) < 2*drain.time {
			all.drains[at] = drain
		}
	}
	// What a load balancer without a time of its own had last is no longer the former one's, unless somebody else has it too.
	for i := range before.LoadBalancers {
		if lb := &before.LoadBalancers[i]; lb.DrainSeconds == 0 {
			for _, at := range placesOf(lb) {
				delete(all.drains, at)
			}
		}
	}
	for i := range before.LoadBalancers {
		if lb := &before.LoadBalancers[i]; lb.DrainSeconds > 0 {
			for _, at := range placesOf(lb) {
				all.drains[at] = formerDrain{drainTimeOf(before, lb), now}
			}
		}
	}
	return all
}

// placesOf are the ports of a load balancer: of its VIPs, and of its servers (without an address).
func placesOf(lb *desired.LoadBalancer) []netip.AddrPort {
	places := doorsOf(lb)
	for _, port := range targetPorts(lb) {
		places = append(places, netip.AddrPortFrom(netip.Addr{}, port))
	}
	return places
}

// haproxyUser is the uid of HAProxy's workers, as ss shows it; "" when none runs, or as root, and then nothing of it is ended. The
// worker is asked and not /etc/passwd: a site may have its users elsewhere.
func (a *Agent) haproxyUser() string {
	for _, worker := range a.workerStats() {
		status, err := a.host.ReadFile("/proc/" + worker.pid + "/status")
		if err != nil {
			continue // it has just ended
		}
		for line := range bytes.Lines(status) {
			// Uid: real, effective, saved and of the file system (proc(5)).
			if words := strings.Fields(string(line)); len(words) == 5 && words[0] == "Uid:" && words[1] != "0" {
				return "uid:" + words[1]
			}
		}
	}
	return ""
}
