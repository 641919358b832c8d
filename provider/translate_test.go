package provider

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

var equalAddresses = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// web is a Service of type LoadBalancer as the API server completes it.
func web(changes ...func(*v1.Service)) *v1.Service {
	policy := v1.IPFamilyPolicySingleStack
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web"},
		Spec: v1.ServiceSpec{
			Type:                  v1.ServiceTypeLoadBalancer,
			IPFamilies:            []v1.IPFamily{v1.IPv4Protocol},
			IPFamilyPolicy:        &policy,
			ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyCluster,
			SessionAffinity:       v1.ServiceAffinityNone,
			Ports: []v1.ServicePort{
				{Name: "https", Protocol: v1.ProtocolTCP, Port: 443, NodePort: 30443,
					TargetPort: intstr.FromInt32(8443)},
				{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(8080)},
			},
		},
	}
	for _, change := range changes {
		change(svc)
	}
	return svc
}

func annotate(key, value string) func(*v1.Service) {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

func onlyIn(families ...v1.IPFamily) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.IPFamilies = families }
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, addr(text))
	}
	return all
}

func twoNodes() []desired.Node {
	return []desired.Node{
		{Name: "a", Addresses: []netip.Addr{addr("192.0.2.21"), addr("2001:db8::21")}},
		{Name: "b", Addresses: []netip.Addr{addr("192.0.2.22")}},
	}
}

func testTranslator() translator {
	return translator{localCheck: func(port uint16) desired.Check {
		return desired.Check{Kind: desired.CheckHTTP, Port: port, Path: "/healthz", IntervalMillis: 2000,
			Rise: 2, Fall: 3}
	}, nodeCheck: desired.Check{Kind: desired.CheckTCP, Port: 10250, IntervalMillis: 2000, Rise: 2, Fall: 3},
		ownCheck: func(kind desired.CheckKind) desired.Check {
			return desired.Check{Kind: kind, IntervalMillis: 2000, Rise: 2, Fall: 3}
		}, gateways: []string{"gw1", "gw2"}}
}

// among are circumstances with one pool for everybody, and one ready pod on each node.
func among(nodes []desired.Node) circumstances {
	around := circumstances{nodes: nodes, endpoints: localEndpoints{}, policy: &policy{pools: []pool{{
		name: "main", automatic: true, services: labels.Everything(), admitsNamespace: func(string,
			labels.Set) bool {
			return true
		},
	}}}}
	for _, node := range nodes {
		for _, ipv6 := range []bool{false, true} {
			around.endpoints[place{node.Name, ipv6}] = podCounts{ready: 1}
		}
	}
	return around
}

