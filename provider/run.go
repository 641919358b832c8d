package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// calm is the least time between two looks at the Nodes, or two wakings: kubelets write their Node every few seconds,
// and a burst of events means one change to the gateways.
const calm = 100 * time.Millisecond

// start begins to watch Nodes, namespaces and Services, and to run Manager; the informers themselves start later.
func (c *Cloud) start() {
	nodesChanged := make(chan struct{}, 1)
	registration, err := c.nodesOf.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal(nodesChanged) },
		UpdateFunc: func(_, _ any) { signal(nodesChanged) },
		DeleteFunc: func(any) { signal(nodesChanged) },
	})
	if err != nil { // only for an informer that has ended
		c.options.Ended(err)
		return
	}
	watches, err := c.watch()
	if err != nil {
		c.options.Ended(err)
		return
	}
	endpoints, err := c.endpoints.start(c.goUnlessEnded, c.ctx)
	if err != nil {
		c.options.Ended(err)
		return
	}
	synced := []cache.InformerSynced{registration.HasSynced, endpoints}
	for _, watch := range watches {
		synced = append(synced, watch.HasSynced)
	}
	c.goUnlessEnded(func() {
		if err := c.run(nodesChanged, synced...); err != nil {
			c.options.Ended(err)
		}
	})
}

// run is Manager's life: what the gateways hold, then what the cluster wants, then rounds (invariant 1).
func (c *Cloud) run(nodesChanged <-chan struct{}, synced ...cache.InformerSynced) error {
	log := klog.LoggerWithName(klog.Background(), "provider")
	if err := c.manager.Load(c.ctx); err != nil && c.ctx.Err() == nil {
		// Run tries again; until then every call fails with this.
		log.Error(err, "The gateways' State could not be read yet")
	}
	if !cache.WaitForCacheSync(c.ctx.Done(), synced...) {
		return nil // stopped before
	}
	c.look()
	c.replay()
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	background.Go(func() { each(ctx, nodesChanged, c.look) })
	background.Go(func() { each(ctx, c.wakeups.signal, c.wake) })
	background.Go(func() { each(ctx, c.endpoints.changed, c.followEndpoints) })
	background.Go(func() { c.awaitLoaded(ctx) })
	background.Go(func() { c.patrolStatus(ctx) })
	return c.manager.Run(ctx)
}

// each calls do after every signal, signals within a short time together.
func each(ctx context.Context, signal <-chan struct{}, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signal:
			do()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(calm):
		}
	}
}

// look takes the Nodes as they are now.
func (c *Cloud) look() {
	nodes, err := c.nodesOf.Lister().List(labels.Everything())
	if err != nil {
		return // the lister of an informer reads memory and knows no error
	}
	set, before := c.chooser.choose(nodes), c.nodes.Load()
	same := before != nil && before.sameNodes(set)
	c.nodes.Store(set)
	c.excludeNodes()
	c.measures.eligible.WithLabelValues().Set(float64(len(set.eligible)))
	if before == nil || !slices.Equal(before.apiServers, set.apiServers) {
		klog.V(2).InfoS("API servers of the cluster's Nodes", "endpoints", set.apiServers)
		c.manager.SetEndpoints(set.apiServers)
	}
	if same && before.sameLabels(set) && maps.Equal(before.reached, set.reached) {
		return
	}
	if !same {
		klog.V(2).InfoS("Nodes that get connections changed", "eligible", len(set.eligible), "all", set.total,
			"excludedByLabel", set.excluded, "unusable", set.unusable)
		c.manager.SetNodes(set.eligible)
	}
	if before != nil {
		c.followNodes(before, set)
	}
}

// followNodes moves the servers of Services that have some of their own, and tells Services what the nodes mean to them
// now. Those of all nodes are Manager's to move, for all Services at once.
func (c *Cloud) followNodes(before, now *nodeSet) {
	same := before.sameNodes(now)
	hosts := !maps.Equal(before.reached, now.reached) // of pods with hostNetwork
	reach4 := !same && reachChanged(v1.IPv4Protocol, before.eligible, now.eligible)
	reach6 := !same && reachChanged(v1.IPv6Protocol, before.eligible, now.eligible)
	c.eachService(func(svc *v1.Service) {
		if !c.services.ours(svc) || svc.DeletionTimestamp != nil {
			return
		}
		follows := choosesNodes(svc) || hosts && c.balancer.translator.pods.some(svc) || c.balancer.waiting.has(keyOf(svc)) // its last good form may
		if same && !follows {
			return // labels are nothing to others
		}
		news := (follows || isLocal(svc)) && c.balancer.follow(svc)
		switch {
		case len(now.eligible) == 0 && !same && !c.balancer.translator.pods.all(svc):
			c.balancer.warnings.once(svc, "NoEligibleNode", now.noneEligible())
		case reach4 && hasOnly(svc, v1.IPv4Protocol), reach6 && hasOnly(svc, v1.IPv6Protocol), news, c.balancer.misses(svc):
			c.services.wake(svc) // to be told
		}
	})
}

