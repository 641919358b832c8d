package simulation

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/simulation/machine"
)

// differences says how what a machine does is not what a State says, without asking the product's renderers.
func differences(s machine.Serving, state *desired.State) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !s.HAProxy || !s.Keepalived || !s.Table {
		add("of HAProxy, keepalived and nftables something does not run: %t %t %t", s.HAProxy, s.Keepalived, s.Table)
		return problems
	}
	routes, open, allowed, flows := 0, 0, 0, map[string]bool{}
	for _, lb := range state.LoadBalancers {
		for _, a := range lb.Addresses {
			for _, f := range lb.Frontends {
				if f.Protocol == desired.TCP {
					routes++
					problems = append(problems, routeProblems(s, &lb, door(a, f), f)...)
				}
				if lb.Pool != nil && len(lb.Pool.Servers) == 0 || lb.Pool == nil && len(state.Nodes) == 0 {
					continue
				}
				element := a.String() + " . " + strings.ToLower(string(f.Protocol)) + " . " + strconv.Itoa(int(f.Port))
				switch {
				case f.Protocol == desired.UDP:
					flows[element] = true // it is open while somebody is fit
				case len(lb.AllowSources) == 0:
					open++
					if !slices.Contains(s.Open, element) {
						add("%s is not open", element)
					}
				default:
					allowed += len(lb.AllowSources)
				}
			}
		}
	}
	if routes != len(s.Routes) {
		add("the map has %d entries, not %d: %v", len(s.Routes), routes, s.Routes)
	}
	datagrams := func(element string) bool { return strings.Contains(element, " . udp . ") }
	for _, element := range s.Open {
		if datagrams(element) && !flows[element] {
			add("%s is open", element)
		}
	}
	opened, half := slices.DeleteFunc(slices.Clone(s.Open), datagrams), slices.DeleteFunc(slices.Clone(s.Allowed), datagrams)
	if open != len(opened) || allowed != len(half) {
		add("%d doors are open and %d half-open, not %d and %d: %v %v", len(opened), len(half), open, allowed, opened, half)
	}
	if nodes := addressesOf(state); !slices.Equal(nodes, s.Servers["nodes"]) {
		add("the pool has %v, not %v", s.Servers["nodes"], nodes)
	}
	return slices.Concat(problems, controlProblems(s, state), vipProblems(s, state))
}

// controlProblems are about the API servers' own door.
func controlProblems(s machine.Serving, state *desired.State) (problems []string) {
	var doors []string
	var servers []netip.Addr
	if p := state.ControlPlane; p != nil {
		doors = append(doors, p.Address.String()+" . tcp . "+strconv.Itoa(int(p.Port)))
		for _, e := range p.Endpoints {
			servers = append(servers, e.Addr())
		}
	}
	if !slices.Equal(doors, s.Control) {
		problems = append(problems, fmt.Sprintf("doors of the control plane are %v, not %v", s.Control, doors))
	}
	if has := s.Servers["control-plane"]; !slices.Equal(has, servers) {
		problems = append(problems, fmt.Sprintf("API servers are %v, not %v", has, servers))
	}
	return problems
}

func addressesOf(state *desired.State) (all []netip.Addr) {
	for _, n := range state.Nodes {
		all = append(all, n.Addresses[0])
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func routeProblems(s machine.Serving, lb *desired.LoadBalancer, to string, f desired.Frontend) (problems []string) {
	route := s.Routes[to]
	if len(route) < 3 || route[1] != strconv.Itoa(int(f.NodePort)) || route[2] != lb.Key.String() || (lb.Pool != nil) != strings.HasPrefix(route[0], "slot-") {
		return []string{fmt.Sprintf("%s of %s leads to %v, not to NodePort %d", to, lb.Key, route, f.NodePort)}
	}
	if lb.Pool == nil {
		return nil
	}
	var want []netip.Addr
	for _, server := range lb.Pool.Servers {
		want = append(want, server.Address)
	}
	slices.SortFunc(want, netip.Addr.Compare)
	if !slices.Equal(want, s.Servers[route[0]]) {
		return []string{fmt.Sprintf("%s of %s has servers %v, not %v", route[0], lb.Key, s.Servers[route[0]], want)}
	}
	return nil
}

func vipProblems(s machine.Serving, state *desired.State) (problems []string) {
	has := 0
	for id, addresses := range s.Addresses {
		has += len(addresses) - 1 // the anchor
		for _, a := range addresses[1:] {
			if !slices.ContainsFunc(state.VIPs, func(v desired.VIP) bool { return v.Address == a && v.RouterID == id }) {
				problems = append(problems, fmt.Sprintf("keepalived moves %s by instance %d", a, id))
			}
		}
	}
	if has != len(state.VIPs) {
		problems = append(problems, fmt.Sprintf("keepalived moves %d VIPs, not %d", has, len(state.VIPs)))
	}
	return problems
}

func keyOf(owner string) desired.Key {
	namespace, name, _ := strings.Cut(owner, "/")
	return desired.Key{Namespace: namespace, Name: name}
}

// describe is a State for people.
func describe(s *desired.State) string {
	var parts []string
	for _, lb := range s.LoadBalancers {
		var ports []string
		for _, f := range lb.Frontends {
			ports = append(ports, strconv.Itoa(int(f.Port)))
		}
		parts = append(parts, fmt.Sprintf("%s(%s)=%v:%s", lb.Name, lb.UID, lb.Addresses, strings.Join(ports, ",")))
	}
	for _, r := range s.Releasing {
		parts = append(parts, fmt.Sprintf("releasing %s of %s%v", r.Address, r.Owner.Name, r.Ports))
	}
	for _, r := range s.Reserved {
		parts = append(parts, fmt.Sprintf("reserved %s for %s", r.Address, r.Owner.Name))
	}
	return strings.Join(parts, " ")
}

// missed says that somebody misses an object that is not served: this controller told him that it is, and it was wanted ever
// since. What a round had not brought to its end may go again while a fault is searched for.
func (c *cluster) missed(uid, controller string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, unwanted := c.unwanted[uid]
	return c.valid[uid].by[controller] && !unwanted
}

func (c *cluster) wasRestored() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restored
}

// serves says whose pods answer at a node's port; "" nobody's.
func (c *cluster) serves(nodePort uint16) string { return c.endpoint(nodePort).uid }

func (c *cluster) endpoint(nodePort uint16) endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[nodePort]
}
