package nftables

import (
	"fmt"
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

const (
	vip4, vip6         = "10.0.0.100", "2001:db8:0:1::100"
	apiVIP4, apiVIP6   = "10.0.0.101", "2001:db8:0:1::101"
	idleVIP4, idleVIP6 = "10.0.0.102", "2001:db8:0:1::102"
)

// pair is a State of two gateways: default/web on two addresses with two ports, default/dns with UDP too, default/own with
// servers of its own, default/six on an IPv6 address alone, and the control plane.
func pair() *desired.State {
	addr := netip.MustParseAddr
	s := &desired.State{
		Schema: desired.Schema,
		Gateways: []desired.Gateway{
			{Name: "a", VRRPAddress: addr("10.0.0.1"), Interface: "eth0"},
			{Name: "b", VRRPAddress: addr("10.0.0.2"), Interface: "eth0"},
			{Name: "c", VRRPAddress: addr("2001:db8:0:1::2"), Interface: "eth0"},
		},
		Nodes: []desired.Node{{Name: "w1", Addresses: []netip.Addr{addr("10.0.0.11")}},
			{Name: "w2", Addresses: []netip.Addr{addr("10.0.0.12"), addr("2001:db8:0:1::12")}}},
		ControlPlane: &desired.ControlPlane{Address: addr(apiVIP4), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.21:6443")}, ExtraPorts: []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}}},
		LoadBalancers: []desired.LoadBalancer{
			{Key: desired.Key{Namespace: "default", Name: "web"}, Addresses: []netip.Addr{addr(vip4), addr(vip6)},
				Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 80, NodePort: 30080}, {Protocol: desired.TCP, Port: 22, NodePort: 30022}}},
			{Key: desired.Key{Namespace: "default", Name: "dns"}, Addresses: []netip.Addr{addr(vip4)},
				Frontends: []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 30053}, {Protocol: desired.TCP, Port: 53, NodePort: 30053}}},
			{Key: desired.Key{Namespace: "default", Name: "own"}, Addresses: []netip.Addr{addr(vip6)},
				Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 81, NodePort: 30081}},
				Pool:      &desired.Pool{Servers: []desired.Server{{Name: "w1", Address: addr("10.0.0.11"), Weight: 1}}}},
			{Key: desired.Key{Namespace: "default", Name: "six"}, Addresses: []netip.Addr{addr(vip6)},
				Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 84, NodePort: 30084}}},
			{Key: desired.Key{Namespace: "default", Name: "empty"}, Addresses: []netip.Addr{addr(vip4), addr(vip6)},
				Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 82, NodePort: 30082}},
				Pool:      &desired.Pool{}},
		},
	}
	for _, a := range []string{vip4, apiVIP4, idleVIP4, vip6, apiVIP6, idleVIP6} {
		s.VIPs = append(s.VIPs, desired.VIP{Address: addr(a), RouterID: 1})
	}
	return s
}

// shared is a State of two Services on one address with the same port for different protocols, and of a third one that
// is on its way off it.
func shared() *desired.State {
	s := pair()
	a := netip.MustParseAddr(vip4)
	web, dns := s.LoadBalancers[0], s.LoadBalancers[1]
	web.Addresses = []netip.Addr{a}
	dns.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 80, NodePort: 30053}, {Protocol: desired.TCP, Port: 53, NodePort: 30053}}
	s.VIPs, s.ControlPlane, s.LoadBalancers = []desired.VIP{{Address: a, RouterID: 1}}, nil, []desired.LoadBalancer{dns, web}
	s.Releasing = []desired.Releasing{{Address: a, Owner: desired.Key{Namespace: "default", Name: "gone"},
		Ports: []desired.Port{{Protocol: desired.TCP, Port: 443}}, SinceEpoch: 3, SinceSequence: 1}}
	return s
}

