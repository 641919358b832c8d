package provider

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// What a Service's status says of its addresses, its ports and how pods reach it.
func TestStatus(t *testing.T) {
	vip, proxy := v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy
	datagrams := func(s *v1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053})
	}
	two := onlyIn(v1.IPv4Protocol, v1.IPv6Protocol)
	plain := []v1.PortStatus{{Port: 443, Protocol: "TCP"}, {Port: 80, Protocol: "TCP"}}
	without := func(family string, ports ...v1.PortStatus) (all []v1.PortStatus) {
		problem := "cloud-provider-haproxy/No" + family + "Node"
		for _, port := range ports {
			port.Error = &problem
			all = append(all, port)
		}
		return all
	}
	with53 := append(slices.Clone(plain), v1.PortStatus{Port: 53, Protocol: "UDP"})
	four := []desired.Node{{Name: "b", Addresses: addrs("192.0.2.22")}}
	labelled := among(twoNodes())
	labelled.nodeLabels = map[string]labels.Set{"b": {"zone": "b"}}
	for name, test := range map[string]struct {
		svc       *v1.Service
		mode      v1.LoadBalancerIPMode
		around    circumstances
		addresses []netip.Addr
		want      []v1.LoadBalancerIngress
	}{
		"plain":      {web(), vip, among(twoNodes()), addrs("192.0.2.70"), []v1.LoadBalancerIngress{{IP: "192.0.2.70", IPMode: &vip, Ports: plain}}},
		"no address": {web(), vip, among(twoNodes()), nil, nil},
		"as configured, all protocols": {web(datagrams, two), proxy, among(twoNodes()), addrs("192.0.2.70", "2001:db8::70"),
			[]v1.LoadBalancerIngress{{IP: "192.0.2.70", IPMode: &proxy, Ports: with53}, {IP: "2001:db8::70", IPMode: &proxy, Ports: with53}}},
		"PROXY protocol": {web(annotate(string(ProxyProtocol), "443=v2")), vip, among(twoNodes()), addrs("192.0.2.70"),
			[]v1.LoadBalancerIngress{{IP: "192.0.2.70", IPMode: &proxy, Ports: plain}}},
		"PROXY protocol without TCP": {web(annotate(string(ProxyProtocol), "v2"), func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[:0] },
			datagrams), vip, among(twoNodes()), addrs("192.0.2.70"),
			[]v1.LoadBalancerIngress{{IP: "192.0.2.70", IPMode: &vip, Ports: with53[2:]}}},
		"a name": {web(two, annotate(string(Hostname), "lb.example.com")), vip, among(twoNodes()), addrs("192.0.2.70", "2001:db8::70"),
			[]v1.LoadBalancerIngress{{Hostname: "lb.example.com", Ports: plain}}},
		"a name and no address yet": {web(annotate(string(Hostname), "lb.example.com")), vip, among(twoNodes()), nil, nil},
		// The kernel translates addresses, not IPv4 to IPv6; HAProxy connects to what there is.
		"UDP, and no node with IPv6": {web(datagrams, two), vip, among(four), addrs("192.0.2.70", "2001:db8::70"), []v1.LoadBalancerIngress{
			{IP: "192.0.2.70", IPMode: &vip, Ports: with53},
			{IP: "2001:db8::70", IPMode: &vip, Ports: append(slices.Clone(plain), without("IPv6", with53[2])...)}}},
		"UDP, and no chosen node with IPv6": {web(datagrams, two, annotate(string(NodeSelector), "zone=b")), vip, labelled,
			addrs("2001:db8::70"), []v1.LoadBalancerIngress{
				{IP: "2001:db8::70", IPMode: &vip, Ports: append(slices.Clone(plain), without("IPv6", with53[2])...)}}},
		"a name, and UDP at one of the addresses": {web(datagrams, two, annotate(string(Hostname), "lb.example.com")), vip, among(four),
			addrs("192.0.2.70", "2001:db8::70"), []v1.LoadBalancerIngress{{Hostname: "lb.example.com", Ports: with53}}},
		"IPv6 alone, and no node with it": {web(onlyIn(v1.IPv6Protocol)), vip, among(four), addrs("2001:db8::70"),
			[]v1.LoadBalancerIngress{{IP: "2001:db8::70", IPMode: &vip, Ports: without("IPv6", plain...)}}},
		"no node at all, which is told elsewhere": {web(onlyIn(v1.IPv6Protocol)), vip, among(nil), addrs("2001:db8::70"),
			[]v1.LoadBalancerIngress{{IP: "2001:db8::70", IPMode: &vip, Ports: plain}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := statusOf(test.svc, test.addresses, test.mode, test.around)
			if diff := cmp.Diff(&v1.LoadBalancerStatus{Ingress: test.want}, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			for _, ingress := range got.Ingress {
				for _, port := range ingress.Ports {
					if port.Error != nil && !portErrorForm.MatchString(*port.Error) {
						t.Errorf("the API server refuses the error %q", *port.Error)
					}
				}
			}
		})
	}
}

