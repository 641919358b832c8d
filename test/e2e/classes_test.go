package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	ourClass         = "cloud-provider-haproxy/gateway"
	cleanupFinalizer = "service.kubernetes.io/load-balancer-cleanup"
)

// classed gives a Service a loadBalancerClass.
func classed(class string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &class }
}

// testClasses: next to another controller, and told to leave Services without a class alone, we serve those of our class and touch no
// other: neither their addresses nor, when they are being deleted, their finalizers. A Service that leaves its class with its type and
// comes back is served again.
func testClasses(t *testing.T, s *site) {
	s.withConfig(t, func(config string) string { return config + "serveUnclassed: false\n" })
	s.create(t, service("classed", classed(ourClass)))
	at := target(s.addresses(t, "classed")[0], 80)
	s.create(t, service("neighbour", classed(ourClass)))
	neighbour := s.neighbour(t, target(s.addresses(t, "neighbour")[0], 80))
	s.reaches(t, at)

	s.create(t, service("unclassed"))
	s.create(t, service("foreign", classed("example.com/other"), func(svc *corev1.Service) { svc.Finalizers = []string{cleanupFinalizer} }))
	_, err := s.Kubectl(t.Context(), "patch", "service", "foreign", "--subresource=status", "--type=merge", "-p",
		`{"status":{"loadBalancer":{"ingress":[{"ip":"198.51.100.9"}]}}}`)
	must(t, err)
	s.remove(t, "foreign")
	release := func() { s.strip(t, "foreign") } // its own controller, when the test ends
	t.Cleanup(release)

	// Both have been looked at when a younger one is served.
	s.create(t, service("younger", classed(ourClass)))
	s.reaches(t, target(s.addresses(t, "younger")[0], 80))
	s.pending(t, "unclassed")
	s.isForeign(t, "foreign", "198.51.100.9")

	s.change(t, "classed", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
	s.awaitUnserved(t, "classed", at)
	s.change(t, "classed", func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.LoadBalancerClass = new(ourClass)
	})
	s.reaches(t, target(s.addresses(t, "classed")[0], 80))
	s.change(t, "classed", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeNodePort })
	s.awaitUnserved(t, "classed", at)
	s.change(t, "classed", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeLoadBalancer }) // without a class now
	s.change(t, "younger", func(svc *corev1.Service) {                                                   // and after that
		svc.Spec.Ports = append(svc.Spec.Ports, port("more", corev1.ProtocolTCP, 81))
	})
	s.reaches(t, target(s.addresses(t, "younger")[0], 81))
	s.pending(t, "classed")
	s.isForeign(t, "foreign", "198.51.100.9")
	neighbour.unharmed(t, s)

	// Who is told to serve them does, and still leaves the other controller's alone.
	s.restart(t)
	s.reaches(t, target(s.addresses(t, "unclassed")[0], 80))
	s.reaches(t, target(s.addresses(t, "classed")[0], 80))
	s.isForeign(t, "foreign", "198.51.100.9")
}

// isForeign: a deleted Service of another class waits for its own controller, with the address and the finalizer that it has.
func (s *site) isForeign(t *testing.T, name, address string) {
	t.Helper()
	svc, err := s.Client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	if got := fmt.Sprint(ingress(svc), svc.Finalizers, svc.DeletionTimestamp != nil); got != fmt.Sprintf("[%s] [%s] true", address, cleanupFinalizer) {
		t.Errorf("the Service of another class has address, finalizers, being deleted: %s", got)
	}
}

// awaitUnserved waits until a Service has lost address, finalizer and class, and the address answers no more.
func (s *site) awaitUnserved(t *testing.T, name, at string) {
	t.Helper()
	s.await(t, "Service "+name+" to be none of ours", func(ctx context.Context) error {
		svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(ingress(svc)) > 0 || len(svc.Finalizers) > 0 || svc.Spec.LoadBalancerClass != nil) {
			err = fmt.Errorf("addresses %v, finalizers %v, class %v", ingress(svc), svc.Finalizers, svc.Spec.LoadBalancerClass)
		}
		return err
	})
	if who, err := s.client.Ask(at, time.Second); err == nil {
		t.Errorf("%s still answers at %s", who, at)
	}
}
