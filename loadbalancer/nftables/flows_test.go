package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// who is the first word of an answer.
func who(answer string) string {
	name, _, _ := strings.Cut(answer, " ")
	return name
}

// dns is default/dns of UDP 53, on both families, over both nodes.
func dns() *desired.State {
	s := pair()
	for i := range s.Nodes {
		s.Nodes[i].Addresses = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", 11+i)), netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%d", 11+i))}
	}
	lb := s.LoadBalancers[1]
	lb.Addresses = []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)}
	s.LoadBalancers = []desired.LoadBalancer{lb}
	return s
}

func ports(from, count int) (all []int) {
	for n := range count {
		all = append(all, from+n)
	}
	return all
}

// nodesOf says which node serves the flows from each port.
func nodesOf(t *testing.T, f field, vip string, from []int) []string {
	t.Helper()
	var nodes []string
	for _, port := range from {
		nodes = append(nodes, who(ask(t, f.client, "", port, door(vip, "53"))))
	}
	return nodes
}

func count(all []string, one string) (n int) {
	for _, a := range all {
		if a == one {
			n++
		}
	}
	return n
}

var bothVIPs = []string{vip4, vip6}

// Flows are spread over the nodes, the nodes see the VIP, and the client's port.
func TestFlowsAreServed(t *testing.T) {
	f := newField(t)
	f.load(t, dns())
	for _, vip := range bothVIPs {
		if got, want := ask(t, f.client, "", 40001, door(vip, "53")), " "+door(vip, "40001")+" ?"; !strings.HasSuffix(got, want) {
			t.Errorf("%s answered %q, want the node to see %q", vip, got, want)
		}
		nodes := nodesOf(t, f, vip, ports(41000, 60))
		if a, b := count(nodes, "w1"), count(nodes, "w2"); a+b != 60 || a < 15 || b < 15 {
			t.Errorf("%s: of 60 flows w1 served %d, w2 %d: %v", vip, a, b, nodes)
		}
		for _, from := range append([]string{f.gateway}, f.nodes...) {
			if got := who(ask(t, from, "", 0, door(vip, "53"))); got != "w1" && got != "w2" {
				t.Errorf("from %s: %s answered %q", from, vip, got)
			}
		}
		for _, closed := range []string{"54", "22", "30053"} {
			if !refused(t, f.client, "", door(vip, closed)) {
				t.Errorf("%s is not refused", door(vip, closed))
			}
		}
	}
}

// A flow stays with its node over any number of new tables; another gateway, or this one without memory of it, gives it to the
// same one; with the other node failing it goes there.
func TestFlowsStayWithTheirNode(t *testing.T) {
	need(t, "conntrack")
	f := newField(t)
	f.load(t, dns())
	for _, vip := range bothVIPs {
		from := ports(42000, 30)
		before := nodesOf(t, f, vip, from)
		s := dns()
		s.LoadBalancers = append(s.LoadBalancers, many(50).LoadBalancers...)
		f.load(t, s)
		run(t, "ip", "netns", "exec", f.gateway, "conntrack", "-F")
		if after := nodesOf(t, f, vip, from); strings.Join(after, " ") != strings.Join(before, " ") {
			t.Errorf("%s: flows went to %v, and after a flush of conntrack to %v", vip, before, after)
		}
		local := DebianLocal("a")
		local.Unfit = Unfit{Nodes4: map[string]bool{"w1": true}, Nodes6: map[string]bool{"w1": true}}
		script, err := Render(dns(), local)
		if err != nil {
			t.Fatal(err)
		}
		nft(t, f.gateway, script, LoadArgv()...)
		run(t, "ip", "netns", "exec", f.gateway, "conntrack", "-F")
		for i, now := range nodesOf(t, f, vip, from) {
			if now != "w2" {
				t.Errorf("%s: with w1 failing, port %d is served by %s", vip, from[i], now)
			}
		}
		f.load(t, dns())
	}
}

// Who may not send is refused, and does not reach a daemon either.
func TestFlowsOfSources(t *testing.T) {
	f := newField(t)
	s := dns()
	f.load(t, s)
	prefix := func(address string) netip.Prefix {
		a := netip.MustParseAddr(address)
		return netip.PrefixFrom(a, a.BitLen())
	}
	answer(t, f.gateway, "daemon", ":53")
	for _, c := range []struct {
		name        string
		allow, deny []netip.Prefix
		peerServed  bool
	}{
		{"open", nil, nil, true},
		{"peer denied", nil, []netip.Prefix{prefix(peer4), prefix(peer6)}, false},
		{"client allowed", []netip.Prefix{prefix(client4), prefix(client6)}, nil, false},
		{"all allowed but the peer", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}, []netip.Prefix{prefix(peer4), prefix(peer6)}, false},
	} {
		s.LoadBalancers[0].AllowSources, s.LoadBalancers[0].DenySources = c.allow, c.deny
		f.load(t, s)
		for _, pair := range []struct{ vip, client, peer string }{{vip4, client4, peer4}, {vip6, client6, peer6}} {
			if got := ask(t, f.client, pair.client, 0, door(pair.vip, "53")); !strings.HasPrefix(got, "w") {
				t.Errorf("%s: %s from %s: %s", c.name, pair.vip, pair.client, got)
			}
			if !c.peerServed {
				if !refused(t, f.client, pair.peer, door(pair.vip, "53")) {
					t.Errorf("%s: %s from %s is not refused", c.name, pair.vip, pair.peer)
				}
				continue
			}
			if got := ask(t, f.client, pair.peer, 0, door(pair.vip, "53")); !strings.HasPrefix(got, "w") {
				t.Errorf("%s: %s from %s: %s", c.name, pair.vip, pair.peer, got)
			}
		}
	}
}

