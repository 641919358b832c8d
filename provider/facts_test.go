package provider

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// What is so in the cluster holds for a last good form too, whatever else is wrong with the newest spec: policy, health check and
// NodePorts, as the API server frees and gives them.
func TestFactsOfAFaultyService(t *testing.T) {
	toLocal, toCluster := local, func(svc *v1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyCluster, 0
	}
	knob := annotate(string(Algorithm), "leastconn")
	servers := []desired.Server{{Name: "a", Address: addr("192.0.2.21"), Weight: 1}}
	localCheck := desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 2000, DownIntervalMillis: 250, Rise: 1, Fall: 3}
	sharedCheck := desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3}
	for name, test := range map[string]struct {
		before, change func(*v1.Service)
		want           func(*desired.LoadBalancer)
	}{
		"to policy Local": {func(*v1.Service) {}, toLocal, func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true, Check: localCheck, Servers: servers}
		}},
		"to policy Local, with a knob": {knob, toLocal, func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.LeastConn, Local: true, Check: localCheck, Servers: servers}
		}},
		"from policy Local": {toLocal, toCluster, func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: sharedCheck, AllNodes: true, Family: 4}
		}},
		"another health check": {toLocal, func(svc *v1.Service) { svc.Spec.HealthCheckNodePort = 32001 },
			func(lb *desired.LoadBalancer) { lb.Pool.Check.Port = 32001 }},
		"another nodePort": {func(*v1.Service) {}, func(svc *v1.Service) { svc.Spec.Ports[1].NodePort = 31080 },
			func(lb *desired.LoadBalancer) { lb.Frontends[0].NodePort = 31080 }},
		"another nodePort, which is checked": {annotate(string(HealthCheckProtocol), "tcp"), func(svc *v1.Service) { svc.Spec.Ports[0].NodePort = 31443 },
			func(lb *desired.LoadBalancer) { lb.Frontends[1].NodePort, lb.Pool.Check.Port = 31443, 31443 }},
		"nothing but wishes": {knob, func(svc *v1.Service) {
			svc.Annotations = map[string]string{string(Algorithm): "source", string(ConnectionLimit): "7"}
		}, func(*desired.LoadBalancer) {}},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22"), named("own", test.before), podsOf("own", pod("10.1.0.1", "a", true, false))}
			inCluster(t, testConfig, nil, objects, func(c *cluster) {
				want := c.manager.held[key("own")].LoadBalancer.Clone()
				test.want(&want)
				c.change("own", func(svc *v1.Service) {
					test.change(svc)
					metav1.SetMetaDataAnnotation(&svc.ObjectMeta, string(LoadBalancerIPs), "nonsense")
				})
				c.wantEvent("own", "nonsense")
				if diff := cmp.Diff(want, c.manager.held[key("own")].LoadBalancer, equalAddresses); diff != "" {
					t.Errorf("served (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func ownSlice(endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := at(podsOf("own", endpoints...), discoveryv1.AddressTypeIPv4, "web/TCP/8080")
	s.Name = "own-by-hand"
	return s
}

// Pods that are none of the Service's any more leave what is served, although its newest spec has none, or no networks of pods are
// configured any more.
func TestPodsLeaveAFaultyService(t *testing.T) {
	one, two := pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "b", true, false)
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("own", noNodePorts), ownSlice(one, two)}
	wrong := func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"nonsense"} }
	for name, change := range map[string]func(*v1.Service){
		"it has nodePorts":          func(svc *v1.Service) { svc.Spec.Ports[0].NodePort, svc.Spec.Ports[1].NodePort = 30080, 30053 },
		"its port has a new number": func(svc *v1.Service) { svc.Spec.Ports[0].Port = 8080 },
		"its selector is wrong":     selecting("x in y"),
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, testConfig+"nodes: {podCIDRs: [10.1.0.0/16]}\n", nil, objects, func(c *cluster) {
				c.wantPods("in the beginning", "own", "10.1.0.1:8080", "10.1.0.2:8080")
				c.change("own", func(svc *v1.Service) { change(svc); wrong(svc) })
				c.wantPods("the newest spec is refused", "own", "10.1.0.1:8080", "10.1.0.2:8080")
				if _, err := c.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), ownSlice(two), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				c.settle()
				c.wantPods("one is gone", "own", "10.1.0.2:8080")
			})
		})
	}
	t.Run("no networks of pods any more", func(t *testing.T) {
		served := func(m *manager) {
			lb := desired.LoadBalancer{Key: key("own"), Addresses: addrs("192.0.2.64"), Frontends: []desired.Frontend{{Name: "web", Protocol: desired.TCP, Port: 80,
				Pool: &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone},
					Servers: []desired.Server{{Name: "10.1.0.1-8080", Address: addr("10.1.0.1"), Port: 8080, Weight: 1}}}}}}
			m.held[key("own")] = loadbalancer.Service{LoadBalancer: lb}
		}
		inCluster(t, testConfig, served, objects, func(c *cluster) {
			c.wantEvent("own", "nodes.podCIDRs")
			c.wantPods("fails closed", "own")
			i := slices.IndexFunc(c.manager.replays, func(r loadbalancer.Replay) bool { return r.Key == key("own") })
			if r := c.manager.replays[i]; r.Service != nil || r.Facts == nil || len(r.Facts.Ports) != 2 || fmt.Sprint(r.Facts.Ports[0].Pods) != "[]" {
				t.Errorf("Manager is told %+v in the beginning", r)
			}
		})
	})
}

// Labels of nodes are looked at for Services that choose by them alone.
func TestLabelsAreNothingToOthers(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("picky", selecting("disk=ssd")), named("knob", annotate(string(Algorithm), "leastconn")),
		named("local", local), named("web")}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		before := c.manager.refilled()
		c.label("a", "192.0.2.21", map[string]string{"disk": "ssd"})
		c.wantPool("it has the label", "picky", "a 1")
		if n := c.manager.refilled() - before; n != 1 {
			t.Errorf("%d Services were looked at", n)
		}
	})
}
