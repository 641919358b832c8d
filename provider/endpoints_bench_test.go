package provider

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

const benchServices, benchEndpoints = 5000, 10

// benchSlice is what the endpoint slice controller writes for a Service of ten pods.
func benchSlice(service int) *discoveryv1.EndpointSlice {
	port, name, protocol := int32(8080), "http", v1.ProtocolTCP
	slice := podsOf(fmt.Sprintf("service-%d", service))
	slice.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io"
	slice.Labels["app.kubernetes.io/name"] = fmt.Sprintf("service-%d", service)
	slice.GenerateName, slice.ResourceVersion, slice.UID = "service-", "123456789", "0b2e0f6c-3a54-4c5e-9f62-0a0d3f5f8a11"
	slice.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}
	slice.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: fmt.Sprintf("service-%d", service), UID: "x"}}
	slice.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", FieldsV1: metav1.NewFieldsV1(strings.Repeat("f", 600))}}
	slice.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	for n := range benchEndpoints {
		one := pod(fmt.Sprintf("10.%d.%d.%d", service/250, service%250, n), fmt.Sprintf("worker-%d.example.net", (service+n)%100), true, false)
		zone := "zone-a"
		one.Zone, one.TargetRef = &zone, &v1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("pod-%d-%d", service, n), UID: "0b2e0f6c-3a54"}
		slice.Endpoints = append(slice.Endpoints, one)
	}
	return slice
}

// BenchmarkEndpointEvent is what one event of an EndpointSlice costs with 5000 Services of ten pods on 100 nodes, all of them with
// policy Local, until Manager is told: to make it slim, to store it, to find out that it says something new, and to count. It also
// tells how much memory a slice takes, and how much it would without being made slim.
func BenchmarkEndpointEvent(b *testing.B) {
	var nodes []desired.Node
	for n := range 100 {
		nodes = append(nodes, desired.Node{Name: fmt.Sprintf("worker-%d.example.net", n), Addresses: addrs(fmt.Sprintf("192.0.2.%d", n+1))})
	}
	e := newEndpointSlices(nil, func(desired.Key) bool { return true })
	index := e.informer.GetIndexer()
	fill := func(make func(int) any) float64 {
		before := memory()
		for n := range benchServices {
			if err := index.Add(make(n)); err != nil {
				b.Fatal(err)
			}
		}
		return float64(memory()-before) / benchServices
	}
	whole := fill(func(n int) any { return benchSlice(n) })
	if err := index.Replace(nil, ""); err != nil {
		b.Fatal(err)
	}
	thin := fill(func(n int) any { return slimmed(b, benchSlice(n)) })

	balancer := &balancer{manager: nobody{}, translator: testTranslator(), warnings: newWarnings(nil), endpoints: e.of, servedByPods: func(desired.Key) bool { return false },
		nodes: &atomic.Pointer[nodeSet]{}, policy: &atomic.Pointer[policy]{}, namespace: func(string) labels.Set { return nil }}
	balancer.nodes.Store(&nodeSet{eligible: nodes})
	balancer.policy.Store(among(nodes).policy)
	services := make([]*v1.Service, benchServices)
	for n := range services {
		services[n] = named(fmt.Sprintf("service-%d", n), local)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n = (n + 1) % benchServices
		before, _, err := index.GetByKey("default/" + fmt.Sprintf("service-%d-x7k2p", n))
		if err != nil {
			b.Fatal(err)
		}
		fresh := slimmed(b, benchSlice(n))
		fresh.Endpoints = fresh.Endpoints[1:]
		if sameEndpoints(before.(*discoveryv1.EndpointSlice), fresh) {
			b.Fatal("nothing new")
		}
		if err := index.Update(fresh); err != nil {
			b.Fatal(err)
		}
		e.note(fresh)
		e.take()
		balancer.follow(services[n])
		if err := index.Update(slimmed(b, benchSlice(n))); err != nil { // as it was
			b.Fatal(err)
		}
	}
	b.ReportMetric(thin, "B/slice")
	b.ReportMetric(whole, "B/whole-slice")
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func slimmed(tb testing.TB, slice *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	object, err := slim(slice)
	if err != nil {
		tb.Fatal(err)
	}
	return object.(*discoveryv1.EndpointSlice)
}

// nobody takes what it is told.
type nobody struct{ Balancer }

func (nobody) Refill(desired.Key, *loadbalancer.Facts) {}
