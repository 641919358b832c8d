package provider

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// podCounts count the endpoints of a Service on one node.
type podCounts struct {
	// ready get connections. serving ones terminate, and get some while the Service has no ready one that answers
	// (KEP-1669). others get none, but may have some.
	ready, serving, others int
}

// place is a node, reached by addresses of one family.
type place struct {
	node string
	ipv6 bool
}

// localEndpoints are the endpoints of one Service where there are any.
type localEndpoints map[place]podCounts

// endpointRank is what an endpoint is to kube-proxy, the best last (k8s.io/kubernetes/pkg/proxy, CategorizeEndpoints).
type endpointRank int

const (
	otherEndpoint endpointRank = iota
	servingEndpoint
	readyEndpoint
)

// rankOf reads conditions as the API defines them: what is not said about ready and serving is true, about terminating
// false (k8s.io/api/discovery/v1, EndpointConditions).
func rankOf(c discoveryv1.EndpointConditions) endpointRank {
	unlessSaid := func(said *bool, otherwise bool) bool {
		if said == nil {
			return otherwise
		}
		return *said
	}
	switch {
	case unlessSaid(c.Ready, true):
		return readyEndpoint
	case unlessSaid(c.Serving, true) && unlessSaid(c.Terminating, false):
		return servingEndpoint
	}
	return otherEndpoint
}

// countEndpoints counts the endpoints of one Service's slices by node. One that is in two slices, which happens while it
// moves from one to the other, counts once, as the better of what they say. One without a node is local to none.
func countEndpoints(all []*discoveryv1.EndpointSlice) localEndpoints {
	type endpoint struct {
		at      place
		address string
	}
	ranks := map[endpoint]endpointRank{}
	for _, slice := range all {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 && slice.AddressType != discoveryv1.AddressTypeIPv6 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.NodeName == nil || len(e.Addresses) == 0 {
				continue
			}
			one := endpoint{place{*e.NodeName, slice.AddressType == discoveryv1.AddressTypeIPv6}, e.Addresses[0]}
			ranks[one] = max(ranks[one], rankOf(e.Conditions))
		}
	}
	counted := localEndpoints{}
	for one, rank := range ranks {
		counts := counted[one.at]
		switch rank {
		case readyEndpoint:
			counts.ready++
		case servingEndpoint:
			counts.serving++
		default:
			counts.others++
		}
		counted[one.at] = counts
	}
	return counted
}

// maxWeight is a server's largest share (HAProxy manual section 5.2, weight).
const maxWeight = 256

// servers gives one server for each of these nodes that has an endpoint: a server like others where one is ready, else a
// backup where one terminates and still serves, else one that drains. kube-proxy chooses among the endpoints of its node
// alone, in the same order, so weights by their number give each pod an equal share. Nodes are reached at addresses of the family.
func (e localEndpoints) servers(nodes []desired.Node, family int) []desired.Server {
	var all []desired.Server
	most := 0
	for _, node := range nodes {
		address, ok := node.At(family)
		counts := e[place{node.Name, address.Is6()}]
		if !ok || counts == (podCounts{}) {
			continue
		}
		server := desired.Server{Name: node.Name, Address: address, Weight: counts.ready}
		if counts.ready == 0 {
			server.Weight, server.Backup = counts.serving, counts.serving > 0
			server.Drains = !server.Backup
		}
		most = max(most, server.Weight)
		all = append(all, server)
	}
	for i := range all {
		all[i].Weight = share(all[i].Weight, most)
	}
	return all
}

// serve says whether a node has endpoints that may get connections.
func (e localEndpoints) serve(node string) bool {
	four, six := e[place{node, false}], e[place{node, true}]
	return four.ready+four.serving+six.ready+six.serving > 0
}

// without names nodes that have a ready endpoint and are none of these, sorted.
func (e localEndpoints) without(nodes []desired.Node) (names []string) {
	for at, counts := range e {
		among := slices.ContainsFunc(nodes, func(n desired.Node) bool { return n.Name == at.node })
		if counts.ready > 0 && !among && !slices.Contains(names, at.node) {
			names = append(names, at.node)
		}
	}
	slices.Sort(names)
	return names
}

// share scales weights so that the largest is one that HAProxy takes, and none is 0.
func share(weight, most int) int {
	if most > maxWeight {
		weight = (weight*maxWeight + most/2) / most
	}
	return max(weight, 1)
}

// isLocal says that only endpoints of the node that a connection comes to may serve it.
func isLocal(svc *v1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
}
