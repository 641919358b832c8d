package provider

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	servicecontroller "k8s.io/cloud-provider/controllers/service"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// nodeSet is what the Nodes of the cluster mean to the gateways.
type nodeSet struct {
	// eligible are the workers that get connections, sorted by name. Nodes that are not ready are among them: HAProxy's
	// own checks find out faster, and a wrong condition must not black out a site (KEP-3458 gives the same to clouds).
	eligible []desired.Node
	// excluded counts the nodes that carry the label node.kubernetes.io/exclude-from-external-load-balancers.
	excluded int
	total    int
	// unusable says for single nodes why they are left out although nobody asked for it.
	unusable []string
	// labels are those of the eligible nodes, by name.
	labels map[string]labels.Set
	// addresses are all addresses of all nodes, also of those that are not eligible, with the node's name.
	addresses map[netip.Addr]string
	// reached are those of them that gateways may connect to for a pod with hostNetwork, on any Node.
	reached map[netip.Addr]bool
	// apiServers are those of the Nodes that run one, sorted, when it is asked for them.
	apiServers []netip.AddrPort
}

// chooser decides which nodes are eligible and how they are reached.
type chooser struct {
	addresses nodeAddresses
	// gateways are the gateways' own addresses, which no node can have.
	gateways map[netip.Addr]string
	// controlPlane is set when the Nodes name API servers beside its own.
	controlPlane *desired.ControlPlane
}

// choose is pure; the Nodes are not written.
func (c chooser) choose(nodes []*v1.Node) *nodeSet {
	sorted := slices.SortedFunc(slices.Values(nodes), func(a, b *v1.Node) int { return cmp.Compare(a.Name, b.Name) })
	set := &nodeSet{
		total: len(nodes), labels: map[string]labels.Set{}, addresses: map[netip.Addr]string{}, reached: map[netip.Addr]bool{},
		apiServers: c.apiServers(sorted),
	}
	owner := map[netip.Addr]string{}
	for a, gateway := range c.gateways {
		owner[a] = "gateway " + gateway
	}
	for _, node := range sorted {
		for _, a := range c.addresses.every(node) {
			set.addresses[a] = node.Name
			if c.gateways[a] == "" && c.addresses.allows(node, a) {
				set.reached[a] = true
			}
		}
		if excludedByLabel(node) {
			set.excluded++
			continue
		}
		if leaving(node) {
			continue
		}
		addresses, err := c.addresses.of(node)
		if err != nil {
			set.unusable = append(set.unusable, err.Error())
			continue
		}
		if i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return owner[a] != "" }); i >= 0 {
			// Two with one address: a State with that would be refused as a whole.
			set.unusable = append(set.unusable, fmt.Sprintf("node %s: its address %s is that of %s", node.Name,
				addresses[i], owner[addresses[i]]))
			continue
		}
		for _, a := range addresses {
			owner[a] = "node " + node.Name
		}
		set.eligible = append(set.eligible, desired.Node{Name: node.Name, Addresses: addresses})
		set.labels[node.Name] = node.Labels // which nobody writes
	}
	return set
}

// sameNodes says that the same nodes are eligible, at the same addresses.
func (s *nodeSet) sameNodes(other *nodeSet) bool {
	return slices.EqualFunc(s.eligible, other.eligible, func(a, b desired.Node) bool {
		return a.Name == b.Name && slices.Equal(a.Addresses, b.Addresses)
	})
}

// sameLabels says that they have the same labels.
func (s *nodeSet) sameLabels(other *nodeSet) bool {
	return maps.EqualFunc(s.labels, other.labels, func(a, b labels.Set) bool { return maps.Equal(a, b) })
}

// noneEligible explains why no node gets connections.
func (s *nodeSet) noneEligible() string {
	switch {
	case s.total == 0:
		return "the cluster has no node, so nothing can serve; connections are refused"
	case s.excluded > 0:
		return fmt.Sprintf("no node may serve, so connections are refused: %d of %d nodes carry the label %s, which "+
			"kubeadm sets on control-plane nodes; if they shall serve: kubectl label node NAME %s-%s",
			s.excluded, s.total, v1.LabelNodeExcludeBalancers, v1.LabelNodeExcludeBalancers, s.others())
	default:
		return fmt.Sprintf("none of %d nodes can serve, so connections are refused%s", s.total, s.others())
	}
}

func (s *nodeSet) others() string {
	if len(s.unusable) == 0 {
		return ""
	}
	const most = 5
	text := strings.Join(s.unusable[:min(most, len(s.unusable))], "; ")
	if more := len(s.unusable) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return "; " + text
}

// excludedByLabel reads the label as the library does (nodeIncludedPredicate): everything but a false value excludes.
func excludedByLabel(node *v1.Node) bool {
	value, isSet := node.Labels[v1.LabelNodeExcludeBalancers]
	if !isSet {
		return false
	}
	excluded, err := strconv.ParseBool(value)
	return err != nil || excluded
}

// leaving says whether a node is about to go, as the library does (nodeNotDeletedPredicate, nodeUnTaintedPredicate).
func leaving(node *v1.Node) bool {
	return node.DeletionTimestamp != nil || slices.ContainsFunc(node.Spec.Taints, func(taint v1.Taint) bool {
		return taint.Key == servicecontroller.ToBeDeletedTaint
	})
}
