package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testVanished: somebody takes the finalizer off and deletes the Service while the controller runs. It is served no longer, and
// one that is made anew is served as any other.
func testVanished(t *testing.T, s *site) {
	s.create(t, service("stripped"))
	s.create(t, service("stays"))
	address, stays := s.addresses(t, "stripped")[0], target(s.addresses(t, "stays")[0], 80)
	s.reaches(t, target(address, 80))
	held := s.hold(t, 10, stays)
	s.strip(t, "stripped")
	begun := time.Now()
	s.remove(t, "stripped")
	s.awaitReleased(t, address)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("gone after %v, want within seconds", took)
	} else {
		t.Logf("gone %v after the object", took.Round(time.Millisecond))
	}
	s.create(t, service("stripped"))
	s.reaches(t, target(s.addresses(t, "stripped")[0], 80))
	uncut(t, held)
}

// strip takes the finalizers off a Service.
func (s *site) strip(t *testing.T, name string) {
	t.Helper()
	_, err := s.Kubectl(context.WithoutCancel(t.Context()), "patch", "service", name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	must(t, err)
}

// testClassChanges: a configuration that gives a Service to us no longer takes its address away, and says so in its status.
func testClassChanges(t *testing.T, s *site) {
	const class = "example.com/gateway"
	ours := func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = new(class) }
	s.withConfig(t, func(config string) string { return config + "loadBalancerClass: " + class + "\n" })
	s.create(t, service("given", ours))
	address := s.addresses(t, "given")[0]
	s.reaches(t, target(address, 80))
	s.withConfig(t, func(config string) string { return config + "loadBalancerClass: example.com/other\n" })
	s.awaitReleased(t, address)
	s.await(t, "the Service to lose address and finalizer", func(ctx context.Context) error {
		svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, "given", metav1.GetOptions{})
		if err == nil && (len(svc.Status.LoadBalancer.Ingress) > 0 || len(svc.Finalizers) > 0 || *svc.Spec.LoadBalancerClass != class) {
			err = fmt.Errorf("status %v, finalizers %v, class %s", svc.Status.LoadBalancer, strings.Join(svc.Finalizers, ", "), *svc.Spec.LoadBalancerClass)
		}
		return err
	})
}

// testClaimsFinalizer: a Service that came with the cleanup finalizer of another controller says in its managedFields that it is
// ours too, and loses it when its type changes, also when the controller was away then.
func testClaimsFinalizer(t *testing.T, s *site) {
	const finalizer = "service.kubernetes.io/load-balancer-cleanup"
	s.create(t, service("taken", func(svc *corev1.Service) { svc.Finalizers = []string{finalizer} }))
	address := s.addresses(t, "taken")[0]
	svc, err := s.Client.CoreV1().Services(namespace).Get(t.Context(), "taken", metav1.GetOptions{})
	must(t, err)
	if !slices.ContainsFunc(svc.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == "haproxy-cloud-controller-manager" && strings.Contains(string(e.FieldsV1.GetRawBytes()), finalizer)
	}) {
		t.Errorf("managedFields %+v", svc.ManagedFields)
	}
	must(t, s.controller.Stop())
	_, err = s.Kubectl(t.Context(), "patch", "service", "taken", "--type=merge", "-p", `{"spec":{"type":"ClusterIP"}}`)
	must(t, err)
	s.start(t)
	s.awaitReleased(t, address)
	s.await(t, "the finalizer to go", func(ctx context.Context) error {
		svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, "taken", metav1.GetOptions{})
		if err == nil && len(svc.Finalizers) > 0 {
			err = fmt.Errorf("finalizers %v", svc.Finalizers)
		}
		return err
	})
}
