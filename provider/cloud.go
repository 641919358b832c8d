package provider

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	v1core "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/component-base/metrics"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// ProviderName is what --cloud-provider must say, and how a provider ID begins.
const ProviderName = "haproxy"

// Manager is *loadbalancer.Manager: what Balancer asks for, and its life.
type Manager interface {
	Balancer
	Load(ctx context.Context) error
	// Loaded is closed when the State of the gateways is known.
	Loaded() <-chan struct{}
	Replay(services []loadbalancer.Replay)
	// Published tells which addresses a Service's status names.
	Published(key desired.Key, addresses []netip.Addr)
	SetNodes(nodes []desired.Node)
	// SetEndpoints tells the API servers that Nodes name.
	SetEndpoints(endpoints []netip.AddrPort)
	Run(ctx context.Context) error
	// HasPods says whether pods serve a Service's ports, as it is wanted or served.
	HasPods(key desired.Key) bool
	// SetPools replaces what the configuration says of addresses; nothing changes on an error.
	SetPools(loadbalancer.PoolSettings) error
}

// Options are what a Cloud needs from outside. All are needed.
type Options struct {
	Config *config.Config
	Client kubernetes.Interface
	// FieldManager is how managedFields name this program: the base name of its binary, with which client-go's user
	// agent begins (k8s.io/apiserver, managerOrUserAgent).
	FieldManager string
	// NewManager makes the Manager of these settings; it knows how gateways are reached.
	NewManager func(loadbalancer.Settings, loadbalancer.EpochStore, loadbalancer.LedgerStore,
		loadbalancer.Observer) (Manager, error)
	// Register takes the metrics; legacyregistry.MustRegister.
	Register func(...metrics.Registerable)
	// Ended is called once when Manager ends by itself: another controller leads, and this process has to go.
	Ended func(error)
}

// Cloud is the provider; it implements cloudprovider.Interface and cloudprovider.InformerUser.
//
// Life, as k8s.io/cloud-provider's app has it: New, then (when this process leads) Initialize, SetInformers, the
// controllers' constructors, which take ServiceInformer and NodeInformer, then the informers start. Shutdown ends it.
type Cloud struct {
	options     Options
	manager     Manager
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	subject     *subject
	balancer    *balancer
	instances   *instances
	measures    *measures
	chooser     chooser
	nodes       atomic.Pointer[nodeSet]
	wakeups     *wakeups
	endpoints   *endpointSlices
	led         atomic.Bool
	replayed    atomic.Bool
	// policy is what the configuration says of addresses now; refused is what is wrong with a newer one.
	policy  atomic.Pointer[policy]
	refused atomic.Pointer[string]
	// pooling guards what was told to Manager last: the configuration and the addresses of nodes in its pools.
	pooling       sync.Mutex
	current       *config.Config
	excludedNodes []ipam.Exclusion

	// Set by SetInformers, before anything runs that reads them.
	services   *serviceView
	nodesOf    coreinformers.NodeInformer
	namespaces coreinformers.NamespaceInformer

	// ctx ends when Shutdown begins. starting orders the two: nothing is started after that.
	ctx      context.Context
	cancel   context.CancelFunc
	starting sync.Mutex
	running  sync.WaitGroup
}

var (
	_ cloudprovider.Interface    = (*Cloud)(nil)
	_ cloudprovider.InformerUser = (*Cloud)(nil)
)

// New makes a Cloud. Nothing is asked or started.
func New(o Options) (*Cloud, error) {
	c := &Cloud{options: o, wakeups: newWakeups(), broadcaster: newBroadcaster(), subject: &subject{},
		current: o.Config}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.recorder = c.broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "cloud-provider-haproxy"})
	c.measures = newMeasures(o.Register)
	c.policy.Store(newPolicy(o.Config))
	observer := &observer{
		measures: c.measures, recorder: c.recorder, subject: c.subject, wake: c.wakeups.ask,
		services: func() corelisters.ServiceLister { return c.services.real.Lister() },
		poolOf:   func(address netip.Addr) string { return c.policy.Load().poolOf(address) },
		fullness: newFullness(),
	}
	ledger := &ledgerStore{
		client: o.Client,
		never:  func(address netip.Addr) string { return c.policy.Load().never(address) },
		notice: func(text string) {
			c.recorder.Event(c.subject.reference(), v1.EventTypeWarning, "AddressLedger", text)
		},
	}
	told := settings(o)
	told.Existing = c.existing
	manager, err := o.NewManager(told, epochStore{o.Client, c.subject}, ledger, observer)
	if err != nil {
		return nil, err
	}
	c.manager = manager
	c.chooser = chooser{addresses: nodeAddresses{o.Config.Nodes}, gateways: map[netip.Addr]string{}}
	for _, g := range o.Config.DesiredGateways() {
		c.chooser.gateways[g.VRRPAddress] = g.Name
	}
	if p := o.Config.ControlPlane; p != nil && p.EndpointsFromNodes {
		c.chooser.controlPlane = o.Config.DesiredControlPlane()
	}
	c.endpoints = newEndpointSlices(o.Client, c.followsEndpoints)
	c.balancer = &balancer{
		manager: manager,
		loaded:  manager.Loaded(),
		translator: translator{localCheck: o.Config.LocalCheck, nodeCheck: o.Config.NodeCheck(),
			ownCheck: o.Config.ServiceCheck, pods: newPodTargets(o.Config)},
		ipMode:    v1.LoadBalancerIPMode(o.Config.IPMode),
		nodes:     &c.nodes,
		policy:    &c.policy,
		namespace: c.namespaceLabels,
		endpoints: c.endpoints.of,
		pods:      c.endpoints.pods,

		servedByPods: manager.HasPods,

		warnings: newWarnings(c.recorder),
		waiting:  newWaiting(),
		measures: c.measures,
		recorder: c.recorder,
	}
	for _, g := range o.Config.DesiredGateways() {
		c.balancer.translator.gateways = append(c.balancer.translator.gateways, g.Name)
	}
	c.instances = &instances{config: o.Config.Nodes, resolver: net.DefaultResolver, recorder: c.recorder}
	return c, nil
}

