package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// at gives a slice ports, each NAME/PROTOCOL/NUMBER, and its address type.
func at(slice *discoveryv1.EndpointSlice, family discoveryv1.AddressType, ports ...string) *discoveryv1.EndpointSlice {
	slice.AddressType, slice.Ports = family, nil
	slice.Name = fmt.Sprintf("%s-%s-%s", slice.Name, strings.ToLower(string(family)), strings.ToLower(strings.NewReplacer("/", "-").Replace(strings.Join(ports, "-"))))
	for _, text := range ports {
		var number int32
		words := strings.Split(text, "/")
		if _, err := fmt.Sscan(words[2], &number); err != nil {
			panic(err)
		}
		protocol := v1.Protocol(words[1])
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &words[0], Protocol: &protocol, Port: &number})
	}
	return slice
}

// noNodePorts is a Service whose ports have no nodePort: web over TCP and dns over UDP.
func noNodePorts(svc *v1.Service) {
	no := false
	svc.Spec.AllocateLoadBalancerNodePorts = &no
	svc.Spec.Ports = []v1.ServicePort{{Name: "web", Protocol: v1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: v1.ProtocolUDP, Port: 53}}
}

func testPods() podTargets {
	return podTargets{networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")},
		never: map[netip.Addr]bool{addr("192.0.2.2"): true},
		check: desired.Check{Kind: desired.CheckTCP, IntervalMillis: 2000, Rise: 2, Fall: 3}}
}

// spell says what servers are, as in "10.1.0.1:8080 backup".
func spell(servers []desired.Server) []string {
	var all []string
	for _, s := range servers {
		text := netip.AddrPortFrom(s.Address, s.Port).String()
		if s.Backup {
			text += " backup"
		}
		if s.Drains {
			text += " drains"
		}
		all = append(all, text)
	}
	return all
}

