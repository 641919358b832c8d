package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const (
	vip4, vip6, vipLocal = "192.0.2.10", "2001:db8::10", "192.0.2.20"
	node1, node2         = "10.77.0.11", "10.77.0.12"
	node6                = "fd77::13"
)

func vips() []string { return []string{vip4, vip6, vipLocal} }

// twoNodes is a State of two nodes with quick checks and the Service default/web on both families.
func twoNodes() *desired.State {
	s := baseState()
	s.Nodes = []desired.Node{{Name: "worker1", Addresses: addrs(node1)}, {Name: "worker2", Addresses: addrs(node2)}}
	s.NodeCheck.IntervalMillis, s.NodeCheck.Rise, s.NodeCheck.Fall = 100, 1, 2
	s.LoadBalancers = []desired.LoadBalancer{web(vip4, vip6)}
	s.LoadBalancers[0].Frontends[0].NodePort = 30080
	return s
}

func nodes() []string { return []string{node1, node2, node6} }

func TestApplyFollowsStateWithoutReload(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":30081", node1+":10256", node2+":30080", node2+":30081", node2+":10256",
		"["+node6+"]:30080", "["+node6+"]:30081", "["+node6+"]:10256")
	d.up("nodes", "worker1", "worker2")
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	d.wantReach("["+vip6+"]:80", node1+":30080", node2+":30080")
	d.wantRefused(vip4 + ":81")

	ssh := web(vip4, vip6) // a port that the nodes themselves may listen on, in front of another NodePort
	ssh.Key.Name, ssh.Frontends = "ssh", []desired.Frontend{tcpPort(22, 30081)}
	state.LoadBalancers = append(state.LoadBalancers, ssh)
	state.Nodes = []desired.Node{{Name: "worker3", Addresses: addrs(node6)}}
	d.apply(state)
	d.up("nodes", "worker3")
	d.up("nodes-open", "worker3")
	d.wantReach(vip4+":22", "["+node6+"]:30081")
	d.wantReach("["+vip6+"]:22", "["+node6+"]:30081")
	d.wantReach(vip4+":80", "["+node6+"]:30080")
	if servers := sortedKeys(d.read().Backends["nodes-open"].Servers); !slices.Equal(servers, []string{"worker3"}) {
		t.Errorf("nodes-open has %q, want worker3 alone as nodes has", servers)
	}

	state.LoadBalancers[0].Frontends[0].NodePort = 30081
	d.apply(state)
	d.wantReach(vip4+":80", "["+node6+"]:30081")
	state.LoadBalancers = nil
	d.apply(state)
	d.wantRefused(vip4 + ":80")
	d.wantRefused("[" + vip6 + "]:22")
}

func TestOneServiceIsEven(t *testing.T) {
	state := twoNodes()
	state.Nodes = append(state.Nodes, desired.Node{Name: "worker3", Addresses: addrs(node6)})
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256", "["+node6+"]:30080", "["+node6+"]:10256")
	d.up("nodes", "worker1", "worker2", "worker3")
	count := map[string]int{}
	for range 100 {
		count[d.reach(vip4+":80")]++
	}
	for _, node := range []string{node1 + ":30080", node2 + ":30080", "[" + node6 + "]:30080"} {
		if count[node] < 33 || count[node] > 34 {
			t.Errorf("%s got %d of 100 connections, want 33 or 34", node, count[node])
		}
	}
}

func TestAddedNodeWaitsForItsCheck(t *testing.T) {
	state := twoNodes()
	state.Nodes = state.Nodes[:1]
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256")
	d.up("nodes", "worker1")
	d.apply(twoNodes()) // worker2 answers nothing
	for range 20 {
		d.wantReach(vip4+":80", node1+":30080")
	}
	if retried := d.read().Backends["nodes"].Servers["worker2"].Total; retried != 0 {
		t.Errorf("%d connections went to a node that never passed its check", retried)
	}
}

