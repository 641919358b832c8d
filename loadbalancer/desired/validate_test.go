package desired_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestValidStates(t *testing.T) {
	tests := map[string]func(s *desired.State){
		"everything":   func(*desired.State) {},
		"many":         func(s *desired.State) { *s = *many(1000) },
		"no UID":       func(s *desired.State) { s.LoadBalancers[0].UID = "" },
		"no nodes":     func(s *desired.State) { s.Nodes = nil },
		"no releasing": func(s *desired.State) { s.Releasing = nil },
		"begins to share": func(s *desired.State) {
			s.Releasing[0].Address, s.Releasing[0].Owner = s.LoadBalancers[0].Addresses[0], s.LoadBalancers[0].Key
		},
		"IPv6 VRRP": func(s *desired.State) {
			s.Gateways[0].VRRPAddress, s.Gateways[1].VRRPAddress = addr("fe80::1"), addr("fe80::2")
		},
		"no check": func(s *desired.State) { s.NodeCheck = desired.Check{Kind: desired.CheckNone} },
		"sources that are not merged": func(s *desired.State) {
			s.LoadBalancers[0].AllowSources = []netip.Prefix{prefix("10.1.2.3/8"), prefix("10.1.0.0/16"), prefix("::/0")}
		},
		"empty pool":   func(s *desired.State) { s.LoadBalancers[1].Pool.Servers = nil },
		"unused VIP":   func(s *desired.State) { s.LoadBalancers = nil },
		"SSH capitals": func(s *desired.State) { s.Gateways[0].SSHAddress = "East.Example.NET:22" },
		"SSH zone":     func(s *desired.State) { s.Gateways[0].SSHAddress = "[fe80::1%eth0]:22" },
		"advert 10 ms": func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 10 },
		"advert 41 s":  func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 40950 },
		"delay 1000":   func(s *desired.State) { s.VRRP.PreemptDelaySeconds = 1000 },
		"shared VIP": func(s *desired.State) {
			s.LoadBalancers[1].Addresses[0], s.LoadBalancers[1].Frontends[0].Port = addr("192.0.2.10"), 81
		},
		"departed ports of two Services": func(s *desired.State) {
			s.Releasing = append(s.Releasing, s.Releasing[2])
			s.Releasing[3].Owner, s.Releasing[3].Ports = key("second"), []desired.Port{{Protocol: desired.SCTP, Port: 80}}
		},
		"departed ports that their owner has again": func(s *desired.State) {
			s.Releasing[2].Owner, s.Releasing[2].Ports = key("api"), []desired.Port{{Protocol: desired.TCP, Port: 80}}
		},
		"departed ports beside a whole address": func(s *desired.State) { s.Releasing[2].Address = addr("192.0.2.20") },
		"kept and quarantined":                  func(s *desired.State) { s.Quarantined[0].Address = s.Reserved[1].Address },
		"UDP and TCP":                           func(s *desired.State) { s.LoadBalancers[0].Frontends[2].Port = 443 },
		"before": func(s *desired.State) {
			s.Fence, s.Nodes, s.LoadBalancers, s.Releasing = desired.Fence{Sequence: 4}, nil, nil, nil
		},
		"single":      func(s *desired.State) { single(s) },
		"no floating": func(s *desired.State) { s.VIPs, s.LoadBalancers, s.ControlPlane, s.Instances = nil, nil, nil, nil },
		"largest ports": func(s *desired.State) {
			s.LoadBalancers[0].Frontends[0] = desired.Frontend{Protocol: desired.SCTP, Port: 65535, NodePort: 65535}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			s := valid()
			change(s)
			if err := s.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// single makes s a State of one gateway.
func single(s *desired.State) {
	s.Gateways = s.Gateways[:1]
	s.Instances = []desired.Instance{{RouterID: 51, Gateways: []string{"east"}}}
	for i := range s.VIPs {
		s.VIPs[i].RouterID = 51
	}
}

// faultTest changes a valid State and tells the faults that this must give, all of them: "owner field: problem", the
// owner only where one load balancer is at fault, the problem by its first words.
type faultTest struct {
	name   string
	change func(s *desired.State)
	want   []string
}

func runFaultTests(t *testing.T, tests []faultTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := valid()
			test.change(s)
			before := s.Clone()
			got := told(t, s.Validate())
			if len(got) != len(test.want) {
				t.Fatalf("got %d faults, want %d:\n%s", len(got), len(test.want), strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], test.want[i]) {
					t.Errorf("fault %d:\n got %s\nwant %s...", i, got[i], test.want[i])
				}
			}
			if diff := cmp.Diff(before, s, exact); diff != "" {
				t.Errorf("Validate changed the State:\n%s", diff)
			}
		})
	}
}

