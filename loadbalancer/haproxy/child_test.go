package haproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

const childRole = "HAPROXY_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childRole) {
	case "nodeports":
		serveNodePorts(os.Args[1:])
	case "proxied":
		serveProxied(os.Args[1:])
	case "seers":
		serveSeers(os.Args[1:])
	case "client":
		serveClient(os.Stdin, os.Stdout)
	default:
		os.Exit(m.Run())
	}
}

// serveNodePorts listens on each address:port and greets with it. A port of 10256 or above 31990 answers health checks.
func serveNodePorts(listen []string) {
	for _, address := range listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if port == 10256 || port > 31990 {
			go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/healthz" && r.URL.Path != fmt.Sprintf("/%d", port) {
					http.NotFound(w, r)
				}
			}))
			continue
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "%s\n", conn.LocalAddr())
				go func() {
					defer conn.Close()
					io.Copy(conn, conn) // ends when the client closes
				}()
			}
		}()
	}
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin) // ends with the test
}

// serveProxied listens as serveNodePorts does, takes no connection without a PROXY protocol's header, and greets with what that
// says: version, client, destination. A port above 31990 answers health checks.
func serveProxied(listen []string) {
	for _, address := range listen {
		plain, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l := &proxyproto.Listener{Listener: plain, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
		if plain.Addr().(*net.TCPAddr).Port > 31990 {
			go http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			continue
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if header := conn.(*proxyproto.Conn).ProxyHeader(); header != nil && header.Command.IsProxy() {
						fmt.Fprintf(conn, "v%d %s %s\n", header.Version, header.SourceAddr, header.DestinationAddr)
						io.Copy(conn, conn)
					}
				}()
			}
		}()
	}
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin) // ends with the test
}

// serveClient obeys "open ID ADDRESS [SOURCE]", "from ID", "ends ID", "say ID", "close ID",
// "flood N ADDRESS": one line in, one line out.
func serveClient(in io.Reader, out io.Writer) {
	open := map[string]net.Conn{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		id := words[1]
		var answer string
		var err error
		switch words[0] {
		case "open":
			dialer := net.Dialer{Timeout: 3 * time.Second}
			if len(words) > 3 {
				dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(words[3])}
			}
			if open[id], err = dialer.Dial("tcp", words[2]); err == nil {
				answer, err = readLine(open[id])
			}
		case "from":
			answer = open[id].LocalAddr().String()
		case "ends":
			if err = open[id].SetReadDeadline(time.Now().Add(10 * time.Second)); err == nil {
				if _, err = open[id].Read(make([]byte, 1)); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
					answer, err = "ended", nil
				}
			}
		case "say":
			if _, err = io.WriteString(open[id], "still here\n"); err == nil {
				answer, err = readLine(open[id])
			}
		case "close":
			err = open[id].Close()
			delete(open, id)
		case "flood":
			answer, err = flood(id, words[2])
		}
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Fprintln(out, strings.TrimSpace(answer))
	}
}

func readLine(conn net.Conn) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// flood opens many connections, eight at a time, and tells how many were greeted.
func flood(count, address string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	var left, greeted atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				conn, err := net.DialTimeout("tcp", address, 3*time.Second)
				if err != nil {
					continue
				}
				if _, err := readLine(conn); err == nil {
					greeted.Add(1)
				}
				conn.Close()
			}
		})
	}
	all.Wait()
	return strconv.FormatInt(greeted.Load(), 10), nil
}