func settings(o Options) loadbalancer.Settings {
	s := loadbalancer.Settings{
		PoolSettings:  poolSettings(o.Config),
		ClusterUID:    clusterUID(o.Client),
		Gateways:      o.Config.DesiredGateways(),
		VRRP:          o.Config.DesiredVRRP(),
		FirstRouterID: o.Config.VRRP.FirstRouterID,
		NodeCheck:     o.Config.NodeCheck(),
		DrainSeconds:  o.Config.DrainSeconds(),
		ControlPlane:  o.Config.DesiredControlPlane(),
		Resync:        o.Config.Resync(),
	}
	if c := o.Config.ControlPlane; c != nil {
		s.ControlPlaneInterface, s.EndpointsFromNodes = c.Interface, c.EndpointsFromNodes
	}
	return s
}

// Initialize is called once this process leads. Everything here ends with Shutdown or when stop is closed.
func (c *Cloud) Initialize(_ cloudprovider.ControllerClientBuilder, stop <-chan struct{}) {
	c.led.Store(true)
	c.broadcaster.StartStructuredLogging(2)
	c.broadcaster.StartRecordingToSink(&v1core.EventSinkImpl{Interface: c.options.Client.CoreV1().Events("")})
	c.tellRefused()
	c.goUnlessEnded(func() {
		select {
		case <-stop:
			c.cancel()
		case <-c.ctx.Done():
		}
	})
}

// goUnlessEnded runs do in a goroutine that Shutdown waits for.
func (c *Cloud) goUnlessEnded(do func()) {
	c.starting.Lock()
	defer c.starting.Unlock()
	if c.ctx.Err() == nil {
		c.running.Go(do)
	}
}

// SetInformers is called before the informers start.
func (c *Cloud) SetInformers(factory informers.SharedInformerFactory) {
	c.services = &serviceView{
		ownership: ownership{
			class: c.options.Config.LoadBalancerClass, unclassed: *c.options.Config.ServeUnclassed,
			fieldManager: c.options.FieldManager,
			held: func(key desired.Key) bool {
				_, held := c.manager.Has(key)
				return held
			},
		},
		real:     factory.Core().V1().Services(),
		ready:    c.replayed.Load,
		mayServe: c.balancer.mayServe,
		vanished: map[desired.Key]*v1.Service{},
	}
	c.balancer.claimFinalizer = claimFinalizer(c.options.Client, c.services.ownership)
	c.nodesOf = factory.Core().V1().Nodes()
	c.namespaces = factory.Core().V1().Namespaces()
	c.start()
}

// Led says whether this process was ever told that it leads.
func (c *Cloud) Led() bool { return c.led.Load() }

// Shutdown ends what Initialize and SetInformers started: the round that is under way is finished or abandoned, callers
// that wait get loadbalancer.ErrStopped. It returns when all has ended or ctx has.
func (c *Cloud) Shutdown(ctx context.Context) error {
	c.starting.Lock()
	c.cancel()
	c.starting.Unlock()
	ended := make(chan struct{})
	go func() {
		c.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		c.broadcaster.Shutdown()
		return nil
	case <-ctx.Done():
		return errors.New("the last round did not end in time; what the gateways do now is finished or rolled back " +
			"by them")
	}
}

// ServiceInformer is the service controller's view of Services. It is for that controller only.
func (c *Cloud) ServiceInformer() coreinformers.ServiceInformer { return c.services }

// NodeInformer is the service controller's view of Nodes. It is for that controller only.
func (c *Cloud) NodeInformer() coreinformers.NodeInformer {
	return nodeView{real: c.nodesOf, set: c.nodes.Load}
}

// ProviderName is "haproxy".
func (c *Cloud) ProviderName() string { return ProviderName }

// HasClusterID is true: a State carries the cluster's UID (DESIGN.md invariant 4).
func (c *Cloud) HasClusterID() bool { return true }

// LoadBalancer is what this provider is for.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c.balancer, true }

// InstancesV2 serves kubelets with --cloud-provider=external.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return c.instances, true }

// Instances is superseded by InstancesV2.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// Zones is superseded by InstancesV2.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not supported.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not supported: routes between nodes are the network plugin's.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }
