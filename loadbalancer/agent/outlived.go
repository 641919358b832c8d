package agent

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
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
	control  map[uint16]bool
	gateways map[netip.Addr]bool
	former   map[netip.AddrPort]formerDrain
}

// formerDrain is the drain time of a load balancer that had a port of a VIP, or of its servers (then without an address).
type formerDrain struct {
	time time.Duration
	left time.Time
}

// drainTimeOf is how long connections of a load balancer live on that its State has no place for.
func drainTimeOf(s *desired.State, lb *desired.LoadBalancer) time.Duration {
	if lb.DrainSeconds > 0 {
		return time.Duration(lb.DrainSeconds) * time.Second
	}
	return s.DrainTime()
}

func newEnds(s *desired.State, former map[netip.AddrPort]formerDrain) ends {
	e := ends{state: s, former: former, guests: guestsOf(s), open: map[netip.AddrPort]bool{},
		targets: map[uint16][]*desired.LoadBalancer{}, control: map[uint16]bool{}, gateways: map[netip.Addr]bool{}}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, d := range doorsOf(lb) {
			e.open[d] = true
		}
		for _, port := range targetPorts(lb) {
			e.targets[port] = append(e.targets[port], lb)
		}
	}
	if c := s.ControlPlane; c != nil {
		e.open[netip.AddrPortFrom(c.Address, c.Port)] = true
		for _, endpoint := range c.Endpoints {
			e.control[endpoint.Port()] = true
		}
		for _, extra := range c.ExtraPorts {
			e.open[netip.AddrPortFrom(c.Address, extra.Port)] = true
			e.control[extra.EndpointPort] = true
		}
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

// patience is how long a connection may live on that is found to have to end. One of the control plane never has to: watches live for
// hours, and its API servers are nobody's to judge here.
func (e ends) patience(c connection) (left time.Duration, why string) {
	peer := c.client.Addr()
	switch g, restricted := e.guests[c.vip]; {
	case restricted && !g.welcome(peer):
		return drainTime, unwelcomeClient
	case e.open[c.vip] || !c.ofHAProxy || peer.IsLoopback() || e.gateways[peer] || e.control[c.client.Port()]:
		return 0, ""
	}
	owners := e.targets[c.client.Port()]
	if slices.ContainsFunc(owners, func(lb *desired.LoadBalancer) bool { return e.state.Targets(lb, peer) }) {
		return 0, ""
	}
	for _, lb := range owners {
		left = max(left, drainTimeOf(e.state, lb))
	}
	for _, at := range []netip.AddrPort{c.vip, netip.AddrPortFrom(netip.Addr{}, c.client.Port())} {
		if former, known := e.former[at]; known && left == 0 {
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
	return slices.ContainsFunc(all, func(one T) bool { return !slices.Contains(some, one) })
}

func serversOf(lb *desired.LoadBalancer) (servers []netip.AddrPort) {
	for _, pool := range lb.Pools() {
		for _, server := range pool.Servers {
			servers = append(servers, netip.AddrPortFrom(server.Address, server.Port))
		}
	}
	return servers
}

// rememberDrains keeps the drain times that load balancers had of their own, for those of their ports that leave with them. The next
// agent does not know them: there it is the State's.
func rememberDrains(former map[netip.AddrPort]formerDrain, before *desired.State) map[netip.AddrPort]formerDrain {
	now := time.Now()
	all := map[netip.AddrPort]formerDrain{}
	for at, f := range former {
		if now.Sub(f.left) < 2*f.time {
			all[at] = f
		}
	}
	for i := range before.LoadBalancers {
		lb := &before.LoadBalancers[i]
		if lb.DrainSeconds == 0 {
			continue
		}
		own := formerDrain{drainTimeOf(before, lb), now}
		for _, d := range doorsOf(lb) {
			all[d] = own
		}
		for _, port := range targetPorts(lb) {
			all[netip.AddrPortFrom(netip.Addr{}, port)] = own
		}
	}
	return all
}

// haproxyUser is the uid of HAProxy's workers, as ss shows it; "" when there is no such user, and then nothing of it is ended.
func (a *Agent) haproxyUser() string {
	users, err := a.host.ReadFile("/etc/passwd")
	if err != nil {
		a.log.Warn("looking for HAProxy's user", "error", err)
		return ""
	}
	for line := range bytes.Lines(users) {
		fields := strings.Split(string(line), ":")
		if len(fields) < 3 || fields[0] != haproxy.DebianLocal().User {
			continue
		}
		if uid, err := strconv.ParseUint(fields[2], 10, 32); err == nil && uid != 0 {
			return "uid:" + fields[2]
		}
	}
	return ""
}
