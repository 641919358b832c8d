package provider

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// knob is one field or annotation of a Service: what it means when it is set and changed, and what is said when it is wrong.
type knob struct {
	name string
	// steps are made one after the other, each from what the former left.
	steps []step
	wrong []mistake
}

type step struct {
	change func(*v1.Service)
	// want is the difference from the Service without the knob.
	want func(*loadbalancer.Service)
}

type mistake struct {
	change func(*v1.Service)
	event  string // a part of it
}

// annotated is a knob whose steps are values of an annotation.
func annotated(key Annotation, values ...any) knob {
	k := knob{name: string(key)}
	for i := 0; i+1 < len(values); i += 2 {
		value := values[i].(string)
		switch want := values[i+1].(type) {
		case string:
			k.wrong = append(k.wrong, mistake{annotate(string(key), value), want})
		case func(*desired.LoadBalancer):
			k.steps = append(k.steps, step{annotate(string(key), value),
				func(s *loadbalancer.Service) { want(&s.LoadBalancer) }})
		case func(*loadbalancer.Service):
			k.steps = append(k.steps, step{annotate(string(key), value), want})
		default:
			panic("want is neither a message nor a change")
		}
	}
	return k
}

// pooled gives the load balancer a pool of all nodes, and changes it.
func pooled(change func(*desired.Pool)) func(*desired.LoadBalancer) {
	return func(lb *desired.LoadBalancer) {
		lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
			Check:    desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3},
			AllNodes: true, Family: 4}
		change(lb.Pool)
	}
}

func onlyNode(name, address string) func(*desired.Pool) {
	return func(p *desired.Pool) {
		p.AllNodes, p.Family, p.Servers = false, 0, []desired.Server{{Name: name, Address: addr(address), Weight: 1}}
	}
}

func checked(change func(*desired.Check)) func(*desired.LoadBalancer) {
	return pooled(func(p *desired.Pool) { change(&p.Check) })
}

func timed(timeouts desired.Timeouts) func(*desired.LoadBalancer) {
	return func(lb *desired.LoadBalancer) {
		pooled(func(*desired.Pool) {})(lb)
		lb.Timeouts = &timeouts
	}
}

func nothingElse(*desired.LoadBalancer) {}

func algorithmIs(a desired.Algorithm) func(*desired.LoadBalancer) {
	return pooled(func(p *desired.Pool) { p.Algorithm = a })
}

// header gives the frontends 80 and 443 these versions of the PROXY protocol.
func header(http, https desired.ProxyProtocol) func(*desired.LoadBalancer) {
	return func(lb *desired.LoadBalancer) {
		pooled(func(*desired.Pool) {})(lb)
		lb.Frontends[0].ProxyProtocol, lb.Frontends[1].ProxyProtocol = http, https
	}
}

