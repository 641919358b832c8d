package haproxy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// lines are the commands of a Diff, map entries as they are put and dropped.
func (d Diff) lines() []string {
	var lines []string
	for _, m := range []mapChange{d.checks, d.services} {
		for _, e := range m.put {
			lines = append(lines, "put "+e.Key+" "+e.Value)
		}
		for _, e := range m.drop {
			lines = append(lines, "drop "+e.Key)
		}
	}
	for _, c := range slices.Concat(d.add, d.remove) {
		lines = append(lines, c.line)
		if c.then != "" {
			lines = append(lines, c.then)
		}
	}
	return lines
}

// Each change of a Service with pods behind port 80 and a header at port 443 is what its commands say, and no more.
func TestOneChangeIsOneCommand(t *testing.T) {
	const pods, proxied = "slot-tcp-roundrobin-1", "slot-tcp-roundrobin-2"
	start := func() *desired.LoadBalancer {
		lb := localPolicy("web", "192.0.2.20", desired.Check{Kind: desired.CheckNone}, serverAt("worker1", "10.0.0.11"))
		lb.Frontends[0].Pool = podPool(desired.Check{Kind: desired.CheckNone}, podAt("web-1", "10.1.0.1", 8080), podAt("web-2", "10.1.0.2", 8080))
		lb.Frontends[1].ProxyProtocol = desired.ProxyV1
		return &lb
	}
	for name, test := range map[string]struct {
		change func(*desired.LoadBalancer)
		busy   bool // web-2 has connections
		want   []string
	}{
		"nothing": {func(*desired.LoadBalancer) {}, false, nil},
		"a pod comes": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool.Servers = append(lb.Frontends[0].Pool.Servers, podAt("web-3", "fd00::3", 8080))
		}, false, []string{"add server " + pods + "/web-3_pod [fd00::3]:8080 weight 1;enable server " + pods + "/web-3_pod"}},
		"a pod terminates": {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool.Servers[1].Drains = true }, true,
			[]string{"set server " + pods + "/web-2_pod state maint;del server " + pods + "/web-2_pod"}},
		"a pod is gone": {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool.Servers = lb.Frontends[0].Pool.Servers[:1] }, true,
			[]string{"set server " + pods + "/web-2_pod state maint;shutdown sessions server " + pods + "/web-2_pod", "del server " + pods + "/web-2_pod"}},
		"a pod's weight": {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool.Servers[0].Weight = 9 }, false, []string{"set server " + pods + "/web-1_pod weight 9"}},
		"a pod's port": {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool.Servers[0].Port = 9090 }, false,
			[]string{"set server " + pods + "/web-1_pod state maint;set server " + pods + "/web-1_pod addr 10.1.0.1 port 9090", "set server " + pods + "/web-1_pod state ready"}},
		"a pod at another address": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool.Servers[0].Address = netip.MustParseAddr("10.1.0.9")
		}, false,
			[]string{"set server " + pods + "/web-1_pod state maint;shutdown sessions server " + pods + "/web-1_pod;set server " + pods +
				"/web-1_pod addr 10.1.0.9 port 8080", "set server " + pods + "/web-1_pod state ready"}},
		"a NodePort": {func(lb *desired.LoadBalancer) { lb.Frontends[1].NodePort = 30444 }, false,
			[]string{"set server " + proxied + "/worker1_v1 state maint;set server " + proxied + "/worker1_v1 addr 10.0.0.11 port 30444",
				"set server " + proxied + "/worker1_v1 state ready"}},
		"a node goes": {func(lb *desired.LoadBalancer) { lb.Pool.Servers = nil }, false,
			[]string{"set server " + proxied + "/worker1_v1 state maint;del server " + proxied + "/worker1_v1"}},
		"another header": {func(lb *desired.LoadBalancer) { lb.Frontends[1].ProxyProtocol = desired.ProxyV2 }, false, []string{
			"put 192.0.2.20:443 slot-tcp-roundrobin-3|0|edge/web|0|0|0|0",
			"add server slot-tcp-roundrobin-3/worker1_v2 10.0.0.11:30443 weight 1 send-proxy-v2;enable server slot-tcp-roundrobin-3/worker1_v2",
			"set server " + proxied + "/worker1_v1 state maint;del server " + proxied + "/worker1_v1"}},
		"no header": {func(lb *desired.LoadBalancer) { lb.Frontends[1].ProxyProtocol = desired.ProxyNone }, false, []string{
			"put 192.0.2.20:443 slot-tcp-roundrobin-3|30443|edge/web|0|0|0|0",
			"add server slot-tcp-roundrobin-3/worker1 10.0.0.11 weight 1;enable server slot-tcp-roundrobin-3/worker1",
			"set server " + proxied + "/worker1_v1 state maint;del server " + proxied + "/worker1_v1"}},
		"checked at another port": {func(lb *desired.LoadBalancer) { lb.Pool.Check.Port, lb.Pool.Check.Path = 1, "/x" }, false, nil}, // it is none
		"checked": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool.Check = desired.Check{Kind: desired.CheckTCP, IntervalMillis: 100, Rise: 1, Fall: 2}
			lb.Frontends[0].Pool.Servers = lb.Frontends[0].Pool.Servers[:1]
		}, false, []string{
			"put 192.0.2.20:80 slot-tcp-roundrobin-3|0|edge/web|0|0|0|0",
			"add server slot-tcp-roundrobin-3/web-1_pod 10.1.0.1:8080 weight 1 check port 8080 inter 100 rise 1 fall 2;enable health slot-tcp-roundrobin-3/web-1_pod;" +
				"enable server slot-tcp-roundrobin-3/web-1_pod;set server slot-tcp-roundrobin-3/web-1_pod health up",
			"set server " + pods + "/web-1_pod state maint;del server " + pods + "/web-1_pod",
			"set server " + pods + "/web-2_pod state maint;shutdown sessions server " + pods + "/web-2_pod", "del server " + pods + "/web-2_pod"}},
		"another algorithm": {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool.Algorithm = desired.LeastConn }, true, []string{
			"put 192.0.2.20:80 slot-tcp-leastconn-1|0|edge/web|0|0|0|0",
			"add server slot-tcp-leastconn-1/web-1_pod 10.1.0.1:8080 weight 1;enable server slot-tcp-leastconn-1/web-1_pod",
			"add server slot-tcp-leastconn-1/web-2_pod 10.1.0.2:8080 weight 1;enable server slot-tcp-leastconn-1/web-2_pod",
			"set server " + pods + "/web-1_pod state maint;del server " + pods + "/web-1_pod",
			"set server " + pods + "/web-2_pod state maint;del server " + pods + "/web-2_pod"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := baseState(), testLocal()
			l.SlotsPerKind = 5
			s.LoadBalancers = []desired.LoadBalancer{*start()}
			before := scenario{"", l, s}
			slots, _ := Assign(nil, s, func(string) bool { return true }, l)
			running := asRunning(before.render(t))
			if test.busy {
				has := running.Backends[pods].Servers["web-2_pod"]
				has.Sessions = 3
				running.Backends[pods].Servers["web-2_pod"] = has
			}
			changed := start()
			test.change(changed)
			s.LoadBalancers = []desired.LoadBalancer{*changed}
			slots, short := Assign(slots, s, running.Free(l), l)
			c, err := Render(s, l, slots)
			if err != nil || short != nil {
				t.Fatalf("rendering: %v; short are %v", err, short)
			}
			d := Compare(running, c)
			if got := d.lines(); !slices.Equal(got, test.want) || d.Reload != nil {
				t.Errorf("the commands are\n%s\nwant\n%s\nreload %q", strings.Join(got, "\n"), strings.Join(test.want, "\n"), d.Reload)
			}
		})
	}
}