func told(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var faults desired.Faults
	if !errors.As(err, &faults) {
		t.Fatalf("Validate gave a %T: %v", err, err)
	}
	var lines []string
	for _, f := range faults {
		line := f.String()
		if f.Owner != nil {
			line = f.Owner.String() + " " + line
		}
		lines = append(lines, line)
	}
	return lines
}

func TestValidateFenceAndGateways(t *testing.T) {
	runFaultTests(t, []faultTest{
		{"schema", func(s *desired.State) { s.Schema = 2 }, []string{"schema: is 2; allowed is 1"}},
		{"no cluster", func(s *desired.State) { s.Fence.ClusterUID = "" }, []string{"fence.clusterUID: is missing"}},
		{"no instance", func(s *desired.State) { s.Fence.Instance = "" }, []string{"fence.instance: is missing"}},
		{"epoch 0", func(s *desired.State) { s.Fence.Epoch = 0 },
			[]string{"fence.clusterUID: is set, but the epoch is 0", "fence.instance: is set, but the epoch is 0", "nodes: are 2, but the epoch is 0", "loadBalancers: are 2, but the epoch is 0",
				"releasing: are 3, but the epoch is 0"}},
		{"strange UID", func(s *desired.State) { s.Fence.ClusterUID = "a b" }, []string{`fence.clusterUID: "a b" is no identifier`}},
		{"no gateway", func(s *desired.State) { s.Gateways = nil },
			[]string{"gateways: are missing", `instances[0].gateways: are ["east" "west"]`, `instances[1].gateways: are ["west" "east"]`}},
		{"gateway twice", func(s *desired.State) { s.Gateways = append(s.Gateways, s.Gateways[0]) },
			[]string{`gateways[2].name: "east" is the name of an earlier gateway`, "gateways[2].vrrpAddress: 10.0.0.2 is the address of gateway east",
				"instances[0].gateways: are", "instances[1].gateways: are"}},
		{"gateway's name", func(s *desired.State) { single(s); s.Gateways[0].Name = "East"; s.Instances[0].Gateways[0] = "East" },
			[]string{`gateways[0].name: "East" is no DNS label`}},
		{"no SSH port", func(s *desired.State) { s.Gateways[0].SSHAddress = "east.example.net" }, []string{`gateways[0].sshAddress: "east.example.net" is no host:port`}},
		{"SSH port 0", func(s *desired.State) { s.Gateways[0].SSHAddress = "east:0" }, []string{`gateways[0].sshAddress: "east:0" is no host:port`}},
		{"SSH host", func(s *desired.State) { s.Gateways[0].SSHAddress = "ea st:22" }, []string{`gateways[0].sshAddress: "ea st:22" is no host:port`}},
		{"interface too long", func(s *desired.State) { s.Gateways[1].Interface = "sixteen-letters0" }, []string{`gateways[1].interface: "sixteen-letters0" is no interface name`}},
		{"interface wildcard", func(s *desired.State) { s.Gateways[1].Interface = "eth*" }, []string{`gateways[1].interface: "eth*" is no interface name`}},
		{"interface is a path", func(s *desired.State) { s.Gateways[1].Interface = "a/b" }, []string{`gateways[1].interface: "a/b" is no interface name`}},
		{"VRRP anchor's net", func(s *desired.State) { s.Gateways[0].VRRPAddress = addr("169.254.51.1") }, []string{"gateways[0].vrrpAddress: 169.254.51.1 is a link-local address"}},
		{"VRRP missing", func(s *desired.State) { s.Gateways[1].VRRPAddress = netip.Addr{} }, []string{"gateways[1].vrrpAddress: is missing"}},
		{"VRRP families", func(s *desired.State) { s.Gateways[1].VRRPAddress = addr("2001:db8::9") }, []string{"gateways[1].vrrpAddress: 2001:db8::9 is of another family than 10.0.0.2 of gateway east"}},
		{"VRRP twice", func(s *desired.State) { s.Gateways[1].VRRPAddress = addr("10.0.0.2") }, []string{"gateways[1].vrrpAddress: 10.0.0.2 is the address of gateway east"}},
		{"advert 0", func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 0 }, []string{"vrrp.advertIntervalMillis: is 0; allowed are 10 to 40950 in steps of 10"}},
		{"advert 15 ms", func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 15 }, []string{"vrrp.advertIntervalMillis: is 15"}},
		{"advert 41 s", func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 40960 }, []string{"vrrp.advertIntervalMillis: is 40960"}},
		{"delay -1", func(s *desired.State) { s.VRRP.PreemptDelaySeconds = -1 }, []string{"vrrp.preemptDelaySeconds: is -1; allowed are 0 to 1000"}},
		{"delay 1001", func(s *desired.State) { s.VRRP.PreemptDelaySeconds = 1001 }, []string{"vrrp.preemptDelaySeconds: is 1001"}},
		{"router ID 0", func(s *desired.State) {
			single(s)
			s.Instances[0].RouterID = 0
			s.VIPs = nil
			s.LoadBalancers = nil
			s.ControlPlane = nil
		},
			[]string{"instances[0].routerID: is 0; allowed are 1 to 255"}},
		{"router ID 256", func(s *desired.State) {
			s.Instances[0].RouterID = 256
			s.VIPs[0].RouterID = 256
			s.VIPs[2].RouterID = 256
		},
			[]string{"instances[0].routerID: is 256; allowed are 1 to 255"}},
		{"router ID twice", func(s *desired.State) { s.Instances = append(s.Instances, s.Instances[1]) }, []string{"instances[2].routerID: 52 is the router ID of an earlier instance"}},
		{"instance short", func(s *desired.State) { s.Instances[0].Gateways = s.Instances[0].Gateways[:1] }, []string{`instances[0].gateways: are ["east"]; allowed is each gateway exactly once`}},
		{"instance double", func(s *desired.State) { s.Instances[0].Gateways = []string{"east", "east"} }, []string{`instances[0].gateways: are ["east" "east"]`}},
		{"instance stranger", func(s *desired.State) { s.Instances[0].Gateways = []string{"east", "north"} }, []string{`instances[0].gateways: are ["east" "north"]`}},
	})
}

