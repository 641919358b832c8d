package haproxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// health is a check of a Service's healthCheckNodePort, for which the test's NodePorts answer under /PORT.
func health(port uint16, path string) desired.Check {
	return desired.Check{Kind: desired.CheckHTTP, Port: port, Path: path, IntervalMillis: 100, Rise: 1, Fall: 1}
}

func serverAt(name, address string) desired.Server {
	return desired.Server{Name: name, Address: netip.MustParseAddr(address), Weight: 1}
}

func TestSlotServesAndIsFreedWhenDrained(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":30443", node1+":31991", node2+":30080", node2+":30443", node2+":31992")
	const slot = "slot-http-roundrobin-1"

	// worker1 answers at /31991 alone: the check's path comes from the map. worker2 fails and gets nothing.
	local := localPolicy("ingress", vipLocal, health(31991, "/31991"), serverAt("worker1", node1), serverAt("worker2", node2))
	state.LoadBalancers = append(state.LoadBalancers, local)
	d.apply(state)
	d.up(slot, "worker1")
	for range 4 {
		d.wantReach(vipLocal+":80", node1+":30080")
		d.wantReach(vipLocal+":443", node1+":30443")
	}

	if got := d.ask("open kept " + vipLocal + ":80"); got != node1+":30080" {
		t.Fatalf("the connection to keep got %q", got)
	}
	state.LoadBalancers = state.LoadBalancers[:1]
	left := d.apply(state)
	if !slices.Equal(left.Deferred, []string{slot + "/worker1"}) {
		t.Errorf("deferred is %q, want worker1, which has a connection", left.Deferred)
	}
	d.wantRefused(vipLocal + ":80")
	if d.read().Free(d.local)(slot) {
		t.Error("the slot is free while a connection of its old Service lives")
	}
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the kept connection says %q", got)
	}

	// Another Service must not get the slot now.
	other := localPolicy("other", vipLocal, health(31992, "/31992"), serverAt("worker2", node2))
	state.LoadBalancers = append(state.LoadBalancers, other)
	d.apply(state)
	if got := d.slots.At(other.Key, 0); got != "slot-http-roundrobin-2" {
		t.Errorf("the other Service got %q, want the second slot", got)
	}
	d.up("slot-http-roundrobin-2", "worker2")
	d.wantReach(vipLocal+":443", node2+":30443")

	d.ask("close kept")
	d.eventually("the connection's end", func() bool { return d.read().Backends[slot].Sessions == 0 })
	if d.read().Free(d.local)(slot) {
		t.Error("the slot is free while a server is in it")
	}
	if left := d.apply(state); left.Deferred != nil {
		t.Errorf("deferred is %q after the last connection ended", left.Deferred)
	}
	if !d.read().Free(d.local)(slot) {
		t.Error("the drained slot is not free")
	}
}

func TestSlotFailsClosed(t *testing.T) {
	state := twoNodes()
	state.LoadBalancers = append(state.LoadBalancers, localPolicy("ingress", vipLocal, health(31991, "/nothing"), serverAt("worker1", node1)))
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":31991")
	d.eventually("worker1 to fail its check", func() bool {
		return d.read().Backends["slot-http-roundrobin-1"].Servers["worker1"].State == "DOWN"
	})
	d.wantRefused(vipLocal + ":80")
}

func TestServerReturnsWhileItsConnectionsLive(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	d.up("nodes", "worker1", "worker2")
	gone := twoNodes()
	gone.Nodes = gone.Nodes[1:]
	back := state
	for d.ask("open kept "+vip4+":80") != node1+":30080" {
		d.ask("close kept")
	}
	d.wantDeferred(d.apply(gone), "nodes/worker1")
	for range 4 {
		d.wantReach(vip4+":80", node2+":30080")
	}
	d.wantDeferred(d.apply(back))
	d.up("nodes", "worker1")
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the kept connection says %q", got)
	}
	if total := d.read().Backends["nodes"].Servers["worker1"].Total; total == 0 {
		t.Error("the server was made anew, not used again")
	}
}

func TestServerMovesWhileItsConnectionsLive(t *testing.T) {
	state := twoNodes()
	state.Nodes = state.Nodes[:1]
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", "["+node6+"]:30080", "["+node6+"]:10256")
	d.up("nodes", "worker1")
	if got := d.ask("open kept " + vip4 + ":80"); got != node1+":30080" {
		t.Fatalf("the connection to keep got %q", got)
	}
	state.Nodes[0].Addresses = addrs(node6)
	d.wantDeferred(d.apply(state))
	d.up("nodes", "worker1")
	d.wantReach(vip4+":80", "["+node6+"]:30080")
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the kept connection says %q", got)
	}
}

func (d *daemon) wantDeferred(diff Diff, want ...string) {
	d.t.Helper()
	if !slices.Equal(diff.Deferred, want) {
		d.t.Errorf("deferred is %q, want %q", diff.Deferred, want)
	}
}

