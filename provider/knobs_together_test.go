package provider

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// ported gives the Service these ports; NodePorts are 30000 and the port.
func ported(protocols map[int32]v1.Protocol) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Ports = nil
		for port, protocol := range protocols {
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Name: "p" + strings.ToLower(string(protocol)), Protocol: protocol, Port: port,
				NodePort: 30000 + port})
		}
	}
}

func localAt(port int32) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, port
	}
}

// annotatedWith sets several annotations, given as key and value in turn.
func annotatedWith(pairs ...string) func(*v1.Service) {
	return func(svc *v1.Service) {
		for i := 0; i < len(pairs); i += 2 {
			annotate(Prefix+pairs[i], pairs[i+1])(svc)
		}
	}
}

// wantValid judges a load balancer as Manager and the gateways do.
func wantValid(t *testing.T, lb desired.LoadBalancer) {
	t.Helper()
	if err := stateOf(t, lb).Validate(); err != nil {
		t.Errorf("no State takes it: %v", err)
	}
}

// stateOf is a State with nothing else.
func stateOf(t *testing.T, lb desired.LoadBalancer) *desired.State {
	t.Helper()
	gateways := []desired.Gateway{{Name: "gw1", SSHAddress: "192.0.2.2:22", VRRPAddress: addr("192.0.2.2"), Interface: "eth0"}}
	instances, err := desired.Instances(gateways, 10)
	if err != nil {
		t.Fatal(err)
	}
	lb.Addresses = addrs("192.0.2.70")
	return &desired.State{Schema: desired.Schema, Fence: desired.Fence{ClusterUID: "c", Epoch: 1, Instance: "i", Sequence: 1},
		Gateways: gateways, Instances: instances, VRRP: desired.VRRP{AdvertIntervalMillis: 100},
		VIPs:  []desired.VIP{{Address: lb.Addresses[0], RouterID: 10}},
		Nodes: twoNodes(), NodeCheck: testTranslator().nodeCheck, LoadBalancers: []desired.LoadBalancer{lb}}
}