func TestValidateNodesAndChecks(t *testing.T) {
	check := func(c desired.Check) func(s *desired.State) { return func(s *desired.State) { s.NodeCheck = c } }
	runFaultTests(t, []faultTest{
		{"node's name", func(s *desired.State) { s.Nodes[0].Name = "a|b" }, []string{`nodes[0].name: "a|b" is no DNS subdomain`}},
		{"node twice", func(s *desired.State) { s.Nodes[1].Name = "worker-1" }, []string{`nodes[1].name: "worker-1" is the name of an earlier node`}},
		{"node without address", func(s *desired.State) { s.Nodes[1].Addresses = nil }, []string{"nodes[1].addresses: has 0 IPv4 and 0 IPv6 addresses"}},
		{"node with two", func(s *desired.State) { s.Nodes[1].Addresses = []netip.Addr{addr("10.0.2.2"), addr("10.0.2.3")} }, []string{"nodes[1].addresses: has 2 IPv4 and 0 IPv6 addresses"}},
		{"node's address twice", func(s *desired.State) { s.Nodes[1].Addresses[0] = addr("10.0.2.1") }, []string{"nodes[1].addresses[0]: 10.0.2.1 is the address of node worker-1"}},
		{"node is a gateway", func(s *desired.State) { s.Nodes[1].Addresses[0] = addr("10.0.0.3") }, []string{"nodes[1].addresses[0]: 10.0.0.3 is the address of gateway west"}},
		{"node's link-local", func(s *desired.State) { s.Nodes[1].Addresses[0] = addr("fe80::1") }, []string{"nodes[1].addresses[0]: fe80::1 is a link-local address"}},
		{"kind", check(desired.Check{}), []string{`nodeCheck.kind: is ""; allowed are none, tcp, tls, http and https`, "nodeCheck.port: is 0",
			"nodeCheck.intervalMillis: is 0; allowed are 100 to 3600000", "nodeCheck.rise: is 0; allowed are 1 to 100", "nodeCheck.fall: is 0; allowed are 1 to 100"}},
		{"no path", check(desired.Check{Kind: desired.CheckHTTP, Port: 1, IntervalMillis: 100, Rise: 1, Fall: 1}), []string{`nodeCheck.path: "" is no path`}},
		{"path with space", check(desired.Check{Kind: desired.CheckHTTPS, Port: 1, Path: "/a b", IntervalMillis: 100, Rise: 1, Fall: 1}), []string{`nodeCheck.path: "/a b" is no path`}},
		{"path without slash", check(desired.Check{Kind: desired.CheckHTTP, Port: 1, Path: "healthz", IntervalMillis: 100, Rise: 1, Fall: 1}), []string{`nodeCheck.path: "healthz" is no path`}},
		{"path ends a command", check(desired.Check{Kind: desired.CheckNone, Path: "/a;quit"}), []string{`nodeCheck.path: "/a;quit" is no path`}},
		{"too often", check(desired.Check{Kind: desired.CheckTCP, Port: 1, IntervalMillis: 99, Rise: 101, Fall: -1}),
			[]string{"nodeCheck.intervalMillis: is 99", "nodeCheck.rise: is 101", "nodeCheck.fall: is -1"}},
	})
}

