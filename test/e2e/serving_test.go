package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"cloud-provider-haproxy/test/lab/traffic"
)

// testServes: a Service gets an external IP of each family that it asks for, kubectl shows it, and every pod answers a client
// through it.
func testServes(t *testing.T, s *site) {
	for _, test := range []struct {
		name   string
		change func(*corev1.Service)
		want   []bool // is it IPv4, by address
	}{
		{"v4", families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol), []bool{true}},
		{"v6", families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol), []bool{false}},
		{"v6-local", func(svc *corev1.Service) {
			families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol)(svc)
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, []bool{false}},
		{"dual", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol), []bool{true, false}},
		{"dual-v6-first", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv6Protocol, corev1.IPv4Protocol), []bool{false, true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := "serves-" + test.name
			s.create(t, service(name, test.change))
			addresses := s.addresses(t, name)
			var got []bool
			var targets []string
			for _, a := range addresses {
				got = append(got, a.Is4())
				targets = append(targets, target(a, 80))
				s.reaches(t, target(a, 80))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want IPv4 is %v", addresses, test.want)
			}
			shown, err := s.Kubectl(t.Context(), "get", "service", name)
			must(t, err)
			if !strings.Contains(shown, addresses[0].String()) {
				t.Errorf("kubectl get service does not show %v:\n%s", addresses, shown)
			}
			report, err := s.client.Flow(t.Context(), traffic.Flow{Targets: targets, Rate: 200, Count: 100, Timeout: 5 * time.Second})
			must(t, err)
			if report.Failed != 0 || len(report.By) != len(s.Lab.Workers) {
				t.Errorf("%v; want none failed and an answer of every pod", report)
			}
		})
	}
}

const burst = 100

func burstNames(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%03d", prefix, i)
	}
	return names
}

// testBurst: many Services created at once are each served at an address of their own after few rounds, and deleted as
// cheaply; HAProxy is never reloaded, and who is connected stays connected.
func testBurst(t *testing.T, s *site) {
	s.create(t, service("steady"))
	steady := target(s.addresses(t, "steady")[0], 80)
	s.reaches(t, steady)
	held := s.hold(t, 50, steady)
	before := s.count(t)

	names := burstNames("burst", burst)
	took := s.createAll(t, names, func(name string) *corev1.Service { return service(name) })
	created := s.count(t).since(before, len(s.Lab.Gateways))
	s.awaitNodePorts(t, names)
	owner := map[netip.Addr]string{}
	for name, served := range took {
		if other := owner[served.address]; other != "" {
			t.Errorf("%s and %s both have %v", name, other, served.address)
		}
		owner[served.address] = name
		if _, err := s.client.Ask(target(served.address, 80), time.Second); err != nil {
			t.Errorf("%s has an external IP and does not answer: %v", name, err)
		}
	}
	p50, p99 := quantiles(took)
	t.Logf("%d Services created at once: external IP after p50 %v, p99 %v; on each gateway %d rounds, %d runtime updates, %d reloads",
		len(names), p50, p99, created.rounds, created.runtime, created.reloads)
	expectFew(t, "creating", created)

	before = s.count(t)
	begun := time.Now()
	s.each(names, func(name string) { s.remove(t, name) })
	for _, name := range names {
		s.awaitGone(t, name)
	}
	s.awaitReleased(t, slices.Collect(maps.Keys(owner))...)
	deleted := s.count(t).since(before, len(s.Lab.Gateways))
	t.Logf("%d Services deleted at once: all gone after %v; on each gateway %d rounds, %d runtime updates, %d reloads",
		len(names), time.Since(begun).Round(time.Millisecond), deleted.rounds, deleted.runtime, deleted.reloads)
	expectFew(t, "deleting", deleted)
	uncut(t, held)
}

func expectFew(t *testing.T, doing string, c count) {
	t.Helper()
	if c.reloads != 0 {
		t.Errorf("%s %d Services reloaded HAProxy %d times, want 0", doing, burst, c.reloads)
	}
	if c.rounds > burst/5 {
		t.Errorf("%s %d Services took %d rounds, want far fewer rounds than Services", doing, burst, c.rounds)
	}
}

