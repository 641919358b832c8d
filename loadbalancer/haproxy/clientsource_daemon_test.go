package haproxy

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const (
	afar4, afar6   = "198.51.100.7", "2001:db8:51::7"
	probe4, probe6 = "203.0.113.1", "3fff::1"
)

// serveSeers listens on each address:port and greets with the address that it sees.
func serveSeers(listen []string) {
	for _, address := range listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "%s\n", conn.RemoteAddr().(*net.TCPAddr).IP)
				conn.Close()
			}
		}()
	}
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin) // ends with the test
}

// seen opens a connection from a client's address and gives the one that the node saw.
func (d *daemon) seen(vip, from string) string {
	d.t.Helper()
	answer := d.ask("open once " + net.JoinHostPort(vip, "80") + " " + from)
	d.ask("close once")
	return answer
}

// Nodes see their clients, of both families, once a check from the probe's address has passed and not before; they see the gateway's
// address again when that is wanted, and nothing of it reloads.
func TestServersSeeClients(t *testing.T) {
	d := startDaemon(t, twoNodes(), append(nodes(), afar4, afar6, probe4), vips(), func(l *Local) { l.ClientSourceProbes = addrs(probe4, probe6) })
	d.nodePorts(node1+":31999", "["+node6+"]:31999")
	d.listen("seers", []string{node1 + ":30080", "[" + node6 + "]:30080"})

	state := twoNodes()
	state.Nodes = []desired.Node{{Name: "worker1", Addresses: addrs(node1, node6)}}
	lb := &state.LoadBalancers[0]
	lb.ClientSource = true
	lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
		Check:   desired.Check{Kind: desired.CheckHTTP, Port: 31999, Path: "/healthz", IntervalMillis: 200, Rise: 1, Fall: 2},
		Servers: []desired.Server{{Name: "worker1", Address: addrs(node1)[0], Weight: 1}}}
	d.apply(state)
	const slot4, slot6 = "slot-http-roundrobin-client4-1", "slot-http-roundrobin-client6-1"
	d.up(slot4, "worker1")
	if got := d.seen(vip4, afar4); got != afar4 {
		t.Errorf("a node saw %q, want %s", got, afar4)
	}

	// The machine lacks the probe's address of IPv6: no check is made, so none has passed.
	d.eventually("the check to be tried", func() bool { return d.read().Backends[slot6].Servers["worker1"].LastCheck != "" })
	if s := d.read().Backends[slot6].Servers["worker1"]; s.State != "DOWN" {
		t.Errorf("unproven, worker1 is %s (%s)", s.State, s.LastCheck)
	}
	d.wantRefused("[" + vip6 + "]:80")
	d.inside("ip", "address", "add", probe6, "dev", "lo", "noprefixroute")
	d.up(slot6, "worker1")
	if got := d.seen(vip6, afar6); got != afar6 {
		t.Errorf("a node saw %q, want %s", got, afar6)
	}

	lb.ClientSource = false
	d.apply(state)
	for vip, client := range map[string]string{vip4: afar4, vip6: afar6} {
		if got := d.seen(vip, client); net.ParseIP(got) == nil || got == client {
			t.Errorf("without the annotation a node saw %q", got)
		}
	}
	state.LoadBalancers[0].Pool, lb.ClientSource = nil, false
	d.apply(state)
}
