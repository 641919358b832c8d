package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab/traffic"
)

// testHostname: a Service publishes a host name instead of its address. It is served at the address all the while, and keeps it
// when it publishes addresses again, over a restart of the controller too.
func testHostname(t *testing.T, s *site) {
	const annotation, name = "cloud-provider-haproxy/hostname", "lb.example.com"
	s.create(t, service("named"))
	address := s.addresses(t, "named")[0]
	s.reaches(t, target(address, 80))
	publishes := func(want corev1.LoadBalancerIngress) {
		t.Helper()
		s.await(t, fmt.Sprintf("the status to say %q and %q", want.IP, want.Hostname), func(ctx context.Context) error {
			svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, "named", metav1.GetOptions{})
			if err != nil {
				return err
			}
			all := svc.Status.LoadBalancer.Ingress
			if len(all) != 1 || all[0].IP != want.IP || all[0].Hostname != want.Hostname || len(all[0].Ports) != 1 {
				return fmt.Errorf("it says %+v", all)
			}
			return nil
		})
		s.reaches(t, target(address, 80))
	}
	s.change(t, "named", annotated(annotation, name))
	publishes(corev1.LoadBalancerIngress{Hostname: name})
	t.Log(s.expectEvent(t, "Service", "named", "HostnamePublished", name, address.String()))
	s.restart(t)
	s.create(t, service("after")) // the controller leads again, and gives nobody that address
	if got := s.addresses(t, "after"); slices.Contains(got, address) {
		t.Errorf("%v was given to another Service", address)
	}
	publishes(corev1.LoadBalancerIngress{Hostname: name})
	s.change(t, "named", func(svc *corev1.Service) { svc.Annotations = nil })
	publishes(corev1.LoadBalancerIngress{IP: address.String()})
}

// testPreferredGateway: a Service's address goes to the gateway that the Service names, and to another one when it names that. It stays
// there when the Service names none any more.
func testPreferredGateway(t *testing.T, s *site) {
	const annotation = "cloud-provider-haproxy/preferred-gateway"
	first, second := s.Lab.Gateways[0], s.Lab.Gateways[1]
	s.create(t, service("prefers", annotated(annotation, first.Name)))
	address := s.addresses(t, "prefers")[0]
	s.reaches(t, target(address, 80))
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{target(address, 80)}, Rate: 100, Timeout: time.Second})
	must(t, err)
	holds := func(gateway string) {
		t.Helper()
		s.await(t, gateway+" to hold "+address.String(), func(ctx context.Context) error {
			holder, err := s.Holder(ctx, address)
			if err == nil && holder.Name != gateway {
				err = fmt.Errorf("%s holds it", holder.Name)
			}
			return err
		})
	}
	for _, gateway := range []string{first.Name, second.Name} {
		s.change(t, "prefers", annotated(annotation, gateway))
		holds(gateway)
	}
	s.change(t, "prefers", func(svc *corev1.Service) { // who names nobody any more stays
		svc.Annotations, svc.Spec.Ports = nil, append(svc.Spec.Ports, port("more", corev1.ProtocolTCP, 81))
	})
	s.awaitServed(t, s.client, target(address, 81))
	holder, err := s.SettledHolder(t.Context(), address)
	must(t, err)
	if holder != second {
		t.Errorf("without the annotation %s holds the address, want %s still", holder.Name, second.Name)
	}
	s.change(t, "prefers", annotated(annotation, first.Name))
	holds(first.Name)
	report, err := flow.Stop()
	must(t, err)
	t.Logf("the address moved there and back: %v", report)
	if report.LongestGap > longestGap {
		t.Errorf("nobody answered for %v", report.LongestGap)
	}
	s.change(t, "prefers", annotated(annotation, "nobody"))
	t.Log(s.expectEvent(t, "Service", "prefers", "UnknownGateway", "nobody", first.Name, second.Name))
	s.reaches(t, target(address, 80))
}