func TestTranslate(t *testing.T) {
	plain := desired.LoadBalancer{
		Key: desired.Key{Namespace: "default", Name: "web"}, UID: "uid-web",
		Frontends: []desired.Frontend{
			{Name: "http", Protocol: desired.TCP, Port: 80, NodePort: 30080},
			{Name: "https", Protocol: desired.TCP, Port: 443, NodePort: 30443},
		},
	}
	v4 := ipam.Request{Families: []ipam.Family{ipam.IPv4}, Pools: []string{"main"}}
	requesting := func(addresses ...netip.Addr) ipam.Request {
		return ipam.Request{Families: v4.Families, Addresses: addresses, Pools: v4.Pools}
	}
	tests := []struct {
		name     string
		svc      *v1.Service
		balancer func(*desired.LoadBalancer) // what differs from plain
		request  ipam.Request
		warnings []warning
	}{
		{"plain", web(), nil, v4, nil},
		{"annotated address", web(annotate("cloud-provider-haproxy/load-balancer-ips", " 192.0.2.70 ")), nil,
			requesting(addr("192.0.2.70")), nil},
		{"loadBalancerIP", web(func(s *v1.Service) { s.Spec.LoadBalancerIP = "192.0.2.70" }), nil,
			requesting(addr("192.0.2.70")), nil},
		{"both, the same", web(annotate(string(LoadBalancerIPs), "192.0.2.70"),
			func(s *v1.Service) { s.Spec.LoadBalancerIP = "192.0.2.70" }), nil, requesting(addr("192.0.2.70")), nil},
		{"dual stack", web(annotate(string(LoadBalancerIPs), "2001:db8::70,192.0.2.70"), func(s *v1.Service) {
			policy := v1.IPFamilyPolicyPreferDualStack
			s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol}
		}), nil, ipam.Request{Families: []ipam.Family{ipam.IPv6, ipam.IPv4}, FirstSuffices: true,
			Addresses: []netip.Addr{addr("2001:db8::70"), addr("192.0.2.70")}, Pools: v4.Pools}, nil},
		{"local", web(func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
		}), func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true,
				Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 2000,
					Rise: 2, Fall: 3},
				Servers: []desired.Server{{Name: "a", Address: addr("192.0.2.21"), Weight: 1},
					{Name: "b", Address: addr("192.0.2.22"), Weight: 1}}}
		}, v4, nil},
		{"local, IPv6 only", web(onlyIn(v1.IPv6Protocol), func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
		}), func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true,
				Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 2000,
					Rise: 2, Fall: 3},
				Servers: []desired.Server{{Name: "a", Address: addr("2001:db8::21"), Weight: 1}}}
		}, ipam.Request{Families: []ipam.Family{ipam.IPv6}, Pools: v4.Pools}, nil},
		{"all protocols", web(func(s *v1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53,
				NodePort: 30053}, v1.ServicePort{Protocol: v1.ProtocolSCTP, Port: 80, NodePort: 30054})
		}), func(lb *desired.LoadBalancer) {
			lb.Frontends = append([]desired.Frontend{{Protocol: desired.SCTP, Port: 80, NodePort: 30054}}, lb.Frontends...)
			lb.Frontends = append(lb.Frontends, desired.Frontend{Name: "dns", Protocol: desired.UDP, Port: 53, NodePort: 30053})
		}, v4, nil},
		{"UDP alone", web(func(s *v1.Service) {
			s.Spec.Ports = []v1.ServicePort{{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053}}
		}), func(lb *desired.LoadBalancer) {
			lb.Frontends = []desired.Frontend{{Name: "dns", Protocol: desired.UDP, Port: 53, NodePort: 30053}}
		}, v4, nil},
		{"misspelt annotation", web(annotate("cloud-provider-haproxy/loadbalancer-ip", "192.0.2.70")), nil, v4,
			[]warning{{"UnknownAnnotation", "annotation cloud-provider-haproxy/loadbalancer-ip is not known and has " +
				"no effect; did you mean cloud-provider-haproxy/load-balancer-ips?"}}},
		{"others' annotations", web(annotate("metallb.io/address-pool", "x")), nil, v4, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := test.svc.DeepCopy()
			got, err := testTranslator().translate(test.svc, among(twoNodes()))
			if err != nil {
				t.Fatal(err)
			}
			want := plain.Clone()
			if test.balancer != nil {
				test.balancer(&want)
			}
			test.request.Sharing = new(policy).sharing(test.svc) // TestRequest tells of it
			if diff := cmp.Diff(want, got.service.Facts.Of(got.service.LoadBalancer), equalAddresses); diff != "" {
				t.Errorf("with its facts it is another (-want +got):\n%s", diff)
			}
			got.service.Facts = nil
			if diff := cmp.Diff(loadbalancer.Service{LoadBalancer: want, Request: test.request}, got.service,
				equalAddresses); diff != "" {
				t.Errorf("Service (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, got.warnings, cmp.AllowUnexported(warning{})); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, test.svc); diff != "" {
				t.Errorf("the Service was written:\n%s", diff)
			}
		})
	}
}

// What a Service's own choice of nodes cannot serve is told, in the words of the status, though others could.
func TestTranslateChoosingAFamily(t *testing.T) {
	around := among(twoNodes()) // the first one has IPv6
	around.nodeLabels = map[string]labels.Set{around.nodes[0].Name: {"family": "both"}}
	svc := web(onlyIn(v1.IPv4Protocol, v1.IPv6Protocol), selecting("!family"), func(s *v1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053})
	})
	got, err := testTranslator().translate(svc, around)
	if err != nil || len(got.warnings) != 1 || got.warnings[0].reason != "NoIPv6Node" || !strings.Contains(got.warnings[0].message, "UDP and SCTP") {
		t.Errorf("warnings %v, %v", got.warnings, err)
	}
}