func knobs() []knob {
	const (
		duration = "in whole milliseconds, as in 500ms, 30s"
		whole    = "in whole seconds, as in 30s, 1h30m"
		aPath    = "is no path; allowed are '/' and then at most 255 letters, digits and characters of /-._~%:@&+,=?"
		million  = "allowed is a whole number, 1 to 10000000"
		hundred  = "allowed is a whole number, 1 to 100"
		version  = "allowed is v1, v2, or one of them for single TCP ports by number or name, as in 443=v2,smtp=v1"
		dnsName  = "allowed is a DNS name in lower case without a dot at its end, as in lb.example.com"
	)
	return []knob{
		annotated(Algorithm, "leastconn", algorithmIs(desired.LeastConn), "source", algorithmIs(desired.Source),
			"random", algorithmIs(desired.Random), "roundrobin", algorithmIs(desired.RoundRobin),
			"first", `algorithm "first"; allowed is roundrobin, leastconn, source or random`),
		annotated(ConnectionLimit, "100", func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 100 },
			"10000000", func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 10_000_000 },
			"0", million, "10000001", million, "1e3", million, "+5", million, "", million),
		annotated(ConnectionRateLimit, "20", func(lb *desired.LoadBalancer) { lb.SourceRate = 20 },
			"1", func(lb *desired.LoadBalancer) { lb.SourceRate = 1 }, "many", million),
		annotated(DrainTimeout, "90s", func(lb *desired.LoadBalancer) { lb.DrainSeconds = 90 },
			"24h", func(lb *desired.LoadBalancer) { lb.DrainSeconds = 86400 },
			"90", `drain-timeout "90"; allowed is a duration of 1s to 24h `+whole, "1500ms", whole, "25h", whole, "0s", whole),
		annotated(HealthCheckProtocol,
			"tcp", checked(func(c *desired.Check) { c.Kind, c.Port, c.Path = desired.CheckTCP, 30443, "" }),
			"http", checked(func(c *desired.Check) { c.Port, c.Path = 30443, "/" }),
			"https", checked(func(c *desired.Check) { c.Kind, c.Port, c.Path = desired.CheckHTTPS, 30443, "/" }),
			"none", checked(func(c *desired.Check) { *c = desired.Check{Kind: desired.CheckNone} }),
			"HTTP", `health-check-protocol "HTTP"; allowed is none, tcp, http or https`),
		annotated(HealthCheckPort, "30080", checked(func(c *desired.Check) { c.Port = 30080 }),
			"https", checked(func(c *desired.Check) { c.Port = 30443 }),
			"0", "allowed is a port of the nodes, 1 to 65535, or the name of one of the Service's TCP ports with a nodePort "+
				"(https 443/TCP, http 80/TCP)", "65536", "allowed is a port", "dns", "allowed is a port"),
		annotated(HealthCheckPath, "/ready?full=1", checked(func(c *desired.Check) { c.Path = "/ready?full=1" }),
			"/", checked(func(c *desired.Check) { c.Path = "/" }),
			"ready", `annotation cloud-provider-haproxy/health-check-path: "ready" `+aPath, "/a b", aPath, "/live;deep", aPath,
			"/a(b)", aPath, "/"+strings.Repeat("a", 256), aPath, "", aPath),
		annotated(HealthCheckInterval, "500ms", checked(func(c *desired.Check) { c.IntervalMillis = 500 }),
			"1h", checked(func(c *desired.Check) { c.IntervalMillis = 3_600_000 }),
			"99ms", "allowed is a duration of 100ms to 1h "+duration, "1h1ms", duration, "100.5ms", duration),
		annotated(HealthCheckTimeout, "50ms", timed(desired.Timeouts{CheckMillis: 50}),
			"1m", timed(desired.Timeouts{CheckMillis: 60_000}),
			"2m", "allowed is a duration of 50ms to 1m "+duration),
		annotated(HealthCheckHealthyThreshold, "1", checked(func(c *desired.Check) { c.Rise = 1 }),
			"100", checked(func(c *desired.Check) { c.Rise = 100 }), "101", hundred),
		annotated(HealthCheckUnhealthyThreshold, "1", checked(func(c *desired.Check) { c.Fall = 1 }),
			"5", checked(func(c *desired.Check) { c.Fall = 5 }), "0", hundred),
		annotated(Hostname, "lb.example.com", nothingElse, "other.example.com", nothingElse,
			"192.0.2.70", dnsName, "2001:db8::1", dnsName, "LB.example.com", dnsName, "lb.example.com.", dnsName, "", dnsName),
		annotated(SourceAddress, "client", func(lb *desired.LoadBalancer) {
			pooled(func(*desired.Pool) {})(lb)
			lb.ClientSource = true
		}, "gateway", nothingElse, "Client", `source-address "Client"; allowed is client or gateway`, "", "allowed is client or gateway"),
		annotated(Log, "true", func(lb *desired.LoadBalancer) { lb.Log = true }, "false", nothingElse,
			"yes", `log "yes"; allowed is true or false`),
		annotated(PreferredGateway, "gw2", func(s *loadbalancer.Service) { s.PreferredGateway = "gw2" },
			"gw1", func(s *loadbalancer.Service) { s.PreferredGateway = "gw1" },
			"gw3", nothingElse), // told by an Event
		annotated(ProxyProtocol, "v2", header(desired.ProxyV2, desired.ProxyV2), "v1", header(desired.ProxyV1, desired.ProxyV1),
			"443=v2", header("", desired.ProxyV2), "https=v1, 80=v2", header(desired.ProxyV2, desired.ProxyV1),
			"v3", `proxy-protocol "v3": "v3" is no port with a version; `+version,
			"443=v3", `"443=v3" is no port with a version; `+version,
			"8443=v2", `"8443" is none of the Service's ports (https 443/TCP, http 80/TCP); `+version,
			"https=v2,443=v2", "port https 443/TCP is named twice; "+version, "", version, "443=v2,", `"" is no port`),
		annotated(TimeoutConnect, "50ms", timed(desired.Timeouts{ConnectMillis: 50}),
			"3s", timed(desired.Timeouts{ConnectMillis: 3000}), "3", "allowed is a duration of 50ms to 1m "+duration),
		annotated(TimeoutIdle, "1s", timed(desired.Timeouts{IdleSeconds: 1}),
			"168h", timed(desired.Timeouts{IdleSeconds: 604_800}), "169h", "allowed is a duration of 1s to 168h "+whole),
		annotated(NodeSelector, "disk=ssd", pooled(onlyNode("b", "192.0.2.22")), "!disk", pooled(onlyNode("a", "192.0.2.21")),
			"disk in ssd", "is no label selector"),
		annotated(KeepIP, "true", func(s *loadbalancer.Service) { s.Keep = true }, "false", nothingElse, "1", "allowed is true or false"),
		annotated(DenySourceRanges, "198.51.100.0/24", func(lb *desired.LoadBalancer) {
			lb.DenySources = prefixes("198.51.100.0/24")
		}, "::/0", func(lb *desired.LoadBalancer) { lb.DenySources = prefixes("::/0") }, "198.51.100.0", "is not a range"),
		annotated(AllowSharedIP, "a", func(s *loadbalancer.Service) { s.Request.Sharing.Key = "a" },
			"b", func(s *loadbalancer.Service) { s.Request.Sharing.Key = "b" }, " ", "is empty"),
		annotated(LoadBalancerIPs, "192.0.2.70", func(s *loadbalancer.Service) { s.Request.Addresses = addrs("192.0.2.70") },
			"192.0.2.71", func(s *loadbalancer.Service) { s.Request.Addresses = addrs("192.0.2.71") }, "x", "is not an address"),
		annotated(AddressPool, "main", func(s *loadbalancer.Service) {
			s.Named, s.Request.Moves = "main", true
			s.Request.Note = `annotation cloud-provider-haproxy/address-pool "main" names no other pool`
		}, "main,", "a name is empty"),
	}
}

