package provider

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/provider/config"
)

// endpoints updates a Service's slice, or creates it.
func (c *cluster) endpoints(service string, endpoints ...discoveryv1.Endpoint) {
	c.t.Helper()
	all := c.client.DiscoveryV1().EndpointSlices("default")
	_, err := all.Update(c.t.Context(), podsOf(service, endpoints...), metav1.UpdateOptions{})
	if err != nil {
		_, err = all.Create(c.t.Context(), podsOf(service, endpoints...), metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// label gives a node other labels.
func (c *cluster) label(node, address string, with map[string]string) {
	c.t.Helper()
	n := worker(node, address)
	for key, value := range with {
		n.Labels[key] = value
	}
	if _, err := c.client.CoreV1().Nodes().Update(c.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// refilled says how often Refill was called.
func (m *manager) refilled() (all int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.refills {
		all += n
	}
	return all
}

func (c *cluster) wantPool(when, service string, want ...string) {
	c.t.Helper()
	c.manager.mu.Lock()
	pool := c.manager.held[key(service)].LoadBalancer.Pool
	c.manager.mu.Unlock()
	if pool == nil {
		c.t.Errorf("%s: %s has no pool", when, service)
		return
	}
	var got []string
	for _, server := range pool.Servers {
		text := fmt.Sprintf("%s %d", server.Name, server.Weight)
		switch {
		case server.Backup:
			text += " backup"
		case server.Drains:
			text += " drains"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("%s: %s has servers %q, want %q", when, service, got, want)
	}
}

// Servers follow the endpoints at once, without the library, its Events and its patches; what changes nothing, and the endpoints of
// Services in the shared pool, is nobody's business.
func TestEndpointsMoveServers(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22"), named("web"), named("own", local),
		podsOf("own", pod("10.1.0.1", "a", true, false))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.wantPool("in the beginning", "own", "a 1")
		c.endpoints("own", pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "a", true, false), pod("10.1.0.3", "b", false, false))
		c.wantPool("one more, and one that starts", "own", "a 2", "b 1 drains")
		c.endpoints("own", pod("10.1.0.1", "a", true, true), pod("10.1.0.3", "b", true, false))
		c.wantPool("one terminates", "own", "a 1 backup", "b 1")
		c.endpoints("own", pod("10.1.0.3", "b", true, false))
		c.wantPool("it is gone", "own", "b 1")
		refills := c.manager.refilled()
		c.endpoints("web", pod("10.1.0.9", "a", true, false))
		for range 3 {
			same := podsOf("own", pod("10.1.0.3", "b", true, false))
			same.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "now"}
			if _, err := c.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), same, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		if n := c.manager.refilled() - refills; n != 0 {
			t.Errorf("%d times a Service was looked at for nothing", n)
		}
		if err := c.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "own-x7k2p", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.wantPool("the slice is gone", "own")
		c.wantEnsured([]int{1, 1}, "own", "web")
	})
}

// Endpoints that change while a form with the former ones is on its way to the gateways are not forgotten.
func TestEndpointsChangeDuringAnEnsure(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22"), podsOf("own", pod("10.1.0.1", "a", true, false))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		moves := func() {
			_, err := c.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), podsOf("own", pod("10.1.0.2", "b", true, false)),
				metav1.UpdateOptions{})
			if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second / 2) // it is known before this Ensure returns
		}
		c.manager.mu.Lock()
		c.manager.during = &moves
		c.manager.mu.Unlock()
		c.create(named("own", local))
		c.settle()
		c.wantPool("afterwards", "own", "b 1")
	})
}

// The policy goes to Local and back; endpoints that came before it are known.
func TestPolicyChanges(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22"), named("own"), podsOf("own", pod("10.1.0.1", "a", true, false))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.endpoints("own", pod("10.1.0.2", "b", true, false))
		c.change("own", local)
		c.wantPool("Local", "own", "b 1")
		c.change("own", func(svc *v1.Service) {
			svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyCluster, 0
		})
		if _, has := c.manager.pool(key("own")); has {
			t.Error("with policy Cluster it has a pool of its own")
		}
	})
}

// A selector follows labels, annotation and nodes. What it says wrongly changes nothing; when it names nobody, that is told.
func TestNodeSelectorFollowed(t *testing.T) {
	fast := map[string]string{"disk": "ssd"}
	objects := []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22"), named("picky", selecting("disk=ssd")), named("web")}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.wantPool("nobody has the label", "picky")
		c.wantEvent("picky", `NoNodeSelected: annotation cloud-provider-haproxy/node-selector "disk=ssd" matches none of the eligible nodes`)
		c.label("a", "192.0.2.21", fast)
		c.wantPool("a has it", "picky", "a 1")
		before, _ := c.manager.counted()
		c.label("b", "192.0.2.22", fast)
		c.wantPool("both have it", "picky", "a 1", "b 1")
		c.change("picky", selecting("disk in ssd"))
		c.wantEvent("picky", `"disk in ssd" is no label selector`)
		c.label("a", "192.0.2.21", nil)
		c.wantPool("a wrong selector holds what is served", "picky", "a 1", "b 1")
		c.change("picky", selecting("disk=ssd"))
		c.wantPool("mended", "picky", "b 1")
		gone := worker("b", "192.0.2.22")
		gone.Labels["disk"] = "ssd"
		gone.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule}}
		if _, err := c.client.CoreV1().Nodes().Update(t.Context(), gone, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.wantPool("the last one is to be deleted", "picky")
		c.wantEvent("picky", `NoNodeSelected: annotation cloud-provider-haproxy/node-selector "disk=ssd" matches none of the eligible nodes`)
		c.change("picky", func(svc *v1.Service) { delete(svc.Annotations, string(NodeSelector)) })
		if _, has := c.manager.pool(key("picky")); has {
			t.Error("without the annotation it has a pool of its own")
		}
		if after, _ := c.manager.counted(); after-before > 6 {
			t.Errorf("%d calls for 3 changes of the annotation and one Event", after-before)
		}
		c.wantEnsured([]int{1}, "web")
	})
}

// The drain time of the configuration is Manager's.
func TestDrainTimeIsTold(t *testing.T) {
	configuration, err := config.Decode([]byte(testConfig + "nodes: {drainTime: 90s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := settings(Options{Config: configuration}); got.DrainSeconds != 90 {
		t.Errorf("Manager is told %d s", got.DrainSeconds)
	}
}
