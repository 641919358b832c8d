package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Balancer is what the five methods of cloudprovider.LoadBalancer need of *loadbalancer.Manager.
type Balancer interface {
	Ensure(ctx context.Context, s loadbalancer.Service) (*loadbalancer.Ensured, error)
	Delete(ctx context.Context, key desired.Key) error
	Has(key desired.Key) (addresses []netip.Addr, ok bool)
	SetNodes(nodes []desired.Node)
	// Loaded is closed when the State of the gateways is known.
	Loaded() <-chan struct{}
}

// balancer implements cloudprovider.LoadBalancer. The Services that it gets are views (view.go); the nodes are not what
// it uses, its own watch is.
type balancer struct {
	manager    Balancer
	translator translator
	ipMode     v1.LoadBalancerIPMode
	// nodes is the newest node set; never nil once the service controller runs.
	nodes    *atomic.Pointer[nodeSet]
	warnings *warnings
	waiting  *waiting
}

// GetLoadBalancer says "exists" until every gateway that answers confirmed a State without the Service: the library
// takes the finalizer off when it hears that nothing exists.
func (b *balancer) GetLoadBalancer(_ context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	select {
	case <-b.manager.Loaded():
	default: // nobody knows yet, so it may exist
		return statusOf(svc, published(svc), b.ipMode), true, nil
	}
	addresses, exists := b.manager.Has(keyOf(svc))
	if !exists {
		return nil, false, nil
	}
	return statusOf(svc, addresses, b.ipMode), true, nil
}

// GetLoadBalancerName gives namespace/name, by which HAProxy's map and every message name a Service.
func (b *balancer) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return keyOf(svc).String()
}

// EnsureLoadBalancer returns when a gateway holds the Service's addresses.
func (b *balancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	status, err := b.ensure(ctx, svc)
	b.waiting.note(keyOf(svc), err)
	return status, retry(err)
}

func (b *balancer) ensure(ctx context.Context, svc *v1.Service) (*v1.LoadBalancerStatus, error) {
	for {
		nodes := b.nodes.Load()
		t, err := b.translator.translate(svc, nodes.eligible)
		if err != nil {
			return nil, b.refuse(ctx, svc, t, err)
		}
		if len(nodes.eligible) == 0 {
			t.warnings = append(t.warnings, warning{"NoEligibleNode", nodes.noneEligible()})
		}
		ensured, err := b.manager.Ensure(ctx, t.service)
		if err != nil {
			b.warnings.now(svc, t.warnings)
			return nil, err
		}
		if t.service.LoadBalancer.Pool != nil && b.nodes.Load().generation != nodes.generation {
			continue // the pool's servers are of yesterday
		}
		for _, w := range ensured.Warnings {
			t.warnings = append(t.warnings, warning{w.Reason, w.Message})
		}
		b.warnings.now(svc, t.warnings)
		klog.FromContext(ctx).V(2).Info("Load balancer is served", "service", klog.KObj(svc), "addresses", join(ensured.Addresses))
		return statusOf(svc, ensured.Addresses, b.ipMode), nil
	}
}

// refuse keeps what is served as it was, except when an access rule cannot be held: then the Service is closed.
func (b *balancer) refuse(ctx context.Context, svc *v1.Service, t translation, fault error) error {
	b.warnings.now(svc, t.warnings)
	addresses, _ := b.manager.Has(keyOf(svc))
	if !t.closed || len(addresses) == 0 && len(t.service.Published) == 0 {
		return fault
	}
	if _, err := b.manager.Ensure(ctx, t.service); err != nil {
		return fmt.Errorf("%w; closing what is open failed: %w", fault, err)
	}
	return fault
}

// UpdateLoadBalancer has nothing to do: our own watch moves servers, for all Services at once.
func (b *balancer) UpdateLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) error {
	return nil
}

// EnsureLoadBalancerDeleted returns when every gateway that answers confirmed a State without the Service.
func (b *balancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *v1.Service) error {
	err := b.manager.Delete(ctx, keyOf(svc))
	b.waiting.note(keyOf(svc), err)
	if err == nil {
		b.warnings.forget(svc)
	}
	return retry(err)
}

// replay gives what Manager has to know of a Service that exists while it starts.
func (b *balancer) replay(svc *v1.Service) loadbalancer.Replay {
	r := loadbalancer.Replay{Key: keyOf(svc), Created: svc.CreationTimestamp.Time, Published: published(svc)}
	t, err := b.translator.translate(svc, b.nodes.Load().eligible)
	var faulty *faultyServiceError
	if err == nil || errors.As(err, &faulty) && t.closed && len(r.Published) > 0 {
		r.Service = &t.service
	}
	return r
}