// fields are those of the spec, with what a person may do to them.
func fields() []knob {
	lb := func(change func(*v1.Service), want func(*desired.LoadBalancer)) step {
		return step{change, func(s *loadbalancer.Service) { want(&s.LoadBalancer) }}
	}
	local := func(s *v1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
	}
	affine := func(timeout int32) func(*v1.Service) {
		return func(s *v1.Service) {
			s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
	ports := func(change func([]v1.ServicePort) []v1.ServicePort) func(*v1.Service) {
		return func(s *v1.Service) { s.Spec.Ports = change(slices.Clone(s.Spec.Ports)) }
	}
	allocates := func(nodePorts bool) func(*v1.Service) {
		return func(s *v1.Service) { s.Spec.AllocateLoadBalancerNodePorts = &nodePorts }
	}
	return []knob{
		{name: "sessionAffinity", steps: []step{
			lb(affine(10800), func(lb *desired.LoadBalancer) { lb.AffinitySeconds = 10800 }),
			lb(affine(60), func(lb *desired.LoadBalancer) { lb.AffinitySeconds = 60 }),
			lb(func(s *v1.Service) { s.Spec.SessionAffinityConfig = nil }, func(lb *desired.LoadBalancer) { lb.AffinitySeconds = 10800 }),
		}},
		{name: "externalTrafficPolicy", steps: []step{
			lb(local, func(lb *desired.LoadBalancer) {
				lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true, Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000,
					Path: "/healthz", IntervalMillis: 2000, DownIntervalMillis: 250, Rise: 1, Fall: 3}}
			}),
			lb(annotate(string(HealthCheckInterval), "200ms"), func(lb *desired.LoadBalancer) { // never more often when it is up
				lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true, Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000,
					Path: "/healthz", IntervalMillis: 200, Rise: 1, Fall: 3}}
			}),
			lb(func(s *v1.Service) {
				s.Spec.ExternalTrafficPolicy, s.Annotations = v1.ServiceExternalTrafficPolicyCluster, nil
			}, nothingElse),
		}, wrong: []mistake{{func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		}, "spec.healthCheckNodePort is not set"}}},
		{name: "ports", steps: []step{
			lb(ports(func(p []v1.ServicePort) []v1.ServicePort { p[0].Name = "tls"; return p }),
				func(lb *desired.LoadBalancer) { lb.Frontends[1].Name = "tls" }),
			lb(ports(func(p []v1.ServicePort) []v1.ServicePort { p[0].NodePort = 30444; return p }),
				func(lb *desired.LoadBalancer) { lb.Frontends[1].Name, lb.Frontends[1].NodePort = "tls", 30444 }),
			{ports(func(p []v1.ServicePort) []v1.ServicePort { return p[1:] }), func(s *loadbalancer.Service) {
				s.LoadBalancer.Frontends = s.LoadBalancer.Frontends[:1]
				s.Request.Sharing.Ports = s.Request.Sharing.Ports[:1]
			}},
			{ports(func(p []v1.ServicePort) []v1.ServicePort {
				return append(p, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053})
			}), func(s *loadbalancer.Service) {
				s.LoadBalancer.Frontends[1] = desired.Frontend{Name: "dns", Protocol: desired.UDP, Port: 53, NodePort: 30053}
				s.Request.Sharing.Ports[1] = ipam.Port{Protocol: "UDP", Number: 53}
			}},
		}},
		{name: "loadBalancerSourceRanges", steps: []step{
			lb(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/25", "192.0.2.128/25"} },
				func(lb *desired.LoadBalancer) { lb.AllowSources = prefixes("192.0.2.0/24") }),
			lb(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"0.0.0.0/0"} },
				func(lb *desired.LoadBalancer) { lb.AllowSources = prefixes("0.0.0.0/0") }),
		}, wrong: []mistake{{func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"x"} }, "is not a range"}}},
		{name: "loadBalancerIP", steps: []step{
			{func(s *v1.Service) { s.Spec.LoadBalancerIP = "192.0.2.70" },
				func(s *loadbalancer.Service) { s.Request.Addresses = addrs("192.0.2.70") }},
		}, wrong: []mistake{{func(s *v1.Service) { s.Spec.LoadBalancerIP = "lb" }, "is not an address"}}},
		{name: "allocateLoadBalancerNodePorts", steps: []step{
			lb(allocates(false), nothingElse), // ports that have a nodePort keep it
			lb(allocates(true), nothingElse),
		}}, // one that loses its nodePort: TestPodsAreNotReachable
		{name: "publishNotReadyAddresses", steps: []step{ // EndpointSlices tell what it does
			lb(func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = true }, nothingElse),
			lb(func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = false }, nothingElse),
		}},
		{name: "ipFamilies", steps: []step{
			{func(s *v1.Service) {
				policy := v1.IPFamilyPolicyPreferDualStack
				s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
			}, func(s *loadbalancer.Service) {
				s.Request.Families, s.Request.FirstSuffices = []ipam.Family{ipam.IPv4, ipam.IPv6}, true
			}},
			{func(s *v1.Service) { *s.Spec.IPFamilyPolicy = v1.IPFamilyPolicyRequireDualStack },
				func(s *loadbalancer.Service) { s.Request.Families = []ipam.Family{ipam.IPv4, ipam.IPv6} }},
		}},
	}
}