// So is what keeps the client's address, also where nodes could serve that have no pod of a local one.
func TestTranslateClientsOfAFamily(t *testing.T) {
	both, client := onlyIn(v1.IPv4Protocol, v1.IPv6Protocol), annotate(string(SourceAddress), sourceClient)
	vip := v1.LoadBalancerIPModeVIP
	for name, test := range map[string]struct {
		svc  *v1.Service
		pods string // the node that has them; empty: both do
		want bool
	}{
		"the nodes have both":                    {web(both, client, local), "", false},
		"those that are chosen have IPv4":        {web(both, client, local, selecting("!family")), "", true},
		"so with policy Cluster":                 {web(both, client, selecting("!family")), "", true},
		"pods where IPv4 is alone":               {web(both, client, local), "b", true},
		"pods where both are":                    {web(both, client, local), "a", false},
		"HAProxy connects to what there is":      {web(both, local), "b", false},
		"IPv4 alone":                             {web(onlyIn(v1.IPv4Protocol), client, local), "b", false},
		"IPv6 alone, pods where IPv4 is alone":   {web(onlyIn(v1.IPv6Protocol), client, local), "b", true},
		"and without the annotation just so":     {web(onlyIn(v1.IPv6Protocol), local), "b", true},
		"no pod at all, which is told elsewhere": {web(both, client, local), "z", false},
	} {
		around := among(twoNodes()) // the first one has IPv6
		around.nodeLabels = map[string]labels.Set{"a": {"family": "both"}}
		for at := range around.endpoints {
			if test.pods != "" && at.node != test.pods {
				delete(around.endpoints, at)
			}
		}
		got, err := testTranslator().translate(test.svc, around)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		told := slices.ContainsFunc(got.warnings, func(w warning) bool {
			return w.reason == "NoIPv6Node" && !strings.Contains(w.message, "UDP")
		})
		failed, at := 0, addrs("2001:db8::70")
		if hasOnly(test.svc, v1.IPv4Protocol) {
			at = addrs("192.0.2.70")
		}
		for _, port := range statusOf(test.svc, at, vip, around).Ingress[0].Ports {
			if port.Error != nil {
				failed++
			}
		}
		if told != test.want || (failed == 2) != test.want || failed == 1 {
			t.Errorf("%s: told %v, %d of 2 ports have an error; want it: %t", name, got.warnings, failed, test.want)
		}
	}
}

// An IPv6-only Service that no node can serve is told to its owner, plain or local.
func TestTranslateWithoutNodesOfItsFamily(t *testing.T) {
	local := func(s *v1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
	}
	want := []warning{{"NoIPv6Node", "spec.ipFamilies is [IPv6] and none of the nodes that serve the Service has an IPv6 address, so " +
		"connections are refused; " +
		"give the kubelets one (--node-ip), name it in nodes.addresses of the cloud config, or make the Service " +
		"dual-stack"}}
	six := []desired.Node{{Name: "c", Addresses: addrs("2001:db8::23")}}
	mixed := append(twoNodes(), six...)
	const mend = "; give the kubelets one (--node-ip), name it in nodes.addresses of the cloud config, or make the " +
		"Service dual-stack"
	noFour := []warning{{"NoIPv4Node", "spec.ipFamilies is [IPv4] and none of the nodes that serve the Service has an IPv4 address, " +
		"so connections are refused" + mend}}
	someFour := []warning{{"NodeWithoutIPv4", "spec.ipFamilies is [IPv4] and 1 of 3 eligible nodes have no IPv4 " +
		"address (c), so they refuse their share of the connections, which are tried again at other nodes" + mend}}
	for _, test := range []struct {
		name  string
		svc   *v1.Service
		nodes []desired.Node
		want  []warning
	}{
		{"IPv4, nodes with IPv6 alone", web(), six, noFour},
		{"local, IPv4, nodes with IPv6 alone", web(local), six, noFour},
		{"IPv4, one of the nodes with IPv6 alone", web(), mixed, someFour},
		{"local, IPv4, one of the nodes with IPv6 alone", web(local), mixed, nil},
		{"both families, one of the nodes with IPv6 alone", web(onlyIn(v1.IPv4Protocol, v1.IPv6Protocol)), mixed, nil},
		{"plain", web(onlyIn(v1.IPv6Protocol)), twoNodes()[1:], want},
		{"local", web(onlyIn(v1.IPv6Protocol), local), twoNodes()[1:], want},
		{"a node with IPv6", web(onlyIn(v1.IPv6Protocol)), twoNodes(), nil},
		{"both families", web(onlyIn(v1.IPv6Protocol, v1.IPv4Protocol)), twoNodes()[1:], nil},
		{"IPv4", web(), twoNodes()[1:], nil},
		{"no node at all, which is told elsewhere", web(onlyIn(v1.IPv6Protocol)), nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := testTranslator().translate(test.svc, among(test.nodes))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got.warnings, cmp.AllowUnexported(warning{})); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			pool := got.service.LoadBalancer.Pool
			for i := 0; pool != nil && i < len(pool.Servers); i++ {
				if a := pool.Servers[i].Address; a.Is6() != slices.Contains(test.svc.Spec.IPFamilies, v1.IPv6Protocol) {
					t.Errorf("its NodePorts are not at %v", a)
				}
			}
			if pool != nil && len(test.nodes) == 3 && len(pool.Servers) != 2 {
				t.Errorf("servers %+v, want those of two nodes", pool.Servers)
			}
		})
	}
}

