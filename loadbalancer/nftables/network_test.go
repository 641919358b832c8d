package nftables

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const (
	own4, own6       = "10.0.0.1", "2001:db8:0:1::1" // the gateway's own addresses
	peer4, peer6     = "10.0.0.2", "2001:db8:0:1::2" // the client machine has a peer's address
	client4, client6 = "10.0.0.9", "2001:db8:0:1::9" // and a stranger's
)

// wire is a gateway that holds all VIPs of pair(), and a client on the same segment, each a network namespace.
type wire struct{ gateway, client string }

func newWire(t *testing.T) wire {
	t.Helper()
	need(t, "nft", "ip", "unshare")
	n := "nf" + rand.Text()[:8]
	w := wire{gateway: n + "g", client: n + "c"}
	for _, namespace := range []string{w.gateway, w.client} {
		run(t, "ip", "netns", "add", namespace)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", namespace).Run() })
		run(t, "ip", "-n", namespace, "link", "set", "lo", "up")
	}
	run(t, "ip", "-n", w.gateway, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", w.client)
	give := func(namespace string, addresses ...string) {
		for _, a := range addresses {
			args := []string{"ip", "-n", namespace, "address", "add", a, "dev", "eth0"}
			if strings.Contains(a, ":") {
				args = append(args, "nodad")
			}
			run(t, args...)
		}
	}
	for _, namespace := range []string{w.gateway, w.client} {
		run(t, "ip", "-n", namespace, "link", "set", "eth0", "up")
	}
	give(w.client, client4+"/24", client6+"/64", peer4+"/24", peer6+"/64")
	give(w.gateway, own4+"/24", own6+"/64")
	for _, v := range pair().VIPs {
		give(w.gateway, fmt.Sprintf("%s/%d", v.Address, v.Address.BitLen()))
	}
	return w
}

func run(t testing.TB, argv ...string) []byte {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// emptyNamespace is a namespace without a network.
func emptyNamespace(b testing.TB) string {
	b.Helper()
	name := "nf" + rand.Text()[:8]
	run(b, "ip", "netns", "add", name)
	b.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
	return name
}

// nft runs a command in a namespace, or where the test runs when it is empty, and gives its stdout.
func nft(t testing.TB, namespace string, stdin []byte, argv ...string) []byte {
	t.Helper()
	out, stderr, err := tryNFT(namespace, stdin, argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr)
	}
	return out
}

func tryNFT(namespace string, stdin []byte, argv ...string) (stdout, stderr []byte, err error) {
	if namespace != "" {
		argv = append([]string{"ip", "netns", "exec", namespace}, argv...)
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	c.Stdin = bytes.NewReader(stdin)
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	err = c.Run()
	return out.Bytes(), complaint.Bytes(), err
}

// load makes the State true in the gateway.
func (w wire) load(t testing.TB, s *desired.State) {
	t.Helper()
	script, err := Render(s, DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	nft(t, w.gateway, script, LoadArgv()...)
}

// inside calls f on a thread that is in the namespace. The thread is thrown away: it stays locked when its goroutine ends.
func inside[T any](namespace string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		var r result
		r.err = enter(namespace)
		if r.err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

func enter(namespace string) error {
	f, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// listen serves "NAME LOCALADDRESS" on every connection until the test ends or stop is called. It then echoes lines, and closes
// the connection after the line "close".
func listen(t *testing.T, namespace, name, network, address string, transparent bool) (stop func()) {
	t.Helper()
	config := net.ListenConfig{}
	if transparent {
		config.Control = func(network, _ string, c syscall.RawConn) error {
			level, option := unix.SOL_IP, unix.IP_TRANSPARENT
			if strings.HasSuffix(network, "6") {
				level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
			return errors.Join(err, failed)
		}
	}
	l, err := inside(namespace, func() (net.Listener, error) { return config.Listen(t.Context(), network, address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s %s\n", name, c.LocalAddr())
				for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != "close"; {
					fmt.Fprintln(c, lines.Text())
				}
			}()
		}
	}()
	return func() { _ = l.Close() }
}

// haproxy stands in for HAProxy: it listens where HAProxy does, with the same socket option.
func (w wire) haproxy(t *testing.T) (stop func()) {
	t.Helper()
	var stops []func()
	for name, port := range map[string]string{"services": "7480", "controlplane": "7481"} {
		stops = append(stops,
			listen(t, w.gateway, name, "tcp4", "127.0.0.1:"+port, true),
			listen(t, w.gateway, name, "tcp6", "[::1]:"+port, true))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// dial connects from a namespace. The connection ends with the test.
func dial(t *testing.T, namespace, network, address string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c, err := inside(namespace, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) })
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// greeting says who answers at an address: "services 10.0.0.100:80", "refused", "timeout".
func greeting(t *testing.T, namespace, host, port string) string {
	t.Helper()
	c, err := dial(t, namespace, "tcp", net.JoinHostPort(host, port))
	if err == nil {
		defer c.Close()
		return readGreeting(c)
	}
	return outcome(err)
}

// readGreeting reads a line that somebody sends, and no more.
func readGreeting(c net.Conn) string {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return outcome(err)
	}
	return strings.TrimSpace(line)
}

func outcome(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case err == nil:
		return ""
	}
	return err.Error()
}
