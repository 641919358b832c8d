package nftables

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// field is a gateway that holds the VIPs of pair() and may forward, a client and two nodes, on one segment: each a network
// namespace. Each node answers "NAME SOURCE" to every datagram at NodePort 30053.
type field struct {
	wire
	nodes []string // namespaces of w1, w2
}

const (
	beyond4, beyond6 = "198.51.100.1", "2001:db8:66::1" // addresses of w1 that are on no segment
)

func newField(t *testing.T) field {
	t.Helper()
	need(t, "nft", "ip", "sysctl")
	n := "nf" + rand.Text()[:7]
	f := field{wire: wire{gateway: n + "g", client: n + "c"}, nodes: []string{n + "1", n + "2"}}
	segment := n + "s"
	hosts := []struct {
		namespace string
		addresses []string
	}{
		{f.gateway, []string{own4 + "/24", own6 + "/64"}},
		{f.client, []string{client4 + "/24", client6 + "/64", peer4 + "/24", peer6 + "/64"}},
		{f.nodes[0], []string{"10.0.0.11/24", "2001:db8:0:1::11/64", beyond4 + "/32", beyond6 + "/128"}},
		{f.nodes[1], []string{"10.0.0.12/24", "2001:db8:0:1::12/64"}},
	}
	for _, v := range pair().VIPs {
		hosts[0].addresses = append(hosts[0].addresses, fmt.Sprintf("%s/%d", v.Address, v.Address.BitLen()))
	}
	namespace := func(name string) {
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
		run(t, "ip", "-n", name, "link", "set", "lo", "up")
	}
	namespace(segment)
	run(t, "ip", "-n", segment, "link", "add", "segment", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	run(t, "ip", "-n", segment, "link", "set", "segment", "up")
	for i, h := range hosts {
		namespace(h.namespace)
		port := fmt.Sprintf("port%d", i)
		run(t, "ip", "-n", segment, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.namespace)
		run(t, "ip", "-n", segment, "link", "set", port, "master", "segment", "up")
		run(t, "ip", "-n", h.namespace, "link", "set", "eth0", "up")
		for _, a := range h.addresses {
			args := []string{"ip", "-n", h.namespace, "address", "add", a, "dev", "eth0"}
			if strings.Contains(a, ":") {
				args = append(args, "nodad")
			}
			run(t, args...)
		}
	}
	run(t, "ip", "netns", "exec", f.gateway, "sysctl", "--quiet", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
	for i, node := range f.nodes {
		for _, a := range hosts[2+i].addresses { // a socket each, so that an answer comes from where it was asked
			answer(t, node, fmt.Sprintf("w%d", i+1), door(netip.MustParsePrefix(a).Addr().String(), "30053"))
		}
	}
	return f
}

// answer tells every datagram at an address who got it, and from whom.
func answer(t *testing.T, namespace, name, address string) {
	t.Helper()
	socket, err := inside(namespace, func() (net.PacketConn, error) { return net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		for buffer := make([]byte, 1500); ; {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(fmt.Appendf(nil, "%s %s %s", name, from, buffer[:n]), from)
		}
	}()
}

// ask sends a datagram from a port of a host (0: any) and gives the answer: "w1 SOURCE ?", "refused", "timeout".
func ask(t *testing.T, namespace, from string, port int, to string) string {
	t.Helper()
	local := &net.UDPAddr{Port: port}
	if from != "" {
		local.IP = net.ParseIP(from)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := inside(namespace, func() (net.Conn, error) {
		return (&net.Dialer{LocalAddr: local}).DialContext(ctx, "udp", to)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return exchange(c)
}

// refused says whether a host learns within seconds that nobody answers: the kernel limits the ICMP errors to one client, and
// counts an IPv6 redirect as one.
func refused(t *testing.T, namespace, from, to string) bool {
	t.Helper()
	for range 8 {
		switch got := ask(t, namespace, from, 0, to); got {
		case "refused":
			return true
		case "timeout":
		default:
			t.Errorf("%s from %s: answered %q", to, from, got)
			return false
		}
	}
	return false
}

func exchange(c net.Conn) string {
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := c.Write([]byte("?")); err != nil {
		return outcome(err)
	}
	buffer := make([]byte, 1500)
	n, err := c.Read(buffer)
	if err != nil {
		return outcome(err)
	}
	return string(buffer[:n])
}