// portErrorForm is the API's for PortStatus.Error (k8s.io/api/core/v1).
var portErrorForm = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)` +
	`?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$`)

// A Service that publishes a name keeps its address, which its status does not tell, and gets it back when it publishes
// addresses again.
func TestHostname(t *testing.T) {
	promised := named("web", annotate(string(Hostname), "lb.example.com"))
	ingress := func(c *cluster) v1.LoadBalancerIngress {
		c.t.Helper()
		all := c.get("web").Status.LoadBalancer.Ingress
		if len(all) != 1 {
			c.t.Fatalf("status %+v, want one ingress", all)
		}
		return all[0]
	}
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), promised}, func(c *cluster) {
		if got := ingress(c); got.Hostname != "lb.example.com" || got.IP != "" || got.IPMode != nil {
			t.Errorf("status %+v, want the name alone", got)
		}
		c.wantNormalEvent("web", "lb.example.com is published instead of 192.0.2.64, to which it has to resolve")
		time.Sleep(10 * statusPatrol)
		c.wantEnsured([]int{1}, "web")
		c.change("web", annotate(string(AddressPool), "gone")) // what has an address keeps it, with a warning
		c.wantEvent("web", `there is no pool "gone"; there are main; the Service keeps the address that it has`)
		if got := c.told("web").Published; len(got) > 0 {
			t.Errorf("Manager is told that %v is published: it would take it for safe without the gateways", got)
		}
		for _, address := range []string{"192.0.2.99", "192.0.2.64"} { // the name stays the same, and so does the status
			served := c.told("web")
			served.LoadBalancer.Addresses = addrs(address)
			c.manager.serve(served)
			c.change("web", annotate(string(LoadBalancerIPs), address))
			c.wantNormalEvent("web", "lb.example.com is published instead of "+address+", to which it has to resolve")
		}
		c.change("web", func(s *v1.Service) { s.Annotations = nil })
		c.wantAddress("web", "192.0.2.64")
		c.change("web", annotate(string(Hostname), "other.example.com"))
		if got := ingress(c); got.Hostname != "other.example.com" || got.IP != "" {
			t.Errorf("status %+v, want the name alone", got)
		}
		for _, overwritten := range []v1.LoadBalancerIngress{{IP: "192.0.2.64"}, {Hostname: "lb.example.com"}} {
			c.publish("web", overwritten)
			time.Sleep(statusPatrol)
			synctest.Wait()
			if got := ingress(c); got.Hostname != "other.example.com" || got.IP != "" {
				t.Errorf("status %+v after somebody wrote %+v, want the name alone", got, overwritten)
			}
		}
	})
	t.Run("that was published before this process came", func(t *testing.T) {
		old := promised.DeepCopy()
		old.Finalizers = []string{finalizer}
		old.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
		served := func(m *manager) {
			m.held[key("web")] = loadbalancer.Service{LoadBalancer: desired.LoadBalancer{Key: key("web"), Addresses: addrs("192.0.2.99")}}
		}
		inCluster(t, testConfig, served, []runtime.Object{worker("a", "192.0.2.21"), old}, func(c *cluster) {
			if r := c.manager.replays[0]; r.Service == nil || len(r.Published) > 0 || len(r.Service.Published) > 0 {
				t.Errorf("replayed %+v: the status, which outlives the gateways, tells of no address", r)
			}
			c.wantNormalEvent("web", "lb.example.com is published instead of 192.0.2.99, to which it has to resolve")
			c.change("web", func(s *v1.Service) { s.Annotations = nil })
			c.wantAddress("web", "192.0.2.99")
		})
	})
}

// A port that nodes cannot serve any more, or can again, is told without a change of the Service.
func TestPortErrorsFollowNodes(t *testing.T) {
	udp := func(s *v1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053})
	}
	prepare := func(m *manager) {
		m.held[key("web")] = loadbalancer.Service{LoadBalancer: desired.LoadBalancer{Key: key("web"),
			Addresses: addrs("192.0.2.64", "2001:db8::64")}}
	}
	svc := named("web", onlyIn(v1.IPv4Protocol, v1.IPv6Protocol), udp)
	inCluster(t, testConfig, prepare, []runtime.Object{worker("a", "192.0.2.21"), worker("b", "192.0.2.22", "2001:db8::22"), svc},
		func(c *cluster) {
			failing := func() (all []string) {
				for _, ingress := range c.get("web").Status.LoadBalancer.Ingress {
					for _, port := range ingress.Ports {
						if port.Error != nil {
							all = append(all, fmt.Sprintf("%s:%d/%s %s", ingress.IP, port.Port, port.Protocol, *port.Error))
						}
					}
				}
				return all
			}
			if got := failing(); got != nil {
				t.Errorf("errors %q, want none", got)
			}
			if err := c.client.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
			want := []string{"2001:db8::64:53/UDP cloud-provider-haproxy/NoIPv6Node"}
			if got := failing(); !slices.Equal(got, want) {
				t.Errorf("errors %q, want %q", got, want)
			}
			c.wantEvent("web", "NoIPv6Node: none of the nodes that serve the Service has an IPv6 address, so its UDP and SCTP ports are not "+
				"served at its IPv6 address")
			again := worker("b", "192.0.2.22", "2001:db8::22")
			if _, err := c.client.CoreV1().Nodes().Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
			if got := failing(); got != nil {
				t.Errorf("errors %q after the node came back, want none", got)
			}
		})
}
