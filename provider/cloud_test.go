package provider

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestServiceGetsAddressAndIsCleanedUp(t *testing.T) {
	for name, svc := range map[string]*v1.Service{
		"of our class":    named("web", class("cloud-provider-haproxy/gateway")),
		"without a class": named("web"),
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21")}, func(c *cluster) {
				c.create(svc)
				c.wantAddress("web", "192.0.2.64")
				c.wantFinalizer("web", true)
				got := c.get("web")
				if diff := cmp.Diff(svc.Spec, got.Spec); diff != "" {
					t.Errorf("the spec was written:\n%s", diff)
				}
				if mode := got.Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != v1.LoadBalancerIPModeVIP {
					t.Errorf("ipMode %v, want VIP", mode)
				}
				for _, action := range c.client.Actions() {
					if patch, ok := action.(clienttesting.PatchAction); ok &&
						strings.Contains(string(patch.GetPatch()), "lass") {
						t.Errorf("a patch tells what the view hides: %s", patch.GetPatch())
					}
				}
				if told := c.events("web"); len(told) > 0 {
					t.Errorf("warnings %q", told)
				}
				c.change("web", deleting)
				c.wantFinalizer("web", false)
				if _, held := c.manager.Has(key("web")); held {
					t.Error("a deleted Service is still served")
				}
			})
		})
	}
}

func TestNothingForeignIsTouched(t *testing.T) {
	foreign := []runtime.Object{
		worker("a", "192.0.2.21"),
		named("class", class("example.com/other"), keeping("example.com/x")),
		named("deleted-class", class("example.com/other"), keeping(finalizer), deleting),
		named("was-lb", clusterIP, keeping(finalizer, "example.com/x")),
		named("deleted-was-lb", clusterIP, keeping(finalizer), deleting),
	}
	unclassed := []runtime.Object{named("unclassed"), named("deleted-unclassed", keeping(finalizer), deleting)}
	for name, test := range map[string]struct {
		yaml    string
		objects []runtime.Object
	}{
		"unclassed are ours":     {testConfig, foreign},
		"unclassed are not ours": {testConfig + "serveUnclassed: false\n", append(foreign, unclassed...)},
	} {
		t.Run(name, func(t *testing.T) {
			unknown := func(m *manager) { m.fail, m.loaded = errAway, make(chan struct{}) }
			inCluster(t, test.yaml, unknown, test.objects, func(c *cluster) {
				c.manager.failing(nil)
				close(c.manager.loaded)
				time.Sleep(10 * time.Minute) // several resyncs of the library
				for _, action := range c.client.Actions() {
					if action.GetResource().Resource == "services" && !slices.Contains([]string{"list", "watch"},
						action.GetVerb()) {
						t.Errorf("a foreign Service was written: %v", action)
					}
				}
				if list, err := c.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{}); err != nil ||
					len(list.Items) > 0 {
					t.Errorf("a foreign Service was told of: %+v, %v", list.Items, err)
				}
				if ensures, _ := c.manager.counted(); ensures > 0 || len(c.manager.replays) > 0 {
					t.Errorf("a foreign Service was served: %d calls, replayed %v", ensures, c.manager.replays)
				}
			})
		})
	}
}

// A change of type clears class and status, so that the object does not say any more whose it was.
func TestTypeChangedAway(t *testing.T) {
	held := func(m *manager) {
		m.held[key("web")] = loadbalancer.Service{LoadBalancer: desired.LoadBalancer{Key: key("web")}}
	}
	t.Run("while we run", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"),
			named("web", class("cloud-provider-haproxy/gateway"))}, func(c *cluster) {
			c.wantAddress("web", "192.0.2.64")
			c.change("web", clusterIP)
			c.wantFinalizer("web", false)
			if _, held := c.manager.Has(key("web")); held {
				t.Error("the Service is still served")
			}
			c.change("web", func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
			c.wantAddress("web", "192.0.2.65")
		})
	})
	t.Run("while we were away", func(t *testing.T) {
		inCluster(t, testConfig, held, []runtime.Object{named("web", clusterIP, keeping(finalizer, "example.com/x"))},
			func(c *cluster) {
				if got := c.get("web").Finalizers; !slices.Equal(got, []string{"example.com/x"}) {
					t.Errorf("finalizers %q; ours must go and the other stay", got)
				}
			})
	})
	t.Run("never served", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{named("web", clusterIP, keeping(finalizer), addedBy(us))},
			func(c *cluster) {
				c.wantFinalizer("web", false)
			})
	})
	t.Run("gateways' State unknown at first", func(t *testing.T) {
		unknown := func(m *manager) { m.fail, m.loaded = errAway, make(chan struct{}) }
		objects := []runtime.Object{named("web", clusterIP, keeping(finalizer)),
			named("gone", keeping(finalizer), deleting)}
		inCluster(t, testConfig, unknown, objects, func(c *cluster) {
			c.wantFinalizer("web", true)
			c.wantFinalizer("gone", true) // perhaps still served
			c.manager.failing(nil)
			held(c.manager)
			close(c.manager.loaded)
			c.settle()
			c.wantFinalizer("web", false)
			time.Sleep(time.Minute)
			c.wantFinalizer("gone", false)
		})
	})
}