func TestPodTargets(t *testing.T) {
	const ip4, ip6, names = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN
	both := []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	four := pod("10.1.0.1", "a", true, false)
	six := pod("fd00:1::1", "a", true, false)
	for _, test := range []struct {
		name     string
		families []v1.IPFamily
		slices   []*discoveryv1.EndpointSlice
		web, dns []string
		warnings []string // how they begin
	}{
		{"none", nil, nil, nil, nil, nil},
		{"ready, starting and leaving", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", four, pod("10.1.0.2", "b", false, false),
			pod("10.1.0.3", "b", true, true), pod("10.1.0.4", "b", false, true)), ip4, "web/TCP/8080", "dns/UDP/5353")},
			[]string{"10.1.0.1:8080", "10.1.0.2:8080 drains", "10.1.0.3:8080 backup", "10.1.0.4:8080 drains"},
			[]string{"10.1.0.1:5353", "10.1.0.3:5353 backup"}, nil},
		{"ports differ by pod", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "web/TCP/8080", "dns/UDP/5353"),
			at(podsOf("web", pod("10.1.0.2", "b", true, false)), ip4, "web/TCP/9090", "dns/UDP/5454")},
			[]string{"10.1.0.1:8080", "10.1.0.2:9090"}, []string{"10.1.0.1:5353", "10.1.0.2:5454"}, nil},
		{"two ports of one address", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "web/TCP/8080"), at(podsOf("web", four), ip4, "web/TCP/9090")},
			[]string{"10.1.0.1:8080", "10.1.0.1:9090"}, nil, nil},
		{"in two slices while it moves", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("10.1.0.1", "a", false, false)), ip4, "web/TCP/8080"),
			at(podsOf("web", four), ip4, "web/TCP/8080")}, []string{"10.1.0.1:8080"}, nil, nil},
		{"another protocol of that name", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "web/UDP/8080")}, nil, nil, nil},
		{"both families", both, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "web/TCP/8080", "dns/UDP/5353"),
			at(podsOf("web", six), ip6, "web/TCP/8080", "dns/UDP/5353")}, []string{"10.1.0.1:8080"}, []string{"10.1.0.1:5353", "[fd00:1::1]:5353"}, nil},
		{"the second family alone", both, []*discoveryv1.EndpointSlice{at(podsOf("web", six), ip6, "web/TCP/8080", "dns/UDP/5353")},
			[]string{"[fd00:1::1]:8080"}, []string{"[fd00:1::1]:5353"}, nil},
		{"a network of one family", both, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "web/TCP/8080"),
			at(podsOf("web", pod("fd00:2::1", "a", true, false)), ip6, "web/TCP/8080")}, []string{"10.1.0.1:8080"}, nil, nil},
		{"a network of one family, datagrams", both, []*discoveryv1.EndpointSlice{at(podsOf("web", four), ip4, "dns/UDP/5353"),
			at(podsOf("web", pod("fd00:2::1", "a", true, false)), ip6, "dns/UDP/5353")}, nil, []string{"10.1.0.1:5353"},
			[]string{"EndpointsOutside: 1 endpoints get no connections ([fd00:2::1]:5353)"}},
		{"ready ones come before others of the first family", both, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("10.1.0.1", "a", false, true)), ip4, "web/TCP/8080"),
			at(podsOf("web", six), ip6, "web/TCP/8080")}, []string{"[fd00:1::1]:8080"}, nil, nil},
		{"a family that the Service has not", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", six), ip6, "web/TCP/8080", "dns/UDP/5353")}, nil, nil, nil},
		{"a Node's", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("192.0.2.21", "a", true, false)), ip4, "web/TCP/8080")},
			[]string{"192.0.2.21:8080"}, nil, nil},
		{"outside", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", four, pod("10.2.0.1", "a", true, false)), ip4, "web/TCP/8080")},
			[]string{"10.1.0.1:8080"}, nil, []string{"EndpointsOutside: 1 endpoints get no connections (10.2.0.1:8080): gateways connect to pods in 10.1.0.0/16, fd00:1::/64 (nodes.podCIDRs"}},
		{"a stranger beside the Nodes", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("192.0.2.9", "a", true, false)), ip4, "web/TCP/6443")},
			nil, nil, []string{"EndpointsOutside: 1 endpoints get no connections (192.0.2.9:6443)"}},
		{"a gateway", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("192.0.2.2", "a", true, false)), ip4, "web/TCP/22")},
			nil, nil, []string{"EndpointsOutside: 1 endpoints get no connections (192.0.2.2:22)"}},
		{"names", nil, []*discoveryv1.EndpointSlice{at(podsOf("web", pod("db.example.net", "a", true, false)), names, "web/TCP/8080")},
			nil, nil, []string{"EndpointsByName: 1 endpoints have a name instead of an address (db.example.net)"}},
	} {
		for _, policy := range []v1.ServiceExternalTrafficPolicy{v1.ServiceExternalTrafficPolicyCluster, v1.ServiceExternalTrafficPolicyLocal} {
			t.Run(test.name+" "+string(policy), func(t *testing.T) {
				svc := web(noNodePorts)
				svc.Spec.ExternalTrafficPolicy = policy
				if test.families != nil {
					svc.Spec.IPFamilies = test.families
				}
				translator, around := testTranslator(), among(twoNodes())
				translator.pods, around.pods = testPods(), findPods(test.slices)
				around.pods.nodes = map[netip.Addr]bool{addr("192.0.2.21"): true, addr("192.0.2.2"): true}
				got, err := translator.translate(svc, around)
				if err != nil {
					t.Fatal(err)
				}
				lb := got.service.LoadBalancer
				if lb.Pool != nil || len(lb.Frontends) != 2 {
					t.Fatalf("translated to %+v", lb)
				}
				web, dns := lb.Frontends[0], lb.Frontends[1]
				if diff := cmp.Diff([][]string{test.web, test.dns}, [][]string{spell(web.Pool.Servers), spell(dns.Pool.Servers)}); diff != "" {
					t.Errorf("servers (-want +got):\n%s", diff)
				}
				if web.Pool.Check.Kind != desired.CheckTCP || web.Pool.Check.Port != 0 || dns.Pool.Check.Kind != desired.CheckNone {
					t.Errorf("checks are %+v and %+v", web.Pool.Check, dns.Pool.Check)
				}
				if len(got.warnings) != len(test.warnings) {
					t.Fatalf("warnings %v", got.warnings)
				}
				for i, w := range got.warnings {
					if text := w.reason + ": " + w.message; !strings.HasPrefix(text, test.warnings[i]) {
						t.Errorf("warning %q", text)
					}
				}
			})
		}
	}
}

// More pods than the firewall has room for are told of, by port and family; those of TCP are as many as they like.
func TestTooManyPods(t *testing.T) {
	translator, around := testTranslator(), among(twoNodes())
	translator.pods = testPods()
	for n, want := range map[int]bool{61: false, 62: true} {
		var four, six []discoveryv1.Endpoint
		for i := range n {
			four, six = append(four, pod(fmt.Sprintf("10.1.0.%d", i+1), "a", true, false)), append(six, pod(fmt.Sprintf("fd00:1::%d", i+1), "a", true, false))
		}
		around.pods = findPods([]*discoveryv1.EndpointSlice{at(podsOf("web", four...), discoveryv1.AddressTypeIPv4, "web/TCP/8080", "dns/UDP/5353"),
			at(podsOf("web", six...), discoveryv1.AddressTypeIPv6, "web/TCP/8080", "dns/UDP/5353")})
		got, err := translator.translate(web(noNodePorts, onlyIn(v1.IPv4Protocol, v1.IPv6Protocol)), around)
		if err != nil || (len(got.warnings) == 1) != want || want && !strings.Contains(got.warnings[0].message, "port dns 53/UDP has more pods of its own than the 61") {
			t.Errorf("%d pods: %v, %v", n, got.warnings, err)
		}
	}
}

