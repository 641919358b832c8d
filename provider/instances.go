package provider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"

	"cloud-provider-haproxy/provider/config"
)

// Resolver looks up a host name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// instances answers the node controller for nodes whose kubelet runs with --cloud-provider=external: such a Node stays
// tainted until we say what its addresses are, and what we say first is final (the kubelet never corrects it). Kubelets
// on bare metal need not set that flag at all.
type instances struct {
	config   config.Nodes
	resolver Resolver
	recorder record.EventRecorder
}

// InstanceExists is always true: nobody but its owner can tell that a machine is gone for good, and a false answer
// makes the library delete the Node.
func (i *instances) InstanceExists(context.Context, *v1.Node) (bool, error) { return true, nil }

// InstanceShutdown is always false: a machine that is off looks like one that cannot be reached.
func (i *instances) InstanceShutdown(context.Context, *v1.Node) (bool, error) { return false, nil }

// InstanceMetadata gives a node's provider ID and addresses: from the configuration, the provided-node-ip annotation,
// the Node's status, or DNS inside nodes.cidrs, in this order. When nothing is found the Node stays tainted and a
// Warning event says what to do.
func (i *instances) InstanceMetadata(ctx context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	metadata := &cloudprovider.InstanceMetadata{ProviderID: node.Spec.ProviderID}
	if metadata.ProviderID == "" {
		metadata.ProviderID = ProviderName + "://" + node.Name
	}
	if known := ips(node); !uninitialized(node) && len(known) > 0 && containsAll(known, provided(node)) {
		// Asked again every few minutes for every Node. A kubelet without the flag keeps its own list; do not fight it.
		// One that came back with another --node-ip waits for us to say so.
		metadata.NodeAddresses = node.Status.Addresses
		return metadata, nil
	}
	found, err := i.find(ctx, node)
	if err != nil {
		i.recorder.Eventf(node, v1.EventTypeWarning, "NoNodeAddress", "%v", err)
		return nil, err
	}
	kind := v1.NodeAddressType(i.config.AddressType)
	for _, a := range found {
		metadata.NodeAddresses = append(metadata.NodeAddresses, v1.NodeAddress{Type: kind, Address: a.String()})
	}
	for _, a := range provided(node) { // the library insists on finding these in the answer
		if !slices.Contains(found, a) {
			metadata.NodeAddresses = append(metadata.NodeAddresses, v1.NodeAddress{Type: v1.NodeInternalIP,
				Address: a.String()})
		}
	}
	answered := slices.Clone(metadata.NodeAddresses)
	for _, address := range node.Status.Addresses { // host names, and addresses of the other type
		if !slices.ContainsFunc(answered, func(a v1.NodeAddress) bool {
			return a.Type == address.Type ||
				a.Address == address.Address
		}) {
			metadata.NodeAddresses = append(metadata.NodeAddresses, address)
		}
	}
	return metadata, nil
}

func (i *instances) find(ctx context.Context, node *v1.Node) ([]netip.Addr, error) {
	found, err := nodeAddresses{i.config}.of(node)
	if err == nil || len(i.config.CIDRs) == 0 {
		if err != nil {
			err = fmt.Errorf("%w, or name the node's network in nodes.cidrs, so that its host name may be looked up",
				err)
		}
		return found, err
	}
	host := hostname(node)
	looked, lookupErr := i.resolver.LookupNetIP(ctx, "ip", host)
	if lookupErr != nil {
		return nil, fmt.Errorf("%w; looking up %s: %v", err, host, lookupErr)
	}
	for n := range looked {
		looked[n] = looked[n].Unmap()
	}
	if found := pick(looked, i.config.CIDRs); len(found) > 0 {
		return found, nil
	}
	return nil, fmt.Errorf("%w; DNS says %s is %s, which is outside", err, host, join(looked))
}

func hostname(node *v1.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == v1.NodeHostName {
			return address.Address
		}
	}
	return node.Name
}

func uninitialized(node *v1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(taint v1.Taint) bool {
		return taint.Key == cloudproviderapi.TaintExternalCloudProvider
	})
}

// ips gives the addresses of a Node's status that are IP addresses.
func ips(node *v1.Node) []netip.Addr {
	return append(inStatus(node, v1.NodeInternalIP), inStatus(node, v1.NodeExternalIP)...)
}

func containsAll(list, wanted []netip.Addr) bool {
	return !slices.ContainsFunc(wanted, func(a netip.Addr) bool { return !slices.Contains(list, a) })
}