func TestValidateAddresses(t *testing.T) {
	vip := func(a netip.Addr) func(s *desired.State) {
		return func(s *desired.State) { s.VIPs[2].Address = a; s.LoadBalancers[1].Addresses[0] = a }
	}
	const owner = "default/local loadBalancers[default/local].addresses[0]: "
	runFaultTests(t, []faultTest{
		{"missing", vip(netip.Addr{}), []string{owner + "is missing"}},
		{"mapped", vip(addr("::ffff:192.0.2.9")), []string{owner + "::ffff:192.0.2.9 is IPv4 written as IPv6"}},
		{"compatible", vip(addr("::192.0.2.9")), []string{owner + "::c000:209 is IPv4 written as IPv6 (IPv4-compatible"}},
		{"zone", vip(addr("2001:db8::1%eth0")), []string{owner + "2001:db8::1%eth0 has a zone"}},
		{"unspecified", vip(addr("0.0.0.0")), []string{owner + "0.0.0.0 is the unspecified address"}},
		{"multicast", vip(addr("ff02::1")), []string{owner + "ff02::1 is a multicast address"}},
		{"loopback", vip(addr("127.0.0.2")), []string{owner + "127.0.0.2 is a loopback address"}},
		{"link-local 4", vip(addr("169.254.1.1")), []string{owner + "169.254.1.1 is a link-local address"}},
		{"link-local 6", vip(addr("fe80::1")), []string{owner + "fe80::1 is a link-local address"}},
		{"broadcast", vip(addr("255.255.255.255")), []string{owner + "255.255.255.255 is the broadcast address"}},
		{"a gateway's", vip(addr("10.0.0.3")), []string{owner + "10.0.0.3 is the own address of gateway west"}},
		{"a node's", vip(addr("2001:db8:2::1")), []string{owner + "2001:db8:2::1 is the own address of node worker-1"}},
		{"nobody's VIP", func(s *desired.State) { s.VIPs[2].Address = addr("10.0.0.3"); s.LoadBalancers = s.LoadBalancers[:1] },
			[]string{"vips[2].address: 10.0.0.3 is the own address of gateway west"}},
		{"shared by two", func(s *desired.State) {
			s.LoadBalancers[1].Addresses[0], s.LoadBalancers[1].Frontends[0].Port = addr("192.0.2.10"), 81
			s.Nodes[1].Addresses[0] = addr("192.0.2.10")
		}, []string{
			"default/api loadBalancers[default/api].addresses[1]: 192.0.2.10 is the own address of node worker-2.example.net",
			"default/local loadBalancers[default/local].addresses[0]: 192.0.2.10 is the own address of node worker-2.example.net",
		}},
		{"VIP twice", func(s *desired.State) { s.VIPs = append(s.VIPs, s.VIPs[0]) }, []string{"vips[4].address: 192.0.2.1 stands in an earlier VIP"}},
		{"VIP's interface", func(s *desired.State) { s.VIPs[0].Interface = "eth0\n" }, []string{`vips[0].interface: "eth0\n" is no interface name`}},
		{"VIP's instance", func(s *desired.State) { s.VIPs[0].RouterID = 53 }, []string{"vips[0].routerID: 53 is the router ID of no instance"}},
		{"control plane not floating", func(s *desired.State) { s.ControlPlane.Address = addr("192.0.2.2") }, []string{"controlPlane.address: 192.0.2.2 is not one of the vips"}},
		{"control plane without port", func(s *desired.State) { s.ControlPlane.Port = 0 }, []string{"controlPlane.port: is 0"}},
		{"control plane without endpoint", func(s *desired.State) { s.ControlPlane.Endpoints = nil }, []string{"controlPlane.endpoints: are missing"}},
		{"endpoints", func(s *desired.State) {
			s.ControlPlane.Endpoints = []netip.AddrPort{
				netip.AddrPortFrom(addr("10.0.1.1"), 0), netip.AddrPortFrom(addr("192.0.2.1"), 6443), {},
				netip.AddrPortFrom(addr("10.0.1.1"), 1), netip.AddrPortFrom(addr("10.0.1.1"), 1),
			}
		}, []string{
			"controlPlane.endpoints[0]: 10.0.1.1:0 has port 0", "controlPlane.endpoints[1]: 192.0.2.1:6443 is one of the vips",
			"controlPlane.endpoints[2]: is missing", "controlPlane.endpoints[4]: 10.0.1.1:1 stands there twice",
		}},
		{"control plane's check", func(s *desired.State) { s.ControlPlane.Check.Kind = "ping" }, []string{`controlPlane.check.kind: is "ping"`, "controlPlane.ca: is set, but check ping"}},
		{"control plane shared", func(s *desired.State) { s.LoadBalancers[1].Addresses[0] = addr("192.0.2.1") }, []string{owner + "192.0.2.1 is the control plane's address"}},
		{"control plane releasing", func(s *desired.State) { s.Releasing[0].Address = addr("192.0.2.1") }, []string{"vips[0].address: 192.0.2.1 was default/gone's"}},
		{"releasing and floating", func(s *desired.State) { s.Releasing[0].Address = addr("192.0.2.11") }, []string{owner + "192.0.2.11 was default/gone's and is still on its way back"}},
		{"releasing and given", func(s *desired.State) { s.LoadBalancers[1].Addresses[0] = addr("192.0.2.20") }, []string{owner + "192.0.2.20 was default/gone's"}},
		{"releasing twice", func(s *desired.State) { s.Releasing[1].Address = addr("192.0.2.20") },
			[]string{"releasing[1].address: 192.0.2.20 stands there twice; an address that is not shared has one owner"}},
		{"releasing twice by one", func(s *desired.State) { s.Releasing = append(s.Releasing, s.Releasing[2]); s.Releasing[3].Ports = nil },
			[]string{"releasing[3].address: 2001:db8:1::10 of default/partner stands there twice; each owner names an address once",
				"default/api loadBalancers[default/api].addresses[0]: 2001:db8:1::10 was default/partner's and is still on its way back"}},
		{"releasing ports", func(s *desired.State) {
			s.Releasing[2].Ports = []desired.Port{{Protocol: "tcp", Port: 1}, {Protocol: desired.TCP}, {Protocol: desired.UDP, Port: 2}, {Protocol: desired.UDP, Port: 2}}
		}, []string{`releasing[2].ports[0].protocol: is "tcp"; allowed are TCP, UDP and SCTP`, "releasing[2].ports[1].port: is 0",
			"releasing[2].ports[3]: UDP port 2 of 2001:db8:1::10 was default/partner's already; it has one owner"}},
		{"releasing ports of two", func(s *desired.State) {
			s.Releasing = append(s.Releasing, s.Releasing[2])
			s.Releasing[3].Owner, s.Releasing[3].Ports = key("second"), []desired.Port{{Protocol: desired.UDP, Port: 80}}
		}, []string{"releasing[3].ports[0]: UDP port 80 of 2001:db8:1::10 was default/partner's already; it has one owner"}},
		{"releasing ports and given", func(s *desired.State) { s.LoadBalancers[0].Frontends[1].Port = 8080 },
			[]string{"default/api loadBalancers[default/api].frontends[1].port: TCP port 8080 of 2001:db8:1::10 was default/partner's and is still on its way back"}},
		{"releasing ports and not floating", func(s *desired.State) {
			s.LoadBalancers[1].Addresses[0], s.Releasing[2].Address = addr("192.0.2.99"), addr("192.0.2.99")
		}, []string{owner + "192.0.2.99 is not one of the vips"}},
		{"control plane releasing ports", func(s *desired.State) { s.Releasing[2].Address = addr("192.0.2.1") }, []string{"vips[0].address: 192.0.2.1 was default/partner's"}},
		{"reserved", func(s *desired.State) {
			s.Reserved = append(s.Reserved, desired.Reserved{Owner: desired.Key{Namespace: "a b"}}, s.Reserved[0])
		}, []string{"reserved[2].address: is missing", `reserved[2].owner.namespace: "a b" is no DNS label`, `reserved[2].owner.name: "" is no DNS label`,
			"reserved[3].address: 192.0.2.30 stands there twice"}},
		{"quarantined", func(s *desired.State) {
			s.Quarantined = append(s.Quarantined, desired.Quarantined{Address: addr("192.0.2.41")}, s.Quarantined[1], desired.Quarantined{Address: addr("ff02::1"), By: "a\nb"})
		}, []string{`quarantined[2].by: "" is no description`, "quarantined[3].address: 2001:db8:1::40 stands there twice",
			"quarantined[4].address: ff02::1 is a multicast address", `quarantined[4].by: "a\nb" is no description`}},
		{"releasing by whom", func(s *desired.State) { s.Releasing[1].Owner = desired.Key{} },
			[]string{`releasing[1].owner.namespace: "" is no DNS label`, `releasing[1].owner.name: "" is no DNS label`}},
		{"pools", func(s *desired.State) {
			s.Pools = []desired.PoolSummary{{Name: "a b", Family: 5}, {Family: 4}, {Name: "x", Family: 6}, {Name: "x", Family: 6}}
		}, []string{`pools[0].name: "a b" is no identifier`, "pools[0].family: is 5", "pools[1].name: is missing", "pools[3]: x of family 6 stands there twice"}},
	})
}

