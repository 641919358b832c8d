package nftables

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// expectations of a gateway that runs pair(), seen from the client and from the gateway itself.
func expect(t *testing.T, w wire, want map[string]string) {
	t.Helper()
	for _, from := range []string{w.client, w.gateway} {
		for address, expected := range want {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if got := greeting(t, from, host, port); got != expected {
				t.Errorf("from %s: %s answered %q, want %q", from, address, got, expected)
			}
			if took := time.Since(began); expected == "refused" && took > time.Second {
				t.Errorf("from %s: %s refused after %v only", from, address, took)
			}
		}
	}
}

func door(host, port string) string { return net.JoinHostPort(host, port) }

func TestFrontDoor(t *testing.T) {
	w := newWire(t)
	// A daemon on the wildcard address, as sshd and exporters are, on ports with and without a Service.
	for _, port := range []string{"22", "82", "9100", "6443"} {
		listen(t, w.gateway, "wildcard", "tcp", ":"+port, false)
	}
	stop := w.haproxy(t)
	w.load(t, pair())
	own := map[string]string{
		door(own4, "22"): "wildcard " + door(own4, "22"), door(own6, "22"): "wildcard " + door(own6, "22"),
		door(own4, "80"): "refused", door(own6, "80"): "refused",
	}
	refused := map[string]string{}
	for _, vip := range []string{vip4, vip6, apiVIP4, apiVIP6, idleVIP4, idleVIP6} {
		refused[door(vip, "9100")] = "refused" // no Service has it, a daemon has
		refused[door(vip, "83")] = "refused"   // nobody has it
		refused[door(vip, "82")] = "refused"   // a Service without servers has it, and a daemon
		refused[door(vip, "7480")] = "refused" // HAProxy itself
	}
	refused[door(vip6, "6443")], refused[door(apiVIP6, "6443")], refused[door(idleVIP4, "22")] = "refused", "refused", "refused"

	t.Run("open", func(t *testing.T) {
		expect(t, w, map[string]string{
			door(vip4, "80"):      "services " + door(vip4, "80"),
			door(vip6, "80"):      "services " + door(vip6, "80"),
			door(vip4, "22"):      "services " + door(vip4, "22"),
			door(vip6, "22"):      "services " + door(vip6, "22"),
			door(vip4, "53"):      "services " + door(vip4, "53"),
			door(vip6, "81"):      "services " + door(vip6, "81"),
			door(vip6, "84"):      "services " + door(vip6, "84"),
			door(apiVIP4, "6443"): "controlplane " + door(apiVIP4, "6443"),
		})
		expect(t, w, own)
	})
	t.Run("refused", func(t *testing.T) { expect(t, w, refused) })
	t.Run("ping", func(t *testing.T) {
		need(t, "ping")
		for _, vip := range []string{vip4, vip6} {
			run(t, "ip", "-n", w.client, "neighbour", "flush", "dev", "eth0")
			run(t, "ip", "netns", "exec", w.client, "ping", "-c", "1", "-W", "2", vip)
		}
	})
	t.Run("no nodes", func(t *testing.T) {
		s := pair()
		s.Nodes = nil
		w.load(t, s)
		expect(t, w, map[string]string{door(vip4, "80"): "refused", door(vip6, "22"): "refused", door(vip6, "84"): "refused",
			door(vip6, "81"): "services " + door(vip6, "81"), door(apiVIP4, "6443"): "controlplane " + door(apiVIP4, "6443")})
		w.load(t, pair())
	})
	t.Run("no node with an IPv6 address", func(t *testing.T) {
		s := pair()
		s.Nodes = s.Nodes[:1]
		w.load(t, s)
		expect(t, w, map[string]string{door(vip6, "84"): "refused", door(vip6, "80"): "services " + door(vip6, "80")})
		w.load(t, pair())
	})
	t.Run("HAProxy is dead", func(t *testing.T) {
		stop()
		for _, vip := range []string{vip4, vip6} {
			refused[door(vip, "80")], refused[door(vip, "22")] = "refused", "refused"
		}
		refused[door(apiVIP4, "6443")] = "refused"
		expect(t, w, refused)
		expect(t, w, own)
	})
}

