package haproxy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// saved is the state of the servers now, as an agent saves it before a reload.
func (d *daemon) saved() []byte {
	d.t.Helper()
	state, err := d.runtime.ServersState(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return state
}

// A file that an earlier reload left behind knows the same slot and the same name of a server from another Service: with another port,
// another one to check, and in maintenance or down. HAProxy that starts has to believe its own file.
func TestStartBelievesNoOldState(t *testing.T) {
	ingress := func(name string, nodePort, checkPort uint16) desired.LoadBalancer {
		lb := proxiedIngress(desired.ProxyV2)
		lb.Name, lb.Frontends[1].NodePort, lb.Pool.Check = name, nodePort, health(checkPort, "/31992")
		return lb
	}
	const slot = "slot-http-roundrobin-2"
	state := twoNodes()
	state.LoadBalancers = []desired.LoadBalancer{ingress("a", 30443, 31991)}
	old := startDaemon(t, state, nodes(), vips())
	old.eventually("the servers of a to be down", func() bool { return old.read().Backends[slot].Servers["worker1_v2"].State == "DOWN" })
	if err := old.runtime.order(t.Context(), "set server "+slot+"/worker2_v2 state maint"); err != nil {
		t.Fatal(err)
	}
	left := old.saved()

	state.LoadBalancers = []desired.LoadBalancer{ingress("b", 30555, 31992)}
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) {
		if err := os.WriteFile(l.ServerState, left, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	for name, server := range d.read().Backends[slot].Servers {
		if server.Port != 30555 || server.CheckPort != 31992 || server.maint {
			t.Errorf("%s of b has port %d, is checked at port %d and is %s", name, server.Port, server.CheckPort, server.State)
		}
	}
	d.nodePorts(node1+":31992", node2+":31992", node1+":30443", node2+":30443")
	d.proxied(node1+":30555", node2+":30555")
	d.up(slot, "worker1_v2", "worker2_v2") // no Apply before
	d.wantHeader("b", "v2", vipLocal+":443")
}

// A reload takes over who is down, from the saved state. What that says about an address, a port or a check that the file has
// otherwise now, and who is in maintenance, it must not take over.
func TestReloadBelievesTheFile(t *testing.T) {
	state := twoNodes()
	state.LoadBalancers = []desired.LoadBalancer{proxiedIngress(desired.ProxyV2)}
	state.NodeCheck.IntervalMillis = 2000 // a verdict that the new worker has at once is inherited
	state.LoadBalancers[0].Pool.Check.IntervalMillis = 2000
	d := startDaemon(t, state, nodes(), vips(), func(l *Local) { l.MaxConn = 100 })
	isDown := func(backend, server string) bool { return d.read().Backends[backend].Servers[server].State == "DOWN" }
	d.eventually("all to be down", func() bool { return isDown("nodes", "worker1") && isDown("slot-http-roundrobin-2", "worker1_v2") })
	if err := d.runtime.order(t.Context(), "set server nodes/worker2 state maint"); err != nil {
		t.Fatal(err)
	}

	state.LoadBalancers[0].Frontends[1].NodePort = 30555
	c := d.render(state)
	d.reload(c)
	if !isDown("nodes", "worker1") || !isDown("slot-http-roundrobin-1", "worker1") {
		t.Error("who was down before the reload is up after it, unchecked")
	}
	if diff := Compare(d.read(), c); !diff.Empty() {
		t.Errorf("the new worker is not what the file says: %q", diff.Changes)
	}
	state.NodeCheck.Port = 10257
	state.Nodes[1].Addresses = addrs(node6)
	c = d.render(state)
	d.reload(c)
	if diff := Compare(d.read(), c); !diff.Empty() {
		t.Errorf("the new worker is not what the file says: %q", diff.Changes)
	}
}

func TestInherit(t *testing.T) {
	s := baseState()
	s.LoadBalancers = []desired.LoadBalancer{proxiedIngress(desired.ProxyV2)}
	c := scenario{"", testLocal(), s}.render(t)
	const head = "1\n# be_name srv_name srv_addr srv_port srv_check_port srv_fqdn srv_op_state srv_admin_state srv_check_state srv_uweight\n"
	own := "slot-http-roundrobin-2 worker1_v2 " + node1
	rows := map[string]bool{
		"nodes worker1 10.0.0.11 0 10256 - 0 0 6 1":                             true, // down
		"nodes worker2 10.0.0.12 0 10256 - 2 0 6 7":                             true,
		"nodes worker3 fd00::13 0 10257 - 2 0 6 1":                              false,
		"nodes-open worker1 10.0.0.11 0 0 - 2 0 0 1":                            true,
		"nodes-open worker2 10.0.0.99 0 0 - 2 0 0 1":                            false,
		"nodes-open worker3 fd00::13 0 0 - 2 1 0 1":                             false, // in maintenance
		own + " 30443 31991 - 2 0 6 1":                                          true,
		"slot-http-roundrobin-2 worker2_v2 " + node2 + " 30999 31991 - 2 0 6 1": false,
		"slot-http-roundrobin-3 worker1 10.0.0.11 0 31991 - 2 0 6 1":            false,
	}
	state, want := head, head
	for _, row := range sortedKeys(rows) {
		state += row + "\n"
		if rows[row] {
			want += row + "\n"
		}
	}
	if got, err := c.Inherit([]byte(state + "\n")); err != nil || string(got) != want {
		t.Errorf("inherited %v\n%s\nwant\n%s", err, got, want)
	}
	if got, err := c.Inherit([]byte(head)); err != nil || string(got) != head {
		t.Errorf("without servers %q %v", got, err)
	}
	for _, wrong := range []string{"", "2\n# be_id\n", head + "nodes worker1\n", head + strings.Replace(slices.Collect(strings.Lines(state))[2], " 0 ", " x ", 1)} {
		if got, err := c.Inherit([]byte(wrong)); err == nil {
			t.Errorf("%q gave %q", wrong, got)
		}
	}
}