// A pod that drained and is gone now loses what it has; one that is named elsewhere has what it has.
func TestGonePods(t *testing.T) {
	has := RunningServer{Name: "web-1_pod", Addr: netip.MustParseAddr("10.1.0.1"), maint: true, Sessions: 2}
	for name, test := range map[string]struct {
		pods     map[pod]bool
		server   string
		deferred bool
	}{
		"gone":                        {nil, "web-1_pod", false},
		"named at its address":        {map[pod]bool{{"web-1", has.Addr}: true}, "web-1_pod", true},
		"named at its address, proxy": {map[pod]bool{{"web-1", has.Addr}: true}, "web-1_pod_v2", true},
		"named at another address":    {map[pod]bool{{"web-1", netip.MustParseAddr("10.1.0.2")}: true}, "web-1_pod", false},
		"another pod at its address":  {map[pod]bool{{"db-1", has.Addr}: true}, "web-1_pod", false},
		"a node":                      {nil, "web-1", true},
		"a node with a header":        {nil, "web-1_v1", true},
	} {
		var d Diff
		has.Name = test.server
		d.backend(membership{name: "slot-tcp-random-1", running: &RunningBackend{Servers: map[string]RunningServer{has.Name: has}}, pods: test.pods})
		if deferred := len(d.Deferred) == 1 && d.Empty(); deferred != test.deferred {
			t.Errorf("%s: deferred %v, commands %v", name, d.Deferred, d.lines())
		}
	}
}

