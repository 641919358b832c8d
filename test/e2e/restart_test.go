package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testDeletedWhileAway: what is no Service of ours any more when the controller comes back, is gone when it is back: a Service
// that waits for its finalizer, one whose object is gone without a trace, and one that changed its type.
func testDeletedWhileAway(t *testing.T, s *site) {
	services := s.Client.CoreV1().Services(namespace)
	addresses := map[string]netip.Addr{}
	for _, name := range []string{"deleted", "vanished", "retyped", "stays"} {
		s.create(t, service(name))
		addresses[name] = s.addresses(t, name)[0]
		s.reaches(t, target(addresses[name], 80))
	}
	held := s.hold(t, 10, target(addresses["stays"], 80))
	must(t, s.controller.Stop())

	s.remove(t, "deleted")
	s.strip(t, "vanished")
	s.remove(t, "vanished")
	_, err := s.Kubectl(t.Context(), "patch", "service", "retyped", "--type=merge", "-p", `{"spec":{"type":"ClusterIP"}}`)
	must(t, err)
	s.reaches(t, target(addresses["deleted"], 80)) // traffic does not depend on the controller

	begun := time.Now()
	s.start(t)
	s.awaitReleased(t, addresses["deleted"], addresses["vanished"], addresses["retyped"])
	t.Logf("all gone %v after the controller's start", time.Since(begun).Round(time.Millisecond))
	s.awaitGone(t, "deleted")
	s.await(t, "the finalizer to leave the Service that changed its type", func(ctx context.Context) error {
		svc, err := services.Get(ctx, "retyped", metav1.GetOptions{})
		if err == nil && len(svc.Finalizers) != 0 {
			err = fmt.Errorf("finalizers %v", svc.Finalizers)
		}
		return err
	})
	s.reaches(t, target(addresses["stays"], 80))
	uncut(t, held)
}

// testKilledInABurst: the controller is killed while Services are made, and another one goes on: every Service is served, none
// that had an address lost or changed it, and who is connected stays connected.
func testKilledInABurst(t *testing.T, s *site) {
	s.create(t, service("steady"))
	steady := target(s.addresses(t, "steady")[0], 80)
	s.reaches(t, steady)
	held := s.hold(t, 20, steady)
	names := burstNames("killed", 200)
	services := s.Client.CoreV1().Services(namespace)

	killed := make(chan map[string]netip.Addr, 1)
	go func() {
		defer close(killed)
		for t.Context().Err() == nil {
			list, err := services.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				continue
			}
			if had := published(list.Items, names); len(had) >= 5 {
				_ = s.controller.Kill()
				// What was published until the very end counts.
				if list, err = services.List(t.Context(), metav1.ListOptions{}); err == nil {
					killed <- published(list.Items, names)
				}
				s.start(t)
				return
			}
		}
	}()
	took := s.createAll(t, names, func(name string) *corev1.Service {
		if (name[len(name)-1]-'0')%2 == 0 {
			return service(name)
		}
		return service(name, families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
	})
	had := <-killed
	if len(had) == len(names) {
		t.Error("the controller was killed after the last Service had its address: the middle of the burst was missed")
	}
	list, err := services.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	now := published(list.Items, names)
	owner := map[netip.Addr]string{}
	for _, name := range names {
		a := now[name]
		if other := owner[a]; other != "" {
			t.Errorf("%s and %s both have %v", name, other, a)
		}
		owner[a] = name
		if before, was := had[name]; was && before != a {
			t.Errorf("%s had %v before the controller was killed and has %v now", name, before, a)
		}
		s.reaches(t, target(a, 80))
	}
	_, p99 := quantiles(took)
	t.Logf("killed with %d of %d served; all served at p99 %v", len(had), len(names), p99)
	uncut(t, held)
}

func published(services []corev1.Service, names []string) map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for _, svc := range services {
		if a := ingress(&svc); len(a) != 0 && slices.Contains(names, svc.Name) {
			all[svc.Name] = a[0]
		}
	}
	return all
}

const (
	leaseNamespace = "kube-system"
	leaseName      = "haproxy-cloud-controller-manager"
)

func (s *site) leaseHolder(ctx context.Context) (string, error) {
	lease, err := s.Client.CoordinationV1().Leases(leaseNamespace).Get(ctx, leaseName, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", err
	}
	return *lease.Spec.HolderIdentity, nil
}

// testLease: SIGTERM releases the Lease, so that the next controller leads at once instead of waiting for its end.
func testLease(t *testing.T, s *site) {
	holder, err := s.leaseHolder(t.Context())
	must(t, err)
	if holder == "" {
		t.Fatalf("nobody holds Lease %s/%s while the controller runs", leaseNamespace, leaseName)
	}
	must(t, s.controller.Stop())
	if err := s.controller.Wait(); err != nil {
		t.Errorf("after SIGTERM the controller ended with %v, want 0", err)
	}
	holder, err = s.leaseHolder(t.Context())
	must(t, err)
	if holder != "" {
		t.Errorf("after SIGTERM the Lease is held by %q", holder)
	}
	begun := time.Now()
	s.start(t)
	s.create(t, service("successor"))
	s.addresses(t, "successor")
	took := time.Since(begun)
	t.Logf("the next controller served a new Service %v after its start", took.Round(time.Millisecond))
	if took > 10*time.Second { // a Lease that is not released lasts 15 s
		t.Errorf("it took %v", took)
	}
}

// testTwoControllers: a second controller without leader election claims the next epoch; the first is refused by the gateways
// and ends, with an error for whoever supervises it. Nobody who is connected notices.
func testTwoControllers(t *testing.T, s *site) {
	s.create(t, service("fenced"))
	at := s.addresses(t, "fenced")[0]
	s.reaches(t, target(at, 80))
	held := s.hold(t, 10, target(at, 80))
	first := s.controller
	s.start(t, "--leader-elect=false", "--secure-port=10260")
	select {
	case <-first.Done():
		if first.Wait() == nil {
			t.Error("the first controller ended well, want an error for its supervisor")
		}
		said, err := first.Output()
		must(t, err)
		if word := lacks(string(said), []string{"another controller"}); word != "" {
			t.Errorf("the first controller did not say %q", word)
		}
	case <-time.After(30 * time.Second):
		t.Error("the first controller still runs 30 s after the second claimed the gateways")
		must(t, first.Stop())
	}
	s.create(t, service("by-the-second"))
	s.reaches(t, target(s.addresses(t, "by-the-second")[0], 80))
	if now := s.addresses(t, "fenced")[0]; now != at {
		t.Errorf("the Service had %v and has %v now", at, now)
	}
	uncut(t, held)
	s.restart(t)
}
