package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
)

// TestSite runs all tests of one shared site.
func TestSite(t *testing.T) {
	s := newSite(t, lab.Options{Workers: 3})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"serves", testServes},
		{"metrics", testMetrics},
		{"burst", testBurst},
		{"holder-dies", testHolderDies},
		{"deleted-while-away", testDeletedWhileAway},
		{"vanished", testVanished},
		{"class-changes", testClassChanges},
		{"claims-finalizer", testClaimsFinalizer},
		{"killed-in-a-burst", testKilledInABurst},
		{"lease", testLease},
		{"pool-exhausted", testPoolExhausted},
		{"requested", testRequested},
		{"stranger", testStranger},
		{"node-answers", testNodeAnswers},
		{"sharing", testSharing},
		{"kept-address", testKeptAddress},
		{"two-claims", testTwoClaims},
		{"families-change", testFamiliesChange},
		{"pools-change", testPoolsChange},
		{"who-may-take", testWhoMayTake},
		{"other-controllers", testOtherControllersAnnotations},
		{"pools-command", testPoolsCommand},
		{"protocols", testProtocols},
		{"hostname", testHostname},
		{"preferred-gateway", testPreferredGateway},
		{"source-ranges", testSourceRanges},
		{"pod-targets", testPodTargets},
		{"bad-annotation", testBadAnnotation},
		{"gateway-faults", testGatewayFaults},
		{"excluded-nodes", testExcludedNodes},
		{"unhealthy-nodes", testUnhealthyNodes},
		{"local-policy", testLocalPolicy},
		{"default-check", testDefaultCheck},
		{"node-leaves", testNodeLeaves},
		{"node-selector", testNodeSelector},
		{"changes", testChanges},
		{"swap", testSwap},
		{"classes", testClasses},
		{"one-family-pool", testOneFamilyPool},
		{"one-family-nodes", testOneFamilyNodes},
		{"affinity", testAffinity},
		{"knobs", testKnobs},
		{"rolling-update", testRollingUpdate},
		{"server-cycles", testServerCycles},
		{"bad-config", testBadConfig},
		{"port-22", testPort22},
		{"limits", testLimits},
		{"two-controllers", testTwoControllers},
		{"epoch-object-deleted", testEpochObjectDeleted},
		{"etcd-restored", testEtcdRestored},
		{"external-node", testExternalNode},
		{"secrets-untold", testSecretsUntold}, // last: of all that went before
	} {
		t.Run(test.name, func(t *testing.T) {
			defer func() { // also when it gave up in the middle
				if t.Failed() {
					s.tellController(t)
				}
			}()
			test.run(t, s)
		})
	}
}

// site is a lab with a cluster, as its administrator sees it.
type site struct {
	*cluster.Cluster
	client     *lab.Host // on the network, outside the cluster
	controller *lab.Process
}

const (
	namespace = "default"
	// app labels the pods that all Services of the tests select; one runs on each worker.
	app     = "web"
	podPort = 8080
)

func newSite(t *testing.T, options lab.Options) *site {
	t.Helper()
	l := lab.New(t, options)
	c, err := cluster.Start(t.Context(), l, cluster.Options{})
	must(t, err)
	t.Cleanup(c.Stop)
	s := &site{Cluster: c, client: l.Client}
	s.controller, err = c.StartController(t.Context())
	must(t, err)
	must(t, c.RunPods(t.Context(), namespace, app, podPort, workers(l)...))
	return s
}

func workers(l *lab.Lab) []string {
	var names []string
	for _, w := range l.Workers {
		names = append(names, w.Name)
	}
	return names
}

// start starts the controller, restart ends the one that runs before. Later flags win over those of the manifest.
func (s *site) start(t *testing.T, flags ...string) {
	t.Helper()
	process, err := s.StartController(context.WithoutCancel(t.Context()), flags...)
	must(t, err)
	s.controller = process
}

func (s *site) restart(t *testing.T, flags ...string) {
	t.Helper()
	must(t, s.controller.Stop())
	s.start(t, flags...)
}

// withConfig runs the controller with another configuration until the test ends.
func (s *site) withConfig(t *testing.T, change func(config string) string) {
	t.Helper()
	changed := change(s.Lab.CloudConfig())
	if changed == s.Lab.CloudConfig() {
		t.Fatal("the change of the configuration changes nothing")
	}
	const file = "/etc/cloud-provider-haproxy/changed.yaml"
	must(t, s.Lab.Controller.WriteFile(file, []byte(changed), 0o644))
	t.Cleanup(func() { s.restart(t) })
	s.restart(t, "--cloud-config="+file)
}

// tellController prints what the controller said last.
func (s *site) tellController(t *testing.T) {
	said, err := s.controller.Output()
	if err != nil {
		t.Log(err)
		return
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	t.Logf("the controller's last words:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
}

// service is a Service of type LoadBalancer in front of all pods, one TCP port.
func service(name string, changes ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app},
			Ports: []corev1.ServicePort{port("http", corev1.ProtocolTCP, 80)},
		},
	}
	for _, change := range changes {
		change(svc)
	}
	return svc
}

func port(name string, protocol corev1.Protocol, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: number, TargetPort: intstr.FromInt32(podPort)}
}

func families(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, families }
}

func annotated(key, value string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Annotations = map[string]string{key: value} }
}

// create makes a Service that goes when the test ends.
func (s *site) create(t *testing.T, svc *corev1.Service) {
	t.Helper()
	_, err := s.Client.CoreV1().Services(namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		s.remove(t, svc.Name)
		s.awaitGone(t, svc.Name)
	})
}

// remove asks for the end of a Service; one that is gone already is welcome.
func (s *site) remove(t *testing.T, name string) {
	t.Helper()
	err := s.Client.CoreV1().Services(namespace).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("deleting Service %s: %v", name, err)
	}
}

func (s *site) awaitGone(t *testing.T, name string) {
	t.Helper()
	s.await(t, "Service "+name+" to be gone", func(ctx context.Context) error {
		_, err := s.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is still there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// addresses waits for a Service's external IPs.
func (s *site) addresses(t *testing.T, name string) []netip.Addr {
	t.Helper()
	var addresses []netip.Addr
	s.await(t, "Service "+name+" to get an external IP", func(ctx context.Context) error {
		svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		addresses = ingress(svc)
		if len(addresses) == 0 {
			return fmt.Errorf("it has none; its Events: %s", s.events(ctx, "Service", name))
		}
		return nil
	})
	return addresses
}

// pending is nil when a Service has no external IP.
func (s *site) pending(t *testing.T, name string) {
	t.Helper()
	svc, err := s.Client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	if got := ingress(svc); len(got) != 0 {
		t.Errorf("Service %s got %v, want no external IP", name, got)
	}
}

func ingress(svc *corev1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
