package haproxy

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// threePods listen at node1 on three ports.
func threePods() []desired.Server {
	return []desired.Server{podAt("web-1", node1, 8081), podAt("web-2", node1, 8082), podAt("web-3", node1, 8083)}
}

func threePorts() []string { return []string{node1 + ":8081", node1 + ":8082", node1 + ":8083"} }

// algorithm gives a load balancer of three pods another algorithm.
func withAlgorithm(algorithm desired.Algorithm, pods ...desired.Server) desired.LoadBalancer {
	lb := podService("web", vip4, pods...)
	lb.Frontends[0].Pool.Algorithm = algorithm
	return lb
}

// Each algorithm is told by what it does: leastconn fills up who has none, source keeps a client where it is, round robin and
// random give everybody some.
func TestAlgorithms(t *testing.T) {
	for _, algorithm := range []desired.Algorithm{desired.RoundRobin, desired.LeastConn, desired.Source, desired.Random} {
		t.Run(string(algorithm), func(t *testing.T) {
			state := twoNodes()
			state.LoadBalancers = nil
			d := startDaemon(t, state, nodes(), vips())
			d.nodePorts(threePorts()...)
			state.LoadBalancers = []desired.LoadBalancer{withAlgorithm(algorithm, threePods()...)}
			d.apply(state) // at run time, in slots that wait for it
			const clients = 60
			count, at := map[string]int{}, map[int]string{}
			for i := range clients {
				at[i] = d.ask(fmt.Sprintf("open c%d %s:80 127.88.%d.%d", i, vip4, i/8, 1+i%8))
				count[at[i]]++
			}
			if len(count) != 3 || slices.Min(slices.Collect(maps.Values(count))) < 5 {
				t.Fatalf("60 clients went to %v", count)
			}
			switch algorithm {
			case desired.RoundRobin, desired.LeastConn:
				if slices.Max(slices.Collect(maps.Values(count))) != 20 {
					t.Errorf("60 connections were spread %v", count)
				}
			}
			for i := range clients {
				d.ask(fmt.Sprintf("close c%d", i))
			}
			if algorithm == desired.LeastConn {
				d.leastIsFilledFirst()
			}
			if algorithm == desired.Source {
				d.clientsStay(state, at)
			}
		})
	}
}

// leastIsFilledFirst ends what one server has; the next connections are its.
func (d *daemon) leastIsFilledFirst() {
	d.t.Helper()
	first := map[string]string{}
	for i := range 9 {
		id := fmt.Sprintf("l%d", i)
		first[id] = d.ask("open " + id + " " + vip4 + ":80")
	}
	for id, server := range first {
		if server == node1+":8082" {
			d.ask("close " + id)
		}
	}
	d.eventually("the server to be idle", func() bool {
		return d.read().Backends["slot-tcp-leastconn-1"].Servers["web-2_pod"].Sessions == 0
	})
	for i := range 3 {
		if got := d.ask(fmt.Sprintf("open again%d %s:80", i, vip4)); got != node1+":8082" {
			d.t.Errorf("a connection went to %s, which has more than another one", got)
		}
	}
}

// clientsStay: the same clients go to the same servers, also in a worker that read them from the file, and in another HAProxy
// which was given them in another order.
func (d *daemon) clientsStay(state *desired.State, at map[int]string) {
	d.t.Helper()
	same := func(when string) {
		d.t.Helper()
		for i, want := range at {
			if got := d.ask(fmt.Sprintf("open again %s:80 127.88.%d.%d", vip4, i/8, 1+i%8)); got != want {
				d.t.Errorf("%s: client %d went to %s, before to %s", when, i, got, want)
			}
			d.ask("close again")
		}
	}
	same("again")
	pods := threePods()
	for _, some := range [][]desired.Server{pods[2:], pods[1:], pods} {
		state.LoadBalancers = []desired.LoadBalancer{withAlgorithm(desired.Source, some...)}
		d.apply(state)
	}
	same("after the servers were added in another order")
	d.reload(d.render(state))
	same("after a reload")
}

