package haproxy

import (
	"strings"
	"testing"
	"time"

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

// Whether a check begins with a header follows from who answers at the checked port. The ports above 31990 want one.
func TestChecksAreGreetedAsClientsAre(t *testing.T) {
	pods := func(lb *desired.LoadBalancer) {
		lb.Frontends[1].Pool = podPool(health(31995, "/"), podAt("web-1", node1, 31995))
	}
	for name, test := range map[string]struct {
		change  func(*desired.LoadBalancer)
		slot    string
		servers []string
	}{
		"pods at the port they serve": {pods, "slot-http-roundrobin-2", []string{"web-1_pod_v2"}},
		"another port with a header": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].NodePort, lb.Frontends[0].ProxyProtocol, lb.Pool.Check = 31995, desired.ProxyV2, health(31995, "/")
		}, "slot-http-roundrobin-2", []string{"worker1_v2"}},
		// HAProxy knows no version for these, and takes 1.
		"servers without a header themselves": {func(lb *desired.LoadBalancer) {
			lb.Frontends[1].NodePort, lb.Pool.Check = 31995, health(31995, "/")
		}, "slot-http-roundrobin-1", []string{"worker1"}},
		"a port without a header, and servers with one": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].NodePort, lb.Pool.Check = 31991, health(31991, "/31991")
		}, "slot-http-roundrobin-2", []string{"worker1_v2"}},
	} {
		t.Run(name, func(t *testing.T) {
			state := twoNodes()
			d := startDaemon(t, state, nodes(), vips())
			d.proxied(node1 + ":31995")
			d.nodePorts(node1 + ":31991")
			lb := proxiedIngress(desired.ProxyV2)
			test.change(&lb)
			state.LoadBalancers = []desired.LoadBalancer{lb}
			d.apply(state)
			d.up(test.slot, test.servers...)
		})
	}
}

// A check that goes to another port alone, from one without a header to one with, and back: the header goes with it, and connections
// live.
func TestCheckMovesToAPortWithAHeader(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) { l.SlotsPerKind = 20 })
	d.nodePorts(node1+":30080", node1+":31991")
	d.proxied(node1+":30443", node1+":31995")
	checkedAt := func(check desired.Check) {
		t.Helper()
		lb := proxiedIngress(desired.ProxyV2)
		lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 993, NodePort: 31995, ProxyProtocol: desired.ProxyV2})
		lb.Pool.Servers, lb.Pool.Check = lb.Pool.Servers[:1], check
		state.LoadBalancers = []desired.LoadBalancer{lb}
		d.apply(state)
		key := lb.Key
		d.up(d.slots.At(key, 0), "worker1")
		d.up(d.slots.At(key, 443), "worker1_v2")
		d.wantHeader("next", "v2", vipLocal+":443")
	}
	passed := func() {
		t.Helper()
		for _, server := range []string{d.slots.At(state.LoadBalancers[0].Key, 0) + ",worker1", d.slots.At(state.LoadBalancers[0].Key, 443) + ",worker1_v2"} {
			since := time.Now() // for three checks at least, of which one failure is enough
			d.eventually(server+" to pass its checks", func() bool {
				stat, err := d.runtime.ask(t.Context(), "show stat")
				_, row, _ := strings.Cut(stat, "\n"+server+",")
				row, _, _ = strings.Cut(row, "\n")
				if err != nil || !strings.Contains(row, ",UP,") || !strings.Contains(row, ",L7OK,") {
					since = time.Now()
				}
				return time.Since(since) > 400*time.Millisecond
			})
		}
		if got := d.ask("say kept"); got != "still here" {
			t.Errorf("the connection says %q", got)
		}
	}
	plain, headed := health(31991, "/31991"), health(31995, "/31991")
	checkedAt(plain)
	d.wantHeader("kept", "v2", vipLocal+":443")
	passed()
	checkedAt(headed)
	passed()
	checkedAt(plain)
	passed()
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
