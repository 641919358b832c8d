package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const requestAnnotation = "cloud-provider-haproxy/load-balancer-ips"

// testPoolExhausted: a Service for which no address is left says so and how many there are; it gets one as soon as another
// Service gives one back.
func testPoolExhausted(t *testing.T, s *site) {
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, `192.0.2.64-192.0.2.254, "2001:db8::1:0/112"`, "192.0.2.200-192.0.2.201", 1)
	})
	for _, name := range []string{"first", "second"} {
		s.create(t, service(name))
		s.addresses(t, name)
	}
	s.create(t, service("third"))
	t.Log(s.expectEvent(t, "Service", "third", "Warning", "default", "2"))
	s.pending(t, "third")
	begun := time.Now()
	s.remove(t, "first")
	s.addresses(t, "third")
	t.Logf("the waiting Service got the address %v after the other was deleted", time.Since(begun).Round(time.Millisecond))
}

// testRequested: a Service gets the address that it asks for; one that no pool has, or that another Service has, is told.
func testRequested(t *testing.T, s *site) {
	const wanted, stranger = "192.0.2.123", "198.51.100.7"
	s.create(t, service("wants", annotated(requestAnnotation, wanted)))
	if got := s.addresses(t, "wants")[0].String(); got != wanted {
		t.Errorf("got %s, want %s", got, wanted)
	}
	s.create(t, service("wants-too", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = wanted }))
	t.Log(s.expectEvent(t, "Service", "wants-too", "Warning", wanted, namespace+"/wants"))
	s.pending(t, "wants-too")
	s.create(t, service("wants-outside", annotated(requestAnnotation, stranger)))
	t.Log(s.expectEvent(t, "Service", "wants-outside", "Warning", stranger, "pool"))
	s.pending(t, "wants-outside")
	s.remove(t, "wants")
	if got := s.addresses(t, "wants-too")[0].String(); got != wanted {
		t.Errorf("the Service that waited got %s, want %s", got, wanted)
	}
}

// testProtocols: ports of all protocols are served, also without a TCP port among them, and none has an error in the status.
func testProtocols(t *testing.T, s *site) {
	s.create(t, service("mixed", func(svc *corev1.Service) {
		svc.Spec.Ports = append(svc.Spec.Ports, port("dns", corev1.ProtocolUDP, 53), port("sigtran", corev1.ProtocolSCTP, 2905))
	}))
	s.reaches(t, target(s.addresses(t, "mixed")[0], 80))
	s.create(t, service("udp-only", func(svc *corev1.Service) {
		svc.Spec.Ports = []corev1.ServicePort{port("dns", corev1.ProtocolUDP, 53)}
	}))
	s.addresses(t, "udp-only")
	for name, want := range map[string]int{"mixed": 3, "udp-only": 1} {
		svc, err := s.Client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		ports := svc.Status.LoadBalancer.Ingress[0].Ports
		if len(ports) != want {
			t.Errorf("Service %s: status.loadBalancer.ingress[0].ports has %d ports, want %d", name, len(ports), want)
		}
		for _, p := range ports {
			if p.Error != nil {
				t.Errorf("Service %s: status.loadBalancer.ingress[0].ports has %v/%v with error %v", name, p.Port, p.Protocol, *p.Error)
			}
		}
	}
}

// testBadAnnotation: an annotation that is wrong is told with its key, its value and what is allowed. A Service that was served
// before stays served as it was, over a restart of the controller too, and others are not touched.
func testBadAnnotation(t *testing.T, s *site) {
	s.create(t, service("bad-from-birth", annotated(requestAnnotation, "not-an-address")))
	t.Log(s.expectEvent(t, "Service", "bad-from-birth", "Warning", requestAnnotation, "not-an-address", "allowed is"))
	s.pending(t, "bad-from-birth")

	s.create(t, service("typo", annotated("cloud-provider-haproxy/load-balancer-ip", "192.0.2.77")))
	s.addresses(t, "typo")
	t.Log(s.expectEvent(t, "Service", "typo", "Warning", "cloud-provider-haproxy/load-balancer-ip ", "did you mean "+requestAnnotation))

	s.create(t, service("spoilt"))
	s.create(t, service("bystander"))
	spoilt, bystander := s.addresses(t, "spoilt")[0], s.addresses(t, "bystander")[0]
	for _, a := range []string{target(spoilt, 80), target(bystander, 80)} {
		s.reaches(t, a)
	}
	held := s.hold(t, 20, target(spoilt, 80), target(bystander, 80))
	_, err := s.Kubectl(t.Context(), "annotate", "service", "spoilt", requestAnnotation+"=nonsense")
	must(t, err)
	t.Log(s.expectEvent(t, "Service", "spoilt", "Warning", requestAnnotation, "nonsense"))
	s.restart(t)
	s.create(t, service("after"))
	s.reaches(t, target(s.addresses(t, "after")[0], 80))
	s.await(t, "both Services to be served as before", func(ctx context.Context) error {
		for name, want := range map[string]string{"spoilt": spoilt.String(), "bystander": bystander.String()} {
			if got := s.addresses(t, name)[0].String(); got != want {
				return fmt.Errorf("%s has %s, want %s", name, got, want)
			}
		}
		for _, a := range []string{target(spoilt, 80), target(bystander, 80)} {
			if _, err := s.client.Ask(a, time.Second); err != nil {
				return err
			}
		}
		return nil
	})
	uncut(t, held)
}