// ranged is a State of Services that not everybody may connect to: default/web is open to the client machine's stranger address
// but not to its peer address, default/four to IPv4 alone, default/blocked to all but the client's stranger address. Their
// prefixes overlap and have host bits, as people write them.
func ranged() *desired.State {
	s := pair()
	all := func(texts ...string) (prefixes []netip.Prefix) {
		for _, text := range texts {
			prefixes = append(prefixes, netip.MustParsePrefix(text))
		}
		return prefixes
	}
	both := []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)}
	lb := func(name string, port uint16, allow, deny []netip.Prefix) desired.LoadBalancer {
		return desired.LoadBalancer{Key: desired.Key{Namespace: "default", Name: name}, Addresses: both, AllowSources: allow, DenySources: deny,
			Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: port, NodePort: 30000 + port}, {Protocol: desired.UDP, Port: port, NodePort: 30000 + port}}}
	}
	s.LoadBalancers = []desired.LoadBalancer{
		lb("web", 80, all(client4+"/30", client4+"/32", "192.0.2.0/25", "192.0.2.128/25", client6+"/125", client6+"/128"), nil),
		lb("four", 22, all("10.0.0.0/8", "10.1.0.0/16"), nil),
		lb("blocked", 53, nil, all(client4+"/32", client4+"/31", client6+"/128")),
		lb("both", 81, all("0.0.0.0/0", "::/0"), all("0.0.0.0/0", client6+"/128", "2001:db8:66::/48")),
		lb("plain", 84, nil, nil),
		lb("idle", 82, all("0.0.0.0/0", "::/0"), all("192.0.2.0/24")),
	}
	s.LoadBalancers[5].Pool = &desired.Pool{}
	return s
}

// manyRanged is many(n) with five ranges that some clients have.
func manyRanged(n int) *desired.State {
	s := many(n)
	for i := range s.LoadBalancers {
		for j := range 5 {
			s.LoadBalancers[i].AllowSources = append(s.LoadBalancers[i].AllowSources,
				netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + 2*j), byte(i >> 8), byte(i), 0}), 24-j))
		}
	}
	return s
}

// many is a State of n Services with a VIP and a port each.
func many(n int) *desired.State {
	s := pair()
	s.VIPs, s.LoadBalancers = nil, nil
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.VIPs = append(s.VIPs, desired.VIP{Address: a, RouterID: 1})
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{
			Key:       desired.Key{Namespace: "default", Name: fmt.Sprintf("web-%d", i)},
			Addresses: []netip.Addr{a},
			Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 443, NodePort: 30443}},
		})
	}
	return s
}

// protocols is a State of one address with the same port for three protocols, UDP and SCTP over servers of their own.
func protocols() *desired.State {
	s := dns()
	lb := s.LoadBalancers[0]
	lb.Frontends = []desired.Frontend{{Protocol: desired.SCTP, Port: 53, NodePort: 30055}, {Protocol: desired.UDP, Port: 53, NodePort: 30053}}
	lb.Pool = &desired.Pool{Servers: []desired.Server{{Name: "w1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1}, {Name: "w2", Address: netip.MustParseAddr("10.0.0.12"), Weight: 3}}}
	lb.DenySources, lb.UDPIdleSeconds = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, 200
	shared := s.LoadBalancers[0].Clone()
	shared.Name, shared.Frontends = "shared", []desired.Frontend{{Protocol: desired.SCTP, Port: 54, NodePort: 30054}, {Protocol: desired.TCP, Port: 53, NodePort: 30053}}
	shared.Pool = nil
	s.LoadBalancers = []desired.LoadBalancer{lb, shared}
	return s
}

// manyDatagrams is a State of n Services with a VIP of each family and UDP 53, over 100 nodes; own: each with three servers of
// its own.
func manyDatagrams(n int, own bool) *desired.State {
	s := many(n)
	s.Nodes = nil
	for i := range 100 {
		s.Nodes = append(s.Nodes, desired.Node{Name: fmt.Sprintf("worker-%d", i), Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%d", i))}})
	}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		lb.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 30053}}
		vip := netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", i))
		lb.Addresses = append(lb.Addresses, vip)
		s.VIPs = append(s.VIPs, desired.VIP{Address: vip, RouterID: 1})
		if own {
			lb.Pool = &desired.Pool{}
			for j := range 3 {
				node := s.Nodes[(i+j)%len(s.Nodes)]
				lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: node.Name, Address: node.Addresses[0], Weight: 1})
			}
		}
	}
	return s
}

// need is for a test that runs these programs as root.
func need(t testing.TB, programs ...string) {
	t.Helper()
	lab.RequireRoot(t, "it makes network namespaces")
	lab.RequirePrograms(t, programs...)
}
