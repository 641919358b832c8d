package provider

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// hasOnly says that kube-proxy opens the Service's NodePorts at addresses of this family only.
func hasOnly(svc *v1.Service, family v1.IPFamily) bool {
	return slices.Equal(svc.Spec.IPFamilies, []v1.IPFamily{family})
}

// number is how desired.Node and desired.Pool name a family.
func number(family v1.IPFamily) int {
	if family == v1.IPv6Protocol {
		return 6
	}
	return 4
}

// nodeFamily is the family of the addresses where nodes have the Service's NodePorts; 0: all.
func nodeFamily(svc *v1.Service) int {
	if len(svc.Spec.IPFamilies) == 1 {
		return number(svc.Spec.IPFamilies[0])
	}
	return 0
}

// without names the nodes that have no address of a family.
func without(family v1.IPFamily, nodes []desired.Node) (names []string) {
	for _, node := range nodes {
		if _, ok := node.At(number(family)); !ok {
			names = append(names, node.Name)
		}
	}
	return names
}

// noNodeOf is how Events, and errors of ports in a status, say that no node has an address of a family.
func noNodeOf(family v1.IPFamily) string { return "No" + string(family) + "Node" }

// nodeWithoutIPv4 comes and goes with nodes, without a change of the Service.
const nodeWithoutIPv4 = "NodeWithoutIPv4"

const (
	mendNodes  = "give the kubelets one (--node-ip), name it in nodes.addresses of the cloud config"
	mendFamily = mendNodes + ", or make the Service dual-stack"
)

// reach warns when nodes, those that serve the Service, have none of a single-stack Service's NodePorts, or cannot serve what is
// translated to no other family: UDP and SCTP, and whatever keeps the client's address. Those of a Service with a pool of its own are
// none of its servers then, nor are they of an IPv6-only Service. But the shared pool has all nodes, those with IPv6 alone too.
func (d *draft) reach(svc *v1.Service, nodes []desired.Node) {
	for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
		lacking := without(family, nodes)
		none := len(lacking) > 0 && len(lacking) == len(nodes)
		ports := keepsFamily(svc)
		switch {
		case len(svc.Spec.IPFamilies) > 1 && ports != "" && none:
			d.warn(noNodeOf(family), "none of the nodes that serve the Service has an %s address, so its %s are not served at its %s address "+
				"(status.loadBalancer.ingress[].ports[].error says so too); %s, or take %s out of this Service", family, ports, family, mendNodes, family)
		case !hasOnly(svc, family):
		case none:
			d.warn(noNodeOf(family), "spec.ipFamilies is [%s] and none of the nodes that serve the Service has an %s address, so connections are "+
				"refused; %s", family, family, mendFamily)
		case family == v1.IPv4Protocol && len(lacking) > 0 && d.service.LoadBalancer.Pool == nil:
			d.warn(nodeWithoutIPv4, "spec.ipFamilies is [IPv4] and %d of %d eligible nodes have no IPv4 address (%s), so they refuse their share "+
				"of the connections, which are tried again at other nodes; %s", len(lacking), len(nodes), few(lacking), mendFamily)
		}
	}
}

// keepsFamily names the Service's ports whose clients no node of another family can serve; empty: there are none.
func keepsFamily(svc *v1.Service) string {
	switch {
	case asksForClients(svc):
		return "ports"
	case hasPort(svc, v1.ProtocolUDP, v1.ProtocolSCTP):
		return "UDP and SCTP ports"
	}
	return ""
}

// reachChanged says that Services of this family alone are to be told something else than before.
func reachChanged(family v1.IPFamily, before, after []desired.Node) bool {
	then, now := without(family, before), without(family, after)
	none := (len(then) == len(before)) != (len(now) == len(after))
	return none || family == v1.IPv4Protocol && (len(then) == 0) != (len(now) == 0)
}

// few names some of many.
func few(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
