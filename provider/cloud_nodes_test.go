package provider

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestNodesMoveServers(t *testing.T) {
	local := named("local", func(svc *v1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
	})
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("web"), local,
		podsOf("local", pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "b", true, false))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		ensures, sets := c.manager.counted()
		if ensures != 2 || sets != 1 {
			t.Fatalf("%d calls and %d node sets in the beginning, want 2 and 1", ensures, sets)
		}
		nodes := c.client.CoreV1().Nodes()
		if _, err := nodes.Create(t.Context(), worker("b", "192.0.2.22"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if names, _ := c.manager.pool(key("local")); !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("servers %q of the Service with its own pool, want a and b", names)
		}
		if ensures, sets := c.manager.counted(); ensures != 2 || sets != 2 {
			t.Errorf("%d calls and %d node sets, want 2 and 2: the servers are moved without the library", ensures, sets)
		}

		// What a kubelet writes every few seconds changes nothing.
		for range 20 {
			b := worker("b", "192.0.2.22")
			b.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse,
				LastHeartbeatTime: metav1.Now()}}
			if _, err := nodes.UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		if ensures, sets := c.manager.counted(); ensures != 2 || sets != 2 {
			t.Errorf("%d calls and %d node sets after heartbeats, want 2 and 2", ensures, sets)
		}

		for _, name := range []string{"a", "b"} {
			node := worker(name, "192.0.2.21")
			node.Labels[v1.LabelNodeExcludeBalancers] = ""
			if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		const told = "2 of 2 nodes carry the label node.kubernetes.io/exclude-from-external-load-balancers"
		c.wantEvent("web", told)
		c.wantEvent("local", told)
		c.create(named("late"))
		c.wantEvent("late", told)
		for _, action := range c.client.Actions() {
			if action.GetResource().Resource == "nodes" && slices.Contains([]string{"patch", "delete"},
				action.GetVerb()) {
				t.Errorf("a Node was written: %v", action)
			}
		}
	})
}

// A Service that is served in its last good form gets today's nodes all the same.
func TestNodesMoveServersOfAFaultyService(t *testing.T) {
	local := named("local", func(svc *v1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
	})
	own := named("own", annotate(string(Algorithm), "leastconn"))
	inCluster(t, testConfig, nil, []runtime.Object{worker("old", "192.0.2.21"), local, own,
		podsOf("local", pod("10.1.0.1", "old", true, false), pod("10.1.0.2", "new", true, false))}, func(c *cluster) {
		c.change("local", annotate(string(LoadBalancerIPs), "x"))
		c.change("own", func(svc *v1.Service) { // which would need no servers of its own any more
			svc.Annotations = map[string]string{string(LoadBalancerIPs): "x"}
		})
		nodes := c.client.CoreV1().Nodes()
		if _, err := nodes.Create(t.Context(), worker("new", "192.0.2.22"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := nodes.Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if names, _ := c.manager.pool(key("local")); !slices.Equal(names, []string{"new"}) {
			t.Errorf("servers %q, want those of today", names)
		}
		if pool := c.manager.held[key("own")].LoadBalancer.Pool; pool == nil || !pool.AllNodes || len(pool.Servers) > 0 {
			t.Errorf("pool %+v, want one of all nodes", pool)
		}
	})
}

// An IPv6-only Service hears of it when the last node with an IPv6 address goes; other changes of nodes are none of
// its.
func TestLastNodeWithIPv6Goes(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21", "2001:db8::21"), worker("b", "192.0.2.22"),
		named("six", onlyIn(v1.IPv6Protocol)), named("web")}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		nodes := c.client.CoreV1().Nodes()
		if _, err := nodes.Create(t.Context(), worker("c", "192.0.2.23"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if ensures, _ := c.manager.counted(); ensures != 2 {
			t.Errorf("%d calls after a node without IPv6 came, want the 2 of the beginning", ensures)
		}
		if err := nodes.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.wantEvent("six", "NoIPv6Node")
		if ensures, _ := c.manager.counted(); ensures != 3 {
			t.Errorf("%d calls after the last node with IPv6 went, want one more", ensures)
		}
	})
}

// So does an IPv4-only one when a node without an IPv4 address comes.
func TestNodeWithoutIPv4Comes(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("four", onlyIn(v1.IPv4Protocol)),
		named("two", onlyIn(v1.IPv4Protocol, v1.IPv6Protocol))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		for _, node := range []*v1.Node{worker("b", "192.0.2.22", "2001:db8::22"), worker("c", "2001:db8::23")} {
			if _, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		c.wantEvent("four", "NodeWithoutIPv4: spec.ipFamilies is [IPv4] and 1 of 3 eligible nodes have no IPv4 "+
			"address (c)")
		c.wantEnsured([]int{2, 1}, "four", "two")
		for _, node := range []*v1.Node{worker("d", "192.0.2.24"), worker("e", "2001:db8::25"), worker("f", "2001:db8::26")} { // an autoscaler's
			if _, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
			c.change("four", annotate("example.com/x", node.Name))
		}
		if told := c.events("four"); len(told) != 1 {
			t.Errorf("told with each node: %q", told)
		}
	})
}