func TestTranslateRefuses(t *testing.T) {
	const orPods = ", or name the pods' networks in nodes.podCIDRs of the cloud configuration if gateways can reach pods"
	tests := []struct {
		name string
		svc  *v1.Service
		want string
	}{
		{"no nodePort of UDP", web(func(s *v1.Service) {
			s.Spec.Ports = []v1.ServicePort{{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53}}
		}), "spec.ports[0] (dns 53/UDP) has no nodePort, and gateways reach the workers by NodePort; set " +
			"spec.allocateLoadBalancerNodePorts to true or give the port a nodePort" + orPods},
		{"no nodePort", web(func(s *v1.Service) { s.Spec.Ports[1].NodePort = 0 }),
			"spec.ports[1] (http 80/TCP) has no nodePort, and gateways reach the workers by NodePort; set " +
				"spec.allocateLoadBalancerNodePorts to true or give the port a nodePort" + orPods},
		{"annotation that is no address", web(annotate(string(LoadBalancerIPs), "192.0.2.70, web")),
			`annotation cloud-provider-haproxy/load-balancer-ips "192.0.2.70, web": "web" is not an address; allowed ` +
				`is one IPv4 address, one IPv6 address, or both with a comma between`},
		{"empty annotation", web(annotate(string(LoadBalancerIPs), "")),
			`annotation cloud-provider-haproxy/load-balancer-ips "": "" is not an address; allowed is one IPv4 ` +
				`address, one IPv6 address, or both with a comma between`},
		{"two of a family", web(annotate(string(LoadBalancerIPs), "192.0.2.70,192.0.2.71")),
			`annotation cloud-provider-haproxy/load-balancer-ips "192.0.2.70,192.0.2.71" has two IPv4 addresses; ` +
				`allowed is one IPv4 address, one IPv6 address, or both with a comma between`},
		{"both, different", web(annotate(string(LoadBalancerIPs), "192.0.2.70"),
			func(s *v1.Service) { s.Spec.LoadBalancerIP = "192.0.2.71" }),
			`spec.loadBalancerIP 192.0.2.71 and annotation cloud-provider-haproxy/load-balancer-ips "192.0.2.70" ` +
				`contradict each other; set one of them, or the same address in both`},
		{"wrong family", web(annotate(string(LoadBalancerIPs), "2001:db8::1")),
			"address 2001:db8::1 is asked for, but spec.ipFamilies is [IPv4]; add IPv6 there or ask for an address " +
				"of that family"},
		{"local without a check port", web(func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		}),
			"spec.externalTrafficPolicy is Local but spec.healthCheckNodePort is not set, so that nodes with an " +
				"endpoint cannot be told from others; the API server sets it for type LoadBalancer: remove the " +
				"policy and set it again"},
		{"two problems", web(annotate(string(LoadBalancerIPs), "x"), func(s *v1.Service) {
			s.Spec.Ports[0].NodePort = 0
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0"}
		}), `spec.ports[0] (https 443/TCP) has no nodePort, and gateways reach the workers by NodePort; set ` +
			`spec.allocateLoadBalancerNodePorts to true or give the port a nodePort` + orPods + `; ` +
			`annotation cloud-provider-haproxy/load-balancer-ips "x": "x" is not an address; allowed is one IPv4 ` +
			`address, one IPv6 address, or both with a comma between; ` +
			`spec.loadBalancerSourceRanges "10.0.0.0": "10.0.0.0" is not a range; allowed are IPv4 and IPv6 ranges ` +
			`with commas between, as in 192.0.2.0/24,2001:db8::/32; until that is mended, who may connect stays ` +
			`as it was, and nobody may if the Service is new`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := testTranslator().translate(test.svc, among(twoNodes()))
			if err == nil || err.Error() != test.want {
				t.Errorf("error %q\nwant  %q", err, test.want)
			}
			if causeOf(err) != correction {
				t.Error("the error is not known as one that somebody has to mend")
			}
		})
	}
}
