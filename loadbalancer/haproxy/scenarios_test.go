package haproxy

import (
	_ "embed"
	"fmt"
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

type scenario struct {
	name  string
	local Local
	state *desired.State
}

func scenarios() []scenario {
	make := func(name string, change func(*desired.State, *Local)) scenario {
		s, l := baseState(), testLocal()
		change(s, &l)
		return scenario{name, l, s}
	}
	tcpCheck := desired.Check{Kind: desired.CheckTCP, Port: 10250, IntervalMillis: 5000, Rise: 1, Fall: 2}
	apiCheck := desired.Check{Kind: desired.CheckHTTPS, Port: 6443, Path: "/readyz", IntervalMillis: 2000, Rise: 1, Fall: 2}
	controlPlane := func(check desired.Check) *desired.ControlPlane {
		return &desired.ControlPlane{
			Address: netip.MustParseAddr("192.0.2.2"), Port: 6443, Check: check,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.21:6443"), netip.MustParseAddrPort("[fd00::22]:6443")},
		}
	}
	return []scenario{
		make("empty", func(s *desired.State, _ *Local) { s.Nodes = nil }),
		make("one-service", func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10")} }),
		make("several", func(s *desired.State, _ *Local) {
			db := web("192.0.2.11")
			db.Key = desired.Key{Namespace: "shop", Name: "db"}
			db.Frontends = []desired.Frontend{
				tcpPort(5432, 31001), tcpPort(22, 31002),
				{Protocol: desired.UDP, Port: 53, NodePort: 31003}, {Protocol: desired.SCTP, Port: 9, NodePort: 31004},
			}
			s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10"), db}
		}),
		make("dual-stack", func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10", "2001:db8::10")}
		}),
		make("ipv6-only", func(s *desired.State, _ *Local) {
			both, local := web("192.0.2.11", "2001:db8::11"), localPolicy("ingress", "2001:db8::20", tcpCheck)
			both.Name = "both"
			s.LoadBalancers = []desired.LoadBalancer{web("2001:db8::10"), both, local}
		}),
		make("local-policy", func(s *desired.State, _ *Local) {
			health := kubeProxyCheck()
			health.Port, health.Path = 31999, "/"
			s.LoadBalancers = []desired.LoadBalancer{
				localPolicy("ingress", "192.0.2.20", health,
					desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 2},
					desired.Server{Name: "worker3", Address: netip.MustParseAddr("fd00::13"), Weight: 1}),
				localPolicy("nobody", "192.0.2.21", health),
				localPolicy("plain", "192.0.2.22", tcpCheck, desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1}),
				web("192.0.2.10"),
			}
		}),
		// Servers see their clients: worker1 has no IPv6 address, worker3 no IPv4, and one that terminates is not known to answer.
		make("client-source", func(s *desired.State, l *Local) { seeing(s, l) }),
		make("client-source-ipv4", func(s *desired.State, l *Local) {
			seeing(s, l)
			l.ClientSourceProbes = l.ClientSourceProbes[:1]
		}),
		make("client-source-not-allowed", func(s *desired.State, l *Local) {
			seeing(s, l)
			l.ClientSourceProbes = nil
		}),
		// One pod is ready, another one terminates and serves still, a third one is not ready and has connections.
		make("terminating", func(s *desired.State, _ *Local) {
			health := desired.Check{Kind: desired.CheckHTTP, Port: 31999, Path: "/healthz", IntervalMillis: 2000, Rise: 1, Fall: 3, DownIntervalMillis: 250}
			s.LoadBalancers = []desired.LoadBalancer{localPolicy("ingress", "192.0.2.20", health,
				desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1},
				desired.Server{Name: "worker2", Address: netip.MustParseAddr("10.0.0.12"), Weight: 3, Backup: true},
				desired.Server{Name: "worker3", Address: netip.MustParseAddr("fd00::13"), Weight: 1, Drains: true})}
		}),
		// Port 80 goes through the slot of the load balancer, 443 and 993 have headers and so slots of their own; the pods' check
		// of 993 asks the port that is served.
		make("proxy-protocol", func(s *desired.State, _ *Local) {
			health := desired.Check{Kind: desired.CheckHTTP, Port: 31999, Path: "/healthz", IntervalMillis: 2000, Rise: 1, Fall: 3}
			lb := localPolicy("ingress", "192.0.2.20", health,
				desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 2},
				desired.Server{Name: "worker3", Address: netip.MustParseAddr("fd00::13"), Weight: 1, Backup: true})
			lb.Addresses = addrs("192.0.2.20", "2001:db8::20")
			lb.Frontends[1].ProxyProtocol = desired.ProxyV2
			lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 993, ProxyProtocol: desired.ProxyV1,
				Pool: podPool(desired.Check{Kind: desired.CheckTCP, Port: 8993, IntervalMillis: 1000, Rise: 1, Fall: 2}, podAt("mail-0", "10.244.1.7", 8993))})
			s.LoadBalancers = []desired.LoadBalancer{lb}
		}),
		// Pods, with dots in a name and one that drains, behind one port, the nodes of all Services behind the other.
		make("pods", func(s *desired.State, _ *Local) {
			lb, none := web("192.0.2.10"), desired.Check{Kind: desired.CheckNone}
			drains := podAt("web-2", "10.244.1.9", 8080)
			drains.Drains = true
			lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 443,
				Pool: podPool(none, podAt("web-1.v2", "fd00:244::8", 8443), drains)})
			other := podService("web", "192.0.2.11", podAt("web-1.v2", "10.244.1.8", 8080), podAt("web-3", "10.244.1.3", 9090), drains)
			other.Frontends[0].Pool.Check = tcpCheck
			other.Frontends[0].Pool.Check.Port = 0 // each pod's own
			s.LoadBalancers = []desired.LoadBalancer{lb, other}
		}),
		make("algorithms-and-timeouts", func(s *desired.State, l *Local) {
			for i, algorithm := range []desired.Algorithm{desired.RoundRobin, desired.LeastConn, desired.Source, desired.Random} {
				lb := localPolicy(string(algorithm), fmt.Sprintf("192.0.2.%d", 20+i), tcpCheck,
					desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1})
				lb.Pool.Algorithm = algorithm
				s.LoadBalancers = append(s.LoadBalancers, lb)
			}
			s.LoadBalancers[0].Timeouts = &desired.Timeouts{ConnectMillis: 250, IdleSeconds: 86400, CheckMillis: 700}
			s.LoadBalancers[2].Timeouts = &desired.Timeouts{IdleSeconds: 30}
		}),
		// Four Services on one address: two of the nodes' pool, one with servers of its own, and one that only wants
		// the TCP port of another for UDP. A fifth one is on its way off it.
		make("shared-address", func(s *desired.State, _ *Local) {
			mail, dns := web("192.0.2.10", "2001:db8::10"), web("192.0.2.10")
			mail.Name, mail.Frontends = "mail", []desired.Frontend{tcpPort(25, 31025), tcpPort(443, 31443)}
			dns.Name, dns.Frontends = "dns", []desired.Frontend{{Protocol: desired.UDP, Port: 80, NodePort: 31053}, tcpPort(53, 31053)}
			ingress := localPolicy("ingress", "192.0.2.10", tcpCheck, desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1})
			ingress.Frontends = []desired.Frontend{tcpPort(8080, 30080)}
			s.LoadBalancers = []desired.LoadBalancer{dns, mail, web("192.0.2.10"), ingress}
			s.Releasing = []desired.Releasing{{Address: netip.MustParseAddr("192.0.2.10"), Owner: desired.Key{Namespace: "default", Name: "gone"},
				Ports: []desired.Port{{Protocol: desired.TCP, Port: 22}}, SinceEpoch: 3, SinceSequence: 1}}
		}),
		// One Service asks for each of the last four fields, another one for an affinity of its own. That of UDP is not HAProxy's.
		make("knobs", func(s *desired.State, l *Local) {
			db, dns := web("192.0.2.11"), web("192.0.2.12")
			db.Name, db.AffinitySeconds, dns.Name, dns.AffinitySeconds = "db", 600, "dns", 60
			dns.Frontends[0].Protocol = desired.UDP
			all := localPolicy("all", "192.0.2.20", kubeProxyCheck(), desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1})
			all.AffinitySeconds, all.ConnectionLimit, all.SourceRate, all.Log = usualAffinity, 1000, 5, true
			s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10"), db, dns, all}
			s.Gateways = append(s.Gateways, desired.Gateway{Name: "gw0", SSHAddress: "10.0.0.1:22", VRRPAddress: netip.MustParseAddr("fd00::1"), Interface: "eth0"})
			l.PeersPort = 9999
		}),
		make("single", func(s *desired.State, _ *Local) { s.Gateways = s.Gateways[:1] }),
		make("control-plane-https", func(s *desired.State, _ *Local) {
			s.ControlPlane = controlPlane(apiCheck)
			s.ControlPlane.CA = ca
		}),
		make("control-plane-extra-ports", func(s *desired.State, _ *Local) {
			s.ControlPlane = controlPlane(apiCheck)
			s.ControlPlane.ExtraPorts = []desired.ExtraPort{{Port: 8132, EndpointPort: 8132}, {Port: 9345, EndpointPort: 19345}}
		}),
		make("control-plane-tcp", func(s *desired.State, _ *Local) {
			check := tcpCheck
			check.Port = 6443
			s.ControlPlane = controlPlane(check)
		}),
		make("before-cluster", func(s *desired.State, _ *Local) {
			s.Fence, s.Nodes, s.NodeCheck = desired.Fence{}, nil, desired.Check{Kind: desired.CheckNone}
			s.ControlPlane = controlPlane(apiCheck)
		}),
		make("check-none", func(s *desired.State, _ *Local) { s.NodeCheck = desired.Check{Kind: desired.CheckNone} }),
		make("check-tcp", func(s *desired.State, _ *Local) { s.NodeCheck = tcpCheck }),
		make("three-gateways", func(s *desired.State, l *Local) {
			s.Gateways = append(s.Gateways, desired.Gateway{Name: "gw3", SSHAddress: "10.0.0.4:22", VRRPAddress: netip.MustParseAddr("10.0.0.4"), Interface: "eth0"})
			s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10")}
			l.MaxConn, l.Log = 50000, ""
		}),
	}
}

func (s scenario) render(t *testing.T) *Config {
	t.Helper()
	slots, _ := Assign(nil, s.state, func(string) bool { return true }, s.local)
	c, err := Render(s.state, s.local, slots)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
