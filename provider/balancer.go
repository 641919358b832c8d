package provider

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Balancer is what the five methods of cloudprovider.LoadBalancer need of *loadbalancer.Manager.
type Balancer interface {
	Ensure(ctx context.Context, s loadbalancer.Service) (*loadbalancer.Ensured, error)
	// Delete keeps the addresses for a Service of the same name when keep is set.
	Delete(ctx context.Context, key desired.Key, keep bool) error
	// Refuse keeps the form that is served, open to whom sources say.
	Refuse(ctx context.Context, key desired.Key, sources *loadbalancer.Sources) error
	// Refill tells what is so of the Service in the cluster now, which holds for that form too.
	Refill(key desired.Key, facts *loadbalancer.Facts)
	Has(key desired.Key) (addresses []netip.Addr, ok bool)
}

// balancer implements cloudprovider.LoadBalancer. The Services that it gets are views (view.go); the nodes are not what
// it uses, its own watch is.
type balancer struct {
	manager Balancer
	// loaded is closed when the State of the gateways is known.
	loaded     <-chan struct{}
	translator translator
	ipMode     v1.LoadBalancerIPMode
	// nodes is the newest node set; never nil once the service controller runs. policy is never nil.
	nodes  *atomic.Pointer[nodeSet]
	policy *atomic.Pointer[policy]
	// namespace gives the labels of a namespace.
	namespace func(name string) labels.Set
	// endpoints gives a Service's endpoints.
	endpoints func(desired.Key) localEndpoints
	pods      func(desired.Key) podEndpoints
	// servedByPods says whether pods serve a Service's ports now, whatever its spec says.
	servedByPods func(desired.Key) bool
	// claimFinalizer makes the cleanup finalizer ours if it is another's.
	claimFinalizer func(context.Context, *v1.Service) error
	warnings       *warnings
	waiting        *waiting
	measures       *measures
	recorder       record.EventRecorder
}

// around gives the circumstances of a Service now.
func (b *balancer) around(svc *v1.Service) circumstances {
	nodes := b.nodes.Load()
	around := circumstances{nodes: nodes.eligible, nodeLabels: nodes.labels, policy: b.policy.Load(),
		namespace: b.namespace(svc.Namespace)}
	if isLocal(svc) {
		around.endpoints = b.endpoints(keyOf(svc))
	}
	if b.translator.pods.some(svc) || b.servedByPods(keyOf(svc)) {
		around.pods = b.pods(keyOf(svc))
		around.pods.nodes = nodes.reached
	}
	if publishesName(svc) {
		around.unnamed, _ = b.manager.Has(keyOf(svc))
	}
	return around
}

// GetLoadBalancer says "exists" until every gateway that answers confirmed a State without the Service: the library
// takes the finalizer off when it hears that nothing exists.
func (b *balancer) GetLoadBalancer(_ context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	select {
	case <-b.loaded:
	default: // nobody knows yet, so it may exist
		return svc.Status.LoadBalancer.DeepCopy(), true, nil
	}
	addresses, exists := b.manager.Has(keyOf(svc))
	if !exists {
		return nil, false, nil
	}
	return statusOf(svc, addresses, b.ipMode, b.around(svc)), true, nil
}

// mayServe says whether gateways serve the Service, as far as anybody knows.
func (b *balancer) mayServe(key desired.Key) bool {
	select {
	case <-b.loaded:
		_, serves := b.manager.Has(key)
		return serves
	default:
		return true
	}
}

// misses says that the status names other addresses than gateways serve, or that another port cannot be served than it says.
// Whoever waits for something is tried again anyway.
func (b *balancer) misses(svc *v1.Service) bool {
	key := keyOf(svc)
	addresses, _ := b.manager.Has(key)
	if len(addresses) == 0 || b.waiting.has(key) {
		return false
	}
	return !saysTheSame(svc.Status.LoadBalancer, *statusOf(svc, addresses, b.ipMode, b.around(svc)))
}

// GetLoadBalancerName gives namespace/name, by which HAProxy's map and every message name a Service.
func (b *balancer) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return keyOf(svc).String()
}

// EnsureLoadBalancer returns when a gateway holds the Service's addresses.
func (b *balancer) EnsureLoadBalancer(ctx context.Context, _ string,
	svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	if err := b.claimFinalizer(ctx, svc); err != nil {
		return nil, retry(err)
	}
	status, err := b.ensure(ctx, svc)
	b.measures.conflict(err, b.policy.Load().poolOf)
	b.note(svc, err)
	return status, retry(err)
}

// note remembers what the Service waits for, and tells when that is something else than before. The library tells every
// failure, but all with one reason: client-go drops these after 25, and lets one through in five minutes.
func (b *balancer) note(svc *v1.Service, err error) {
	if b.waiting.note(keyOf(svc), err) {
		b.warnings.once(svc, causeOf(err).reason(), err.Error())
	}
}

