package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/component-base/metrics"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// TestMain drops apimachinery's second error handler: it remembers the time of the last error over all tests and sleeps
// by it, which in the fake times of several bubbles means for years.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	m.Run()
}

const testConfig = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: 192.0.2.2, interface: eth0}
ssh: {privateKeyFile: /key, knownHostsFile: /known_hosts}
pools:
- {name: main, addresses: [192.0.2.64/26]}
`

// manager is a loadbalancer.Manager that serves at once whatever it is told, or fails as it is told.
type manager struct {
	mu       sync.Mutex
	observer loadbalancer.Observer
	held     map[desired.Key]loadbalancer.Service
	next     netip.Addr
	// refusals are what Refuse was told, by Service.
	refusals map[desired.Key][]*loadbalancer.Sources
	fail     error // what Ensure and Delete say
	ensures  int
	// refills counts by Service.
	refills map[desired.Key]int
	// ensured counts by Service; during is called once within Ensure.
	ensured map[desired.Key]int
	during  *func()
	nodes   [][]desired.Node
	// endpoints is what SetEndpoints was told, each time.
	endpoints [][]netip.AddrPort
	replays   []loadbalancer.Replay
	settings  loadbalancer.Settings
	// pools are the settings that it was made with and those that it was told since; wrong is what SetPools says.
	pools []loadbalancer.PoolSettings
	wrong error
	// published is what Published was told last.
	published map[desired.Key][]netip.Addr
	// kept are the Services that were deleted, and whether their addresses are to be kept.
	kept   map[desired.Key]bool
	loaded chan struct{}
	ended  chan error
}

func newManager() *manager {
	m := &manager{held: map[desired.Key]loadbalancer.Service{}, refusals: map[desired.Key][]*loadbalancer.Sources{}, refills: map[desired.Key]int{},
		ensured: map[desired.Key]int{}, next: addr("192.0.2.64"), kept: map[desired.Key]bool{},
		published: map[desired.Key][]netip.Addr{},
		loaded:    make(chan struct{}), ended: make(chan error, 1)}
	close(m.loaded)
	return m
}

func (m *manager) Ensure(_ context.Context, s loadbalancer.Service) (*loadbalancer.Ensured, error) {
	m.mu.Lock()
	during := m.during
	m.during = nil
	m.mu.Unlock()
	if during != nil {
		(*during)()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := s.LoadBalancer.Key
	m.ensures++
	m.ensured[key]++
	if m.fail != nil {
		return nil, m.fail
	}
	if s.LoadBalancer.Addresses = m.held[key].LoadBalancer.Addresses; s.LoadBalancer.Addresses == nil {
		s.LoadBalancer.Addresses = []netip.Addr{m.next}
		m.next = m.next.Next()
	}
	m.held[key] = s
	return &loadbalancer.Ensured{Addresses: s.LoadBalancer.Addresses}, nil
}

// Refill moves servers of what is served.
func (m *manager) Refill(key desired.Key, servers []desired.Server, ofPorts ...loadbalancer.PortServers) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refills[key]++
	s, held := m.held[key]
	if !held {
		return
	}
	s.LoadBalancer = s.LoadBalancer.Clone()
	if s.LoadBalancer.Pool != nil {
		s.LoadBalancer.Pool.Servers = servers
	}
	for i := range s.LoadBalancer.Frontends {
		f := &s.LoadBalancer.Frontends[i]
		for _, of := range ofPorts {
			if f.Pool != nil && of.Port == (desired.Port{Protocol: f.Protocol, Port: f.Port}) {
				f.Pool.Servers = of.Servers
			}
		}
	}
	m.held[key] = s
}

// Refuse holds who may connect for what is served.
func (m *manager) Refuse(_ context.Context, key desired.Key, sources *loadbalancer.Sources) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals[key] = append(m.refusals[key], sources)
	if s, held := m.held[key]; held && sources != nil {
		s.LoadBalancer.AllowSources, s.LoadBalancer.DenySources = sources.Allow, sources.Deny
		m.held[key] = s
	}
	return m.fail
}

// admitted says who may connect to what is served.
func (m *manager) admitted(key desired.Key) (allow, deny []netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lb := m.held[key].LoadBalancer
	return lb.AllowSources, lb.DenySources
}

func (m *manager) SetPools(s loadbalancer.PoolSettings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrong != nil {
		return m.wrong
	}
	m.pools = append(m.pools, s)
	return nil
}

func (m *manager) Delete(_ context.Context, key desired.Key, keep bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	delete(m.held, key)
	m.kept[key] = keep
	return nil
}

func (m *manager) Has(key desired.Key) ([]netip.Addr, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, held := m.held[key]
	return s.LoadBalancer.Addresses, held
}

func (m *manager) SetNodes(nodes []desired.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = append(m.nodes, nodes)
}

func (m *manager) SetEndpoints(endpoints []netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endpoints = append(m.endpoints, endpoints)
}

func (m *manager) Loaded() <-chan struct{} { return m.loaded }

func (m *manager) Load(context.Context) error { return m.fail }

func (m *manager) Replay(all []loadbalancer.Replay) { m.replays = all }

func (m *manager) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-m.ended:
		return err
	}
}

func (m *manager) failing(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *manager) counted() (ensures, nodeSets int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ensures, len(m.nodes)
}

// pool gives the names of the servers of a Service's own pool.
func (m *manager) pool(key desired.Key) (names []string, has bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pool := m.held[key].LoadBalancer.Pool
	if pool == nil {
		return nil, false
	}
	for _, server := range pool.Servers {
		names = append(names, server.Name)
	}
	return names, true
}

// cluster is the API server (a fake clientset), Kubernetes' own service controller, and a Cloud between it and manager.
type cluster struct {
	t       *testing.T
	client  *fake.Clientset
	manager *manager
	cloud   *Cloud
	epochs  loadbalancer.EpochStore
	ledger  loadbalancer.LedgerStore
	metrics metrics.KubeRegistry
	ended   []error
}

// inCluster runs test in fake time with the objects there from the beginning.
func inCluster(t *testing.T, yaml string, prepare func(*manager), objects []runtime.Object, test func(*cluster)) {
	t.Helper()
	runCluster(t, yaml, prepare, func(*cluster) {}, objects, test)
}

// inClusterAfter is inCluster with something that happens before this process leads.
func inClusterAfter(t *testing.T, yaml string, before func(*cluster), test func(*cluster)) {
	t.Helper()
	runCluster(t, yaml, nil, before, []runtime.Object{worker("a", "192.0.2.21")}, test)
}

func runCluster(t *testing.T, yaml string, prepare func(*manager), before func(*cluster), objects []runtime.Object,
	test func(*cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, client: swapping(objects...), manager: newManager(), metrics: metrics.NewKubeRegistry()}
		c.tellEventsApart()
		if prepare != nil {
			prepare(c.manager)
		}
		configuration, err := config.Decode([]byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		c.cloud, err = New(Options{
			Config: configuration, Client: c.client, FieldManager: "haproxy-cloud-controller-manager",
			NewManager: func(settings loadbalancer.Settings, epochs loadbalancer.EpochStore,
				ledger loadbalancer.LedgerStore, o loadbalancer.Observer) (Manager, error) {
				c.manager.observer, c.manager.pools = o, append(c.manager.pools, settings.PoolSettings)
				c.manager.settings = settings
				c.epochs, c.ledger = epochs, ledger
				return c.manager, nil
			},
			Register: c.metrics.MustRegister,
			Ended:    func(err error) { c.ended = append(c.ended, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		before(c)
		synctest.Wait() // Events before this one's turn go nowhere
		ctx, cancel := context.WithCancel(t.Context())
		factory := informers.NewSharedInformerFactory(c.client, 0)
		c.cloud.Initialize(nil, ctx.Done())
		c.cloud.SetInformers(factory)
		controller, err := servicecontroller.New(c.cloud, c.client, c.cloud.ServiceInformer(), c.cloud.NodeInformer(),
			"test", utilfeature.DefaultFeatureGate)
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() { controller.Run(ctx, 4, controllersmetrics.NewControllerManagerMetrics("test")) })
		factory.StartWithContext(ctx)
		defer func() {
			cancel()
			if err := c.cloud.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			running.Wait()
			factory.Shutdown()
			// The library's own goroutines (event broadcasters, delaying queues) end by themselves.
			time.Sleep(time.Minute)
		}()
		c.settle()
		test(c)
		c.settle()
		c.wantUnwritten()
	})
}

// tellEventsApart gives Events names of their own. Their names are made of the time, which stands still here.
func (c *cluster) tellEventsApart() {
	n := 0
	c.client.PrependReactor("create", "events", func(action clienttesting.Action) (bool, runtime.Object, error) {
		n++
		action.(clienttesting.CreateAction).GetObject().(*v1.Event).Name += fmt.Sprintf(".%d", n)
		return false, nil, nil
	})
}

// settle lets a second pass, in which everything that needs no retry happens.
func (c *cluster) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (c *cluster) get(name string) *v1.Service {
	c.t.Helper()
	svc, err := c.client.CoreV1().Services("default").Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return svc
}

// change updates the object as the API server would: generation and resourceVersion do not matter to anybody here.
func (c *cluster) change(name string, change func(*v1.Service)) {
	c.t.Helper()
	svc := c.get(name)
	change(svc)
	if _, err := c.client.CoreV1().Services("default").Update(c.t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func (c *cluster) create(svc *v1.Service) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Services(svc.Namespace).Create(c.t.Context(), svc,
		metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

const finalizer = "service.kubernetes.io/load-balancer-cleanup"

func named(name string, changes ...func(*v1.Service)) *v1.Service {
	svc := web(changes...)
	svc.Name, svc.UID = name, "uid-"+svc.UID
	return svc
}

func class(name string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &name }
}

func clusterIP(svc *v1.Service) {
	svc.Spec.Type, svc.Spec.LoadBalancerClass, svc.Status = v1.ServiceTypeClusterIP, nil, v1.ServiceStatus{}
}

func keeping(finalizers ...string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Finalizers = finalizers }
}

func deleting(svc *v1.Service) {
	now := metav1.Now()
	svc.DeletionTimestamp = &now
}

func key(name string) desired.Key { return desiredKey("default", name) }

func desiredKey(namespace, name string) desired.Key {
	return desired.Key{Namespace: namespace, Name: name}
}

var errAway = &loadbalancer.GatewaysError{Gateways: []loadbalancer.GatewayError{{Name: "gw1",
	Err: errors.New("gateway gw1: connection refused; is sshd running?")}}}
