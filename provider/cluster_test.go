package provider

import (
	"context"
	"errors"
	"fmt"
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
