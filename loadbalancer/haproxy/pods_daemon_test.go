package haproxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func podAt(name, address string, port uint16) desired.Server {
	server := serverAt(name, address)
	server.Port = port
	return server
}

func podPool(check desired.Check, pods ...desired.Server) *desired.Pool {
	return &desired.Pool{Algorithm: desired.RoundRobin, Check: check, Servers: pods}
}

// podService has one port, whose connections go to these pods.
func podService(name, address string, pods ...desired.Server) desired.LoadBalancer {
	lb := web(address)
	lb.Key = desired.Key{Namespace: "shop", Name: name}
	lb.Frontends = []desired.Frontend{{Protocol: desired.TCP, Port: 80, Pool: podPool(desired.Check{Kind: desired.CheckNone}, pods...)}}
	return lb
}

func TestPodIsServedDrainedAndShut(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":8080", node2+":8081")
	first, second := podAt("web-1.v2", node1, 8080), podAt("web-2", node2, 8081)
	serve := func(pods ...desired.Server) Diff {
		t.Helper()
		state.LoadBalancers = []desired.LoadBalancer{podService("web", vip4, pods...)}
		return d.apply(state)
	}
	const slot = "slot-tcp-roundrobin-1"
	serve(first)
	if got := d.ask("open kept " + vip4 + ":80"); got != node1+":8080" {
		t.Fatalf("the connection to keep got %q", got)
	}
	draining := first
	draining.Drains = true
	d.wantDeferred(serve(draining, second), slot+"/web-1.v2_pod")
	for range 4 {
		d.wantReach(vip4+":80", node2+":8081")
	}
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the connection to a pod that terminates says %q", got)
	}
	// It is gone: nobody waits, and nothing of it is left.
	d.wantDeferred(serve(second))
	if got := d.ask("say kept"); !strings.HasPrefix(got, "error") {
		t.Errorf("the connection to a pod that is gone says %q", got)
	}
	if servers := d.read().Backends[slot].Servers; len(servers) != 1 {
		t.Errorf("the slot has %v", servers)
	}
}

// A pod is gone while a client's connection still tries to reach it: the next pod with its address, of another Service, must not
// get that connection. The first SYN is lost, and the kernel sends another one after a second.
func TestAddressOfAGonePodIsAnotherServicesNext(t *testing.T) {
	const reused = "10.77.9.9"
	old, other := podService("old", vip4, podAt("old-1", reused, 8080)), podService("other", vipLocal, podAt("other-1", reused, 8080))
	old.Timeouts = &desired.Timeouts{ConnectMillis: 5000}
	empty := old
	empty.Frontends = []desired.Frontend{old.Frontends[0]}
	empty.Frontends[0].Pool = podPool(desired.Check{Kind: desired.CheckNone})
	for name, after := range map[string][]desired.LoadBalancer{
		"the Service lives on": {empty, other},
		"the Service is gone":  {other},
	} {
		t.Run(name, func(t *testing.T) {
			state := twoNodes()
			state.LoadBalancers = []desired.LoadBalancer{old}
			d := startDaemon(t, state, append(nodes(), reused), vips())
			d.nodePorts(reused + ":8080")
			d.inside("nft", "add table inet hole; add chain inet hole in { type filter hook input priority 0; }; add rule inet hole in ip daddr "+reused+" drop")
			slot := d.slots[Tenant{Key: old.Key, Port: 80}]
			trying := make(chan string, 1)
			go func() { trying <- d.ask("open old " + vip4 + ":80") }()
			d.eventually("the connection to try", func() bool { return d.read().Backends[slot].Servers["old-1_pod"].Sessions == 1 })

			state.LoadBalancers = after
			d.wantDeferred(d.apply(state))
			if b := d.read().Backends[slot]; b.Sessions+b.Queued+len(b.Servers) != 0 {
				t.Errorf("%d connections and %d servers are left", b.Sessions+b.Queued, len(b.Servers))
			}
			d.inside("nft", "delete table inet hole")
			if got := <-trying; !strings.HasPrefix(got, "error") {
				t.Errorf("the client of the old Service reached the other one's pod: %q", got)
			}
			d.wantReach(vipLocal+":80", reused+":8080")
		})
	}
}

// A pod of a StatefulSet comes back under its name at another address.
func TestPodComesBackElsewhere(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":8080", node2+":8080")
	state.LoadBalancers = []desired.LoadBalancer{podService("db", vip4, podAt("db-0", node1, 8080))}
	d.apply(state)
	d.wantReach(vip4+":80", node1+":8080")
	d.ask("open kept " + vip4 + ":80")
	state.LoadBalancers = []desired.LoadBalancer{podService("db", vip4, podAt("db-0", node2, 8080))}
	d.apply(state)
	d.wantReach(vip4+":80", node2+":8080")
	if got := d.ask("say kept"); !strings.HasPrefix(got, "error") {
		t.Errorf("the connection to the address that is no pod any more says %q", got)
	}
}

// Deleting the last connection's load balancer from a slot must not end those of pods that another Service has too.
func TestPodsOfTwoServices(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1 + ":8080")
	one, two := podService("one", vip4, podAt("web-1", node1, 8080)), podService("two", vipLocal, podAt("web-1", node1, 8080))
	state.LoadBalancers = []desired.LoadBalancer{one, two}
	d.apply(state)
	d.ask("open kept " + vip4 + ":80")
	state.LoadBalancers = []desired.LoadBalancer{two}
	d.wantDeferred(d.apply(state), d.slots.former(t, one)+"/web-1_pod")
	if got := d.ask("say kept"); got != "still here" {
		t.Errorf("the connection says %q", got)
	}
}

// former is the slot that a load balancer of one port had in a new HAProxy.
func (slots Slots) former(t *testing.T, lb desired.LoadBalancer) string {
	t.Helper()
	fresh, _ := Assign(nil, &desired.State{LoadBalancers: []desired.LoadBalancer{lb}}, func(string) bool { return true }, testLocal())
	return fresh.Of(&lb, lb.Frontends[0])
}

func TestFiveHundredPods(t *testing.T) {
	const n = 500
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1 + ":8080")
	var pods []desired.Server
	for i := range n {
		pod := podAt(fmt.Sprintf("web-%d", i), node1, 8080)
		pod.Weight = 1 + i%256
		pods = append(pods, pod)
	}
	timed := func(what string, pods []desired.Server) {
		t.Helper()
		state.LoadBalancers = []desired.LoadBalancer{podService("web", vip4, pods...)}
		start := time.Now()
		d.apply(state)
		t.Logf("%s: %s", what, time.Since(start).Round(time.Millisecond))
	}
	timed("500 pods added", pods)
	d.wantReach(vip4+":80", node1+":8080")
	replaced := slices.Clone(pods)
	for i := range n / 2 {
		replaced[i].Name = fmt.Sprintf("new-%d", i)
	}
	timed("250 pods replaced", replaced)
	for i := range replaced {
		replaced[i].Weight = 256 - i%256
	}
	timed("500 weights changed", replaced)
	timed("499 pods gone", replaced[:1])
	d.wantReach(vip4+":80", node1+":8080")
	if got := len(d.read().Backends["slot-tcp-roundrobin-1"].Servers); got != 1 {
		t.Errorf("%d servers are left", got)
	}
}
