package provider

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// asked is what a Service says by an annotation.
type asked struct {
	// where names the annotation for people.
	where, value string
	// isSet is false when nobody asks, foreign set when the annotation is another controller's.
	isSet, foreign bool
}

// ask reads an annotation: ours, or, where ours is absent and the configuration wants it (readForeignAnnotations), the
// one with which another controller was asked for the same.
func (p *policy) ask(svc *v1.Service, key Annotation) asked {
	if value, isSet := svc.Annotations[string(key)]; isSet {
		return asked{where: "annotation " + string(key), value: value, isSet: true}
	}
	if !p.foreign {
		return asked{}
	}
	for _, other := range foreignKeys(key) {
		if value := svc.Annotations[other]; value != "" { // to MetalLB an empty value is none
			return asked{where: "annotation " + other, value: value, isSet: true, foreign: true}
		}
	}
	return asked{}
}

// foreignKeys are the annotations of other controllers that mean the same as ours, the newer before the older name:
// MetalLB's (metallb.io since v0.14, metallb.universe.tf before; controller/service.go there) and kube-vip's
// (https://kube-vip.io/docs/usage/kubernetes-services/). Their forms are ours: one address of each family with a comma
// between, one pool, any text as key.
func foreignKeys(key Annotation) []string {
	switch key {
	case LoadBalancerIPs:
		return []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs",
			"kube-vip.io/loadbalancerIPs"}
	case AddressPool:
		return []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	case AllowSharedIP:
		return []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"}
	default:
		return nil
	}
}

// asksOthers says whether the Service carries an annotation of another controller that we could read.
func asksOthers(svc *v1.Service) bool {
	return slices.ContainsFunc(annotations(), func(key Annotation) bool {
		return slices.ContainsFunc(foreignKeys(key), func(other string) bool { return svc.Annotations[other] != "" })
	})
}
