package provider

import (
	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// sourceClient is the value of SourceAddress that asks for anything.
const sourceClient = "client"

func asksForClients(svc *v1.Service) bool {
	return svc.Annotations[string(SourceAddress)] == sourceClient
}

// clientSource reads whether pods see the client's address. It is called when the pool, its check and headers are there. What
// a gateway allows is the gateway's to say, and whether answers come back. A family that no node has is told as for UDP (families.go).
func (d *draft) clientSource(svc *v1.Service) {
	if d.word(svc, SourceAddress, sourceClient, "gateway") != sourceClient {
		return
	}
	lb := &d.service.LoadBalancer
	lb.ClientSource = true
	for i := range lb.Frontends {
		if lb.Frontends[i].ProxyProtocol != desired.ProxyNone {
			d.wrong("annotation %s is client and %s is set: both tell pods the client's address; remove one", SourceAddress, ProxyProtocol)
			break
		}
	}
	for i := range lb.Frontends {
		if lb.Frontends[i].Pool != nil {
			d.wrong("annotation %s is client, and ports without a nodePort are served by pods themselves, of which nobody knows whether "+
				"their answers come back through the gateways; give the ports a nodePort (allocateLoadBalancerNodePorts: true)", SourceAddress)
			break
		}
	}
	if lb.Pool != nil && lb.Pool.Check.Kind == desired.CheckNone {
		d.wrong("annotation %s is client, and nodes are not checked: a check shows that their answers come back through the gateways; set %s",
			SourceAddress, HealthCheckProtocol)
	}
	if !isLocal(svc) {
		d.warn("SourceAddressLost", "annotation %s is client and spec.externalTrafficPolicy is Cluster, with which kube-proxy puts a node's address in the place of "+
			"the client's; set the policy to Local, unless what you have instead of kube-proxy keeps the address", SourceAddress)
	}
}
