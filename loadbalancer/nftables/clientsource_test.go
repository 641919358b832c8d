package nftables

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// transparent is a gateway whose owner lets HAProxy connect from clients' addresses.
func transparent() Local {
	l := DebianLocal("a")
	l.ClientSourceProbes = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("3fff::1")}
	return l
}

// seen is dns(), whose servers see their clients, and TCP 80 beside it.
func seen() *desired.State {
	s := dns()
	lb := &s.LoadBalancers[0]
	lb.ClientSource = true
	lb.Frontends = []desired.Frontend{{Protocol: desired.TCP, Port: 80, NodePort: 30080}, {Protocol: desired.UDP, Port: 53, NodePort: 30053}}
	lb.Pool = &desired.Pool{}
	for _, n := range s.Nodes {
		lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: n.Name, Address: n.Addresses[0], Weight: 1})
	}
	return s
}

func TestClientSourceGolden(t *testing.T) {
	only4 := transparent()
	only4.ClientSourceProbes = only4.ClientSourceProbes[:1]
	for name, l := range map[string]Local{"client-source": transparent(), "client-source-ipv4": only4, "client-source-not-allowed": DebianLocal("a")} {
		t.Run(name, func(t *testing.T) {
			s := seen()
			s.LoadBalancers = append(s.LoadBalancers, shared().LoadBalancers[0])
			s.LoadBalancers[1].Frontends[0].Port = 81
			script, err := Render(s, l)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", name+".nft"), script)
			if open := bytes.Contains(script, []byte(vip6+" . udp . 53,\n")); open != (name == "client-source") {
				t.Errorf("a port at an IPv6 address is open: %v", open)
			}
		})
	}
}

// What is loaded is what is wanted, and what is wanted without the owner's consent differs.
func TestClientSourceReadBack(t *testing.T) {
	w := newWire(t)
	s, l := seen(), transparent()
	wanted := func(l Local) *Table {
		script, err := RulesScript(l, Flows(s))
		if err != nil {
			t.Fatal(err)
		}
		table, err := Want(s, l, nft(t, "", script, RulesArgv()...))
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	script, err := Render(s, l)
	if err != nil {
		t.Fatal(err)
	}
	nft(t, w.gateway, script, LoadArgv()...)
	if d := read(t, w.gateway).Diff(wanted(l)); d != nil {
		t.Errorf("right after loading it differs:\n%s", strings.Join(d, "\n"))
	}
	if d := read(t, w.gateway).Diff(wanted(DebianLocal("a"))); d == nil {
		t.Error("a table with the rules is the same as one without")
	}
}

// clients is a field whose nodes send answers to the client by way of the gateway, which keeps clients' addresses.
func clients(t *testing.T) field {
	t.Helper()
	f := newField(t)
	for _, node := range f.nodes {
		run(t, "ip", "-n", node, "route", "add", client4+"/32", "via", own4)
		run(t, "ip", "-n", node, "-6", "route", "add", client6+"/128", "via", own6)
	}
	// What the gateway forwards has no address of its own: it asks for a node's MAC from its link-local address, when it has one.
	for deadline := time.Now().Add(10 * time.Second); len(run(t, "ip", "-n", f.gateway, "-6", "address", "show", "tentative")) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the gateway has no link-local address")
		}
		<-time.After(20 * time.Millisecond)
	}
	script, err := Render(seen(), transparent())
	if err != nil {
		t.Fatal(err)
	}
	nft(t, f.gateway, script, LoadArgv()...)
	for range 2 { // again and again
		for _, argv := range ClientSourceArgvs(transparent().ClientSourceProbes) {
			out, err := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", f.gateway}, argv...)...).CombinedOutput()
			if err != nil && !ClientSourceThere(out) {
				t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
			}
		}
	}
	return f
}

// Nodes see the client, whose answers come from the VIP.
func TestFlowsOfClients(t *testing.T) {
	f := clients(t)
	for vip, client := range map[string]string{vip4: client4, vip6: client6} {
		if got, want := ask(t, f.client, client, 40001, door(vip, "53")), " "+door(client, "40001")+" ?"; !strings.HasSuffix(got, want) {
			t.Errorf("%s answered %q, want the node to see %q", vip, got, want)
		}
		var nodes []string
		for _, port := range ports(41000, 40) {
			nodes = append(nodes, who(ask(t, f.client, client, port, door(vip, "53"))))
		}
		if a, b := count(nodes, "w1"), count(nodes, "w2"); a+b != 40 || a == 0 || b == 0 {
			t.Errorf("%s: of 40 flows w1 served %d, w2 %d: %v", vip, a, b, nodes)
		}
	}
}

// A node would be answered past the gateway, so it is refused, and others are not.
func TestNodesAreNoClients(t *testing.T) {
	f := clients(t)
	f.haproxy(t)
	for _, vip := range bothVIPs {
		if !refused(t, f.nodes[0], "", door(vip, "53")) {
			t.Errorf("a node's datagrams to %s are not refused", vip)
		}
		if got := greeting(t, f.nodes[0], vip, "80"); got != "refused" {
			t.Errorf("a node that connects to %s: %s", vip, got)
		}
		if got, want := greeting(t, f.client, vip, "80"), "services "+door(vip, "80"); got != want {
			t.Errorf("the client gets %q, want %q", got, want)
		}
	}
}

// HAProxy's connection from a client's address: the node sees that address, its answer comes to the socket, and to no other; without
// the routing rule it does not.
func TestAnswersToClientsAddresses(t *testing.T) {
	f := clients(t)
	// A site's own wish (wg-quick's): the check of a packet's source looks at its mark.
	run(t, "ip", "netns", "exec", f.gateway, "sysctl", "--quiet", "net.ipv4.conf.all.src_valid_mark=1", "net.ipv4.conf.all.rp_filter=1")
	for node, client := range map[string]string{"10.0.0.11": client4, "2001:db8:0:1::11": client6} {
		listen(t, f.nodes[0], "w1", "tcp", net.JoinHostPort(node, "30080"), false)
		c, err := dialFrom(t, f.gateway, client, net.JoinHostPort(node, "30080"))
		if err != nil {
			t.Fatalf("from %s: %v", client, err)
		}
		if got, want := readGreeting(c), "w1 "+net.JoinHostPort(node, "30080"); got != want {
			t.Errorf("from %s: got %q, want %q", client, got, want)
		}
		// A port that nobody has: the error finds its way as well.
		if _, err := dialFrom(t, f.gateway, client, net.JoinHostPort(node, "30099")); outcome(err) != "refused" {
			t.Errorf("a closed port, from %s: %v", client, err)
		}
	}
	for _, argv := range ClientSourceRemovalArgvs(transparent().ClientSourceProbes) {
		run(t, append([]string{"ip", "netns", "exec", f.gateway}, argv...)...)
	}
	if _, err := dialFrom(t, f.gateway, client4, "10.0.0.11:30080"); outcome(err) != "timeout" {
		t.Errorf("without the routing rule: %v", err)
	}
	left := run(t, "ip", "-n", f.gateway, "rule")
	if strings.Contains(string(left), "748") || strings.Contains(string(run(t, "ip", "-n", f.gateway, "address")), "203.0.113.1") {
		t.Errorf("after the removal there are rules\n%s", left)
	}
}

// dialFrom connects from an address that is not the machine's.
func dialFrom(t *testing.T, namespace, from, to string) (net.Conn, error) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Control: func(network, _ string, c syscall.RawConn) error {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if strings.HasSuffix(network, "6") {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(err, failed)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := inside(namespace, func() (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) })
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}
