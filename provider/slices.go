package provider

import (
	"context"
	"maps"
	"slices"
	"sync"
	"unique"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// endpointSlices watches where the endpoints of Services are. The informer is our own: of each slice it keeps what
// decides who gets connections, less than half of its memory (2.9 of 6.5 kB with ten endpoints and a port), and it leaves out what
// kube-proxy does (headless Services). Endpoints of Services that need none of it are kept too: a change of policy would
// have to list them otherwise. BenchmarkEndpointEvent tells what an event costs.
type endpointSlices struct {
	informer cache.SharedIndexInformer
	// matters says whether a change of its endpoints means anything to a Service.
	matters func(desired.Key) bool
	changed chan struct{} // holds one signal

	mu    sync.Mutex
	dirty map[desired.Key]bool
}

const byService = "service"

func newEndpointSlices(client kubernetes.Interface, matters func(desired.Key) bool) *endpointSlices {
	e := &endpointSlices{matters: matters, changed: make(chan struct{}, 1), dirty: map[desired.Key]bool{}}
	e.informer = discoveryinformers.NewFilteredEndpointSliceInformer(client, metav1.NamespaceAll, 0,
		cache.Indexers{byService: func(object any) ([]string, error) {
			if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
				return []string{serviceOf(slice).String()}, nil
			}
			return nil, nil
		}},
		func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + ",!" + v1.IsHeadlessService
		})
	return e
}

// start begins to watch.
func (e *endpointSlices) start(run func(func()), stop context.Context) (cache.InformerSynced, error) {
	if err := e.informer.SetTransform(slim); err != nil {
		return nil, err
	}
	registration, err := e.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { e.note(object) },
		UpdateFunc: func(old, current any) {
			before, ok1 := old.(*discoveryv1.EndpointSlice)
			after, ok2 := current.(*discoveryv1.EndpointSlice)
			if ok1 && ok2 && (serviceOf(before) != serviceOf(after) || !sameEndpoints(before, after)) {
				e.note(before)
				e.note(after)
			}
		},
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			e.note(object)
		},
	})
	if err != nil {
		return nil, err
	}
	run(func() { e.informer.RunWithContext(stop) })
	return registration.HasSynced, nil
}

func (e *endpointSlices) note(object any) {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok || !e.matters(serviceOf(slice)) {
		return
	}
	e.mu.Lock()
	e.dirty[serviceOf(slice)] = true
	e.mu.Unlock()
	signal(e.changed)
}

// take gives the Services whose endpoints changed since the last call, sorted.
func (e *endpointSlices) take() []desired.Key {
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(e.dirty), desired.Key.Compare)
	clear(e.dirty)
	return keys
}

// of counts the endpoints of a Service as they are now.
func (e *endpointSlices) of(key desired.Key) localEndpoints { return countEndpoints(e.all(key)) }

// pods gives the endpoints of a Service as they are now.
func (e *endpointSlices) pods(key desired.Key) podEndpoints { return findPods(e.all(key)) }

func (e *endpointSlices) all(key desired.Key) []*discoveryv1.EndpointSlice {
	objects, err := e.informer.GetIndexer().ByIndex(byService, key.String())
	if err != nil {
		return nil // only for an index that there is not
	}
	all := make([]*discoveryv1.EndpointSlice, 0, len(objects))
	for _, object := range objects {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
			all = append(all, slice)
		}
	}
	return all
}

func serviceOf(slice *discoveryv1.EndpointSlice) desired.Key {
	return desired.Key{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// slim leaves of a slice what countEndpoints and findPods read, before it is stored.
func slim(object any) (any, error) {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return object, nil
	}
	thin := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: slice.Namespace, Name: slice.Name, UID: slice.UID,
			ResourceVersion: slice.ResourceVersion, Labels: map[string]string{discoveryv1.LabelServiceName: serviceOf(slice).Name}},
		AddressType: slice.AddressType,
		Endpoints:   make([]discoveryv1.Endpoint, 0, len(slice.Endpoints)),
	}
	for _, p := range slice.Ports {
		kept := discoveryv1.EndpointPort{Port: p.Port}
		if p.Name != nil {
			name := unique.Make(*p.Name).Value()
			kept.Name = &name
		}
		if p.Protocol != nil {
			protocol := unique.Make(*p.Protocol).Value()
			kept.Protocol = &protocol
		}
		thin.Ports = append(thin.Ports, kept)
	}
	for _, e := range slice.Endpoints {
		kept := discoveryv1.Endpoint{Conditions: e.Conditions, Addresses: slices.Clip(e.Addresses[:min(1, len(e.Addresses))])}
		if e.NodeName != nil {
			node := unique.Make(*e.NodeName).Value()
			kept.NodeName = &node
		}
		thin.Endpoints = append(thin.Endpoints, kept)
	}
	return thin, nil
}

// sameEndpoints says whether two versions of a slice mean the same. Their order says nothing, but stays as it is.
func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	sameEndpoint := func(a, b discoveryv1.Endpoint) bool {
		return rankOf(a.Conditions) == rankOf(b.Conditions) && slices.Equal(a.Addresses, b.Addresses) && same(a.NodeName, b.NodeName)
	}
	return a.AddressType == b.AddressType && slices.EqualFunc(a.Ports, b.Ports, samePort) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, sameEndpoint)
}

func samePort(a, b discoveryv1.EndpointPort) bool {
	return same(a.Name, b.Name) && same(a.Protocol, b.Protocol) && same(a.Port, b.Port)
}

func same[T comparable](a, b *T) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