func (b *balancer) ensure(ctx context.Context, svc *v1.Service) (*v1.LoadBalancerStatus, error) {
	for {
		around := b.around(svc)
		t, err := b.translator.translate(svc, around)
		if err != nil {
			return nil, b.refuse(ctx, svc, t, err)
		}
		if len(around.nodes) == 0 && !b.translator.pods.all(svc) {
			t.warnings = append(t.warnings, warning{"NoEligibleNode", b.nodes.Load().noneEligible()})
		}
		ensured, err := b.manager.Ensure(ctx, t.service)
		if b.policy.Load() != around.policy {
			continue // the pools were those of the former configuration
		}
		if err != nil {
			b.warnings.now(svc, t.warnings)
			return nil, err
		}
		if !reflect.DeepEqual(t.service.Facts, b.translator.facts(svc, b.around(svc))) {
			continue // its servers are of yesterday
		}
		for _, w := range ensured.Warnings {
			t.warnings = append(t.warnings, warning{w.Reason, w.Message})
		}
		b.warnings.now(svc, t.warnings)
		klog.FromContext(ctx).V(2).Info("Load balancer is served", "service", klog.KObj(svc), "addresses",
			join(ensured.Addresses))
		return b.publish(svc, statusOf(svc, ensured.Addresses, b.ipMode, around), ensured.Addresses), nil
	}
}

// publish gives a status, and tells to which addresses a name in it has to lead: the status does not, also when they change.
func (b *balancer) publish(svc *v1.Service, status *v1.LoadBalancerStatus, addresses []netip.Addr) *v1.LoadBalancerStatus {
	text := ""
	if name := svc.Annotations[string(Hostname)]; name != "" {
		text = fmt.Sprintf("%s is published instead of %s, to which it has to resolve", name, join(addresses))
	}
	if b.warnings.leads(svc, text) {
		b.recorder.Event(svc, v1.EventTypeNormal, "HostnamePublished", text)
	}
	return status
}

// refuse keeps what is served as it was, but for who may connect, and for what is so in the cluster: that holds whatever else is
// wrong.
func (b *balancer) refuse(ctx context.Context, svc *v1.Service, t translation, fault error) error {
	b.warnings.now(svc, t.warnings)
	b.manager.Refill(keyOf(svc), t.service.Facts)
	if err := b.manager.Refuse(ctx, keyOf(svc), t.sources); err != nil {
		return fmt.Errorf("%w; who may connect stays as it was, too: %w", fault, err)
	}
	return fault
}

// follow tells Manager of nodes and endpoints, and says whether something else is to be told of them to the Service than was last.
func (b *balancer) follow(svc *v1.Service) (news bool) {
	around, d := b.around(svc), &draft{}
	b.manager.Refill(keyOf(svc), b.translator.facts(svc, around))
	d.pool(svc, around, b.translator)
	d.warnOfPods(svc, around, b.translator.pods)
	return len(d.problems) == 0 && b.warnings.news(svc, d.warnings, noNodeSelected, endpointsElsewhere, endpointsOutside, endpointsByName,
		endpointsTooMany)
}

// UpdateLoadBalancer has nothing to do: our own watch moves servers, for all Services at once.
func (b *balancer) UpdateLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) error {
	return nil
}

// EnsureLoadBalancerDeleted returns when every gateway that answers confirmed a State without the Service. The
// addresses stay reserved for it if its annotation says so, also when it only changed its type.
func (b *balancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *v1.Service) error {
	err := b.manager.Delete(ctx, keyOf(svc), keeps(svc))
	b.note(svc, err)
	if err == nil {
		b.warnings.forget(svc)
	}
	return retry(err)
}

// replay gives what Manager has to know of a Service that exists while it starts.
func (b *balancer) replay(svc *v1.Service) loadbalancer.Replay {
	r := loadbalancer.Replay{Key: keyOf(svc), UID: string(svc.UID), Created: svc.CreationTimestamp.Time, Published: published(svc),
		Sharing: b.policy.Load().sharing(svc)}
	t, err := b.translator.translate(svc, b.around(svc))
	if err != nil {
		r.Sources, r.Facts = t.sources, t.service.Facts
		return r
	}
	r.Service = &t.service
	return r
}

// replayGoing is replay for a Service whose load balancer is about to be deleted: it is served as it was until then.
func (b *balancer) replayGoing(svc *v1.Service) loadbalancer.Replay {
	return loadbalancer.Replay{
		Key: keyOf(svc), UID: string(svc.UID), Created: svc.CreationTimestamp.Time, Published: published(svc),
		Sharing: b.policy.Load().sharing(svc),
	}
}

// forget drops what is known of a Service that is gone.
func (b *balancer) forget(svc *v1.Service) {
	b.waiting.note(keyOf(svc), nil)
	b.warnings.forget(svc)
}
