package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// testFamiliesChange: the second address comes and goes, the first one and its connections stay, whichever family is first. New
// connections to a Service that has IPv6 first may be lost for a moment: its NodePorts are reached over IPv4 when it has both
// families, and kube-proxy opens and closes those when it, not when the gateways, have heard of it.
func testFamiliesChange(t *testing.T, s *site) {
	for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(family), func(t *testing.T) {
			name := "stack-" + strings.ToLower(string(family))
			s.create(t, service(name, families(corev1.IPFamilyPolicySingleStack, family)))
			first := s.addresses(t, name)[0]
			if first.Is4() != (family == corev1.IPv4Protocol) {
				t.Fatalf("%s got %v", name, first)
			}
			_, err := s.SettledHolder(t.Context(), first)
			must(t, err)
			s.reaches(t, target(first, 80))
			held := s.hold(t, 10, target(first, 80))
			flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{target(first, 80)}, Rate: 40, Timeout: 5 * time.Second})
			must(t, err)
			s.policy(t, name, corev1.IPFamilyPolicyPreferDualStack, family)
			s.awaitCount(t, name, first, 2)
			second := s.addresses(t, name)[1]
			s.reaches(t, target(second, 80))
			s.policy(t, name, corev1.IPFamilyPolicySingleStack, family)
			s.awaitCount(t, name, first, 1)
			s.awaitReleased(t, second)
			s.policy(t, name, corev1.IPFamilyPolicyRequireDualStack, family)
			s.awaitCount(t, name, first, 2)
			s.reaches(t, target(s.addresses(t, name)[1], 80))
			uncut(t, held)
			report, err := flow.Stop()
			must(t, err)
			t.Log(report)
			if report.Failed > 0 && first.Is4() || report.LongestGap > 2*time.Second {
				t.Errorf("the first address meanwhile: %v", report)
			}
		})
	}
}

// testOneFamilyPool: where no pool has the second family, who prefers two addresses has one, and who requires two has none, or what it
// had before.
func testOneFamilyPool(t *testing.T, s *site) {
	s.withPools(t, `- {name: four, addresses: [192.0.2.242-192.0.2.244], autoAssign: false}`)
	s.create(t, service("prefers", annotated(poolAnnotation, "four"), families(corev1.IPFamilyPolicyPreferDualStack)))
	address := s.addresses(t, "prefers")[0]
	s.awaitCount(t, "prefers", address, 1)
	s.reaches(t, target(address, 80))
	held := s.hold(t, 10, target(address, 80))
	s.create(t, service("requires", annotated(poolAnnotation, "four"), families(corev1.IPFamilyPolicyRequireDualStack)))
	t.Log(s.expectEvent(t, "Service", "requires", "Warning", "four", "IPv6"))
	s.pending(t, "requires")
	s.policy(t, "prefers", corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol)
	t.Log(s.expectEvent(t, "Service", "prefers", "Warning", "four", "IPv6"))
	s.awaitCount(t, "prefers", address, 1)
	s.policy(t, "requires", corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)
	s.reaches(t, target(s.addresses(t, "requires")[0], 80))
	uncut(t, held)
}

// testOneFamilyNodes: one node has an IPv4 address only, one an IPv6 address only, one has both. VIPs of both families are served by
// all of them over TCP, for HAProxy speaks the node's family whatever the client speaks, and over UDP by those that speak the client's.
// A Service of one family has NodePorts of that family alone: nodes without it are none of its servers.
func testOneFamilyNodes(t *testing.T, s *site) {
	four, six := s.Lab.Workers[0], s.Lab.Workers[1]
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, "nodes:\n", fmt.Sprintf("nodes:\n  addresses: {%s: [%s], %s: [%q]}\n", four.Name, four.Addr4, six.Name, six.Addr6), 1)
	})
	all := []string{"web-0", "web-1", "web-2"}
	tests := []struct {
		name     string
		families []corev1.IPFamily
		by       []string          // over TCP, where the Pod tells the node
		byUDP    map[bool][]string // by whether the VIP is IPv4
	}{
		{"dual", []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, all, map[bool][]string{true: {"web-0", "web-2"}, false: {"web-1", "web-2"}}},
		{"four", []corev1.IPFamily{corev1.IPv4Protocol}, []string{"web-0", "web-2"}, map[bool][]string{true: {"web-0", "web-2"}}},
		{"six", []corev1.IPFamily{corev1.IPv6Protocol}, []string{"web-1", "web-2"}, map[bool][]string{false: {"web-1", "web-2"}}},
	}
	for _, test := range tests {
		policy := corev1.IPFamilyPolicySingleStack
		if len(test.families) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		s.create(t, service("shared-"+test.name, families(policy, test.families...), withDNS))
		s.create(t, service("local-"+test.name, families(policy, test.families...), withDNS, local))
	}
	for _, test := range tests {
		for _, a := range s.addresses(t, "local-"+test.name) {
			s.awaitAnswers(t, target(a, 80), test.by...)
			s.awaitDatagrams(t, target(a, 53), test.byUDP[a.Is4()]...)
		}
		for _, a := range s.addresses(t, "shared-"+test.name) {
			s.awaitAnswers(t, target(a, 80), all...) // kube-proxy goes on to any Pod
			s.asks(t, target(a, 80), 60)
			s.awaitDatagrams(t, target(a, 53), all...)
		}
	}
	t.Log(s.expectEvent(t, "Service", "shared-four", "Warning", "NodeWithoutIPv4", six.Name))
	s.portsAreInVain(t, four, six)
}

