package provider

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Whoever goes says whether its address stays reserved, however it goes.
func TestKeepIP(t *testing.T) {
	keepIP := annotate(string(KeepIP), "true")
	for name, test := range map[string]struct {
		change []func(*v1.Service)
		leave  func(*v1.Service)
		want   bool
	}{
		"deleted": {[]func(*v1.Service){keepIP}, deleting, true},
		"of our class, deleted": {[]func(*v1.Service){keepIP, class("cloud-provider-haproxy/gateway")},
			deleting, true},
		"type changed":            {[]func(*v1.Service){keepIP}, clusterIP, true},
		"deleted, not kept":       {nil, deleting, false},
		"type changed, not kept":  {[]func(*v1.Service){annotate(string(KeepIP), "false")}, clusterIP, false},
		"annotation with the end": {nil, func(svc *v1.Service) { keepIP(svc); deleting(svc) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web", test.change...)},
				func(c *cluster) {
					c.wantAddress("web", "192.0.2.64")
					c.change("web", test.leave)
					c.wantFinalizer("web", false)
					if kept, told := c.manager.kept[key("web")]; !told || kept != test.want {
						t.Errorf("told to keep: %v (deleted: %v), want %v", kept, told, test.want)
					}
				})
		})
	}
}

// A Service with keep-ip that went while nobody ran is replayed, so that its address is not free before the service
// controller has deleted it.
func TestKeepIPWhileWeWereAway(t *testing.T) {
	keepIP := annotate(string(KeepIP), "true")
	other := class("example.com/other")
	objects := []runtime.Object{
		worker("a", "192.0.2.21"),
		named("deleted", keepIP, keeping(finalizer), deleting, publishing("192.0.2.90")),
		named("changed", keepIP, keeping(finalizer), clusterIP),
		named("pending", keepIP, keeping(finalizer), clusterIP, addedBy(us)),
		named("not-kept", keeping(finalizer), deleting, publishing("192.0.2.91")),
		named("no-finalizer", keepIP, clusterIP),
		named("foreign", keepIP, keeping(finalizer), clusterIP),
		named("foreign-deleted", keepIP, keeping(finalizer), other, deleting),
	}
	held := func(m *manager) {
		for _, name := range []string{"deleted", "changed", "not-kept"} {
			m.held[key(name)] = loadbalancer.Service{LoadBalancer: desired.LoadBalancer{Key: key(name)}}
		}
	}
	inCluster(t, testConfig, held, objects, func(c *cluster) {
		var replayed []string
		for _, r := range c.manager.replays {
			replayed = append(replayed, r.Key.Name)
			if r.Service != nil {
				t.Errorf("%s is replayed in a new form", r.Key)
			}
			if r.Key.Name == "deleted" && !slices.Equal(r.Published, addrs("192.0.2.90")) {
				t.Errorf("%s has published %v", r.Key, r.Published)
			}
		}
		if want := []string{"changed", "deleted", "pending"}; !slices.Equal(replayed, want) {
			t.Errorf("replayed %q, want %q", replayed, want)
		}
		if diff := cmp.Diff(map[desired.Key]bool{key("deleted"): true, key("changed"): true, key("not-kept"): false},
			c.manager.kept); diff != "" {
			t.Errorf("deleted and kept (-want +got):\n%s", diff)
		}
		c.wantFinalizer("foreign", true)
		c.wantFinalizer("foreign-deleted", true)
	})
}

// What is told in Replay lets Manager claim a shared address also for a Service that is faulty.
func TestReplayTellsSharing(t *testing.T) {
	faulty := named("faulty", annotate(string(AllowSharedIP), "k"), annotate(string(LoadBalancerIPs), "x"),
		publishing("192.0.2.90"))
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), faulty}, func(c *cluster) {
		if len(c.manager.replays) != 1 {
			t.Fatalf("replayed %+v", c.manager.replays)
		}
		if r := c.manager.replays[0]; r.Service != nil || r.Sharing.Key != "k" || len(r.Sharing.Ports) != 2 {
			t.Errorf("replayed %+v; want no form, the key and two ports", r)
		}
	})
	inCluster(t, testConfig+"readForeignAnnotations: true\n", nil, []runtime.Object{worker("a", "192.0.2.21"),
		named("plain", publishing("192.0.2.90"))}, func(c *cluster) {
		if r := c.manager.replays[0]; !r.Sharing.Keyless || len(r.Sharing.Ports) != 2 {
			t.Errorf("replayed %+v; want that it stays beside others, as under kube-vip", r)
		}
	})
}

// A Service that nobody can serve is forgotten when it is gone.
func TestGoneServicesAreForgotten(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"),
		named("web", annotate(string(AddressPool), "gold"), annotate(Prefix+"x", "1"))}, func(c *cluster) {
		if len(c.cloud.balancer.waiting.keys) != 1 || len(c.cloud.balancer.warnings.told) != 1 {
			t.Fatalf("waiting %v, told %v", c.cloud.balancer.waiting.keys, c.cloud.balancer.warnings.told)
		}
		if err := c.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if len(c.cloud.balancer.waiting.keys) != 0 || len(c.cloud.balancer.warnings.told) != 0 {
			t.Errorf("waiting %v, told %v after it was deleted", c.cloud.balancer.waiting.keys,
				c.cloud.balancer.warnings.told)
		}
	})
}