func TestSlotsAreRefilledByAReload(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips()) // two slots of each kind
	for _, name := range []string{"a", "b", "c"} {
		lb := localPolicy(name, vipLocal, health(31991, "/31991"), serverAt("worker1", node1))
		lb.Frontends = []desired.Frontend{tcpPort(uint16(name[0]), 30080)}
		state.LoadBalancers = append(state.LoadBalancers, lb)
	}
	want := d.render(state)
	diff := Compare(d.read(), want)
	if len(diff.Reload) != 1 || !strings.Contains(diff.Reload[0], "more slots of kind http-roundrobin are needed") {
		t.Fatalf("the reasons for the reload are %q", diff.Reload)
	}
	d.reload(want)
	if diff := Compare(d.read(), want); diff.Reload != nil {
		t.Errorf("after the reload: %q", diff.Reload)
	}
	state.LoadBalancers = state.LoadBalancers[:1]
	d.apply(state)                                                                      // fewer slots are wanted than run: no reason to reload
	for _, slot := range []string{"slot-http-roundrobin-1", "slot-http-roundrobin-3"} { // the file has two now
		if !d.read().Free(d.local)(slot) {
			t.Errorf("%s was not emptied", slot)
		}
	}
}

// Who changes to and fro, with connections that stay in each slot, returns to the slot that it has left: it serves there at once, and
// nobody's connection ends. Others do not get that slot.
func TestLoadBalancerReturnsToItsSlot(t *testing.T) {
	state := twoNodes()
	local := localPolicy("ingress", vipLocal, health(31991, "/31991"), serverAt("worker1", node1))
	local.Frontends = local.Frontends[:1]
	state.LoadBalancers = append(state.LoadBalancers, local)
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":30443", node1+":31991")
	d.up("slot-http-roundrobin-1", "worker1")
	d.left = Left{}
	for n, slot := range []string{"slot-http-roundrobin-2", "slot-http-roundrobin-1", "slot-http-roundrobin-2"} {
		kept := "kept" + string(rune('1'+n))
		if got := d.ask("open " + kept + " " + vipLocal + ":80"); got != node1+":30080" {
			t.Fatalf("the connection to keep got %q", got)
		}
		for tenant, slot := range d.slots {
			d.left[slot] = tenant
		}
		pool := *local.Pool
		pool.Check.IntervalMillis = 300_000 - pool.Check.IntervalMillis
		local.Pool = &pool
		state.LoadBalancers = append(slices.Clone(state.LoadBalancers[:1]), local)
		left := d.apply(state)
		if got := d.slots.At(local.Key, 0); got != slot || len(left.Deferred) != 1 {
			t.Errorf("change %d: it is in %q, and %q wait, want %s", n+1, got, left.Deferred, slot)
		}
		d.wantReach(vipLocal+":80", node1+":30080")
	}
	other := localPolicy("other", vipLocal, health(31991, "/31991"), serverAt("worker1", node1))
	other.Frontends = other.Frontends[1:]
	state.LoadBalancers = append(state.LoadBalancers, other)
	if c := Compare(d.read(), d.render(state)); d.slots.At(other.Key, 0) != "slot-http-roundrobin-3" || len(c.Reload) != 1 {
		t.Errorf("the other one is in %q, and a reload is asked for because of %q", d.slots.At(other.Key, 0), c.Reload)
	}
	for _, kept := range []string{"kept1", "kept2", "kept3"} {
		if got := d.ask("say " + kept); got != "still here" {
			t.Errorf("%s says %q", kept, got)
		}
	}
}

// A load balancer of UDP alone takes its healthy servers with it to another slot, at once, though its new check comes once an hour: its
// flows have no other place. The one that is down has to pass a check there first.
func TestDatagramsFindTheirServersInAnotherSlot(t *testing.T) {
	state := twoNodes()
	dns := localPolicy("dns", vipLocal, health(31991, "/31991"), serverAt("worker1", node1), serverAt("worker2", node2))
	dns.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 31053}}
	state.LoadBalancers = append(state.LoadBalancers, dns)
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1 + ":31991")
	d.up("slot-http-roundrobin-1", "worker1")
	d.eventually("worker2 to be down", func() bool { return d.read().Backends["slot-http-roundrobin-1"].Servers["worker2"].State == "DOWN" })

	before, slots := *state, d.slots
	state.LoadBalancers = slices.Clone(state.LoadBalancers)
	dns.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: dns.Pool.Check, Servers: dns.Pool.Servers}
	dns.Pool.Check.IntervalMillis, dns.Pool.Check.Rise = 3_600_000, 2
	state.LoadBalancers[1] = dns
	c := d.render(state)
	c.Succeed(&before, slots)
	if err := d.runtime.Apply(t.Context(), Compare(d.read(), c)); err != nil {
		t.Fatal(err)
	}
	servers := d.read().Backends["slot-http-roundrobin-2"].Servers
	if servers["worker1"].State != "UP" || servers["worker2"].State != "DOWN" {
		t.Errorf("in the new slot there are %+v, want worker1 up and worker2 down", servers)
	}
}