// What annotations mean depends on each other, on protocols and on the policy.
func TestKnobsTogether(t *testing.T) {
	udp, sctp := ported(map[int32]v1.Protocol{53: v1.ProtocolUDP}), ported(map[int32]v1.Protocol{99: v1.ProtocolSCTP})
	both := func(svc *v1.Service) {
		svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Name: "quic", Protocol: v1.ProtocolUDP, Port: 443, NodePort: 30444})
	}
	localCheck := desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3}
	nodeCheck := testTranslator().nodeCheck
	for _, test := range []struct {
		name     string
		svc      *v1.Service
		want     func(desired.LoadBalancer) any // what is looked at
		is       any
		warnings []string // their reasons
	}{
		{"idle time of TCP alone", web(annotate(string(TimeoutIdle), "2h")), func(lb desired.LoadBalancer) any {
			return [2]int{lb.Timeouts.IdleSeconds, lb.UDPIdleSeconds}
		}, [2]int{7200, 0}, nil},
		{"idle time of both", web(both, annotate(string(TimeoutIdle), "2h")), func(lb desired.LoadBalancer) any {
			return [2]int{lb.Timeouts.IdleSeconds, lb.UDPIdleSeconds}
		}, [2]int{7200, 7200}, nil},
		{"idle time of UDP needs no pool and no reload", web(udp, annotate(string(TimeoutIdle), "2h")), func(lb desired.LoadBalancer) any {
			return [3]any{lb.Timeouts == nil, lb.Pool == nil, lb.UDPIdleSeconds}
		}, [3]any{true, true, 7200}, nil},
		{"idle time of SCTP", web(sctp, annotate(string(TimeoutIdle), "2h")), func(lb desired.LoadBalancer) any {
			return lb.Timeouts == nil && lb.Pool == nil && lb.UDPIdleSeconds == 0
		}, true, []string{"AnnotationWithoutEffect"}},
		{"TCP's annotations without TCP", web(udp, annotatedWith("algorithm", "source", "connection-limit", "1", "log", "true",
			"connection-rate-limit", "1", "proxy-protocol", "v2", "timeout-connect", "1s")), func(lb desired.LoadBalancer) any {
			return [3]any{lb.Pool == nil, lb.ConnectionLimit + lb.SourceRate, lb.Log}
		}, [3]any{true, 0, false}, []string{"AnnotationWithoutEffect"}},
		{"a check of UDP's nodes", web(udp, annotatedWith("health-check-protocol", "tcp", "health-check-port", "10250")),
			func(lb desired.LoadBalancer) any { return [2]any{lb.Pool.Check.Kind, lb.Pool.Check.Port} },
			[2]any{desired.CheckTCP, uint16(10250)}, nil},
		{"header for TCP's ports alone", web(both, annotate(string(ProxyProtocol), "v2")), func(lb desired.LoadBalancer) any {
			var versions []desired.ProxyProtocol
			for _, f := range lb.Frontends {
				versions = append(versions, f.ProxyProtocol)
			}
			return versions
		}, []desired.ProxyProtocol{"v2", "v2", ""}, nil},
		{"a number that two protocols have is TCP's", web(both, annotate(string(ProxyProtocol), "443=v1")), func(lb desired.LoadBalancer) any {
			return [2]any{lb.Frontends[1].ProxyProtocol, lb.Frontends[2].ProxyProtocol}
		}, [2]any{desired.ProxyV1, desired.ProxyNone}, nil},
		{"several", web(annotatedWith("algorithm", "leastconn", "health-check-protocol", "http", "health-check-path", "/up",
			"health-check-port", "8080", "health-check-interval", "1s", "health-check-healthy-threshold", "4",
			"health-check-unhealthy-threshold", "5", "health-check-timeout", "700ms", "timeout-connect", "2s", "timeout-idle", "10m")),
			func(lb desired.LoadBalancer) any { return [3]any{lb.Pool.Algorithm, lb.Pool.Check, *lb.Timeouts} },
			[3]any{desired.LeastConn, desired.Check{Kind: desired.CheckHTTP, Port: 8080, Path: "/up", IntervalMillis: 1000, Rise: 4, Fall: 5},
				desired.Timeouts{ConnectMillis: 2000, IdleSeconds: 600, CheckMillis: 700}}, nil},
		{"local: the field says what is checked", web(localAt(32000), annotatedWith("health-check-protocol", "tcp",
			"health-check-port", "10250", "health-check-path", "/x")), func(lb desired.LoadBalancer) any { return lb.Pool.Check },
			localCheck, []string{"HealthCheckIgnored"}},
		{"local: it is not missed that nothing else could be checked", web(ported(map[int32]v1.Protocol{53: v1.ProtocolUDP}), localAt(32000),
			annotatedWith("health-check-protocol", "http")), func(lb desired.LoadBalancer) any { return lb.Pool.Check }, localCheck,
			[]string{"HealthCheckIgnored"}},
		{"a header of a port without TCP", web(udp, annotate(string(ProxyProtocol), "53=v2")),
			func(lb desired.LoadBalancer) any { return lb.Frontends[0].ProxyProtocol }, desired.ProxyNone, []string{"AnnotationWithoutEffect"}},
		{"local: how often it is checked is the Service's to say", web(localAt(32000), annotatedWith("health-check-interval", "200ms",
			"health-check-unhealthy-threshold", "1")), func(lb desired.LoadBalancer) any { return lb.Pool.Check },
			desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 200, Rise: 2, Fall: 1}, nil},
		{"local and an algorithm", web(localAt(32000), annotate(string(Algorithm), "leastconn")),
			func(lb desired.LoadBalancer) any { return [2]any{lb.Pool.Algorithm, lb.Pool.Check} }, [2]any{desired.LeastConn, localCheck}, nil},
		{"selector and an algorithm", web(annotatedWith("node-selector", "x", "algorithm", "random")),
			func(lb desired.LoadBalancer) any {
				return [3]any{lb.Pool.Algorithm, lb.Pool.Check, len(lb.Pool.Servers)}
			},
			[3]any{desired.Random, nodeCheck, 0}, []string{noNodeSelected}},
		{"a limit needs no pool", web(annotatedWith("connection-limit", "5", "connection-rate-limit", "6", "log", "true",
			"drain-timeout", "7s", "hostname", "lb.example.com", "preferred-gateway", "gw1")),
			func(lb desired.LoadBalancer) any { return lb.Pool == nil }, true, nil},
		{"no gateway of this name", web(annotate(string(PreferredGateway), "gw9")),
			func(lb desired.LoadBalancer) any { return lb.Pool == nil }, true, []string{"UnknownGateway"}},
		{"clients' addresses with policy Cluster", web(annotate(string(SourceAddress), "client")),
			func(lb desired.LoadBalancer) any { return lb.ClientSource }, true, []string{"SourceAddressLost"}},
		{"clients' addresses with policy Local, for all protocols", web(localAt(32000), both, sctp, annotate(string(SourceAddress), "client")),
			func(lb desired.LoadBalancer) any { return [2]any{lb.ClientSource, lb.Pool.Check} }, [2]any{true, localCheck}, nil},
		{"clients' addresses of UDP alone", web(udp, localAt(32000), annotate(string(SourceAddress), "client")),
			func(lb desired.LoadBalancer) any { return [2]any{lb.ClientSource, lb.Pool != nil} }, [2]any{true, true}, nil},
		{"the gateway's address is no wish", web(annotate(string(SourceAddress), "gateway")),
			func(lb desired.LoadBalancer) any { return [2]any{lb.ClientSource, lb.Pool == nil} }, [2]any{false, true}, nil},
		{"affinity without a timeout", web(func(svc *v1.Service) { svc.Spec.SessionAffinity = v1.ServiceAffinityClientIP }),
			func(lb desired.LoadBalancer) any { return [2]any{lb.AffinitySeconds, lb.Pool == nil} }, [2]any{10800, true}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := testTranslator().translate(test.svc, among(twoNodes()))
			if err != nil {
				t.Fatal(err)
			}
			wantValid(t, got.service.LoadBalancer)
			if diff := cmp.Diff(test.is, test.want(got.service.LoadBalancer)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var reasons []string
			for _, w := range got.warnings {
				reasons = append(reasons, w.reason)
			}
			if !slices.Equal(reasons, test.warnings) {
				t.Errorf("warnings %q, want %q", got.warnings, test.warnings)
			}
		})
	}
}