// Algorithm and check of the Service are those of its pods, each checked at its own port unless the Service names one.
func TestKnobsOfPods(t *testing.T) {
	own := func(kind desired.CheckKind) desired.Check {
		return desired.Check{Kind: kind, IntervalMillis: 2000, Rise: 2, Fall: 3}
	}
	for name, test := range map[string]struct {
		annotations map[Annotation]string
		nodePort    bool // the first port has one
		want        desired.Check
		problem     string
	}{
		"none":           {nil, false, own(desired.CheckTCP), ""},
		"http":           {map[Annotation]string{HealthCheckProtocol: "http", HealthCheckPath: "/ready"}, false, desired.Check{Kind: desired.CheckHTTP, Path: "/ready", IntervalMillis: 2000, Rise: 2, Fall: 3}, ""},
		"another port":   {map[Annotation]string{HealthCheckProtocol: "tcp", HealthCheckPort: "9000"}, false, desired.Check{Kind: desired.CheckTCP, Port: 9000, IntervalMillis: 2000, Rise: 2, Fall: 3}, ""},
		"times":          {map[Annotation]string{HealthCheckInterval: "500ms", HealthCheckHealthyThreshold: "1"}, false, desired.Check{Kind: desired.CheckTCP, IntervalMillis: 500, Rise: 1, Fall: 3}, ""},
		"unchecked":      {map[Annotation]string{HealthCheckProtocol: "none"}, false, desired.Check{Kind: desired.CheckNone}, ""},
		"a path of tcp":  {map[Annotation]string{HealthCheckPath: "/ready"}, false, desired.Check{}, "the check is tcp, which asks for no path"},
		"none beside":    {map[Annotation]string{HealthCheckProtocol: "none"}, true, desired.Check{Kind: desired.CheckNone}, ""},
		"beside nodes":   {map[Annotation]string{HealthCheckProtocol: "http", HealthCheckInterval: "500ms"}, true, desired.Check{Kind: desired.CheckTCP, IntervalMillis: 500, Rise: 2, Fall: 3}, ""},
		"with algorithm": {map[Annotation]string{Algorithm: "leastconn"}, false, own(desired.CheckTCP), ""},
	} {
		for _, policy := range []v1.ServiceExternalTrafficPolicy{v1.ServiceExternalTrafficPolicyCluster, v1.ServiceExternalTrafficPolicyLocal} {
			if test.nodePort && policy == v1.ServiceExternalTrafficPolicyLocal {
				continue // the nodes' check is healthCheckNodePort's then
			}
			svc := web(noNodePorts)
			svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = policy, 32000
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Name: "more", Protocol: v1.ProtocolTCP, Port: 81})
			if test.nodePort {
				svc.Spec.Ports[0].NodePort = 30080
			}
			for key, value := range test.annotations {
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, string(key), value)
			}
			translator := testTranslator()
			translator.pods = testPods()
			got, err := translator.translate(svc, among(twoNodes()))
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("%s, %s: error %v", name, policy, err)
				}
				continue
			}
			if err != nil || len(got.warnings) != 0 {
				t.Errorf("%s, %s: %v, %v", name, policy, got.warnings, err)
				continue
			}
			f := got.service.LoadBalancer.Frontends[1]
			if f.Port != 81 || f.Pool.Check != test.want || test.annotations[Algorithm] != "" && f.Pool.Algorithm != desired.LeastConn {
				t.Errorf("%s, %s: port %d has %+v, want %+v", name, policy, f.Port, f.Pool, test.want)
			}
			if dns := got.service.LoadBalancer.Frontends[2]; dns.Protocol != desired.UDP || dns.Pool.Check.Kind != desired.CheckNone {
				t.Errorf("%s, %s: UDP has %+v", name, policy, dns.Pool)
			}
		}
	}
}

// Nobody checks pods that serve UDP, and that is told.
func TestChecksOfDatagramPods(t *testing.T) {
	translator := testTranslator()
	translator.pods = testPods()
	got, err := translator.translate(web(noNodePorts, func(svc *v1.Service) { svc.Spec.Ports = svc.Spec.Ports[1:] },
		annotate(string(HealthCheckProtocol), "http")), among(twoNodes()))
	if err != nil || len(got.warnings) != 1 || got.warnings[0].reason != "AnnotationWithoutEffect" ||
		got.service.LoadBalancer.Frontends[0].Pool.Check.Kind != desired.CheckNone {
		t.Errorf("translated to %+v, %v", got, err)
	}
}