// followEndpoints moves the servers of Services whose endpoints came, went or changed.
func (c *Cloud) followEndpoints() {
	for _, key := range c.endpoints.take() {
		svc, err := c.services.real.Lister().Services(key.Namespace).Get(key.Name)
		if err != nil || svc.DeletionTimestamp != nil || !c.services.ours(svc) {
			continue
		}
		if c.balancer.follow(svc) {
			c.services.wake(svc) // to be told
		}
	}
}

// followsEndpoints says whether it matters to a Service where its endpoints are. One that nobody knows yet is asked about
// them when it comes. What is served of it may have pods although its newest spec has none.
func (c *Cloud) followsEndpoints(key desired.Key) bool {
	svc, err := c.services.real.Lister().Services(key.Namespace).Get(key.Name)
	return err == nil && c.services.ours(svc) && (isLocal(svc) || c.balancer.translator.pods.some(svc) || c.manager.HasPods(key))
}

// replay tells Manager every Service that is ours and lets the service controller start.
func (c *Cloud) replay() {
	var all []loadbalancer.Replay
	c.eachService(func(svc *v1.Service) {
		if r, ok := c.replayOf(svc); ok {
			all = append(all, r)
		}
	})
	slices.SortFunc(all, func(a, b loadbalancer.Replay) int { return a.Key.Compare(b.Key) })
	c.manager.Replay(all)
	c.replayed.Store(true)
}

// replayOf gives what Manager has to know of a Service that it serves, or not yet any more.
func (c *Cloud) replayOf(svc *v1.Service) (r loadbalancer.Replay, ok bool) {
	switch {
	case c.services.ours(svc) && svc.DeletionTimestamp == nil:
		return c.balancer.replay(svc), true
	case c.goesKeepingItsAddress(svc):
		// It stays until the service controller deletes it and says that the address is to be kept. Without this
		// its address could be free before.
		return c.balancer.replayGoing(svc), true
	}
	return r, false
}

// getsMost is for how many Services each is asked for by name. More are looked for in a list of all Services of the cluster, of which
// the API server gives a page at a time.
const getsMost = 20

// existing is loadbalancer.Settings.Existing. It asks for what etcd has now (no resourceVersion: "most recent" in the API's
// concepts). Informers list with resourceVersion 0, and an API server that lags behind answers with what it has.
func (c *Cloud) existing(ctx context.Context, keys []desired.Key) (found []loadbalancer.Replay, err error) {
	take := func(svc *v1.Service) {
		if r, ok := c.replayOf(svc); ok {
			found = append(found, r)
		}
	}
	services := c.options.Client.CoreV1().Services
	if len(keys) <= getsMost {
		for _, key := range keys {
			svc, err := services(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("reading Service %s: %w", key, err)
			}
			take(svc)
		}
		return found, nil
	}
	asked := make(map[desired.Key]bool, len(keys))
	for _, key := range keys {
		asked[key] = true
	}
	page := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return services(metav1.NamespaceAll).List(ctx, o)
	}
	all, _, err := pager.New(page).List(ctx, metav1.ListOptions{}) // 500 at a time, or all at once when the pages are too old
	if err != nil {
		return nil, fmt.Errorf("listing Services: %w", err)
	}
	err = meta.EachListItem(all, func(object runtime.Object) error {
		if svc, ok := object.(*v1.Service); ok && asked[keyOf(svc)] {
			take(svc)
		}
		return nil
	})
	return found, err
}

// goesKeepingItsAddress says that the service controller is going to delete the load balancer of a Service with
// keep-ip.
func (c *Cloud) goesKeepingItsAddress(svc *v1.Service) bool {
	return keeps(svc) && hasFinalizer(svc) && (c.services.ours(svc) || c.services.wasOurs(svc))
}

// awaitLoaded has cleaned up what was ours and is not any more: the service controller does not look at Services of
// another class by itself, and finalizers were hidden from it while nobody knew what the gateways serve.
func (c *Cloud) awaitLoaded(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-c.manager.Loaded():
		c.eachService(func(svc *v1.Service) {
			if hasFinalizer(svc) && !c.services.ours(svc) && c.services.wasOurs(svc) {
				c.services.wake(svc)
			}
		})
	}
}

// statusPatrol is the time between two looks at every status. Another controller that writes the same ones, such as
// k3s' servicelb, is not answered more often.
const statusPatrol = 30 * time.Second

// patrolStatus tells Manager what statuses say, and has one written again that somebody else wiped or overwrote: the library writes
// it only after a change of the spec (invariant 2: level, not edge).
func (c *Cloud) patrolStatus(ctx context.Context) {
	ticker := time.NewTicker(statusPatrol)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.eachService(func(svc *v1.Service) {
				if !c.services.ours(svc) || svc.DeletionTimestamp != nil {
					return
				}
				c.manager.Published(keyOf(svc), published(svc))
				if c.balancer.misses(svc) {
					c.services.wake(svc)
				}
			})
		}
	}
}

func (c *Cloud) eachService(do func(*v1.Service)) {
	services, err := c.services.real.Lister().List(labels.Everything())
	if err != nil {
		return // as in look
	}
	for _, svc := range services {
		do(svc)
	}
}
