package provider

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// published gives the addresses in a Service's status.
func published(svc *v1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(ingress.IP); err == nil {
			addresses = append(addresses, a.Unmap())
		}
	}
	return addresses
}

// publishesName says that a Service's status has a host name and no address.
func publishesName(svc *v1.Service) bool {
	return len(published(svc)) == 0 && slices.ContainsFunc(svc.Status.LoadBalancer.Ingress,
		func(ingress v1.LoadBalancerIngress) bool { return ingress.Hostname != "" })
}

// statusOf gives what goes into the Service's status: each address, or the Service's host name instead of all of them,
// with every port (KEP-1435 wants all or none).
//
// A host name replaces the addresses as it does with other clouds' providers (Hetzner's, DigitalOcean's, OpenStack's):
// kube-proxy answers for addresses and not for names, and external-dns, which makes records of both, would make two that
// contradict each other.
//
// With a header of the PROXY protocol ipMode is Proxy: a pod that kube-proxy led to another one would not send it (KEP-1860).
// Without addresses there is no ipMode: the API server refuses it.
func statusOf(svc *v1.Service, addresses []netip.Addr, ipMode v1.LoadBalancerIPMode,
	around circumstances) *v1.LoadBalancerStatus {
	status := &v1.LoadBalancerStatus{}
	if len(addresses) == 0 {
		return status
	}
	if name := svc.Annotations[string(Hostname)]; name != "" {
		status.Ingress = []v1.LoadBalancerIngress{{Hostname: name, Ports: portStatuses(svc, addresses, around)}}
		return status
	}
	if len(set(svc, ProxyProtocol)) > 0 && hasPort(svc, v1.ProtocolTCP) {
		ipMode = v1.LoadBalancerIPModeProxy
	}
	for i, address := range addresses {
		status.Ingress = append(status.Ingress, v1.LoadBalancerIngress{IP: address.String(), IPMode: &ipMode,
			Ports: portStatuses(svc, addresses[i:i+1], around)})
	}
	return status
}

// portStatuses tells of every port whether it is served at any of these addresses, and why not.
func portStatuses(svc *v1.Service, addresses []netip.Addr, around circumstances) (all []v1.PortStatus) {
	nodes := around.serving(svc)
	for _, port := range svc.Spec.Ports {
		status := v1.PortStatus{Port: port.Port, Protocol: protocolOf(port)}
		served := slices.ContainsFunc(addresses, func(a netip.Addr) bool { return unserved(svc, port, a, nodes) == "" })
		if !served {
			problem := unserved(svc, port, addresses[0], nodes)
			status.Error = &problem
		}
		all = append(all, status)
	}
	return all
}

// unserved says why a port is not served at an address, in the form of a PortStatus' error; empty: it is. That is for what
// one port lacks while others are served. Nodes that are away, or that there are none, are no fault of a port, and are told
// by Events; an annotation that is wrong leaves the whole Service in its last good form.
func unserved(svc *v1.Service, port v1.ServicePort, address netip.Addr, nodes []desired.Node) string {
	if len(nodes) == 0 || port.NodePort == 0 {
		return ""
	}
	family := familyOf(address)
	reached := func(node desired.Node) bool {
		at := number(family)
		if protocolOf(port) == v1.ProtocolTCP && !asksForClients(svc) { // HAProxy connects anew, to any family that kube-proxy listens on
			at = nodeFamily(svc)
		}
		_, ok := node.At(at)
		return ok
	}
	if slices.ContainsFunc(nodes, reached) {
		return ""
	}
	return Prefix + noNodeOf(family)
}

// saysTheSame says whether a status in the cluster names the same addresses, names and ports that are not served as another one.
// An API server that knows no ipMode, or no ports, drops them, and is not asked again and again to keep them. One that knows
// ipMode never leaves it empty beside an address (KEP-1860), so that it is compared where there is one.
func saysTheSame(inCluster, as v1.LoadBalancerStatus) bool {
	knowsMode := slices.ContainsFunc(inCluster.Ingress, func(i v1.LoadBalancerIngress) bool { return i.IPMode != nil })
	return slices.Equal(said(inCluster, knowsMode), said(as, knowsMode))
}

func said(status v1.LoadBalancerStatus, withMode bool) (all []string) {
	for _, ingress := range status.Ingress {
		parts := []string{ingress.IP, ingress.Hostname}
		if withMode && ingress.IPMode != nil {
			parts = append(parts, string(*ingress.IPMode))
		}
		ports := slices.SortedFunc(slices.Values(ingress.Ports), func(a, b v1.PortStatus) int {
			return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
		})
		for _, port := range ports {
			if port.Error != nil {
				parts = append(parts, portName(v1.ServicePort{Port: port.Port, Protocol: port.Protocol}), *port.Error)
			}
		}
		all = append(all, strings.Join(parts, "|"))
	}
	slices.Sort(all)
	return all
}