func TestNodesFailOpen(t *testing.T) {
	state := twoNodes()
	state.NodeCheck.Path = "/wrong"
	d := startDaemon(t, state, nodes(), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	d.eventually("both nodes to fail their check", func() bool {
		b := d.read().Backends["nodes"]
		return b.Servers["worker1"].State == "DOWN" && b.Servers["worker2"].State == "DOWN"
	})
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	state.Nodes = state.Nodes[1:]
	d.apply(state)
	for range 4 {
		d.wantReach(vip4+":80", node2+":30080")
	}
}

func TestCompareFindsDrift(t *testing.T) {
	state := twoNodes()
	local := localPolicy("ingress", vipLocal, kubeProxyCheck(), desired.Server{Name: "worker1", Address: netip.MustParseAddr(node1), Weight: 3})
	state.LoadBalancers = append(state.LoadBalancers, local)
	d := startDaemon(t, state, nodes(), vips())
	d.apply(state) // the limit of the Services' frontend
	want := d.render(state)
	for name, by := range map[string]struct{ hand, change string }{
		"map entry deleted":     {"del map MAP 192.0.2.10:80", "port 192.0.2.10:80 added: nodes|30080|default/web|0|0|0|0"},
		"map entry changed":     {"set map MAP 192.0.2.10:80 nodes|22|x", "port 192.0.2.10:80 changed to nodes|30080|default/web|0|0|0|0"},
		"map entry added":       {"add map MAP 192.0.2.10:8080 nodes|1|x", "port 192.0.2.10:8080 removed: nodes|1|x"},
		"map entry twice":       {"add map MAP 192.0.2.10:80 nodes|30080|default/web|0|0|0|0", "port replaced: an entry was there twice"},
		"check's path deleted":  {"del map CHECKS slot-http-roundrobin-1", "check slot-http-roundrobin-1 added: /healthz"},
		"server in maintenance": {"set server nodes/worker1 state maint", "server nodes/worker1 put back from MAINT"},
		"server drained":        {"set server nodes-open/worker1 state drain", "server nodes-open/worker1 put back from DRAIN"},
		"server said down":      {"set server nodes-open/worker1 health down", "server nodes-open/worker1 repaired: set server nodes-open/worker1 health up"},
		"server moved":          {"set server nodes/worker1 addr 10.9.9.9", "server nodes/worker1 moved to 10.77.0.11"},
		"server's weight":       {"set server slot-http-roundrobin-1/worker1 weight 1", "server slot-http-roundrobin-1/worker1 has weight 3, not 1"},
		"server's check port":   {"set server nodes/worker2 check-port 1", "server nodes/worker2 is checked at port 10256"},
		"check disabled":        {"disable health nodes/worker1", "server nodes/worker1 repaired: enable health nodes/worker1"},
		"server missing":        {"set server nodes/worker2 state maint;del server nodes/worker2", "server nodes/worker2 added: 10.77.0.12"},
		"server of nobody":      {"add server slot-tcp-roundrobin-2/evil 10.9.9.9;enable server slot-tcp-roundrobin-2/evil", "server slot-tcp-roundrobin-2/evil taken out, 0 connections left"},
		"server without check":  {"set server nodes/worker2 state maint;del server nodes/worker2;add server nodes/worker2 10.77.0.12;enable server nodes/worker2", "server nodes/worker2 made anew: worker2 10.77.0.12 weight 1 check port 10256 inter 100 rise 1 fall 2"},
		"server with a hostname": {"set server nodes/worker2 state maint;del server nodes/worker2;add server nodes/worker2 fd00::1 check port 10256;enable server nodes/worker2",
			"server nodes/worker2 made anew: worker2 10.77.0.12 weight 1 check port 10256 inter 100 rise 1 fall 2"},
		"limit raised": {"set maxconn frontend services 7", "connections of all Services limited to"},
	} {
		t.Run(name, func(t *testing.T) {
			hand := strings.NewReplacer("MAP", d.local.ServicesMap, "CHECKS", d.local.ChecksMap).Replace(by.hand)
			if err := d.runtime.order(t.Context(), hand); err != nil {
				t.Fatal(err)
			}
			diff := Compare(d.read(), want)
			if diff.Empty() || len(diff.Changes) != 1 || !strings.HasPrefix(diff.Changes[0], by.change) || diff.Reload != nil {
				t.Errorf("Compare found %q (reload %q), want %q", diff.Changes, diff.Reload, by.change)
			}
			if err := d.runtime.Apply(t.Context(), diff); err != nil {
				t.Fatal(err)
			}
			if left := Compare(d.read(), want); !left.Empty() || left.Deferred != nil {
				t.Errorf("Apply left %q, deferred %q", left.Changes, left.Deferred)
			}
		})
	}
}

func TestReloadChangesGeneration(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	before := d.read()
	changed := twoNodes()
	changed.NodeCheck.Path = "/livez"
	want := d.render(changed)
	diff := Compare(before, want)
	if !slices.Equal(diff.Reload, []string{"backend-nodes changed", "backend-nodes6 changed"}) {
		t.Fatalf("reasons for the reload are %q, want those of backends nodes and nodes6 alone", diff.Reload)
	}
	d.reload(want)
	after := d.read()
	if after.Generation == before.Generation || after.PID == before.PID {
		t.Errorf("after the reload worker %d runs %s, as before", after.PID, after.Generation)
	}
	if diff := Compare(after, want); diff.Reload != nil {
		t.Errorf("after the reload another one is asked for: %q", diff.Reload)
	}
}

func TestReadLargeMap(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	for i := range 5000 {
		lb := web(fmt.Sprintf("198.18.%d.%d", i/250, i%250), fmt.Sprintf("2001:db8::%x", 0x1000+i))
		lb.Name = fmt.Sprintf("web-%d", i)
		state.LoadBalancers = append(state.LoadBalancers, lb)
	}
	d.apply(state)
	want := d.render(state)
	got := d.read().Maps[d.local.ServicesMap]
	sortEntries(got)
	if len(got) != 10002 || len(want.Entries) != 10002 {
		t.Fatalf("%d entries run and %d are wanted, not 10002", len(got), len(want.Entries))
	}
	for i, e := range want.Entries {
		if got[i].Key != e.Key || got[i].Value != e.Value {
			t.Fatalf("entry %d is %v, want %v", i, got[i], e)
		}
	}
	state.LoadBalancers = state.LoadBalancers[:1]
	d.apply(state)
	if n := len(d.read().Maps[d.local.ServicesMap]); n != 2 {
		t.Errorf("%d entries are left, want 2", n)
	}
}

func TestOrderSeesRefusals(t *testing.T) {
	d := startDaemon(t, twoNodes(), nodes(), vips())
	for _, command := range []string{
		"no such command", "add server nodes/worker1 10.0.0.1", "add server nowhere/a 10.0.0.1", "del server nodes/worker1",
		"set map " + d.local.ServicesMap + " 9.9.9.9:1 x", "del map " + d.local.ServicesMap + " 9.9.9.9:1", "add map /nowhere a b",
		"commit map @77 " + d.local.ServicesMap, "set server nodes/nobody state ready", "enable health nodes-open/worker1",
		"set server nodes/worker1 weight 999", "set maxconn frontend nowhere 1", "enable server nodes/nobody",
		"set server nodes/worker1 state ready;set server nodes/nobody state ready;set server nodes/worker1 state ready",
	} {
		var refused *CommandError
		if err := d.runtime.order(t.Context(), command); !errors.As(err, &refused) || refused.Answer == "" {
			t.Errorf("%q: got %v, want a CommandError that says why", command, err)
		}
	}
}
