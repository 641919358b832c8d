package provider

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// podTargets are the rules of serving ports without a nodePort (spec.allocateLoadBalancerNodePorts: false) by the pods
// themselves. With externalTrafficPolicy Local all pods serve as with Cluster: the policy forbids a node to hand a
// connection on, and here no node has it in between.
type podTargets struct {
	// networks are where pods are; none: gateways do not reach pods. One on its node's own network (hostNetwork) has an address
	// of the Node, and these are allowed one by one: who may write EndpointSlices must not have the gateways connect to
	// whatever else there is in the nodes' network (kubernetes issue 103675).
	networks []netip.Prefix
	// never are addresses that no endpoint may have, wherever they are: the gateways' own. A manual EndpointSlice could
	// open a gateway's daemons otherwise.
	never map[netip.Addr]bool
	check desired.Check
}

func newPodTargets(c *config.Config) podTargets {
	p := podTargets{networks: c.Nodes.PodCIDRs, never: map[netip.Addr]bool{}, check: c.ServiceCheck(desired.CheckTCP)}
	for _, g := range c.Gateways {
		p.never[g.VRRPAddress] = true
		if a, err := netip.ParseAddr(g.SSHAddress); err == nil {
			p.never[a.Unmap()] = true
		}
	}
	return p
}

// take says whether pods serve a port.
func (p podTargets) take(port v1.ServicePort) bool { return port.NodePort == 0 && len(p.networks) > 0 }

// some says whether pods serve any port of the Service, all whether they serve all of them.
func (p podTargets) some(svc *v1.Service) bool { return slices.ContainsFunc(svc.Spec.Ports, p.take) }

func (p podTargets) all(svc *v1.Service) bool {
	return len(svc.Spec.Ports) > 0 && !slices.ContainsFunc(svc.Spec.Ports, func(port v1.ServicePort) bool { return !p.take(port) })
}

// reach says whether gateways connect to an endpoint there; nodes are the addresses of Nodes.
func (p podTargets) reach(address netip.Addr, nodes map[netip.Addr]bool) bool {
	inside := func(n netip.Prefix) bool { return n.Contains(address) }
	return !p.never[address] && (nodes[address] || slices.ContainsFunc(p.networks, inside))
}

// pool makes the pool of a port, without servers. Nobody checks those of UDP and SCTP: the EndpointSlices tell.
func (p podTargets) pool(port v1.ServicePort) *desired.Pool {
	pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone}}
	if protocolOf(port) == v1.ProtocolTCP {
		pool.Check = p.check
	}
	return pool
}

// endpointPort is a port of a Service as EndpointSlices name it.
type endpointPort struct {
	name     string
	protocol v1.Protocol
}

// podEndpoints are the endpoints of one Service by its ports.
type podEndpoints struct {
	at map[endpointPort]map[netip.AddrPort]endpointRank
	// hosts are endpoints that have a name instead of an address.
	hosts []string
	// nodes are the addresses of Nodes, where pods with hostNetwork are.
	nodes map[netip.Addr]bool
}

// findPods reads the slices of one Service. A port's number is its slice's: pods of one Service may differ in it. An
// endpoint that is in two slices is the better of what they say, as in countEndpoints.
func findPods(all []*discoveryv1.EndpointSlice) podEndpoints {
	found := podEndpoints{at: map[endpointPort]map[netip.AddrPort]endpointRank{}}
	for _, slice := range all {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			address, err := netip.ParseAddr(e.Addresses[0])
			if err != nil { // addressType FQDN
				found.hosts = append(found.hosts, e.Addresses[0])
				continue
			}
			for _, port := range slice.Ports {
				found.add(port, address.Unmap(), rankOf(e.Conditions))
			}
		}
	}
	slices.Sort(found.hosts)
	found.hosts = slices.Compact(found.hosts)
	return found
}

func (p podEndpoints) add(port discoveryv1.EndpointPort, address netip.Addr, rank endpointRank) {
	if port.Port == nil || *port.Port < 1 || *port.Port > 65535 {
		return
	}
	of := endpointPort{protocol: v1.ProtocolTCP}
	if port.Name != nil {
		of.name = *port.Name
	}
	if port.Protocol != nil {
		of.protocol = *port.Protocol
	}
	if p.at[of] == nil {
		p.at[of] = map[netip.AddrPort]endpointRank{}
	}
	at := netip.AddrPortFrom(address, uint16(*port.Port))
	p.at[of][at] = max(p.at[of][at], rank)
}