// A UDP port that no Service has: a daemon on the wildcard must not get it, and the client learns at once.
func TestFrontDoorRefusesUDP(t *testing.T) {
	w := newWire(t)
	w.load(t, pair())
	daemon, err := inside(w.gateway, func() (net.PacketConn, error) { return net.ListenPacket("udp", ":54") })
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()
	for _, vip := range []string{vip4, vip6} {
		c, err := dial(t, w.client, "udp", door(vip, "54"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); outcome(err) != "refused" {
			t.Errorf("UDP to %s: %v, want it refused", vip, err)
		}
	}
	_ = daemon.SetReadDeadline(time.Now())
	if _, from, err := daemon.ReadFrom(make([]byte, 1)); err == nil {
		t.Errorf("a daemon of the gateway got a datagram of %s through a VIP", from)
	}
}

// Connections live through any number of new tables, also through one that closes their port.
func TestConnectionsOutliveTables(t *testing.T) {
	w := newWire(t)
	w.haproxy(t)
	w.load(t, pair())
	var open []*bufio.ReadWriter
	for _, vip := range []string{vip4, vip6} {
		c, err := dial(t, w.client, "tcp", door(vip, "80"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		rw := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
		if _, err := rw.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		open = append(open, rw)
	}
	closed := pair()
	closed.LoadBalancers = nil
	for round := range 20 {
		w.load(t, []*desired.State{closed, pair(), many(500)}[round%3])
		for _, rw := range open {
			fmt.Fprintf(rw, "round %d\n", round)
			if err := rw.Flush(); err != nil {
				t.Fatal(err)
			}
			if got, err := rw.ReadString('\n'); err != nil || got != fmt.Sprintf("round %d\n", round) {
				t.Fatalf("round %d: got %q, %v", round, got, err)
			}
		}
	}
}

// A client that comes again from the same port meets HAProxy's socket in TIME_WAIT, and must be served all the same, by its first
// SYN: the second one is sent after a second.
func TestFrontDoorReusesTimeWait(t *testing.T) {
	w := newWire(t)
	w.haproxy(t)
	w.load(t, pair())
	for client, vip := range map[string]string{client4: vip4, client6: vip6} {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client), Port: 40000}, Timeout: 2 * time.Second}
		for round := range 3 {
			c, err := inside(w.client, func() (net.Conn, error) { return from.DialContext(t.Context(), "tcp", door(vip, "80")) })
			if err != nil {
				t.Fatalf("connection %d to %s: %v", round, vip, err)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.WriteString(c, "close\n"); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "services "+door(vip, "80")+"\n" {
				t.Errorf("connection %d to %s: %q, %v", round, vip, got, err)
			}
			if n := retransmissions(t, c); n != 0 {
				t.Errorf("connection %d to %s: %d packets were not answered", round, vip, n)
			}
			_ = c.Close() // second: the server, which closed first, keeps TIME_WAIT
		}
	}
}

// retransmissions is how many packets the client's kernel had to send again.
func retransmissions(t *testing.T, c net.Conn) uint32 {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if failed := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return info.Total_retrans
}

// Under a SYN flood the kernel keeps nothing of a SYN: the client's ACK is the first packet of its connection that tproxy sees.
func TestFrontDoorAnswersSYNCookies(t *testing.T) {
	need(t, "sysctl")
	w := newWire(t)
	run(t, "ip", "netns", "exec", w.gateway, "sysctl", "--quiet", "net.ipv4.tcp_syncookies=2") // always; IPv6 obeys it too
	w.haproxy(t)
	w.load(t, pair())
	for _, vip := range []string{vip4, vip6} {
		if got := greeting(t, w.client, vip, "80"); got != "services "+door(vip, "80") {
			t.Errorf("%s answered %q", vip, got)
		}
	}
}

// Protocol 112 comes from the peers, and from no router in between (RFC 9568 section 5.1.1.3).
func TestOnlyPeersSpeakVRRP(t *testing.T) {
	w := newWire(t)
	w.load(t, pair())
	for _, c := range []struct{ network, from, stranger, to string }{
		{"ip4:112", peer4, client4, own4}, {"ip6:112", peer6, client6, own6},
	} {
		ears, err := inside(w.gateway, func() (net.PacketConn, error) { return net.ListenPacket(c.network, c.to) })
		if err != nil {
			t.Fatal(err)
		}
		defer ears.Close()
		send(t, w, c.network, c.stranger, c.to, 255, "stranger")
		send(t, w, c.network, c.from, c.to, 254, "routed")
		send(t, w, c.network, c.from, c.to, 255, "peer")
		_ = ears.SetReadDeadline(time.Now().Add(5 * time.Second))
		heard := make([]byte, 64)
		n, _, err := ears.ReadFrom(heard) // packets of one link arrive in order: the first one that is heard tells all
		if err != nil || !strings.HasSuffix(string(heard[:n]), "peer") {
			t.Errorf("%s: heard %q, %v; want the peer's only", c.network, heard[:n], err)
		}
	}
	// Those that were dropped are named, a peer's that came through a router too, and they are no drift.
	table := read(t, w.gateway)
	if got, named := fmt.Sprint(table.Strangers()), "["+strings.Join([]string{peer4, client4, peer6, client6}, " ")+"]"; got != named {
		t.Errorf("strangers are %s, want %s", got, named)
	}
	if d := table.Diff(want(t, pair())); d != nil {
		t.Errorf("noting strangers is drift:\n%s", strings.Join(d, "\n"))
	}
}

func send(t *testing.T, w wire, network, from, to string, hops int, text string) {
	t.Helper()
	c, err := inside(w.client, func() (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.IPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), network, to)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.IPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, option := syscall.IPPROTO_IP, syscall.IP_TTL
	if strings.HasPrefix(network, "ip6") {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS
	}
	if err := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, option, hops) }); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}
