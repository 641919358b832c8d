package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// routesToPods gives gateways routes to all pods, and lets them send traffic there.
func (s *site) routesToPods(t *testing.T) {
	t.Helper()
	pods := []string{"10.244.0.0/16", "fd00:10:244::/48"} // of package cluster
	for _, g := range s.Lab.Gateways {
		for i, w := range s.Lab.Workers {
			for _, argv := range [][]string{
				{"ip", "route", "replace", fmt.Sprintf("10.244.%d.0/24", i+1), "via", w.Addr4.String()},
				{"ip", "route", "replace", fmt.Sprintf("fd00:10:244:%d::/64", i+1), "via", w.Addr6.String()},
			} {
				_, err := g.Run(t.Context(), argv...)
				must(t, err)
			}
		}
		limits, err := g.ReadFile(lab.LimitsFile)
		must(t, err)
		must(t, g.WriteFile(lab.LimitsFile, []byte(strings.Replace(string(limits), "serverPrefixes: [", fmt.Sprintf("serverPrefixes: [%q, %q, ", pods[0], pods[1]), 1)), 0o644))
		t.Cleanup(func() { must(t, g.WriteFile(lab.LimitsFile, limits, 0o644)) })
	}
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, "nodes:\n", fmt.Sprintf("nodes:\n  podCIDRs: [%q, %q]\n", pods[0], pods[1]), 1)
	})
}

// awaitPods waits until new connections and new flows to each address are answered by exactly these pods.
func (s *site) awaitPods(t *testing.T, name string, pods ...string) {
	t.Helper()
	for _, address := range s.addresses(t, name) {
		s.awaitAnswers(t, target(address, 80), pods...)
		s.awaitDatagrams(t, target(address, 53), pods...)
	}
}

// testPodTargets: a Service without NodePorts waits until the configuration says that gateways reach pods. Then its pods serve, of TCP
// and UDP and both families, each as much as the others; they come and go without a reload, and no connection fails for it.
func testPodTargets(t *testing.T, s *site) {
	names := workers(s.Lab)
	s.pods(t, "direct", names[0], names[0], names[1])
	s.create(t, service("direct", inFrontOf("direct"), local, families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol),
		withDNS, func(svc *corev1.Service) { svc.Spec.AllocateLoadBalancerNodePorts = new(false) }))
	t.Log(s.expectEvent(t, "Service", "direct", "Warning", "no nodePort", "nodes.podCIDRs"))
	s.pending(t, "direct")
	s.routesToPods(t)
	s.awaitPods(t, "direct", "direct-0", "direct-1", "direct-2")
	s.podsOfHosts(t)
	before := s.count(t)
	at := target(s.addresses(t, "direct")[0], 80)
	by := s.asks(t, at, 300)
	for _, pod := range slices.Sorted(maps.Keys(by)) {
		if by[pod] < 95 || by[pod] > 105 {
			t.Errorf("%s got %d of 300 connections, want a third", pod, by[pod])
		}
	}
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	held := s.hold(t, 8, at)
	s.readiness(t, "direct-1", corev1.ConditionFalse)
	s.awaitPods(t, "direct", "direct-0", "direct-2")
	s.readiness(t, "direct-1", corev1.ConditionTrue)
	s.awaitPods(t, "direct", "direct-0", "direct-1", "direct-2")
	report, err := flow.Stop()
	must(t, err)
	if report.Failed > 0 {
		t.Errorf("a pod drained and added: %v; want none failed", report)
	}
	uncut(t, held)
	must(t, s.Client.CoreV1().Pods(namespace).Delete(t.Context(), "direct-0", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	s.awaitPods(t, "direct", "direct-1", "direct-2")
	// With NodePorts, nodes serve, at the addresses that it has.
	addresses := s.addresses(t, "direct")
	s.change(t, "direct", func(svc *corev1.Service) { svc.Spec.AllocateLoadBalancerNodePorts = new(true) })
	s.healthCheckNodePort(t, "direct")
	for _, a := range addresses {
		s.awaitRoute(t, a, "slot-")
	}
	s.awaitPods(t, "direct", "direct-1", "direct-2")
	if now := s.addresses(t, "direct"); !slices.Equal(now, addresses) {
		t.Errorf("it had %v and has %v", addresses, now)
	}
	for _, pod := range []string{"direct-1", "direct-2"} {
		s.readiness(t, pod, corev1.ConditionFalse)
	}
	s.awaitRefused(t, s.client, at)
	if done := s.count(t).since(before, len(s.Lab.Gateways)); done.reloads != 0 {
		t.Errorf("HAProxy was reloaded %d times", done.reloads)
	}
}

// podsOfHosts: pods on their node's own network serve too, at the addresses of Nodes. Nobody else in that network is connected to, and
// no gateway, whatever an EndpointSlice says.
func (s *site) podsOfHosts(t *testing.T) {
	t.Helper()
	const number = 9100
	for _, machine := range append(slices.Clone(s.Lab.Workers), s.Lab.Client, s.Lab.Gateways[0]) {
		process, err := machine.Start("host-pod", s.Lab.Program("backend"), "-name", "host-"+machine.Name, "-listen", fmt.Sprintf(":%d", number))
		must(t, err)
		t.Cleanup(func() { must(t, process.Stop()) })
		must(t, process.AwaitLine(t.Context(), "ready"))
	}
	var serving []string
	for _, w := range s.Lab.Workers {
		serving = append(serving, "host-"+w.Name)
	}
	s.create(t, service("hosts", func(svc *corev1.Service) {
		svc.Spec.Selector, svc.Spec.AllocateLoadBalancerNodePorts = nil, new(false)
	}))
	s.slice(t, "hosts", []string{"http"}, number, append(slices.Clone(s.Lab.Workers), s.Lab.Client, s.Lab.Gateways[0])...)
	s.awaitAnswers(t, target(s.addresses(t, "hosts")[0], 80), serving...)
	t.Log(s.expectEvent(t, "Service", "hosts", "Warning", "EndpointsOutside", s.Lab.Client.Addr4.String(), s.Lab.Gateways[0].Addr4.String(), "Nodes"))
}