// of gives the endpoints of a port, sorted; outside are those that gateways must not connect to. A gateway connects over TCP
// from an address of any family: there each pod counts once, at its address of the Service's first family that has the best
// endpoints, so that ready ones come before others of whatever family. Flows of UDP and SCTP keep their family.
func (p podEndpoints) of(svc *v1.Service, port v1.ServicePort, targets podTargets) (inside, outside []netip.AddrPort) {
	for at := range p.at[endpointPort{port.Name, protocolOf(port)}] {
		switch {
		case !slices.Contains(svc.Spec.IPFamilies, familyOf(at.Addr())): // kube-proxy does not serve it either
		case targets.reach(at.Addr(), p.nodes):
			inside = append(inside, at)
		default:
			outside = append(outside, at)
		}
	}
	slices.SortFunc(inside, netip.AddrPort.Compare)
	slices.SortFunc(outside, netip.AddrPort.Compare)
	if protocolOf(port) != v1.ProtocolTCP {
		return inside, outside
	}
	if len(inside) == 0 {
		return inside, outside
	}
	ranks := p.at[endpointPort{port.Name, protocolOf(port)}]
	best := slices.MaxFunc(inside, func(a, b netip.AddrPort) int {
		family := func(at netip.AddrPort) int { return slices.Index(svc.Spec.IPFamilies, familyOf(at.Addr())) }
		return cmp.Or(cmp.Compare(ranks[a], ranks[b]), cmp.Compare(family(b), family(a)))
	})
	others := func(at netip.AddrPort) bool { return familyOf(at.Addr()) != familyOf(best.Addr()) }
	return slices.DeleteFunc(inside, others), slices.DeleteFunc(outside, others)
}

func familyOf(a netip.Addr) v1.IPFamily {
	if a.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// servers are the pods of a port: one that is ready is a server like others, one that terminates and still serves a
// backup, any other one drains.
func (p podEndpoints) servers(svc *v1.Service, port v1.ServicePort, targets podTargets) []desired.Server {
	inside, _ := p.of(svc, port, targets)
	protocol := protocolOf(port)
	var all []desired.Server
	for _, at := range inside {
		rank := p.at[endpointPort{port.Name, protocol}][at]
		if protocol == v1.ProtocolUDP && rank == otherEndpoint {
			continue // no flow ends by itself, so kube-proxy ends them where nobody serves
		}
		all = append(all, desired.Server{Name: podName(at), Address: at.Addr(), Port: at.Port(), Weight: 1,
			Backup: rank == servingEndpoint, Drains: rank == otherEndpoint})
	}
	slices.SortFunc(all, func(a, b desired.Server) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// podName names a server by where it is, with - instead of the colons that a name cannot have: two manual slices may have
// two ports of one address, and EndpointSlices need not name pods.
func podName(at netip.AddrPort) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(at.Addr().StringExpanded(), ":", "-"), at.Port())
}

// unusedSelector warns of an annotation that says nothing about ports that pods serve.
func (d *draft) unusedSelector(svc *v1.Service, targets podTargets) {
	if _, chooses := svc.Annotations[string(NodeSelector)]; chooses && targets.some(svc) {
		d.warn("UnusedNodeSelector", "annotation %s means nothing to ports without a nodePort: their pods serve, whatever nodes they "+
			"are on; remove it or give the ports a nodePort", NodeSelector)
	}
}

// These warnings come and go with endpoints.
const (
	endpointsOutside = "EndpointsOutside"
	endpointsByName  = "EndpointsByName"
	endpointsTooMany = "EndpointsTooMany"
)

// maxDatagramPods is how many servers of its own the gateways' firewall has for a port of UDP or SCTP (ownSlots of package nftables);
// pods after these get nothing.
const maxDatagramPods = 61

// warnOfPods warns of endpoints that get no connections although they may be ready.
func (d *draft) warnOfPods(svc *v1.Service, around circumstances, targets podTargets) {
	if !targets.some(svc) {
		return
	}
	var outside []string
	for _, port := range svc.Spec.Ports {
		if targets.take(port) {
			_, others := around.pods.of(svc, port, targets)
			for _, at := range others {
				outside = append(outside, at.String())
			}
		}
	}
	if len(outside) > 0 {
		d.warn(endpointsOutside, "%d endpoints get no connections (%s): gateways connect to pods in %s (nodes.podCIDRs of the cloud "+
			"configuration) and to the addresses of Nodes, never to a gateway; name their network there, or give the ports a nodePort", len(outside),
			few(outside), join(targets.networks))
	}
	for _, port := range svc.Spec.Ports {
		perFamily := map[v1.IPFamily]int{}
		for _, server := range around.pods.servers(svc, port, targets) {
			perFamily[familyOf(server.Address)]++
		}
		most := max(perFamily[v1.IPv4Protocol], perFamily[v1.IPv6Protocol])
		if targets.take(port) && protocolOf(port) != v1.ProtocolTCP && most > maxDatagramPods {
			d.warn(endpointsTooMany, "port %s has more pods of its own than the %d of each family that can get datagrams; the rest gets none: "+
				"give the port a nodePort, or take fewer pods", portName(port), maxDatagramPods)
		}
	}
	if len(around.pods.hosts) > 0 {
		d.warn(endpointsByName, "%d endpoints have a name instead of an address (%s), to which gateways do not connect; write an "+
			"EndpointSlice of addressType IPv4 or IPv6", len(around.pods.hosts), few(around.pods.hosts))
	}
}
