package provider

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func (c *cluster) wantPods(when, service string, want ...string) {
	c.t.Helper()
	c.manager.mu.Lock()
	frontends := c.manager.held[key(service)].LoadBalancer.Frontends
	c.manager.mu.Unlock()
	var got []string
	for _, f := range frontends {
		if f.Pool != nil {
			got = append(got, spell(f.Pool.Servers)...)
		}
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("%s: %s has servers %q, want %q", when, service, got, want)
	}
}

// Pods are followed like nodes, also of a Service without a selector, and a new port number of the same pods is news.
func TestPodsAreFollowed(t *testing.T) {
	slice := func(number int, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := at(podsOf("own", endpoints...), discoveryv1.AddressTypeIPv4, fmt.Sprintf("web/TCP/%d", number))
		s.Name = "own-by-hand"
		return s
	}
	one, two := pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "b", true, false)
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("own", noNodePorts), slice(8080, one)}
	inCluster(t, testConfig+"nodes: {podCIDRs: [10.1.0.0/16]}\n", nil, objects, func(c *cluster) {
		update := func(s *discoveryv1.EndpointSlice) {
			t.Helper()
			if _, err := c.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		c.wantPods("in the beginning", "own", "10.1.0.1:8080")
		update(slice(8080, one, two))
		c.wantPods("one more", "own", "10.1.0.1:8080", "10.1.0.2:8080")
		update(slice(9090, one, two))
		c.wantPods("another port", "own", "10.1.0.1:9090", "10.1.0.2:9090")
		update(slice(9090, pod("10.1.0.1", "a", true, true), two))
		c.wantPods("one leaves", "own", "10.1.0.1:9090 backup", "10.1.0.2:9090")
		refills := c.manager.refilled()
		update(slice(9090, pod("10.1.0.1", "a", true, true), two))
		if n := c.manager.refilled() - refills; n != 0 {
			t.Errorf("%d times the Service was looked at for nothing", n)
		}
		c.wantEnsured([]int{1}, "own")
		update(slice(9090, two, pod("10.9.0.1", "b", true, false)))
		c.wantEvent("own", "EndpointsOutside: 1 endpoints get no connections (10.9.0.1:9090)")
		c.wantPods("one is elsewhere", "own", "10.1.0.2:9090")
		told := c.manager.ensured[key("own")]
		update(slice(9090, two, pod("10.9.0.1", "b", true, false), pod("10.9.0.2", "b", true, false)))
		if n := c.manager.ensured[key("own")] - told; n != 0 {
			t.Errorf("each step of a rollout is told: %d calls", n)
		}
		c.change("own", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"nonsense"} })
		update(slice(9090, one))
		c.wantPods("the newest spec is refused", "own", "10.1.0.1:9090")
		update(slice(9090))
		c.wantPods("nobody is left", "own")
	})
}

// Pods on their node's own network come and go with their Node, wherever nodes.cidrs says that nodes are.
func TestPodsOfHostsFollowNodes(t *testing.T) {
	const networks = "nodes: {podCIDRs: [10.1.0.0/16], cidrs: [192.0.2.0/25]}\n"
	hosts := at(podsOf("own", pod("192.0.2.21", "a", true, false), pod("192.0.2.22", "b", true, false), pod("192.0.2.221", "c", true, false)),
		discoveryv1.AddressTypeIPv4, "web/TCP/8080")
	excluded, outside := worker("b", "192.0.2.22"), worker("c", "192.0.2.221")
	excluded.Labels[v1.LabelNodeExcludeBalancers] = ""
	inCluster(t, testConfig+networks, nil, []runtime.Object{worker("a", "192.0.2.21"), outside, named("own", noNodePorts), hosts}, func(c *cluster) {
		c.wantPods("in the beginning", "own", "192.0.2.21:8080")
		c.wantEvent("own", "EndpointsOutside: 2 endpoints get no connections (192.0.2.22:8080, 192.0.2.221:8080)")
		if _, err := c.client.CoreV1().Nodes().Create(t.Context(), excluded, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.wantPods("a Node comes", "own", "192.0.2.21:8080", "192.0.2.22:8080")
		if err := c.client.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.wantPods("a Node goes", "own", "192.0.2.22:8080")
	})
}

// Where gateways do not reach pods nothing is served, and the Event says what to do.
func TestPodsAreNotReachable(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("own", noNodePorts)}, func(c *cluster) {
		c.wantEvent("own", "nodes.podCIDRs")
	})
}