// Of two that claim one (address, protocol, port), the later by key is at fault, wherever they stand in the list.
func TestValidateNamesBothOwnersAndBlamesTheLater(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		s := valid()
		s.LoadBalancers[1].Addresses[0] = addr("192.0.2.10")
		if reversed {
			slices.Reverse(s.LoadBalancers)
		}
		want := []string{"default/local loadBalancers[default/local].frontends[0].port: TCP port 80 of 192.0.2.10 is claimed by default/api and by default/local; it has one owner"}
		if diff := cmp.Diff(want, told(t, s.Validate())); diff != "" {
			t.Errorf("reversed %v (-want +got):\n%s", reversed, diff)
		}
	}
}

func TestValidateTellsAllFaultsAtOnce(t *testing.T) {
	s := many(100)
	for i := range s.LoadBalancers {
		s.LoadBalancers[i].Frontends[0].NodePort = 0
	}
	s.Nodes[0].Name = ""
	got := told(t, s.Validate())
	if len(got) != 103 {
		t.Errorf("got %d faults, want 103", len(got))
	}
	text := s.Validate().Error()
	if !strings.HasPrefix(text, `invalid state: nodes[0].name: "" is no DNS subdomain`) || !strings.HasSuffix(text, "; and 83 more") {
		t.Errorf("the error is told as %s", text)
	}
}