func TestReplayBeforeAnything(t *testing.T) {
	objects := []runtime.Object{
		worker("a", "192.0.2.21"),
		named("good", func(svc *v1.Service) {
			svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.99"}}
		}),
		named("bad", annotate(string(LoadBalancerIPs), "x")),
		named("deleted", keeping(finalizer), deleting),
		named("other", class("example.com/other")),
	}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		var got []string
		for _, r := range c.manager.replays {
			got = append(got, r.Key.Name)
			if (r.Service == nil) != (r.Key.Name == "bad") {
				t.Errorf("%s: Service %v", r.Key, r.Service)
			}
		}
		if !slices.Equal(got, []string{"bad", "good"}) {
			t.Errorf("replayed %q, want bad and good", got)
		}
		if good := c.manager.replays[1]; !slices.Equal(good.Published, good.Service.Published) ||
			good.Published[0] != addr("192.0.2.99") {
			t.Errorf("published %v and %v, want 192.0.2.99", good.Published, good.Service.Published)
		}
		c.wantEvent("bad", `annotation cloud-provider-haproxy/load-balancer-ips "x"`)
	})
}

func TestRetries(t *testing.T) {
	tests := []struct {
		name  string
		fail  error
		every time.Duration
	}{
		{"gateways away", errAway, 5 * time.Second},
		{"stopped", loadbalancer.ErrStopped, 5 * time.Second},
		{"exhausted", &ipam.ExhaustedError{Family: ipam.IPv4}, 30 * time.Second},
		{"refused by a gateway", &loadbalancer.ServiceFaultError{Key: key("web"), Problems: []string{"no"}},
			30 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, testConfig, func(m *manager) { m.fail = test.fail },
				[]runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
					before, _ := c.manager.counted()
					time.Sleep(10 * test.every)
					synctest.Wait()
					if after, _ := c.manager.counted(); after-before != 10 {
						t.Errorf("%d calls in ten times %s, want ten", after-before, test.every)
					}
					c.wantEvent("web", test.fail.Error())
				})
		})
	}
}

func TestWaitersAreWoken(t *testing.T) {
	tests := []struct {
		name string
		fail error
		then func(loadbalancer.Observer)
	}{
		{"an address is freed", &ipam.ExhaustedError{Family: ipam.IPv4},
			func(o loadbalancer.Observer) { o.AddressFreed(addr("192.0.2.70")) }},
		{"a taken address is freed", &ipam.TakenError{Address: addr("192.0.2.70")},
			func(o loadbalancer.Observer) { o.AddressFreed(addr("192.0.2.70")) }},
		{"a gateway is back", errAway, func(o loadbalancer.Observer) {
			o.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", InSync: true})
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, testConfig, func(m *manager) { m.fail = test.fail },
				[]runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
					c.manager.failing(nil)
					start := time.Now()
					test.then(c.manager.observer)
					c.settle()
					c.wantAddress("web", "192.0.2.64")
					if waited := time.Since(start); waited > 2*time.Second {
						t.Errorf("it took %s", waited)
					}
				})
		})
	}
	// A deletion that failed is backed off to 300 s by the library, which ignores a RetryError there.
	t.Run("a deletion", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
			c.manager.failing(errAway)
			c.change("web", deleting)
			c.wantFinalizer("web", true)
			c.manager.failing(nil)
			c.manager.observer.RoundDone(loadbalancer.Round{Reason: "repair"})
			c.settle()
			c.wantFinalizer("web", false)
		})
	})
}

func TestWarningsAreToldOnce(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"),
		named("web", annotate("cloud-provider-haproxy/x", "1"))}, func(c *cluster) {
		c.wantEvent("web", "annotation cloud-provider-haproxy/x is not known")
		for i := range 5 {
			c.change("web", annotate("example.com/n", string(rune('a'+i))))
		}
		list, err := c.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == "UnknownAnnotation" && e.Count != 1 {
				t.Errorf("told %d times", e.Count)
			}
		}
		c.manager.observer.ServiceNotice(key("web"), errors.New("another has its address"))
		c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", Err: errAway.Gateways[0].Err})
		c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1",
			Err: errors.New("gateway gw1 (192.0.2.2:22) is unreachable")})
		c.settle()
		c.wantEvent(EpochName, "GatewayAway: gateway gw1 (192.0.2.2:22) is unreachable")
		c.wantEvent("web", "LoadBalancerNotice: another has its address")
		c.wantEvent(EpochName, "GatewayAway: gateway gw1: connection refused; is sshd running?")
	})
}

func TestAnotherControllerLeads(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		deposed := &loadbalancer.DeposedError{}
		c.manager.ended <- deposed
		c.settle()
		if len(c.ended) != 1 || !errors.Is(c.ended[0], deposed) {
			t.Errorf("told %v, want the reason why Manager ended, once", c.ended)
		}
	})
}
