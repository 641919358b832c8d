package provider

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// translation is what a Service's spec means.
type translation struct {
	service loadbalancer.Service
	// sources say who may connect, also when there is an error; nil when they are wrong themselves.
	sources *loadbalancer.Sources
	// warnings stop nothing.
	warnings []warning
}

// faultyServiceError says what is wrong with a Service's spec or annotations, one sentence for each.
type faultyServiceError struct{ problems []string }

func (e *faultyServiceError) Error() string { return strings.Join(e.problems, "; ") }

// circumstances are what a translation depends on besides the Service.
type circumstances struct {
	// nodes are those that get connections.
	nodes []desired.Node
	// nodeLabels are the labels of these nodes by name.
	nodeLabels map[string]labels.Set
	// endpoints are the Service's; they matter if isLocal. pods matter if pods serve a port, or do so in the form that is served.
	endpoints localEndpoints
	pods      podEndpoints
	policy    *policy
	// namespace are the labels of the Service's namespace.
	namespace labels.Set
	// unnamed are the addresses of a Service that publishes a host name instead (annotation hostname).
	unnamed []netip.Addr
}

// known gives the addresses that the Service's users know, by its status or by a name in it.
func (c circumstances) known(svc *v1.Service) []netip.Addr {
	return append(published(svc), c.unnamed...)
}

// translator is pure: the same Service in the same circumstances gives the same result.
type translator struct {
	// localCheck gives the check of a Service with externalTrafficPolicy: Local by its healthCheckNodePort.
	localCheck func(healthCheckNodePort uint16) desired.Check
	// nodeCheck is the shared pool's check.
	nodeCheck desired.Check
	// ownCheck gives one of this kind without a port, with the times of the configuration's.
	ownCheck func(desired.CheckKind) desired.Check
	// gateways are the names of all, sorted.
	gateways []string
	pods     podTargets
}

// draft is one translation in the making.
type draft struct {
	translation
	problems []string
	// named are the pools that the Service names.
	named []string
	// known are the addresses that its users know. Only those in its status survive the gateways: Manager is told of no others.
	known []netip.Addr
}

func (d *draft) wrong(format string, args ...any) {
	d.problems = append(d.problems, fmt.Sprintf(format, args...))
}

func (d *draft) warn(reason, format string, args ...any) {
	d.warnings = append(d.warnings, warning{reason, fmt.Sprintf(format, args...)})
}

// translate gives what svc means. Every problem is told at once, as *faultyServiceError; of the translation only
// sources and warnings are of use then. The Service is not written.
func (t translator) translate(svc *v1.Service, around circumstances) (translation, error) {
	d := &draft{known: around.known(svc)}
	d.service = loadbalancer.Service{
		LoadBalancer: desired.LoadBalancer{Key: keyOf(svc), UID: string(svc.UID)},
		Published:    published(svc),
		Created:      svc.CreationTimestamp.Time,
		Facts:        t.facts(svc, around),
	}
	d.frontends(svc, around, t.pods)
	d.request(svc, around)
	d.pool(svc, around, t)
	d.knobs(svc, t)
	d.clientSource(svc)
	d.access(svc)
	d.unusedSelector(svc, t.pods)
	d.warnOfPods(svc, around, t.pods)
	if !t.pods.all(svc) {
		d.reach(svc, around.serving(svc))
	}
	for _, key := range unknownAnnotations(svc.Annotations) {
		d.warn("UnknownAnnotation", "annotation %s is not known and has no effect; did you mean %s?", key, nearest(key))
	}
	if len(d.problems) == 0 {
		return d.translation, nil
	}
	return d.translation, &faultyServiceError{d.problems}
}

// frontends takes all ports: HAProxy serves those of TCP, the firewall those of UDP and SCTP.
func (d *draft) frontends(svc *v1.Service, around circumstances, pods podTargets) {
	for i, port := range svc.Spec.Ports {
		frontend := desired.Frontend{
			Name: port.Name, Protocol: desired.Protocol(protocolOf(port)), Port: uint16(port.Port), NodePort: uint16(port.NodePort),
		}
		switch {
		case pods.take(port):
			frontend.Pool = pods.pool(port)
			frontend.Pool.Servers = around.pods.servers(svc, port, pods)
		case port.NodePort == 0:
			d.wrong("spec.ports[%d] (%s) has no nodePort, and gateways reach the workers by NodePort; set "+
				"spec.allocateLoadBalancerNodePorts to true or give the port a nodePort, or name the pods' networks in "+
				"nodes.podCIDRs of the cloud configuration if gateways can reach pods", i, portName(port))
			continue
		}
		d.service.LoadBalancer.Frontends = append(d.service.LoadBalancer.Frontends, frontend)
	}
	slices.SortFunc(d.service.LoadBalancer.Frontends, func(a, b desired.Frontend) int {
		return cmp.Or(strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Port, b.Port))
	})
}

// protocolOf is TCP when a port names none, as the API server has it.
func protocolOf(port v1.ServicePort) v1.Protocol { return cmp.Or(port.Protocol, v1.ProtocolTCP) }

func portName(port v1.ServicePort) string {
	protocol := protocolOf(port)
	if port.Name == "" {
		return fmt.Sprintf("%d/%s", port.Port, protocol)
	}
	return fmt.Sprintf("%s %d/%s", port.Name, port.Port, protocol)
}

// keyOf names a Service as a State does.
func keyOf(svc *v1.Service) desired.Key { return desired.Key{Namespace: svc.Namespace, Name: svc.Name} }

// hasFinalizer says whether the Service carries the library's cleanup finalizer.
func hasFinalizer(svc *v1.Service) bool { return servicehelper.HasLBFinalizer(svc) }
