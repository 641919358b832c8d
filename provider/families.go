package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// hasOnly says that kube-proxy opens the Service's NodePorts at addresses of this family only.
func hasOnly(svc *v1.Service, family v1.IPFamily) bool {
	return slices.Equal(svc.Spec.IPFamilies, []v1.IPFamily{family})
}

// addressIn gives a node's address of a family.
func addressIn(node desired.Node, family v1.IPFamily) (address netip.Addr, ok bool) {
	i := slices.IndexFunc(node.Addresses, func(a netip.Addr) bool { return a.Is6() == (family == v1.IPv6Protocol) })
	if i < 0 {
		return netip.Addr{}, false
	}
	return node.Addresses[i], true
}

// reachedAt gives the address where a node has the Service's NodePorts, if it has them.
func reachedAt(svc *v1.Service, node desired.Node) (address netip.Addr, ok bool) {
	for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
		if hasOnly(svc, family) {
			return addressIn(node, family)
		}
	}
	return node.Addresses[0], true
}

// nodeFamily is how desired.Pool names the addresses of nodes that have the Service's NodePorts; 0: all.
func nodeFamily(svc *v1.Service) int {
	switch {
	case hasOnly(svc, v1.IPv4Protocol):
		return 4
	case hasOnly(svc, v1.IPv6Protocol):
		return 6
	}
	return 0
}

// without names the nodes that have no address of a family.
func without(family v1.IPFamily, nodes []desired.Node) (names []string) {
	for _, node := range nodes {
		if _, ok := addressIn(node, family); !ok {
			names = append(names, node.Name)
		}
	}
	return names
}

// noNodeOf is how Events, and errors of ports in a status, say that no node has an address of a family.
func noNodeOf(family v1.IPFamily) string { return "No" + string(family) + "Node" }

const (
	mendNodes  = "give the kubelets one (--node-ip), name it in nodes.addresses of the cloud config"
	mendFamily = mendNodes + ", or make the Service dual-stack"
)

// reach warns when nodes, those that the Service chooses, have none of a single-stack Service's NodePorts, or cannot serve UDP and
// SCTP of one family, which the kernel translates to no other. Those of a Service with a pool of its own are none of its servers
// then, nor are they of an IPv6-only Service. But the shared pool has all nodes, those with IPv6 alone too.
func (d *draft) reach(svc *v1.Service, nodes []desired.Node) {
	for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
		lacking := without(family, nodes)
		datagrams := hasPort(svc, v1.ProtocolUDP, v1.ProtocolSCTP)
		switch {
		case len(svc.Spec.IPFamilies) > 1 && datagrams && len(lacking) > 0 && len(lacking) == len(nodes):
			d.warn(noNodeOf(family), "none of %d eligible nodes has an %s address, so the Service's UDP and SCTP ports are not "+
				"served at its %s address (status.loadBalancer.ingress[].ports[].error says so too); %s, or take them out of "+
				"this Service", len(nodes), family, family, mendNodes)
		case !hasOnly(svc, family) || len(lacking) == 0:
		case len(lacking) == len(nodes):
			d.warn(noNodeOf(family), "spec.ipFamilies is [%s] and none of %d eligible nodes has an %s "+
				"address, so connections are refused; %s",
				family, len(nodes), family, mendFamily)
		case family == v1.IPv4Protocol && d.service.LoadBalancer.Pool == nil:
			d.warn("NodeWithoutIPv4", "spec.ipFamilies is [IPv4] and %d of %d eligible nodes have no IPv4 address "+
				"(%s), so they refuse their share of the connections, which are tried again at other nodes; %s",
				len(lacking), len(nodes), few(lacking), mendFamily)
		}
	}
}

// reachChanged says that Services of this family alone are to be told something else than before.
func reachChanged(family v1.IPFamily, before, after []desired.Node) bool {
	then, now := without(family, before), without(family, after)
	none := (len(then) == len(before)) != (len(now) == len(after))
	return none || family == v1.IPv4Protocol && !slices.Equal(then, now)
}

// few names some of many.
func few(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