// Leaving out every load balancer that is an Owner must leave a State without faults when no fault is ownerless: that
// is what Manager relies on.
func TestOwnersLeaveWithTheirFaults(t *testing.T) {
	s := many(50)
	s.LoadBalancers[3].Frontends[0].NodePort = 0
	s.LoadBalancers[7].Addresses = s.LoadBalancers[8].Addresses
	s.LoadBalancers[9].Addresses = []netip.Addr{addr("192.0.2.1")}
	s.Nodes[0].Addresses[0] = s.LoadBalancers[11].Addresses[0]
	var faults desired.Faults
	if !errors.As(s.Validate(), &faults) {
		t.Fatal("no faults")
	}
	owners := map[desired.Key]bool{}
	for _, f := range faults {
		if f.Owner == nil {
			t.Fatalf("fault without owner: %s", f)
		}
		owners[*f.Owner] = true
	}
	want := 4
	if len(owners) != want {
		t.Errorf("got owners %v, want %d", owners, want)
	}
	s.LoadBalancers = slices.DeleteFunc(s.LoadBalancers, func(lb desired.LoadBalancer) bool { return owners[lb.Key] })
	s.VIPs = slices.DeleteFunc(s.VIPs, func(v desired.VIP) bool { return v.Address == s.Nodes[0].Addresses[0] })
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		s := many(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Validate(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
