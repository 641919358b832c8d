package nftables

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// flows are what the table has for UDP and SCTP beside who may connect: which node serves a flow, and at which port.
type flows struct {
	// sticky are ports whose node depends on the client's address alone.
	sticky byFamily
	// idle are ports of UDP whose flows are remembered for another time than the kernel's.
	idle byFamily
	// nodes and nodePorts are the shared pool: address by slot, NodePort by port of a VIP.
	nodes, nodePorts byFamily
	// own are ports with servers of their own: address and port by port of a VIP and slot.
	own byFamily

	state *desired.State
	unfit Unfit
	// shared are the candidates of the shared pool by family, found when the first load balancer needs them.
	shared map[bool][]candidate
}

// Flows says whether a State has ports of UDP or SCTP, which need rules that others do not.
func Flows(s *desired.State) bool {
	return slices.ContainsFunc(s.LoadBalancers, func(lb desired.LoadBalancer) bool {
		return slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Protocol != desired.TCP })
	})
}

func newFlows(s *desired.State, unfit Unfit) *flows {
	const key4, key6 = "ip daddr . meta l4proto . th dport", "ip6 daddr . meta l4proto . th dport"
	number := func(slots int) string { return "numgen inc mod " + strconv.Itoa(slots) }
	f := &flows{
		sticky:    newByFamily("sticky", doorType, "ports of UDP and SCTP whose node depends on the client's address alone"),
		idle:      newMapByFamily("idle", key4+" : verdict", key6+" : verdict", "how long flows of UDP are remembered, where it is not the kernel's own time"),
		nodes:     newMapByFamily("nodes", number(sharedSlots)+" : ip daddr", number(sharedSlots)+" : ip6 daddr", "nodes of all Services, by hash of a flow"),
		nodePorts: newMapByFamily("nodeports", key4+" : th dport", key6+" : th dport", "NodePorts of Services that all nodes serve"),
		own: newMapByFamily("own", key4+" . "+number(ownSlots)+" : ip daddr . th dport", key6+" . "+number(ownSlots)+" : ip6 daddr . th dport",
			"servers of Services that not all nodes serve, by hash of a flow"),
		state:  s,
		unfit:  unfit,
		shared: map[bool][]candidate{},
	}
	f.nodes.v4.Dense, f.nodes.v6.Dense = true, true
	return f
}

func newMapByFamily(name, typeOf4, typeOf6, comment string) byFamily {
	return byFamily{
		v4: &set{Name: name + "4", Map: true, Type: typeOf4, Comment: comment},
		v6: &set{Name: name + "6", Map: true, Type: typeOf6, Comment: comment},
	}
}

func (f *flows) sets() []byFamily {
	return []byFamily{f.sticky, f.idle, f.nodes, f.nodePorts, f.own}
}

// idleTimes are those that the rules have, in seconds: nft 1.0.6 has no map whose values are times.
func idleTimes() []int { return []int{15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400} }

// idleTime is the shortest of them that is long enough.
func idleTime(seconds int) int {
	times := idleTimes()
	i := slices.IndexFunc(times, func(t int) bool { return t >= seconds })
	if i < 0 {
		return times[len(times)-1]
	}
	return times[i]
}

// serve spreads the flows to a port of a VIP. False: nobody of its family can answer. The kernel translates addresses, not
// IPv6 to IPv4.
func (f *flows) serve(lb desired.LoadBalancer, vip netip.Addr, frontend desired.Frontend) bool {
	door := element(vip, frontend.Protocol, frontend.Port)
	if pool := lb.PoolOf(frontend); pool == nil {
		if len(f.sharedCandidates(vip)) == 0 {
			return false
		}
		f.nodePorts.add(vip, door+" : "+strconv.Itoa(int(frontend.NodePort)))
	} else {
		targets := spread(f.ownCandidates(lb, vip, frontend), ownSlots, false)
		if len(targets) == 0 {
			return false
		}
		for slot, target := range targets {
			f.own.add(vip, door+" . "+strconv.Itoa(slot)+" : "+target)
		}
	}
	if lb.UDPIdleSeconds > 0 && frontend.Protocol == desired.UDP {
		f.idle.add(vip, door+" : jump idle"+strconv.Itoa(idleTime(lb.UDPIdleSeconds)))
	}
	if lb.AffinitySeconds > 0 {
		f.sticky.add(vip, door)
	}
	return true
}

// sharedCandidates fills the slots of the shared pool when they are asked for the first time: a State without UDP and SCTP
// has none to load and read back.
func (f *flows) sharedCandidates(vip netip.Addr) []candidate {
	if known, ok := f.shared[vip.Is4()]; ok {
		return known
	}
	unfit := f.unfit.Nodes6
	if vip.Is4() {
		unfit = f.unfit.Nodes4
	}
	var all []candidate
	for _, n := range f.state.Nodes {
		if a, ok := desired.OfFamily(n.Addresses, desired.FamilyOf(vip)); ok {
			all = append(all, candidate{n.Name, a.String(), 1, unfit[n.Name]})
		}
	}
	f.shared[vip.Is4()] = all
	for slot, node := range spread(sortedByName(all), sharedSlots, true) {
		f.nodes.add(vip, strconv.Itoa(slot)+" : "+node)
	}
	return all
}

// ownCandidates are the servers of a port that has its own: backups while none of the others is fit, and never those that
// drain. HAProxy checks those of a load balancer's Pool, and nobody those of a Frontend's.
func (f *flows) ownCandidates(lb desired.LoadBalancer, vip netip.Addr, frontend desired.Frontend) []candidate {
	var unfit map[string]bool
	if frontend.Pool == nil {
		unfit = f.unfit.Of(&lb, vip)
	}
	var first, backups []candidate
	for _, server := range lb.PoolOf(frontend).Servers {
		address, ok := desired.OfFamily(f.addressesOf(server), desired.FamilyOf(vip))
		if !ok || server.Drains {
			continue
		}
		port := cmp.Or(server.Port, frontend.NodePort)
		c := candidate{server.Name, address.String() + " . " + strconv.Itoa(int(port)), server.Weight, unfit[server.Name]}
		if server.Backup {
			backups = append(backups, c)
		} else {
			first = append(first, c)
		}
	}
	if !lb.ClientSource && !slices.ContainsFunc(first, func(c candidate) bool { return !c.unfit }) { // nobody checks where backups answer to
		first = backups
	}
	return sortedByName(first)
}

// addressesOf are where a server is reached. A node is checked at one address; its other one is as good.
func (f *flows) addressesOf(server desired.Server) []netip.Addr {
	addresses := []netip.Addr{server.Address}
	if server.Port != 0 {
		return addresses // a pod
	}
	if i := slices.IndexFunc(f.state.Nodes, func(n desired.Node) bool { return n.Name == server.Name }); i >= 0 {
		addresses = append(addresses, f.state.Nodes[i].Addresses...)
	}
	return addresses
}

// sortedByName gives the order in which slots are filled.
func sortedByName(all []candidate) []candidate {
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.name, b.name) })
	return all
}
