package integration

import (
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// proxiedNodePort is where workers want a PROXY protocol's header.
const proxiedNodePort = firstNodePort + 100

// startProxied listens on the workers for connections with a header.
func (p *pair) startProxied(t *testing.T) {
	t.Helper()
	for _, w := range p.Workers {
		process, err := w.Start(w.Name+"-proxied", filepath.Join(p.Shared, "bin", "backend"), "-name", w.Name,
			"-proxied", netip.AddrPortFrom(w.Addr4, proxiedNodePort).String())
		must(t, err)
		t.Cleanup(func() {
			if err := process.Stop(); err != nil {
				t.Error(err)
			}
		})
		must(t, process.AwaitLine(t.Context(), "ready"))
	}
}

// headerNames connects and says what is wrong with what the worker was told: who connected, and where to.
func (p *pair) headerNames(t *testing.T, target string) error {
	t.Helper()
	conn, err := p.Client.Dial(t.Context(), "tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf(" %s %s\n", conn.LocalAddr(), target); !strings.HasSuffix(string(answer), want) {
		return fmt.Errorf("a worker was told %q, want %q", answer, want)
	}
	return nil
}

// testProxyProtocol: workers behind a port with headers see the client and the address and port that it connected to, of both
// families and versions; the port beside it has none. Nothing is reloaded.
func testProxyProtocol(t *testing.T, p *pair) {
	p.begin(t)
	p.startProxied(t)
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	lb := service("proxied", desired.Frontend{Protocol: desired.TCP, Port: 8000, NodePort: firstNodePort + 3}, web4, web6)
	lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
		Check: desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 250, Rise: 1, Fall: 2}}
	for _, w := range p.Workers {
		lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
	}
	for _, version := range []desired.ProxyProtocol{desired.ProxyV1, desired.ProxyV2} {
		lb.Frontends = append(lb.Frontends[:1:1], desired.Frontend{Protocol: desired.TCP, Port: 8443, NodePort: proxiedNodePort, ProxyProtocol: version})
		p.push(t, p.state(p.Workers, web(), lb))
		for _, address := range []netip.Addr{web4, web6} {
			eventually(t, string(version)+" names client and VIP", func() error { return p.headerNames(t, port(address, 8443)) })
			for range 6 {
				if err := p.headerNames(t, port(address, 8443)); err != nil {
					t.Errorf("%s: %v", version, err)
				}
			}
			must(t, p.reaches(port(address, 8000)))
		}
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
	eventually(t, "all is in sync", func() error { return p.inSync(t) })
}
