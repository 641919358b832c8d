package provider

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/loadbalancer"
)

// strip takes the finalizers off and deletes the object, which is then gone at once.
func (c *cluster) strip(name string) {
	c.t.Helper()
	c.change(name, func(svc *v1.Service) { svc.Finalizers = nil })
	c.erase(name)
}

func (c *cluster) erase(name string) {
	c.t.Helper()
	if err := c.client.CoreV1().Services("default").Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func (c *cluster) wantServed(name string, want bool) {
	c.t.Helper()
	if _, served := c.manager.Has(key(name)); served != want {
		c.t.Errorf("%s is served: %v, want %v", name, served, want)
	}
}

// A Service whose object is gone is not served any more, whoever took its finalizer off.
func TestVanishedServiceIsCleanedUp(t *testing.T) {
	ours := []runtime.Object{worker("a", "192.0.2.21"), named("web", annotate(string(KeepIP), "true")), named("stays")}
	t.Run("at once", func(t *testing.T) {
		inCluster(t, testConfig, nil, ours, func(c *cluster) {
			c.strip("web")
			c.wantServed("web", false)
			if !c.manager.kept[key("web")] {
				t.Error("its annotation keep-ip was not looked at")
			}
			c.wantServed("stays", true)
		})
	})
	t.Run("gateways away", func(t *testing.T) {
		inCluster(t, testConfig, nil, ours, func(c *cluster) {
			c.manager.failing(errAway)
			c.strip("web")
			time.Sleep(time.Hour)
			synctest.Wait()
			c.wantServed("web", true)
			c.manager.failing(nil)
			c.manager.observer.RoundDone(loadbalancer.Round{Reason: "repair"})
			c.settle()
			c.wantServed("web", false)
		})
	})
	t.Run("type changed before, gateways away", func(t *testing.T) {
		inCluster(t, testConfig, nil, ours, func(c *cluster) {
			c.manager.failing(errAway)
			c.change("web", clusterIP)
			c.strip("web")
			c.manager.failing(nil)
			c.manager.observer.RoundDone(loadbalancer.Round{Reason: "repair"})
			c.settle()
			c.wantServed("web", false)
		})
	})
	// The library never saw it of type LoadBalancer, so that it remembers nothing of it.
	t.Run("only the gateways knew it", func(t *testing.T) {
		held := func(m *manager) { m.held[key("other")] = loadbalancer.Service{} }
		inCluster(t, testConfig, held, []runtime.Object{named("other", clusterIP)}, func(c *cluster) {
			c.wantServed("other", true)
			c.erase("other")
			c.wantServed("other", false)
		})
	})
	t.Run("a foreign one", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{named("other", class("example.com/other"))}, func(c *cluster) {
			c.erase("other")
			if len(c.manager.kept) > 0 || len(c.cloud.services.vanished) > 0 {
				t.Errorf("deleted %v, remembered %v", c.manager.kept, c.cloud.services.vanished)
			}
		})
	})
}

func TestVanishedServiceIsMadeAgain(t *testing.T) {
	for name, test := range map[string]struct {
		again  *v1.Service
		served bool
	}{
		"as it was":          {named("web"), true},
		"of another class":   {named("web", class("example.com/other")), false},
		"without a gateway":  {named("web", clusterIP), false},
		"faulty from now on": {named("web", annotate(string(LoadBalancerIPs), "x")), false},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
				c.change("web", func(svc *v1.Service) { svc.Finalizers = nil })
				if err := c.client.CoreV1().Services("default").Delete(t.Context(), "web",
					metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				test.again.UID = "uid-of-another"
				c.create(test.again)
				if _, told := c.manager.kept[key("web")]; !told {
					t.Error("the first one was not deleted")
				}
				c.wantServed("web", test.served)
			})
		})
	}
}

// What was cleaned up as it should be leaves nothing behind.
func TestDeletedServiceIsNotRemembered(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
		c.change("web", deleting)
		c.erase("web")
		if n := len(c.cloud.services.vanished); n != 0 {
			t.Errorf("%d Services are remembered", n)
		}
	})
}
