package provider

import (
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// foreignClass is the class that the service controller sees on a Service without one that is not ours. It is never
// written: patches are differences of two views.
const foreignClass = Prefix + "not-ours"

// ownership decides whose a Service is.
type ownership struct {
	class string
	// unclassed says that Services without a class are ours too.
	unclassed bool
	// fieldManager is how the API server's managedFields name this program.
	fieldManager string
	// held says whether gateways still serve the Service.
	held func(desired.Key) bool
}

// ours says whether a Service of type LoadBalancer is for us to serve.
func (o ownership) ours(svc *v1.Service) bool {
	switch {
	case svc.Spec.Type != v1.ServiceTypeLoadBalancer:
		return false
	case svc.Spec.LoadBalancerClass == nil:
		return o.unclassed
	default:
		return *svc.Spec.LoadBalancerClass == o.class
	}
}

// wasOurs says whether a Service that is not ours now has been: it was served under another configuration, or its type
// was changed. That clears class and status, so that what tells then is who added the finalizer, or whether gateways
// serve it.
func (o ownership) wasOurs(svc *v1.Service) bool {
	switch {
	case o.addedFinalizer(svc):
		return true
	case svc.Spec.Type == v1.ServiceTypeLoadBalancer: // perhaps another one of this name is what gateways serve
		return o.wroteStatus(svc)
	default:
		return o.held(keyOf(svc))
	}
}

// show gives the Service as the service controller is to see it; a shallow copy when anything differs.
func (o ownership) show(svc *v1.Service) *v1.Service {
	// One that is being deleted and has not our finalizer is cleaned up, or never was ours. It waits for somebody else,
	// and the API server allows no new finalizers then.
	if o.ours(svc) && (svc.DeletionTimestamp == nil || hasFinalizer(svc)) {
		if svc.Spec.LoadBalancerClass == nil {
			return svc
		}
		view := *svc
		view.Spec.LoadBalancerClass = nil
		return &view
	}
	view := *svc
	if svc.Spec.Type == v1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil {
		class := foreignClass
		view.Spec.LoadBalancerClass = &class
	}
	// The finalizer of a Service that was ours must be taken off by us; anybody else's must not.
	if hasFinalizer(svc) && !o.wasOurs(svc) {
		view.Finalizers = withoutOurs(svc.Finalizers)
	}
	// What is cleaned up loses its status. If another controller wrote it since, that is none of ours to clear.
	if !o.wroteStatus(svc) {
		view.Status.LoadBalancer = v1.LoadBalancerStatus{}
	}
	return &view
}

func withoutOurs(finalizers []string) []string {
	return slices.DeleteFunc(slices.Clone(finalizers),
		func(f string) bool { return f == servicehelper.LoadBalancerCleanupFinalizer })
}

// serviceView is the informer of Services that the service controller gets.
type serviceView struct {
	ownership
	real coreinformers.ServiceInformer
	// ready says that the service controller may start: Manager has replayed every Service.
	ready func() bool
	// mayServe says whether gateways serve a Service, as far as anybody knows.
	mayServe func(desired.Key) bool

	mu       sync.Mutex
	handlers []cache.ResourceEventHandler
	// vanished are the last known objects of Services that are to be cleaned up; see vanish.
	vanished map[desired.Key]*v1.Service
}

func (v *serviceView) Informer() cache.SharedIndexInformer {
	return &serviceViewInformer{SharedIndexInformer: v.real.Informer(), view: v}
}

func (v *serviceView) Lister() corelisters.ServiceLister {
	return serviceViewLister{v.real.Lister(), v}
}

// wake makes the service controller look at a Service again now, although nothing of it changed. It must be or have
// been ours: the library says of any other that it deleted its load balancer.
func (v *serviceView) wake(svc *v1.Service) { v.enqueue(v.show(svc)) }

// enqueue hands the service controller an old object of another UID that wanted a load balancer: whether it wants one
// now or not, that is a change to its needsUpdate.
func (v *serviceView) enqueue(current *v1.Service) {
	old := *current
	old.UID = types.UID("before " + string(current.UID))
	old.Spec.Type, old.Spec.LoadBalancerClass = v1.ServiceTypeLoadBalancer, nil
	v.mu.Lock()
	handlers := v.handlers
	v.mu.Unlock()
	for _, h := range handlers {
		h.OnUpdate(&old, current)
	}
}

// serviceViewInformer shows every object to the handlers that are added to it. What is not overridden here (the store)
// the service controller does not use.
type serviceViewInformer struct {
	cache.SharedIndexInformer
	view *serviceView
}

func (i *serviceViewInformer) HasSynced() bool {
	return i.SharedIndexInformer.HasSynced() && i.view.ready()
}

func (i *serviceViewInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration,
	error) {
	return i.SharedIndexInformer.AddEventHandler(i.adopt(h))
}

func (i *serviceViewInformer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler,
	period time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(i.adopt(h), period)
}

func (i *serviceViewInformer) AddEventHandlerWithOptions(h cache.ResourceEventHandler,
	options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithOptions(i.adopt(h), options)
}

func (i *serviceViewInformer) adopt(h cache.ResourceEventHandler) cache.ResourceEventHandler {
	i.view.mu.Lock()
	defer i.view.mu.Unlock()
	i.view.handlers = append(i.view.handlers, h)
	show := func(object any) any {
		if svc, ok := object.(*v1.Service); ok {
			return i.view.show(svc)
		}
		return object // cache.DeletedFinalStateUnknown
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(object any, initial bool) { h.OnAdd(show(object), initial) },
		UpdateFunc: func(old, current any) { h.OnUpdate(show(old), show(current)) },
		DeleteFunc: func(object any) { h.OnDelete(show(object)) },
	}
}

type serviceViewLister struct {
	real corelisters.ServiceLister
	view *serviceView
}

func (l serviceViewLister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.view.showAll(l.real.List(selector))
}

func (l serviceViewLister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return serviceViewNamespaceLister{l.real.Services(namespace), l.view, namespace}
}

type serviceViewNamespaceLister struct {
	real      corelisters.ServiceNamespaceLister
	view      *serviceView
	namespace string
}

func (l serviceViewNamespaceLister) List(selector labels.Selector) ([]*v1.Service, error) {
	return l.view.showAll(l.real.List(selector))
}

func (l serviceViewNamespaceLister) Get(name string) (*v1.Service, error) {
	svc, err := l.real.Get(name)
	if err == nil {
		return l.view.show(svc), nil
	}
	if remains := l.view.remains(desired.Key{Namespace: l.namespace, Name: name}); remains != nil {
		return remains, nil
	}
	return nil, err
}

func (v *serviceView) showAll(services []*v1.Service, err error) ([]*v1.Service, error) {
	views := make([]*v1.Service, len(services))
	for i, svc := range services {
		views[i] = v.show(svc)
	}
	return views, err
}