// A load balancer with a Pool is served by its own servers, at their addresses of both families; it fails closed.
func TestFlowsOfOwnPool(t *testing.T) {
	f := newField(t)
	s := dns()
	s.LoadBalancers[0].Pool = &desired.Pool{Servers: []desired.Server{{Name: "w2", Address: netip.MustParseAddr("10.0.0.12"), Weight: 1}}}
	f.load(t, s)
	for _, vip := range bothVIPs {
		if nodes := nodesOf(t, f, vip, ports(43000, 20)); count(nodes, "w2") != 20 {
			t.Errorf("%s is served by %v, want w2", vip, nodes)
		}
	}
	local := DebianLocal("a")
	local.Unfit.Servers = map[desired.Key]map[string]bool{s.LoadBalancers[0].Key: {"w2": true}}
	script, err := Render(s, local)
	if err != nil {
		t.Fatal(err)
	}
	nft(t, f.gateway, script, LoadArgv()...)
	for _, vip := range bothVIPs {
		if !refused(t, f.client, "", door(vip, "53")) {
			t.Errorf("%s with its only server failing is not refused", vip)
		}
	}
}

// loadAs makes the State true in the gateway as if it were the one of that name, without its memory of flows.
func (f field) loadAs(t *testing.T, gateway string, s *desired.State, unfit Unfit) {
	t.Helper()
	local := DebianLocal(gateway)
	local.Unfit = unfit
	script, err := Render(s, local)
	if err != nil {
		t.Fatal(err)
	}
	nft(t, f.gateway, script, LoadArgv()...)
	run(t, "ip", "netns", "exec", f.gateway, "conntrack", "-F")
}