// served is when and where a Service got its external IP.
type served struct {
	address netip.Addr
	after   time.Duration // since it was asked for
}

// createAll creates Services at once and returns when all have an external IP. They go when the test ends.
func (s *site) createAll(t *testing.T, names []string, form func(name string) *corev1.Service) map[string]served {
	t.Helper()
	t.Cleanup(func() {
		s.each(names, func(name string) { s.remove(t, name) })
		for _, name := range names {
			s.awaitGone(t, name)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	services := s.Client.CoreV1().Services(namespace)
	before, err := services.List(ctx, metav1.ListOptions{})
	must(t, err)
	// The API server ends the watch of a client that is too slow, which we are when all is busy.
	events, err := watchtools.NewRetryWatcherWithContext(ctx, before.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: services.Watch,
	})
	must(t, err)
	defer events.Stop()
	var mu sync.Mutex
	asked := map[string]time.Time{}
	begun, accepted := time.Now(), make(chan time.Duration, 1)
	go func() {
		s.each(names, func(name string) {
			mu.Lock()
			asked[name] = time.Now()
			mu.Unlock()
			if _, err := services.Create(ctx, form(name), metav1.CreateOptions{}); err != nil {
				t.Errorf("creating Service %s: %v", name, err)
			}
		})
		accepted <- time.Since(begun)
	}()
	all := map[string]served{}
	for len(all) < len(names) {
		select {
		case event, open := <-events.ResultChan():
			svc, isService := event.Object.(*corev1.Service)
			if !open && ctx.Err() == nil || event.Type == watch.Error {
				t.Fatalf("the watch of Services ended: %v", event.Object)
			}
			if !isService || event.Type == watch.Deleted || !slices.Contains(names, svc.Name) || len(ingress(svc)) == 0 {
				continue
			}
			mu.Lock()
			if _, known := all[svc.Name]; !known {
				all[svc.Name] = served{address: ingress(svc)[0], after: time.Since(asked[svc.Name])}
			}
			mu.Unlock()
		case <-ctx.Done():
			t.Fatalf("%d of %d Services got an external IP within a minute", len(all), len(names))
		}
	}
	t.Logf("the API server took %d Services in %v", len(names), (<-accepted).Round(time.Millisecond))
	return all
}

// awaitNodePorts waits until every worker answers at the NodePorts of the Services itself: kube-proxy may need longer than we do
// until there is something to forward to. From then on an external IP has no excuse.
func (s *site) awaitNodePorts(t *testing.T, names []string) {
	t.Helper()
	begun := time.Now()
	list, err := s.Client.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, svc := range list.Items {
		if !slices.Contains(names, svc.Name) {
			continue
		}
		for _, w := range s.Lab.Workers {
			s.reaches(t, target(w.Addr4, uint16(svc.Spec.Ports[0].NodePort)))
		}
	}
	t.Logf("kube-proxy was ready %v later", time.Since(begun).Round(time.Millisecond))
}

// each does something for many names at once.
func (*site) each(names []string, do func(name string)) {
	var group sync.WaitGroup
	for _, name := range names {
		group.Go(func() { do(name) })
	}
	group.Wait()
}

func quantiles(all map[string]served) (p50, p99 time.Duration) {
	var times []time.Duration
	for _, s := range all {
		times = append(times, s.after.Round(time.Millisecond))
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100]
}

// testPort22: a Service may have the port of the gateways' own sshd.
func testPort22(t *testing.T, s *site) {
	s.create(t, service("ssh", families(corev1.IPFamilyPolicyRequireDualStack), func(svc *corev1.Service) {
		svc.Spec.Ports = []corev1.ServicePort{port("ssh", corev1.ProtocolTCP, 22)}
	}))
	for _, a := range s.addresses(t, "ssh") {
		if who := s.reaches(t, target(a, 22)); !strings.HasPrefix(who, app+"-") {
			t.Errorf("%s answered as %q, want a pod", target(a, 22), who)
		}
	}
	s.awaitInSync(t) // the controller still gets in at port 22 of the gateways themselves
}
