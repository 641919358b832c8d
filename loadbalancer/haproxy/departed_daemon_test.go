package haproxy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const podSlot = "slot-http-roundrobin-1"

// podState is a State with a Service whose pods are where servers say.
func podState(servers ...desired.Server) *desired.State {
	check := health(31991, "/healthz")
	check.IntervalMillis, check.DownIntervalMillis = 60_000, 100
	state := twoNodes()
	state.LoadBalancers = append(state.LoadBalancers, localPolicy("ingress", vipLocal, check, servers...))
	return state
}

// count opens connections and tells who answered how often.
func (d *daemon) count(connections int) map[string]int {
	d.t.Helper()
	by := map[string]int{}
	for range connections {
		by[d.reach(vipLocal+":80")]++
	}
	return by
}

func expectCounts(t *testing.T, when string, got map[string]int, want1, want2 int) {
	t.Helper()
	if got[node1+":30080"] != want1 || got[node2+":30080"] != want2 {
		t.Errorf("%s: %v, want %d and %d", when, got, want1, want2)
	}
}

// Each pod gets the same share; a weight changes at once.
func TestWeightsShareByPod(t *testing.T) {
	three, one := serverAt("worker1", node1), serverAt("worker2", node2)
	three.Weight = 3
	d := startDaemon(t, podState(three, one), nodes(), vips())
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080", node2+":31991")
	d.up(podSlot, "worker1", "worker2")
	expectCounts(t, "three pods and one", d.count(40), 30, 10)
	three.Weight, one.Weight = 1, 4
	d.apply(podState(three, one))
	d.count(60) // HAProxy makes good for the old round first
	expectCounts(t, "one pod and four", d.count(40), 8, 32)
}

// A node whose pods terminate takes what comes while no other one is up, and nothing as soon as one is: a Service with one
// pod that moves loses no connection. The new server does not wait for the slow check of those that are up.
func TestBackupUntilAnotherIsUp(t *testing.T) {
	old, young := serverAt("worker1", node1), serverAt("worker2", node2)
	d := startDaemon(t, podState(old), nodes(), vips())
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080")
	d.up(podSlot, "worker1")

	old.Backup = true
	d.apply(podState(old, young)) // worker2 does not answer its check yet
	expectCounts(t, "nobody else is up", d.count(10), 10, 0)
	d.nodePorts(node2 + ":31991")
	begun := time.Now()
	d.up(podSlot, "worker2")
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("worker2 was up %v after it answered its check", took)
	}
	expectCounts(t, "the new one is up", d.count(10), 0, 10)
	d.apply(podState(young))
	expectCounts(t, "the old one is gone", d.count(10), 0, 10)
}

// All servers of a pool are replaced at once: no connection is lost between the old ones and the first check of the new ones, and
// one that fails its check is out after the first.
func TestAllServersReplacedAtOnce(t *testing.T) {
	old, young, dead := serverAt("worker1", node1), serverAt("worker2", node2), serverAt("worker3", node6)
	d := startDaemon(t, podState(old), nodes(), vips())
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080", node2+":31991")
	d.up(podSlot, "worker1")
	d.apply(podState(young))
	expectCounts(t, "at once", d.count(5), 0, 5)
	d.apply(podState(old, dead)) // worker3 answers nothing
	d.eventually("worker3 to be out", func() bool { return d.read().Backends[podSlot].Servers["worker3"].State == "DOWN" })
	expectCounts(t, "one of two is dead", d.count(5), 5, 0)
}

// End ends the connections of one server that was taken out, and none before, whether it drains or is wanted no more.
func TestEndDeparted(t *testing.T) {
	stays, leaves := serverAt("worker1", node1), serverAt("worker2", node2)
	d := startDaemon(t, podState(stays, leaves), nodes(), vips())
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080", node2+":31991")
	d.up(podSlot, "worker1", "worker2")
	for _, id := range []string{"a", "b"} { // one on each
		d.ask("open " + id + " " + vipLocal + ":80")
	}
	drains := leaves
	drains.Drains = true
	for _, state := range []*desired.State{podState(stays, drains), podState(stays)} {
		left := d.apply(state)
		departed := d.read().Departed(d.render(state))
		want := []Departed{{Backend: podSlot, Server: "worker2", Addr: leaves.Address, Sessions: 1}}
		if !slices.Equal(departed, want) || !slices.Equal(left.Deferred, []string{podSlot + "/worker2"}) {
			t.Fatalf("departed are %v, deferred %q", departed, left.Deferred)
		}
		expectCounts(t, "worker2 is out", d.count(4), 4, 0)
		for _, id := range []string{"a", "b"} {
			if got := d.ask("say " + id); got != "still here" {
				t.Errorf("%s says %q", id, got)
			}
		}
	}
	config := d.render(podState(stays))
	if err := d.runtime.Apply(t.Context(), End(d.read().Departed(config)...)); err != nil {
		t.Fatal(err)
	}
	ended := 0
	for _, id := range []string{"a", "b"} {
		if got := d.ask("say " + id); strings.HasPrefix(got, "error") {
			ended++
		} else if got != "still here" {
			t.Errorf("%s says %q", id, got)
		}
	}
	if ended != 1 {
		t.Errorf("%d connections were ended, want that of worker2", ended)
	}
	d.eventually("worker2 to be without connections", func() bool { return len(d.read().Departed(config)) == 0 })
	if left := d.apply(podState(stays)); left.Deferred != nil || d.read().Backends[podSlot].Servers["worker2"].Name != "" {
		t.Errorf("worker2 is still there, deferred %q", left.Deferred)
	}
}

// What leaves the pool of all nodes, and not the control plane's servers, is ours to end.
func TestDepartedOfWhichBackends(t *testing.T) {
	running := &Running{Backends: map[string]*RunningBackend{}}
	for _, backend := range []string{"nodes", "nodes-open", "nodes6", podSlot, "control-plane", "control-plane-8132"} {
		running.Backends[backend] = &RunningBackend{Servers: map[string]RunningServer{
			"gone":   {State: "MAINT", Sessions: 2},
			"idle":   {State: "MAINT"},
			"wanted": {State: "MAINT", Sessions: 2},
			"up":     {State: "UP", Sessions: 2}, // not taken out yet
		}}
	}
	config := &Config{Servers: map[string][]Server{"nodes": {{Name: "wanted"}}, "nodes-open": {{Name: "wanted"}}, "nodes6": {{Name: "wanted"}}, podSlot: {{Name: "wanted"}}}}
	var got []string
	for _, d := range running.Departed(config) {
		got = append(got, d.String())
		if d.Shared() != strings.HasPrefix(d.Backend, "nodes") {
			t.Errorf("%s shared: %v", d, d.Shared())
		}
	}
	if want := []string{"nodes/gone", "nodes-open/gone", "nodes6/gone", podSlot + "/gone"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
