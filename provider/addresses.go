package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cloudproviderapi "k8s.io/cloud-provider/api"

	"cloud-provider-haproxy/provider/config"
)

// nodeAddresses finds the addresses where gateways reach a node's NodePorts.
type nodeAddresses struct{ config config.Nodes }

// of gives at most one IPv4 and one IPv6 address, IPv4 first: those of the configuration, else of the kubelet's
// --node-ip (annotation), else of the Node's status. The error names the node and what to do.
func (n nodeAddresses) of(node *v1.Node) ([]netip.Addr, error) {
	if configured := pick(n.config.Addresses[node.Name], nil); len(configured) > 0 {
		return configured, nil
	}
	kind := v1.NodeAddressType(n.config.AddressType)
	var candidates []netip.Addr
	if kind == v1.NodeInternalIP {
		candidates = provided(node)
	}
	candidates = append(candidates, inStatus(node, kind)...)
	if found := pick(candidates, n.config.CIDRs); len(found) > 0 {
		return found, nil
	}
	inside := ""
	if len(n.config.CIDRs) > 0 {
		inside = fmt.Sprintf(" inside %s (nodes.cidrs of the cloud configuration)", join(n.config.CIDRs))
	}
	return nil, fmt.Errorf("node %s has no %s%s, only %s; name its address in nodes.addresses of the cloud "+
		"configuration, or start its kubelet with --node-ip",
		node.Name, kind, inside, describe(node))
}

// every gives all addresses of a node, whether gateways use them or not.
func (n nodeAddresses) every(node *v1.Node) []netip.Addr {
	return slices.Concat(n.config.Addresses[node.Name], provided(node), inStatus(node, v1.NodeInternalIP),
		inStatus(node, v1.NodeExternalIP))
}

// allows says whether gateways may use one of the node's addresses: the configuration names it, or the networks where it is.
func (n nodeAddresses) allows(node *v1.Node, address netip.Addr) bool {
	inside := func(p netip.Prefix) bool { return p.Contains(address) }
	return len(n.config.CIDRs) == 0 || slices.ContainsFunc(n.config.CIDRs, inside) ||
		slices.Contains(n.config.Addresses[node.Name], address)
}

// pick takes the first usable address of each family.
func pick(candidates []netip.Addr, inside []netip.Prefix) []netip.Addr {
	var found []netip.Addr
	for _, a := range candidates {
		isInside := len(inside) == 0 || slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(a) })
		known := slices.ContainsFunc(found, func(f netip.Addr) bool { return f.Is4() == a.Is4() })
		if isInside && !known && config.Reachable(a) {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare) // IPv4 before IPv6
	return found
}

// provided gives the addresses that the kubelet was told by --node-ip with --cloud-provider=external.
func provided(node *v1.Node) []netip.Addr {
	text, isSet := node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr]
	if !isSet {
		return nil
	}
	var addresses []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		if a, err := netip.ParseAddr(strings.TrimSpace(part)); err == nil {
			addresses = append(addresses, a.Unmap())
		}
	}
	return addresses
}

func inStatus(node *v1.Node, kind v1.NodeAddressType) []netip.Addr {
	var addresses []netip.Addr
	for _, address := range node.Status.Addresses {
		if address.Type != kind {
			continue
		}
		if a, err := netip.ParseAddr(address.Address); err == nil {
			addresses = append(addresses, a.Unmap())
		}
	}
	return addresses
}

// describe lists what a node does have.
func describe(node *v1.Node) string {
	var all []string
	for _, address := range node.Status.Addresses {
		all = append(all, fmt.Sprintf("%s %s", address.Type, address.Address))
	}
	if len(all) == 0 {
		return "an empty list of addresses"
	}
	return strings.Join(all, ", ")
}

func join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, e := range list {
		texts[i] = e.String()
	}
	return strings.Join(texts, ", ")
}
