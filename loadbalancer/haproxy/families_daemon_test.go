package haproxy

import (
	"slices"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const vip6Only, otherNode6 = "2001:db8::66", "fd77::14"

// dualNodes is a State of two nodes with both families and one with IPv4 alone. Service default/web has VIPs of both
// families, default/six has an IPv6 VIP alone: kube-proxy opens its NodePort, 30066, at IPv6 addresses only.
func dualNodes() *desired.State {
	s := twoNodes()
	s.Nodes = []desired.Node{
		{Name: "worker1", Addresses: addrs(node1, node6)},
		{Name: "worker2", Addresses: addrs(node2)},
		{Name: "worker4", Addresses: addrs(otherNode6)},
	}
	six := web(vip6Only)
	six.Name, six.Frontends = "six", []desired.Frontend{tcpPort(80, 30066)}
	s.LoadBalancers = append(s.LoadBalancers, six)
	return s
}

// startDual runs HAProxy from dualNodes; the nodes answer checks where check says.
func startDual(t *testing.T, check ...string) *daemon {
	t.Helper()
	d := startDaemon(t, dualNodes(), append(nodes(), otherNode6), append(vips(), vip6Only))
	d.nodePorts(append(check, node1+":30080", node2+":30080", "["+otherNode6+"]:30080",
		"["+node6+"]:30066", "["+otherNode6+"]:30066")...)
	return d
}

// wantEach opens connections one after the other; each of want has to answer and nobody else.
func (d *daemon) wantEach(address string, want ...string) {
	d.t.Helper()
	got := map[string]bool{}
	for range 3 * len(want) {
		got[d.reach(address)] = true
	}
	slices.Sort(want)
	if answered := sortedKeys(got); !slices.Equal(answered, want) {
		d.t.Errorf("%s led to %q, want %q", address, answered, want)
	}
}

// A Service whose VIPs are all IPv6 is served at the nodes' IPv6 addresses; others at the nodes' first addresses.
func TestIPv6OnlyServiceIsServedAtIPv6Addresses(t *testing.T) {
	d := startDual(t, node1+":10256", node2+":10256", "["+node6+"]:10256", "["+otherNode6+"]:10256")
	d.up("nodes", "worker1", "worker2", "worker4")
	d.up("nodes6", "worker1", "worker4")
	d.wantEach("["+vip6Only+"]:80", "["+node6+"]:30066", "["+otherNode6+"]:30066")
	for _, address := range []string{vip4 + ":80", "[" + vip6 + "]:80"} {
		d.wantEach(address, node1+":30080", node2+":30080", "["+otherNode6+"]:30080")
	}
	for _, backend := range []string{"nodes6", "nodes6-open"} {
		if servers := sortedKeys(d.read().Backends[backend].Servers); !slices.Equal(servers, []string{"worker1", "worker4"}) {
			t.Errorf("%s has %q, want the nodes with an IPv6 address", backend, servers)
		}
	}

	// A node gets its IPv6 address, another one loses it, and a Service changes its families: no reload.
	state := dualNodes()
	state.Nodes = []desired.Node{{Name: "worker1", Addresses: addrs(node1)}, {Name: "worker2", Addresses: addrs(node2, node6)}}
	d.apply(state)
	d.up("nodes6", "worker2")
	d.wantEach("["+vip6Only+"]:80", "["+node6+"]:30066")
	state.LoadBalancers[1].Addresses, state.LoadBalancers[1].Frontends[0].NodePort = addrs(vipLocal, vip6Only), 30080
	d.apply(state)
	d.wantEach("["+vip6Only+"]:80", node1+":30080", node2+":30080")
}

// Each pool fails open for itself: checks that fail at IPv6 addresses alone open nodes6 and leave nodes as it is.
func TestPoolsFailOpenApart(t *testing.T) {
	d := startDual(t, node1+":10256")
	d.up("nodes", "worker1")
	for backend, servers := range map[string][]string{"nodes": {"worker2", "worker4"}, "nodes6": {"worker1", "worker4"}} {
		for _, server := range servers {
			d.eventually(server+" of "+backend+" to fail its check", func() bool { return d.read().Backends[backend].Servers[server].State == "DOWN" })
		}
	}
	d.wantEach("["+vip6Only+"]:80", "["+node6+"]:30066", "["+otherNode6+"]:30066")
	d.wantEach(vip4+":80", node1+":30080")
}

// Without a node that has an IPv6 address the connection ends at once, and goes to nobody's IPv4 address.
func TestIPv6OnlyServiceWithoutIPv6Nodes(t *testing.T) {
	d := startDual(t, node1+":10256", node2+":10256", "["+node6+"]:10256", "["+otherNode6+"]:10256")
	state := dualNodes()
	state.Nodes = []desired.Node{{Name: "worker1", Addresses: addrs(node1)}, {Name: "worker2", Addresses: addrs(node2)}}
	d.apply(state)
	d.up("nodes", "worker1", "worker2")
	d.wantRefused("[" + vip6Only + "]:80")
	d.wantEach(vip4+":80", node1+":30080", node2+":30080")
}