// What is wrong is told in the reader's words, all of it at once.
func TestKnobsContradict(t *testing.T) {
	unchecking := func(tr *translator) { tr.nodeCheck = desired.Check{Kind: desired.CheckNone} }
	for _, test := range []struct {
		name   string
		svc    *v1.Service
		change func(*translator)
		want   string
	}{
		{"nothing checked and more", web(annotatedWith("health-check-protocol", "none", "health-check-path", "/x",
			"health-check-interval", "1s")), nil, "annotations cloud-provider-haproxy/health-check-path and " +
			"cloud-provider-haproxy/health-check-interval: annotation cloud-provider-haproxy/health-check-protocol is none, which " +
			"checks nothing; remove one or the other"},
		{"nothing checked by configuration", web(annotatedWith("health-check-interval", "1s")), unchecking,
			"annotation cloud-provider-haproxy/health-check-interval: the configuration checks no node (nodes.healthCheck.type is " +
				"none); set cloud-provider-haproxy/health-check-protocol too"},
		{"a path that is not asked for", web(annotate(string(HealthCheckPath), "/x")), nil,
			`annotation cloud-provider-haproxy/health-check-path "/x": the check is tcp, which asks for no path; set ` +
				"cloud-provider-haproxy/health-check-protocol to http or https, or remove it"},
		{"a check without a port", web(ported(map[int32]v1.Protocol{53: v1.ProtocolUDP}), annotate(string(HealthCheckProtocol), "http")),
			nil, "annotation cloud-provider-haproxy/health-check-protocol is http, and the Service has no TCP port with a nodePort, " +
				"which would be checked; set cloud-provider-haproxy/health-check-port"},
		{"a header for UDP", web(func(svc *v1.Service) { svc.Spec.Ports[1].Protocol = v1.ProtocolUDP },
			annotate(string(ProxyProtocol), "80=v2")), nil, `annotation cloud-provider-haproxy/proxy-protocol "80=v2": port http ` +
			"80/UDP is not of TCP, which alone has such headers; allowed is v1, v2, or one of them for single TCP ports by number " +
			"or name, as in 443=v2,smtp=v1"},
		{"an idle time that UDP cannot have", web(func(svc *v1.Service) { svc.Spec.Ports[1].Protocol = v1.ProtocolUDP },
			annotate(string(TimeoutIdle), "25h")), nil, `annotation cloud-provider-haproxy/timeout-idle "25h"; allowed is a duration ` +
			"of 1s to 24h (the longest that a flow of UDP can have) in whole seconds, as in 30s, 1h30m"},
		{"clients' addresses twice", web(localAt(32000), annotatedWith("source-address", "client", "proxy-protocol", "80=v2")), nil,
			"annotation cloud-provider-haproxy/source-address is client and cloud-provider-haproxy/proxy-protocol is set: both tell pods the client's address; remove one"},
		{"clients' addresses unchecked", web(annotatedWith("source-address", "client", "health-check-protocol", "none")), nil,
			"annotation cloud-provider-haproxy/source-address is client, and nodes are not checked: a check shows that their answers come back through the " +
				"gateways; set cloud-provider-haproxy/health-check-protocol"},
		{"all at once", web(annotatedWith("algorithm", "x", "connection-limit", "x", "log", "x", "hostname", "X", "drain-timeout", "x")),
			nil, `annotation cloud-provider-haproxy/connection-limit "x"; allowed is a whole number, 1 to 10000000; ` +
				`annotation cloud-provider-haproxy/log "x"; allowed is true or false; ` +
				`annotation cloud-provider-haproxy/drain-timeout "x"; allowed is a duration of 1s to 24h in whole seconds, as in ` +
				`30s, 1h30m; annotation cloud-provider-haproxy/algorithm "x"; allowed is roundrobin, leastconn, source or random; ` +
				`annotation cloud-provider-haproxy/hostname "X"; allowed is a DNS name in lower case without a dot at its end, as in ` +
				`lb.example.com`},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := testTranslator()
			if test.change != nil {
				test.change(&tr)
			}
			_, err := tr.translate(test.svc, among(twoNodes()))
			if err == nil || err.Error() != test.want {
				t.Errorf("error %q\nwant  %q", err, test.want)
			}
		})
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Hour: "1h", time.Minute: "1m", 90 * time.Second: "1m30s", 50 * time.Millisecond: "50ms",
		10 * time.Second: "10s", 20 * time.Minute: "20m", 168 * time.Hour: "168h", time.Hour + time.Second: "1h0m1s"} {
		if got := brief(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