// A load balancer that changes what a slot cannot change goes to another slot. Every connection in between finds a server, and
// those that are there stay, checks or not.
func TestAlgorithmChangesUnderConnections(t *testing.T) {
	state := twoNodes()
	with := func(algorithm desired.Algorithm) *desired.State {
		lb := localPolicy("ingress", vipLocal, health(31991, "/31991"), serverAt("worker1", node1), serverAt("worker2", node2))
		lb.Pool.Algorithm = algorithm
		state.LoadBalancers = []desired.LoadBalancer{lb}
		return state
	}
	d := startDaemon(t, with(desired.RoundRobin), nodes(), vips(), func(l *Local) { l.SlotsPerKind = 10 })
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080") // worker2 fails its check
	d.eventually("worker2 to fail", func() bool { return d.read().Backends["slot-http-roundrobin-1"].Servers["worker2"].State == "DOWN" })
	d.up("slot-http-roundrobin-1", "worker1")
	d.ask("open kept " + vipLocal + ":80")
	for _, algorithm := range []desired.Algorithm{desired.LeastConn, desired.Source, desired.Random, desired.RoundRobin} {
		d.apply(with(algorithm))
		for range 4 {
			d.wantReach(vipLocal+":80", node1+":30080")
		}
		slot := d.slots.At(state.LoadBalancers[0].Key, 0)
		if retried := d.read().Backends[slot].Servers["worker2"].Total; retried != 0 {
			t.Errorf("%s: %d connections were tried at a server that failed its check in the slot before", algorithm, retried)
		}
	}
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the connection of the first slot says %q", got)
	}
	if got := d.slots.At(state.LoadBalancers[0].Key, 0); got != "slot-http-roundrobin-2" {
		t.Errorf("the load balancer came back to %s, and the first slot has a connection", got)
	}
}

// How often a server is checked cannot be changed while it runs, so other servers take its place at once.
func TestCheckChangesUnderConnections(t *testing.T) {
	state := twoNodes()
	check := health(31991, "/31991")
	state.LoadBalancers = []desired.LoadBalancer{localPolicy("ingress", vipLocal, check, serverAt("worker1", node1))}
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) { l.SlotsPerKind = 5 })
	stop := d.nodePorts(node1 + ":31991")
	d.nodePorts(node1 + ":30080")
	d.up("slot-http-roundrobin-1", "worker1")
	d.ask("open kept " + vipLocal + ":80")
	check.Fall = 1000
	state.LoadBalancers[0].Pool.Check = check
	d.apply(state)
	checks := func(n int) {
		start := time.Now()
		d.eventually("some checks", func() bool {
			d.wantReach(vipLocal+":80", node1+":30080")
			return t.Failed() || time.Since(start) > time.Duration(n*check.IntervalMillis)*time.Millisecond
		})
	}
	stop()
	checks(5)
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the connection of the first slot says %q", got)
	}
	if got := d.slots.At(state.LoadBalancers[0].Key, 0); got != "slot-http-roundrobin-2" {
		t.Errorf("the load balancer is in %s", got)
	}
}

// From the nodes of all Services to servers of its own: the check of the slot has not passed yet, and nobody is refused.
func TestLoadBalancerLeavesTheSharedPool(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", node1+":31991", node2+":30080", node2+":10256", node2+":31991")
	d.up("nodes", "worker1", "worker2")
	check := health(31991, "/31991")
	check.IntervalMillis = 5000
	state.LoadBalancers[0].Pool = &desired.Pool{Algorithm: desired.LeastConn, Check: check, Servers: []desired.Server{serverAt("worker1", node1)}}
	d.apply(state)
	d.wantReach(vip4+":80", node1+":30080")
	state.LoadBalancers[0].Pool = nil
	d.apply(state)
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
}

