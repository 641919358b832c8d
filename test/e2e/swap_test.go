package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// testSwap: two Services on one shared address exchange their ports. Neither is given what the other has: both are told, and served as
// before, until one of them makes way; and nobody else at that address notices.
func testSwap(t *testing.T, s *site) {
	const first, second, third = 8001, 8002, 8003
	shared := func(number int32) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Annotations = map[string]string{prefix + "allow-shared-ip": "swap"}
			svc.Spec.Ports = []corev1.ServicePort{port("http", corev1.ProtocolTCP, number)}
		}
	}
	s.pods(t, "left", s.Lab.Workers[0].Name)
	s.pods(t, "right", s.Lab.Workers[1].Name)
	s.create(t, service("bystander", shared(80)))
	address := s.addresses(t, "bystander")[0]
	s.create(t, service("left", shared(first), inFrontOf("left")))
	s.create(t, service("right", shared(second), inFrontOf("right")))
	for _, name := range []string{"left", "right"} {
		if got := s.addresses(t, name)[0]; got != address {
			t.Fatalf("%s has %s, want the shared %s", name, got, address)
		}
	}
	answers := func(at uint16, pod string) {
		t.Helper()
		s.awaitAnswers(t, target(address, at), pod)
	}
	answers(first, "left-0")
	answers(second, "right-0")
	bystander := s.neighbour(t, target(address, 80))
	held := s.hold(t, 10, target(address, first), target(address, second))

	asks := func(name string, number int32) {
		t.Helper()
		s.change(t, name, func(svc *corev1.Service) { svc.Spec.Ports[0].Port = number })
	}
	asks("left", second)
	t.Log(s.expectEvent(t, "Service", "left", "Warning", fmt.Sprint(second), namespace+"/right"))
	asks("right", first)
	t.Log(s.expectEvent(t, "Service", "right", "Warning", fmt.Sprint(first), namespace+"/left"))
	answers(first, "left-0")
	answers(second, "right-0")
	uncut(t, held)

	asks("left", third) // makes way: who waited gets its port without being asked again
	answers(third, "left-0")
	answers(first, "right-0")
	s.awaitRefused(t, s.client, target(address, second))
	asks("left", second)
	answers(second, "left-0")
	s.awaitRefused(t, s.client, target(address, third))
	bystander.unharmed(t, s)
	s.await(t, "nobody to have moved", func(ctx context.Context) error {
		for _, name := range []string{"left", "right", "bystander"} {
			if got := s.addresses(t, name); len(got) != 1 || got[0] != address {
				return fmt.Errorf("%s has %v", name, got)
			}
		}
		return nil
	})
}