// portsAreInVain: a Service of both families is left with nodes of one. Its TCP port is served at both addresses, its UDP port at one;
// the status says so of the other, until there is a node for it.
func (s *site) portsAreInVain(t *testing.T, four, six *lab.Host) {
	t.Helper()
	among := func(nodes ...string) func(*corev1.Service) {
		return annotated(selectorAnnotation, "kubernetes.io/hostname in ("+strings.Join(nodes, ",")+")")
	}
	s.create(t, service("in-vain", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol), withDNS, among(four.Name)))
	addresses := s.addresses(t, "in-vain")
	errors := func(want map[bool]string) { // of the UDP port, by whether the address is IPv4
		t.Helper()
		s.await(t, fmt.Sprintf("the status to say %v", want), func(ctx context.Context) error {
			svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, "in-vain", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, i := range svc.Status.LoadBalancer.Ingress {
				for _, p := range i.Ports {
					said, is4 := "", netip.MustParseAddr(i.IP).Is4()
					if p.Error != nil {
						said = *p.Error
					}
					if p.Protocol == corev1.ProtocolTCP && said != "" || p.Protocol == corev1.ProtocolUDP && said != want[is4] {
						return fmt.Errorf("it says %q of %v at %s", said, p.Protocol, i.IP)
					}
				}
			}
			return nil
		})
	}
	const no4, no6 = prefix + "NoIPv4Node", prefix + "NoIPv6Node"
	for _, step := range []struct {
		node   *lab.Host
		errors map[bool]string
	}{{four, map[bool]string{false: no6}}, {six, map[bool]string{true: no4}}} {
		s.change(t, "in-vain", among(step.node.Name))
		errors(step.errors)
		t.Log(s.expectEvent(t, "Service", "in-vain", "Warning", strings.TrimPrefix(step.errors[true]+step.errors[false], prefix), "UDP"))
		for _, a := range addresses {
			s.awaitAnswers(t, target(a, 80), "web-0", "web-1", "web-2")
			if step.errors[a.Is4()] == "" {
				s.awaitDatagrams(t, target(a, 53), "web-0", "web-1", "web-2")
			} else if who, err := s.datagram(target(a, 53)); err == nil {
				t.Errorf("%s answers at %s, which the status calls in vain", who, target(a, 53))
			}
		}
	}
	s.change(t, "in-vain", among(four.Name, six.Name))
	errors(nil)
	for _, a := range addresses {
		s.awaitDatagrams(t, target(a, 53), "web-0", "web-1", "web-2")
	}
}

// policy changes a Service's ipFamilyPolicy.
func (s *site) policy(t *testing.T, name string, policy corev1.IPFamilyPolicy, first corev1.IPFamily) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"ipFamilyPolicy":%q}}`, policy)
	if policy == corev1.IPFamilyPolicySingleStack {
		patch = fmt.Sprintf(`{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":[%q]}}`, first)
	}
	_, err := s.Client.CoreV1().Services(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

// awaitCount waits until a Service has so many addresses, the first of which is this one.
func (s *site) awaitCount(t *testing.T, name string, first netip.Addr, want int) {
	t.Helper()
	s.await(t, fmt.Sprintf("%s to have %d addresses", name, want), func(context.Context) error {
		if got := s.addresses(t, name); len(got) != want || got[0] != first {
			return fmt.Errorf("it has %v, want %s first", got, first)
		}
		return nil
	})
}