// The servers serve now, so one that cannot be checked yet where it is to be checked from now on has as many tries as ever: kube-proxy
// opens healthCheckNodePort when it hears of the change, perhaps after us.
func TestMoveBeforeTheCheckedPortIsOpen(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":10256")
	d.up("nodes", "worker1", "worker2")
	check := health(31991, "/31991")
	check.IntervalMillis, check.Fall = 400, 3
	state.LoadBalancers[0].Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: check, Servers: []desired.Server{serverAt("worker1", node1)}}
	d.apply(state)
	serves := func(pass time.Duration) {
		start := time.Now()
		d.eventually("time to pass", func() bool {
			d.wantReach(vip4+":80", node1+":30080")
			return t.Failed() || time.Since(start) > pass
		})
	}
	serves(600 * time.Millisecond) // two checks fail
	d.nodePorts(node1 + ":31991")
	serves(time.Second)
}

func TestTimeoutsAreMadeByAReload(t *testing.T) {
	state := twoNodes()
	lb := podService("web", vip4, threePods()...)
	state.LoadBalancers = []desired.LoadBalancer{lb}
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) { l.SlotsPerKind = 5 })
	d.nodePorts(threePorts()...)
	d.ask("open kept " + vip4 + ":80")
	state.LoadBalancers[0].Timeouts = &desired.Timeouts{ConnectMillis: 250, IdleSeconds: 3600, CheckMillis: 700}
	want := d.render(state)
	const slot = "slot-tcp-roundrobin-connect250ms-idle3600s-check700ms-1"
	if got := Compare(d.read(), want).Reload; !slices.Equal(got, []string{"shop/web:80 has timeouts of its own, in " + slot}) {
		t.Fatalf("the reasons for the reload are %q", got)
	}
	d.reload(want)
	d.wantReach(vip4+":80", threePorts()...)
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the connection of the old worker says %q", got)
	}
	// Without them, gone and back: the slot runs on, and nothing is reloaded.
	timeouts := state.LoadBalancers[0].Timeouts
	state.LoadBalancers[0].Timeouts = nil
	d.apply(state)
	d.wantReach(vip4+":80", threePorts()...)
	if !d.read().Free(d.local)(slot) {
		t.Error("the slot is not free")
	}
	state.LoadBalancers = nil
	d.apply(state)
	lb.Timeouts = timeouts
	state.LoadBalancers = []desired.LoadBalancer{lb}
	d.apply(state)
	d.wantReach(vip4+":80", threePorts()...)
	if got := d.slots.At(lb.Key, 80); got != slot {
		t.Errorf("the load balancer came back to %s", got)
	}
}

// timeout tunnel is the one that counts once a connection is established, whether it is shorter or longer than the frontend's
// timeout client.
func TestIdleTimeoutBoundsAndProlongs(t *testing.T) {
	state := twoNodes()
	short, long := podService("short", vip4, threePods()...), podService("long", vipLocal, threePods()...)
	short.Timeouts, long.Timeouts = &desired.Timeouts{IdleSeconds: 1}, &desired.Timeouts{IdleSeconds: 60}
	plain := podService("plain", vip6, threePods()...)
	state.LoadBalancers = []desired.LoadBalancer{short, long, plain}
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(threePorts()...)

	lasts := func(id string) time.Duration {
		t.Helper()
		start := time.Now()
		if got := d.ask("ends " + id); got != "ended" {
			t.Fatalf("the connection %s did not end: %q", id, got)
		}
		return time.Since(start)
	}
	d.ask("open short " + vip4 + ":80")
	if after := lasts("short"); after < 800*time.Millisecond || after > 3*time.Second {
		t.Errorf("a connection that may be idle for a second ended after %s", after)
	}

	// The frontend's own hour is too long for a test.
	file, err := os.ReadFile(d.local.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	c := d.render(state)
	c.File = []byte(strings.Replace(string(file), "timeout client 1h", "timeout client 1s", 1))
	d.reload(c)
	d.ask("open long " + vipLocal + ":80")
	d.ask("open plain [" + vip6 + "]:80")
	if after := lasts("plain"); after < 800*time.Millisecond || after > 3*time.Second {
		t.Errorf("without an idle timeout, a connection ended after %s", after)
	}
	if got := d.ask("say long"); got != "still here" {
		t.Errorf("the connection that may be idle longer than timeout client says %q", got)
	}
}