// TestKnobs changes one Service again and again and looks at what Manager is told: set, changed, removed, wrong. What is
// wrong leaves it served as it was.
func TestKnobs(t *testing.T) {
	a, b := worker("a", "192.0.2.21"), worker("b", "192.0.2.22")
	b.Labels = map[string]string{"disk": "ssd"}
	yaml := strings.Replace(testConfig, "- {name: gw1", "- {name: gw2, sshAddress: 192.0.2.3, interface: eth0}\n- {name: gw1", 1)
	for _, k := range append(knobs(), fields()...) {
		t.Run(strings.TrimPrefix(k.name, Prefix), func(t *testing.T) {
			inCluster(t, yaml, nil, []runtime.Object{a.DeepCopy(), b.DeepCopy(), named("web"), named("other")}, func(c *cluster) {
				plain, other := c.told("web"), c.told("other")
				original := c.get("web")
				restore := func() {
					c.change("web", func(s *v1.Service) { s.Spec, s.Annotations = *original.Spec.DeepCopy(), nil })
				}
				for i, one := range k.steps {
					c.change("web", one.change)
					want := plain
					want.LoadBalancer = plain.LoadBalancer.Clone()
					want.Request.Sharing.Ports = slices.Clone(plain.Request.Sharing.Ports)
					one.want(&want)
					if diff := cmp.Diff(want, c.told("web"), equalAddresses); diff != "" {
						t.Errorf("step %d (-want +got):\n%s", i, diff)
					}
					wantValid(t, want.LoadBalancer)
				}
				restore()
				if diff := cmp.Diff(plain, c.told("web"), equalAddresses); diff != "" {
					t.Errorf("removed (-want +got):\n%s", diff)
				}
				for _, one := range k.wrong {
					c.change("web", one.change)
					c.wantEvent("web", one.event)
					if diff := cmp.Diff(plain, c.told("web"), equalAddresses); diff != "" {
						t.Errorf("what is wrong was told all the same (-want +got):\n%s", diff)
					}
					restore()
				}
				if diff := cmp.Diff(other, c.told("other"), equalAddresses); diff != "" {
					t.Errorf("another Service changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Every annotation is turned.
func TestKnobsAreAll(t *testing.T) {
	turned := map[string]bool{}
	for _, k := range knobs() {
		turned[k.name] = len(k.steps) > 0
	}
	for _, key := range annotations() {
		if !turned[string(key)] {
			t.Errorf("TestKnobs does not set %s", key)
		}
	}
}

// told is what Manager was told last of a Service and took, but for what Manager itself adds, and for its facts: they say what the
// form says.
func (c *cluster) told(name string) loadbalancer.Service {
	c.manager.mu.Lock()
	defer c.manager.mu.Unlock()
	s := c.manager.held[key(name)]
	s.LoadBalancer = s.LoadBalancer.Clone()
	s.LoadBalancer.Addresses, s.Published = nil, nil
	if diff := cmp.Diff(s.LoadBalancer, s.Facts.Of(s.LoadBalancer), equalAddresses); diff != "" {
		c.t.Errorf("facts are other than the form (-form +facts):\n%s", diff)
	}
	s.Facts = nil
	return s
}
