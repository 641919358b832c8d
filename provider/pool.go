package provider

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// hasPool says that a Service has servers of its own, and is none of the shared pool's.
func hasPool(svc *v1.Service) bool {
	asks := set(svc, append(aboutChecks(), NodeSelector)...)
	if asksForClients(svc) {
		asks = append(asks, SourceAddress)
	}
	if hasPort(svc, v1.ProtocolTCP) {
		asks = append(asks, set(svc, Algorithm, ProxyProtocol, TimeoutConnect, TimeoutIdle)...)
	}
	return len(asks) > 0 || isLocal(svc)
}

// pool makes a pool of the Service's own where it needs one. All kinds fail closed. Knobs may change its algorithm and its check.
// Ports that pods serve have other ones (pods.go).
func (d *draft) pool(svc *v1.Service, around circumstances, t translator) {
	if !hasPool(svc) || t.pods.all(svc) {
		return
	}
	if isLocal(svc) && svc.Spec.HealthCheckNodePort == 0 {
		d.wrong("spec.externalTrafficPolicy is Local but spec.healthCheckNodePort is not set, so that nodes with an " +
			"endpoint cannot be told from others; the API server sets it for type LoadBalancer: remove the policy " +
			"and set it again")
	}
	nodes, err := around.chosen(svc)
	if err != nil {
		d.wrong("%v", err)
		return
	}
	pool := t.poolOfNodes(svc, around)
	d.service.LoadBalancer.Pool = &pool
	d.noNode(svc, nodes, around)
}

// poolOfNodes is the pool that nodes are to a Service, whatever knobs it has. With policy Local only nodes with an endpoint are
// its servers, and of these HAProxy uses those where kube-proxy says so too: the check asks the healthCheckNodePort, which answers
// 200 where there is a ready one. Else it is the nodes that the Service chooses, with the check of the shared pool; without a choice
// all of them, of which Manager knows. Those of a choice that cannot be read are all, by name.
func (t translator) poolOfNodes(svc *v1.Service, around circumstances) desired.Pool {
	pool := desired.Pool{Algorithm: desired.RoundRobin, Check: t.nodeCheck}
	nodes, err := around.chosen(svc)
	if err != nil {
		nodes = around.nodes
	}
	switch {
	case isLocal(svc) && svc.Spec.HealthCheckNodePort != 0: // 0: as pool says, no API server leaves it so
		pool.Local, pool.Check = true, t.localCheck(uint16(svc.Spec.HealthCheckNodePort))
		pool.Servers = around.endpoints.servers(nodes, nodeFamily(svc))
	case choosesNodes(svc):
		pool.Servers = desired.NodeServers(nodes, nodeFamily(svc))
	default:
		pool.AllNodes, pool.Family = true, nodeFamily(svc)
	}
	return pool
}

// choosesNodes says that labels of nodes matter to the Service.
func choosesNodes(svc *v1.Service) bool { return len(set(svc, NodeSelector)) > 0 }

// These warnings come and go with nodes and endpoints, without a change of the Service.
const (
	noNodeSelected     = "NoNodeSelected"
	endpointsElsewhere = "EndpointsElsewhere"
)

// noNode warns when nodes could serve, but none of those that the Service's annotation names, or that have its endpoints.
func (d *draft) noNode(svc *v1.Service, nodes []desired.Node, around circumstances) {
	switch {
	case len(around.nodes) == 0: // told for all Services
	case len(nodes) == 0:
		d.warn(noNodeSelected, "annotation %s %q matches none of the eligible nodes, so connections are refused; "+
			"label nodes (kubectl label node NAME KEY=VALUE) or change the annotation", NodeSelector, svc.Annotations[string(NodeSelector)])
	case isLocal(svc) && len(d.service.LoadBalancer.Pool.Active()) == 0:
		if elsewhere := around.endpoints.without(nodes); len(elsewhere) > 0 {
			d.warn(endpointsElsewhere, "spec.externalTrafficPolicy is Local, and all endpoints are on nodes that get no "+
				"connections (%s), so connections are refused; let these serve (no label %s, no annotation %s that leaves them "+
				"out) or move the pods", few(elsewhere), v1.LabelNodeExcludeBalancers, NodeSelector)
		}
	}
}

// chosen are the eligible nodes that the Service's annotation selects, all without it.
func (c circumstances) chosen(svc *v1.Service) ([]desired.Node, error) {
	text, chooses := svc.Annotations[string(NodeSelector)]
	if !chooses {
		return c.nodes, nil
	}
	selector, err := labels.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("annotation %s %q is no label selector (%w); allowed is what `kubectl get nodes -l` takes, as in "+
			"zone=a,disk in (ssd, nvme),!legacy", NodeSelector, text, err)
	case strings.TrimSpace(text) == "":
		return nil, fmt.Errorf("annotation %s is empty; allowed is a label selector as `kubectl get nodes -l` takes it; remove the "+
			"annotation to have all nodes", NodeSelector)
	}
	var nodes []desired.Node
	for _, node := range c.nodes {
		if selector.Matches(c.nodeLabels[node.Name]) {
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

// serving are those of them that have an endpoint, if the Service wants one. Of a choice that is wrong, which pool tells, there are none.
func (c circumstances) serving(svc *v1.Service) []desired.Node {
	nodes, _ := c.chosen(svc)
	if !isLocal(svc) {
		return nodes
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(node desired.Node) bool { return !c.endpoints.serve(node.Name) })
}
