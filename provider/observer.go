package provider

import (
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// observer turns what Manager tells into metrics and Events, and wakes who waits. Manager must not be blocked or called
// from here, so waking is only asked for.
type observer struct {
	measures *measures
	recorder record.EventRecorder
	services func() corelisters.ServiceLister
	wake     func(cause)
}

var _ loadbalancer.Observer = (*observer)(nil)

func (o *observer) RoundDone(r loadbalancer.Round) {
	o.measures.round(r)
	if r.Err == nil {
		o.wake(gateways)
	}
}

func (o *observer) GatewayChanged(s loadbalancer.GatewayStatus) {
	o.measures.gateway(s)
	switch {
	case s.Err != nil:
		o.recorder.Event(epochObject(), v1.EventTypeWarning, "GatewayAway", s.Err.Error())
	case !s.InSync:
		o.recorder.Eventf(epochObject(), v1.EventTypeWarning, "GatewayDrifted", "gateway %s runs something else than it was told: %s", s.Name, strings.Join(s.Drift, "; "))
	default:
		o.recorder.Eventf(epochObject(), v1.EventTypeNormal, "GatewayConfirms", "gateway %s confirms what it is told (%s)", s.Name, s.Confirmed)
		o.wake(gateways)
	}
}

func (o *observer) AddressFreed(netip.Addr) { o.wake(address) }

func (o *observer) ServiceNotice(key desired.Key, err error) {
	svc, missing := o.services().Services(key.Namespace).Get(key.Name)
	if missing != nil {
		return // it is gone, and so is who would read the Event
	}
	o.recorder.Event(svc, v1.EventTypeWarning, "LoadBalancerNotice", err.Error())
}

// epochObject is the object that Events about gateways are told on.
func epochObject() *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: metav1.NamespaceSystem, Name: EpochName}
}