// Pods that are gone are all shut before one is waited for, and all together for a moment only.
func TestGoneServersAreShutTogether(t *testing.T) {
	s, l := baseState(), testLocal()
	s.LoadBalancers = []desired.LoadBalancer{podService("web", "192.0.2.10", podAt("a", "10.1.0.1", 80), podAt("b", "10.1.0.2", 80), podAt("c", "10.1.0.3", 80),
		podAt("d", "10.1.0.4", 80), podAt("e", "10.1.0.5", 80))}
	slots, _ := Assign(nil, s, func(string) bool { return true }, l)
	running := asRunning(scenario{"", l, s}.render(t))
	s.LoadBalancers[0].Frontends[0].Pool.Servers = nil
	c, err := Render(s, l, slots)
	if err != nil {
		t.Fatal(err)
	}
	var verbs []string
	r := obeying(t, func(line string) string {
		verb := strings.Fields(line)[0]
		if len(verbs) == 0 || verbs[len(verbs)-1] != verb {
			verbs = append(verbs, verb)
		}
		if verb == "del" {
			return stillConnected + "\n\n"
		}
		return "\n"
	})
	begun := time.Now()
	if err := r.Apply(t.Context(), Compare(running, c)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 3*insistLimit { // it would be five times that
		t.Errorf("they were waited for %s", took)
	}
	if !slices.Equal(verbs, []string{"set", "del"}) {
		t.Errorf("the commands are %v", verbs)
	}
}

// A server whose address HAProxy does not take is not put back: its clients would get to the old one.
func TestServerThatCannotMoveStaysAway(t *testing.T) {
	want := Server{Name: "a", Addr: netip.MustParseAddr("10.0.0.2"), Weight: 1}.unchecked()
	has := RunningServer{Name: "a", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1}
	var d Diff
	d.backend(membership{name: "nodes", running: &RunningBackend{Servers: map[string]RunningServer{"a": has}}, want: []Server{want}})
	var lines []string
	r := obeying(t, func(line string) string {
		lines = append(lines, line)
		return "Invalid addr family or IP address\n\n"
	})
	var refused *CommandError
	if err := r.Apply(t.Context(), d); !errors.As(err, &refused) {
		t.Errorf("got %v, want the refusal", err)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], " addr 10.0.0.2") || strings.Contains(lines[0], "ready") {
		t.Errorf("the commands were %q", lines)
	}
}