// With affinity, all flows of a client go to one node, whatever their ports, and to the same one at another gateway; without it
// they do not.
func TestFlowsStick(t *testing.T) {
	need(t, "conntrack")
	f := newField(t)
	own := &desired.Pool{Servers: []desired.Server{{Name: "w1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1}, {Name: "w2", Address: netip.MustParseAddr("10.0.0.12"), Weight: 1}}}
	for name, pool := range map[string]*desired.Pool{"shared pool": nil, "own pool": own} {
		s := dns()
		s.LoadBalancers[0].Pool, s.LoadBalancers[0].AffinitySeconds = pool, 10800
		chosen := map[string]bool{}
		for _, clients := range [][2]string{{client4, client6}, {peer4, peer6}, {"", ""}} {
			for i, vip := range bothVIPs {
				var nodes []string
				for _, gateway := range []string{"a", "b"} {
					f.loadAs(t, gateway, s, Unfit{})
					for _, port := range ports(45000, 10) {
						nodes = append(nodes, who(ask(t, f.client, clients[i], port, door(vip, "53"))))
					}
				}
				if n := count(nodes, nodes[0]); n != 20 || !strings.HasPrefix(nodes[0], "w") {
					t.Errorf("%s, %s: one client's flows went to %v", name, vip, nodes)
				}
				chosen[nodes[0]] = true
			}
		}
		s.LoadBalancers[0].AffinitySeconds = 0
		f.loadAs(t, "a", s, Unfit{})
		for _, vip := range bothVIPs {
			if nodes := nodesOf(t, f, vip, ports(45000, 20)); count(nodes, "w1") == 0 || count(nodes, "w2") == 0 {
				t.Errorf("%s, %s: without affinity all flows went to %v", name, vip, nodes)
			}
		}
		t.Logf("%s: clients were given to %v", name, chosen)
	}
}

// A backup serves while no other server of its pool is fit, and one that drains never does.
func TestFlowsOfBackups(t *testing.T) {
	need(t, "conntrack")
	f := newField(t)
	key := dns().LoadBalancers[0].Key
	server := func(name string, backup, drains bool) desired.Server {
		return desired.Server{Name: name, Address: netip.MustParseAddr("10.0.0.1" + name[1:]), Weight: 1, Backup: backup, Drains: drains}
	}
	for _, c := range []struct {
		name    string
		servers []desired.Server
		unfit   map[string]bool
		want    string
	}{
		{"two like others", []desired.Server{server("w1", false, false), server("w2", false, false)}, nil, "w1 w2"},
		{"a backup", []desired.Server{server("w1", true, false), server("w2", false, false)}, nil, "w2"},
		{"the other one fails", []desired.Server{server("w1", true, false), server("w2", false, false)}, map[string]bool{"w2": true}, "w1"},
		{"backups alone", []desired.Server{server("w1", true, false), server("w2", true, false)}, nil, "w1 w2"},
		{"one drains", []desired.Server{server("w1", false, true), server("w2", false, false)}, nil, "w2"},
		{"one drains beside a backup", []desired.Server{server("w1", true, false), server("w2", false, true)}, nil, "w1"},
		{"all drain", []desired.Server{server("w1", false, true), server("w2", false, true)}, nil, "refused"},
		{"one drains, the other fails", []desired.Server{server("w1", false, true), server("w2", false, false)}, map[string]bool{"w2": true}, "refused"},
	} {
		s := dns()
		s.LoadBalancers[0].Pool = &desired.Pool{Servers: c.servers}
		f.loadAs(t, "a", s, Unfit{Servers: map[desired.Key]map[string]bool{key: c.unfit}})
		for _, vip := range bothVIPs {
			if c.want == "refused" {
				if !refused(t, f.client, "", door(vip, "53")) {
					t.Errorf("%s: %s is not refused", c.name, vip)
				}
				continue
			}
			nodes := nodesOf(t, f, vip, ports(46000, 20))
			slices.Sort(nodes)
			if got := strings.Join(slices.Compact(nodes), " "); got != c.want {
				t.Errorf("%s: %s is served by %s, want %s", c.name, vip, got, c.want)
			}
		}
	}
}

// A port with a Pool of its own is served at its servers' own ports, of its family alone; the load balancer's other ports are not.
func TestFlowsOfPods(t *testing.T) {
	f := newField(t)
	s := dns()
	pod := func(address string, port uint16, weight int) desired.Server {
		return desired.Server{Name: strings.ReplaceAll(netip.MustParseAddr(address).StringExpanded(), ":", "-"), Address: netip.MustParseAddr(address), Port: port, Weight: weight}
	}
	s.LoadBalancers[0].Frontends = []desired.Frontend{
		{Protocol: desired.UDP, Port: 53, Pool: &desired.Pool{Servers: []desired.Server{
			pod("10.0.0.11", 5301, 1), pod("10.0.0.12", 5302, 1), pod("2001:db8:0:1::11", 5361, 1), pod("2001:db8:0:1::12", 5362, 1)}}},
		{Protocol: desired.UDP, Port: 54, NodePort: 30053},
		{Protocol: desired.UDP, Port: 55, Pool: &desired.Pool{Servers: []desired.Server{pod("10.0.0.11", 5301, 1)}}},
	}
	for i, node := range f.nodes {
		answer(t, node, fmt.Sprintf("pod%d", i+1), fmt.Sprintf("10.0.0.%d:%d", 11+i, 5301+i))
		answer(t, node, fmt.Sprintf("pod%d", i+1), fmt.Sprintf("[2001:db8:0:1::%d]:%d", 11+i, 5361+i))
	}
	f.load(t, s)
	for _, vip := range bothVIPs {
		nodes := nodesOf(t, f, vip, ports(48000, 40))
		if a, b := count(nodes, "pod1"), count(nodes, "pod2"); a+b != 40 || a < 10 || b < 10 {
			t.Errorf("%s: of 40 flows one pod served %d, the other %d: %v", vip, a, b, nodes)
		}
		if got := who(ask(t, f.client, "", 48100, door(vip, "54"))); got != "w1" && got != "w2" {
			t.Errorf("%s: a port without pods answered %q", vip, got)
		}
	}
	if got := who(ask(t, f.client, "", 48200, door(vip4, "55"))); got != "pod1" {
		t.Errorf("a port with pods of IPv4 answered %q", got)
	}
	if !refused(t, f.client, "", door(vip6, "55")) {
		t.Error("a port without pods of IPv6 is not refused")
	}
}

// A flow that was answered is remembered for the Service's own time.
func TestFlowsAreRememberedFor(t *testing.T) {
	need(t, "conntrack")
	f := newField(t)
	s := dns()
	s.LoadBalancers[0].UDPIdleSeconds = 2000
	f.load(t, s)
	for vip, family := range map[string]string{vip4: "ipv4", vip6: "ipv6"} {
		left := 0
		// The kernel takes a flow for answered once it is two seconds old.
		for begun := time.Now(); left < 60 && time.Since(begun) < 5*time.Second; {
			ask(t, f.client, "", 47000, door(vip, "53"))
			out := string(run(t, "ip", "netns", "exec", f.gateway, "conntrack", "-L", "-f", family, "-p", "udp", "-g"))
			for line := range strings.Lines(out) {
				if strings.Contains(line, "dport=53 ") {
					_, _ = fmt.Sscanf(line, "udp 17 %d", &left)
				}
			}
		}
		if left < 3590 || left > 3600 {
			t.Errorf("%s: a flow is remembered for %d seconds, want 3600", vip, left)
		}
	}
}