// A choice of nodes means nothing to pods, and that is told.
func TestNodeSelectorOfPods(t *testing.T) {
	translator, around := testTranslator(), among(twoNodes())
	translator.pods = testPods()
	got, err := translator.translate(web(noNodePorts, selecting("disk=ssd")), around)
	if err != nil || len(got.warnings) != 1 || got.warnings[0].reason != "UnusedNodeSelector" || got.service.LoadBalancer.Pool != nil {
		t.Errorf("translated to %+v, %v", got, err)
	}
}

// What pods.go makes is valid, of both families, whatever the endpoints.
func TestPodServersAreValid(t *testing.T) {
	svc := web(noNodePorts, onlyIn(v1.IPv4Protocol, v1.IPv6Protocol))
	translator, around := testTranslator(), among(twoNodes())
	translator.pods = testPods()
	around.pods = findPods([]*discoveryv1.EndpointSlice{
		at(podsOf("web", pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "a", true, true)), discoveryv1.AddressTypeIPv4, "web/TCP/8080", "dns/UDP/5353"),
		at(podsOf("web", pod("10.1.0.1", "a", true, false)), discoveryv1.AddressTypeIPv4, "web/TCP/9090", "dns/UDP/5454"),
		at(podsOf("web", pod("fd00:1::", "a", true, false), pod("fd00:1::2", "a", false, false)), discoveryv1.AddressTypeIPv6, "web/TCP/8080", "dns/UDP/5353")})
	got, err := translator.translate(svc, around)
	if err != nil {
		t.Fatal(err)
	}
	lb := got.service.LoadBalancer
	lb.Addresses = addrs("192.0.2.70")
	s := desired.State{Schema: desired.Schema, Fence: desired.Fence{ClusterUID: "u", Epoch: 1, Instance: "i", Sequence: 1},
		Gateways:  []desired.Gateway{{Name: "gw1", SSHAddress: "192.0.2.2:22", VRRPAddress: addr("192.0.2.2"), Interface: "eth0"}},
		VRRP:      desired.VRRP{AdvertIntervalMillis: 100},
		Instances: []desired.Instance{{RouterID: 200, Gateways: []string{"gw1"}}}, VIPs: []desired.VIP{{Address: addr("192.0.2.70"), RouterID: 200}},
		NodeCheck: testTranslator().nodeCheck, LoadBalancers: []desired.LoadBalancer{lb}}
	s.Normalize()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

// A port with a nodePort is served by the nodes also where gateways reach pods.
func TestPortsWithNodePortStay(t *testing.T) {
	svc := web(noNodePorts)
	svc.Spec.Ports[0].NodePort = 30080
	translator, around := testTranslator(), among(twoNodes())
	translator.pods = testPods()
	around.pods = findPods([]*discoveryv1.EndpointSlice{at(podsOf("web", pod("10.1.0.1", "a", true, false)), discoveryv1.AddressTypeIPv4, "web/TCP/8080", "dns/UDP/5353")})
	for _, policy := range []v1.ServiceExternalTrafficPolicy{v1.ServiceExternalTrafficPolicyCluster, v1.ServiceExternalTrafficPolicyLocal} {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = policy, 32000
		got, err := translator.translate(svc, around)
		if err != nil {
			t.Fatal(err)
		}
		lb := got.service.LoadBalancer
		if f := lb.Frontends[0]; f.Pool != nil || f.NodePort != 30080 || (lb.Pool != nil) != isLocal(svc) {
			t.Errorf("%s: the port with a nodePort is %+v of %+v", policy, f, lb.Pool)
		}
		if f := lb.Frontends[1]; !slices.Equal(spell(f.Pool.Servers), []string{"10.1.0.1:5353"}) {
			t.Errorf("%s: the port without one is %+v", policy, f)
		}
	}
}

// The configuration's networks and the gateways' own addresses are what targets are judged by.
func TestPodTargetsOfConfig(t *testing.T) {
	configuration, err := config.Decode([]byte(testConfig + "nodes: {podCIDRs: [10.1.0.0/16], cidrs: [192.0.2.0/24], healthCheck: {interval: 5s, rise: 1, fall: 4}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPodTargets(configuration)
	for address, want := range map[string]bool{"10.1.2.3": true, "10.2.0.1": false, "192.0.2.21": true, "192.0.2.22": false, "192.0.2.2": false, "fd00::1": false} {
		if got := p.reach(addr(address), map[netip.Addr]bool{addr("192.0.2.21"): true, addr("192.0.2.2"): true}); got != want {
			t.Errorf("%s: an endpoint may be there is %t", address, got)
		}
	}
	if want := (desired.Check{Kind: desired.CheckTCP, IntervalMillis: 5000, Rise: 1, Fall: 4}); p.check != want {
		t.Errorf("checked by %+v", p.check)
	}
}
