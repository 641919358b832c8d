package provider

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// controlPlaneLabel is on the Nodes that run an API server (kubeadm's constants.LabelNodeRoleControlPlane; k3s and RKE2 set it
// too), with any value.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// apiServers gives the API servers of the Nodes with the label, sorted. Neither Ready nor the label that keeps Services away
// matters: kubeadm sets the latter on these very Nodes, and HAProxy's check knows better than a kubelet's lease. A Node that
// is an endpoint of the configuration by any of its addresses is not named twice.
func (c chooser) apiServers(nodes []*v1.Node) (found []netip.AddrPort) {
	if c.controlPlane == nil {
		return nil
	}
	first := c.controlPlane.Endpoints[0]
	for _, node := range nodes {
		if _, is := node.Labels[controlPlaneLabel]; !is || leaving(node) {
			continue
		}
		if slices.ContainsFunc(c.addresses.every(node), func(a netip.Addr) bool {
			return slices.Contains(c.controlPlane.Endpoints, netip.AddrPortFrom(a, first.Port()))
		}) {
			continue
		}
		addresses, err := c.addresses.of(node)
		if err != nil {
			klog.V(2).InfoS("A control-plane Node has no address for the control plane's endpoints", "err", err)
			continue
		}
		address := addresses[0]
		if i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return a.Is4() == first.Addr().Is4() }); i > 0 {
			address = addresses[i]
		}
		if c.gateways[address] == "" && address != c.controlPlane.Address {
			found = append(found, netip.AddrPortFrom(address, first.Port()))
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	return slices.Compact(found)
}
