package haproxy

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// proxiedIngress is a Service whose port 443 gets a header and whose port 80 does not.
func proxiedIngress(version desired.ProxyProtocol) desired.LoadBalancer {
	lb := localPolicy("ingress", vipLocal, health(31991, "/31991"), serverAt("worker1", node1), serverAt("worker2", node2))
	lb.Addresses = addrs(vipLocal, vip6)
	lb.Frontends[1].ProxyProtocol = version
	return lb
}

// wantHeader opens a connection, which stays open as id, and wants its header to name client and VIP:port.
func (d *daemon) wantHeader(id, version, address string) {
	d.t.Helper()
	got := d.ask("open " + id + " " + address)
	if want := version + " " + d.ask("from "+id) + " " + address; got != want {
		d.t.Errorf("%s: the header says %q, want %q", address, got, want)
	}
}

func TestHeaderNamesClientAndVIP(t *testing.T) {
	for _, version := range []desired.ProxyProtocol{desired.ProxyV1, desired.ProxyV2} {
		t.Run(string(version), func(t *testing.T) {
			state := twoNodes()
			state.LoadBalancers = nil
			d := startDaemon(t, state, nodes(), vips())
			d.nodePorts(node1+":30080", node2+":30080", node1+":31991", node2+":31991")
			d.proxied(node1+":30443", node2+":30443")
			state.LoadBalancers = []desired.LoadBalancer{proxiedIngress(version)}
			d.apply(state)
			// The health check's own port gets no header: an HTTP server would not understand it, and nobody would be up.
			d.up("slot-http-roundrobin-1", "worker1", "worker2")
			d.up("slot-http-roundrobin-2", "worker1_"+string(version), "worker2_"+string(version))
			for _, vip := range []string{vipLocal, "[" + vip6 + "]"} {
				d.wantHeader("a", string(version), vip+":443")
				d.wantReach(vip+":80", node1+":30080", node2+":30080")
			}
		})
	}
}

// A server that is checked where its clients go expects the header of a check as well.
func TestCheckOfTheServedPortHasAHeader(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.proxied(node1 + ":31995")
	lb := proxiedIngress(desired.ProxyV2)
	lb.Frontends[1].Pool = podPool(health(31995, "/"), podAt("web-1", node1, 31995))
	state.LoadBalancers = []desired.LoadBalancer{lb}
	d.apply(state)
	d.up("slot-http-roundrobin-2", "web-1_pod_v2")
}

// The header changes with the map: each connection gets the old one or the new one, as its server was told, and those that are
// established stay with their server.
func TestHeaderIsTurnedOnAndOffAndOn(t *testing.T) {
	state := twoNodes()
	state.LoadBalancers = []desired.LoadBalancer{proxiedIngress(desired.ProxyNone)}
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) { l.SlotsPerKind = 5 })
	d.nodePorts(node1+":30080", node2+":30080", node1+":30443", node2+":30443", node1+":31991", node2+":31991")
	d.proxied(node1+":30444", node2+":30444")
	const address = vipLocal + ":443"
	turn := func(version desired.ProxyProtocol, nodePort uint16) Diff {
		lb := proxiedIngress(version)
		lb.Frontends[1].NodePort = nodePort
		state.LoadBalancers = []desired.LoadBalancer{lb}
		return d.apply(state)
	}
	d.up("slot-http-roundrobin-1", "worker1", "worker2")
	plain := d.ask("open plain " + address)
	if !strings.HasSuffix(plain, ":30443") {
		t.Fatalf("without a header the greeting is %q", plain)
	}

	turn(desired.ProxyV1, 30444)
	d.wantHeader("one", "v1", address) // at once: the servers proved themselves in the other slot
	left := turn(desired.ProxyV2, 30444)
	d.wantHeader("two", "v2", address)
	if len(left.Deferred) != 1 || !strings.HasPrefix(left.Deferred[0], "slot-http-roundrobin-2/worker") {
		t.Errorf("%q wait for their connections, want the server of version 1 that has one", left.Deferred)
	}
	turn(desired.ProxyNone, 30443)
	d.wantReach(address, node1+":30443", node2+":30443")
	for _, id := range []string{"plain", "one", "two"} {
		if got := d.ask("say " + id); got != "still here" {
			t.Errorf("the connection %s says %q", id, got)
		}
	}
}
