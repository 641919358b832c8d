package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
	"cloud-provider-haproxy/test/lab/traffic"
)

// TestSite runs all tests of one shared site.
func TestSite(t *testing.T) {
	s := newSite(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"serves", testServes},
		{"burst", testBurst},
		{"holder-dies", testHolderDies},
		{"deleted-while-away", testDeletedWhileAway},
		{"killed-in-a-burst", testKilledInABurst},
		{"lease", testLease},
		{"pool-exhausted", testPoolExhausted},
		{"requested", testRequested},
		{"protocols", testProtocols},
		{"bad-annotation", testBadAnnotation},
		{"gateway-faults", testGatewayFaults},
		{"excluded-nodes", testExcludedNodes},
		{"bad-config", testBadConfig},
		{"port-22", testPort22},
		{"limits", testLimits},
		{"two-controllers", testTwoControllers},
		{"external-node", testExternalNode},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, s)
			if t.Failed() {
				s.tellController(t)
			}
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

func newSite(t *testing.T) *site {
	l := lab.New(t, lab.Options{Workers: 3})
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

// events are the Events of one object, newest last.
func (s *site) events(ctx context.Context, kind, name string) string {
	list, err := s.Client.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name,
	})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, e := range list.Items {
		fmt.Fprintf(&b, "\n  %s %s: %s", e.Type, e.Reason, e.Message)
	}
	return b.String()
}

// expectEvent waits for one Event of the object that has all words, and gives it.
func (s *site) expectEvent(t *testing.T, kind, name string, words ...string) string {
	t.Helper()
	var found string
	s.await(t, fmt.Sprintf("an Event of %s %s that says %q", kind, name, words), func(ctx context.Context) error {
		all := s.events(ctx, kind, name)
		for _, event := range strings.Split(all, "\n  ") {
			if lacks(event, words) == "" {
				found = event
				return nil
			}
		}
		return fmt.Errorf("its Events: %s", all)
	})
	return found
}

// lacks is the first word that a text does not have.
func lacks(text string, words []string) string {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return word
		}
	}
	return ""
}

// reaches waits until the client is served at the target, and tells by whom.
func (s *site) reaches(t *testing.T, target string) string {
	t.Helper()
	var who string
	s.await(t, "the client to reach "+target, func(context.Context) (err error) {
		who, err = s.client.Ask(target, time.Second)
		return err
	})
	return who
}

func target(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// hold opens connections that have to live on.
func (s *site) hold(t *testing.T, count int, targets ...string) *lab.Running[traffic.HoldReport] {
	t.Helper()
	held, err := s.client.StartHold(t.Context(), traffic.Hold{Targets: targets, Count: count, Timeout: 5 * time.Second})
	must(t, err)
	return held
}

// uncut ends held connections, none of which may have been lost.
func uncut(t *testing.T, held *lab.Running[traffic.HoldReport]) {
	t.Helper()
	report, err := held.Stop()
	must(t, err)
	for _, cut := range report.Cut {
		t.Errorf("a held connection to %s was cut after %v: %s", cut.Target, cut.After, cut.Error)
	}
	t.Logf("%d connections held, %d cut", report.Held, len(report.Cut))
}

// count are counters of all gateways together.
type count struct{ reloads, rounds, runtime uint64 }

func (s *site) count(t *testing.T) count {
	t.Helper()
	all, err := s.Status(t.Context())
	must(t, err)
	var sum count
	for _, g := range all {
		if g.Status == nil {
			t.Fatalf("%s cannot be asked: %s", g.Gateway, g.Error)
		}
		for _, n := range g.Status.Reloads {
			sum.reloads += n
		}
		for _, n := range g.Status.Rounds {
			sum.rounds += n
		}
		sum.runtime += g.Status.RuntimeUpdates
	}
	return sum
}

// since is what has been counted since an earlier count, on each gateway (rounded up).
func (c count) since(before count, gateways int) count {
	per := func(now, then uint64) uint64 { return (now - then + uint64(gateways) - 1) / uint64(gateways) }
	return count{per(c.reloads, before.reloads), per(c.rounds, before.rounds), per(c.runtime, before.runtime)}
}

func (s *site) awaitInSync(t *testing.T) {
	t.Helper()
	s.await(t, "every gateway to be in sync", s.InSync)
}

// awaitReleased waits until no gateway has any of the addresses.
func (s *site) awaitReleased(t *testing.T, addresses ...netip.Addr) {
	t.Helper()
	s.await(t, "the gateways to let go of the addresses", func(ctx context.Context) error {
		for _, a := range addresses {
			holders, err := s.Holders(ctx, a)
			if err != nil {
				return err
			}
			if len(holders) != 0 {
				return fmt.Errorf("%s still holds %v", holders[0].Name, a)
			}
		}
		return nil
	})
}

// await waits for something that may take a minute at most.
func (s *site) await(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	must(t, s.WaitFor(context.WithoutCancel(t.Context()), what, try))
}

// end sends a signal to the processes of a host whose command line is the pattern until there are none.
func (s *site) end(t *testing.T, h *lab.Host, signal, pattern string) {
	t.Helper()
	s.await(t, pattern+" to end on "+h.Name, func(ctx context.Context) error {
		_, err := h.Run(ctx, "pkill", signal, "-f", pattern)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 { // there was none
			return nil
		}
		return cmp.Or(err, errors.New("it still ran"))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
