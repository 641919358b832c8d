package provider

import (
	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// facts are what is so of a Service in the cluster now. They are told of every Service, also of one that is wrong otherwise: what is
// served of it instead must not lead to NodePorts and pods that are another's by now. Networks of pods that are named no more have no
// endpoint that gateways may connect to: what they served refuses connections, and an Event says why.
func (t translator) facts(svc *v1.Service, around circumstances) *loadbalancer.Facts {
	_, err := around.chosen(svc)
	facts := &loadbalancer.Facts{Nodes: t.poolOfNodes(svc, around), Unchosen: err != nil}
	for _, port := range svc.Spec.Ports {
		facts.Ports = append(facts.Ports, loadbalancer.PortFacts{
			Port: desired.Port{Protocol: desired.Protocol(protocolOf(port)), Port: uint16(port.Port)}, Name: port.Name,
			NodePort: uint16(port.NodePort), Pods: around.pods.servers(svc, port, t.pods),
		})
	}
	return facts
}
