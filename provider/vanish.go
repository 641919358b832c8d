package provider

import (
	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// vanish has the load balancer of a Service deleted whose object is gone although nobody cleaned up: somebody took the
// finalizer off by hand, or etcd was restored to before the Service.
//
// The library does not look at deleted objects; it trusts the finalizer. It does clean up what it remembers of a
// Service that its lister does not have any more, but only if it saw that as one of type LoadBalancer before, and only
// if somebody makes it look. So for as long as gateways may serve the Service its lister shows what remains of it: an
// object of another type and with nothing to patch, as if the type had been changed. A new object of the same name goes
// before that.
func (v *serviceView) vanish(svc *v1.Service) {
	if !v.ours(svc) && !v.wasOurs(svc) {
		return
	}
	v.mu.Lock()
	v.vanished[keyOf(svc)] = svc
	v.mu.Unlock()
	v.enqueue(remainsOf(svc))
}

// remains gives what the service controller sees of a Service that vanished while gateways may serve it, else nil.
func (v *serviceView) remains(key desired.Key) *v1.Service {
	v.mu.Lock()
	svc := v.vanished[key]
	v.mu.Unlock()
	if svc == nil {
		return nil
	}
	if !v.mayServe(key) {
		v.mu.Lock()
		delete(v.vanished, key)
		v.mu.Unlock()
		return nil
	}
	return remainsOf(svc)
}

func remainsOf(svc *v1.Service) *v1.Service {
	remains := *svc
	remains.Spec.Type, remains.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil
	remains.Finalizers, remains.Status = nil, v1.ServiceStatus{}
	return &remains
}

// wakeNamed is wake for a Service that may have vanished.
func (v *serviceView) wakeNamed(key desired.Key) {
	if svc, err := v.real.Lister().Services(key.Namespace).Get(key.Name); err == nil {
		v.wake(svc)
	} else if remains := v.remains(key); remains != nil {
		v.enqueue(remains)
	}
}
