package provider

import (
	"maps"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// happenings are what may let a Service succeed that failed before.
type happenings struct {
	// causes are what has come that Services wait for.
	causes map[cause]bool
	// namespaces and services have other labels: a pool may admit those that wait for an address or a correction.
	namespaces map[string]bool
	services   map[desired.Key]bool
	// again are Services that changed in a way that the library does not look at (its needsUpdate).
	again map[desired.Key]bool
	// reloaded says that there is a new configuration, foreign that other controllers' annotations are read now, or no
	// more, gone that a pool is there no more, which what Manager knows of any Service may name.
	reloaded, foreign, gone bool
}

// wakes says whether a Service that waits is to be tried again.
func (h *happenings) wakes(key desired.Key, waitsFor cause) bool {
	pending := waitsFor == address || waitsFor == correction
	return h.causes[waitsFor] || pending && (h.reloaded || h.namespaces[key.Namespace] || h.services[key])
}

// wakeups collects what has happened since the last look.
type wakeups struct {
	signal chan struct{} // holds one

	mu  sync.Mutex
	new happenings
}

func newWakeups() *wakeups {
	return &wakeups{signal: make(chan struct{}, 1), new: nothingHappened()}
}

func nothingHappened() happenings {
	return happenings{causes: map[cause]bool{}, namespaces: map[string]bool{}, services: map[desired.Key]bool{},
		again: map[desired.Key]bool{}}
}

// tell never blocks.
func (w *wakeups) tell(what func(*happenings)) {
	w.mu.Lock()
	what(&w.new)
	w.mu.Unlock()
	signal(w.signal)
}

// ask wakes who waits for what.
func (w *wakeups) ask(what cause) { w.tell(func(h *happenings) { h.causes[what] = true }) }

func (w *wakeups) take() happenings {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.new
	w.new = nothingHappened()
	return taken
}

// watch follows what the library does not: labels of namespaces and Services, and changes of spec.ipFamilyPolicy, which
// says whether the second family may be missing.
func (c *Cloud) watch() (registrations []cache.ResourceEventHandlerRegistration, err error) {
	namespaces, err := c.namespaces.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { c.labelsChanged(&v1.Namespace{}, object) },
		UpdateFunc: func(old, current any) {
			if before, ok := old.(*v1.Namespace); ok {
				c.labelsChanged(before, current)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	services, err := c.services.real.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, current any) {
			before, ok1 := old.(*v1.Service)
			after, ok2 := current.(*v1.Service)
			if ok1 && ok2 {
				c.serviceChanged(before, after)
			}
		},
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			if svc, ok := object.(*v1.Service); ok {
				c.balancer.forget(svc)
				c.services.vanish(svc)
			}
		},
	})
	return []cache.ResourceEventHandlerRegistration{namespaces, services}, err
}

func (c *Cloud) labelsChanged(before *v1.Namespace, current any) {
	after, ok := current.(*v1.Namespace)
	if ok && (before.Name == "" || !maps.Equal(before.Labels, after.Labels)) {
		c.wakeups.tell(func(h *happenings) { h.namespaces[after.Name] = true })
	}
}

func (c *Cloud) serviceChanged(before, after *v1.Service) {
	labelled := !maps.Equal(before.Labels, after.Labels)
	policy := func(svc *v1.Service) v1.IPFamilyPolicy {
		if svc.Spec.IPFamilyPolicy == nil {
			return ""
		}
		return *svc.Spec.IPFamilyPolicy
	}
	// It does look at how many families there are.
	again := policy(before) != policy(after) && len(before.Spec.IPFamilies) == len(after.Spec.IPFamilies) &&
		c.services.ours(after)
	if !labelled && !again {
		return
	}
	c.wakeups.tell(func(h *happenings) {
		if labelled {
			h.services[keyOf(after)] = true
		}
		if again {
			h.again[keyOf(after)] = true
		}
	})
}

// wake makes the service controller try again what may succeed now.
func (c *Cloud) wake() {
	h := c.wakeups.take()
	for _, key := range c.balancer.waiting.take(h.wakes) {
		h.again[key] = true
	}
	if h.reloaded {
		c.eachService(func(svc *v1.Service) {
			if c.services.ours(svc) && svc.DeletionTimestamp == nil &&
				(h.gone || c.balancer.dependsOnPools(svc, h.foreign)) {
				h.again[keyOf(svc)] = true
			}
		})
	}
	for key := range h.again { // in any order: the library's queue has none either
		c.services.wakeNamed(key)
	}
}

// dependsOnPools says whether a new configuration may mean something else to a Service that has what it asked for: its
// annotation names pools, it would like a second address, or (foreign) other annotations are read now.
func (b *balancer) dependsOnPools(svc *v1.Service, foreign bool) bool {
	prefersTwo := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == v1.IPFamilyPolicyPreferDualStack &&
		len(b.around(svc).known(svc)) < len(svc.Spec.IPFamilies)
	return b.policy.Load().ask(svc, AddressPool).isSet || prefersTwo || foreign && asksOthers(svc)
}

// namespaceLabels gives the labels of a namespace; none while nobody knows it.
func (c *Cloud) namespaceLabels(name string) labels.Set {
	namespace, err := c.namespaces.Lister().Get(name)
	if err != nil {
		return nil
	}
	return namespace.Labels
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is there already
	}
}
