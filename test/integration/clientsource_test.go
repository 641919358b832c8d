package integration

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// Where the client is that workers answer by way of the gateways, and where gateways check workers from.
var (
	afar4, afar6   = netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:51::10")
	probe4, probe6 = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("3fff::1")
)

// clientSite is a pair whose client is behind a router, which it is itself: gateways send it what is for afar4 and afar6, and it
// connects to VIPs from there.
func clientSite(t *testing.T) *pair {
	t.Helper()
	p := &pair{Lab: lab.New(t, lab.Options{Workers: 2, NodePorts: nodePorts()}), epoch: 10}
	for _, argv := range [][]string{
		{"ip", "address", "add", afar4.String() + "/32", "dev", "eth0"},
		{"ip", "address", "add", afar6.String() + "/128", "dev", "eth0", "nodad"},
		{"ip", "route", "add", "192.0.2.64/26", "dev", "eth0", "src", afar4.String()},
		{"ip", "-6", "route", "add", "2001:db8::1:0/112", "dev", "eth0", "src", afar6.String()},
	} {
		mustRun(t, p.Client, argv...)
	}
	for _, g := range p.Gateways {
		mustRun(t, g, "ip", "route", "add", "198.51.100.0/24", "via", p.Client.Addr4.String())
		mustRun(t, g, "ip", "-6", "route", "add", "2001:db8:51::/64", "via", p.Client.Addr6.String())
	}
	return p
}

// routes has a worker send to everybody who is not on its network by way of web's addresses, or not.
func routes(t *testing.T, worker *lab.Host, verb string) {
	t.Helper()
	mustRun(t, worker, "ip", "route", verb, "default", "via", web4.String())
	mustRun(t, worker, "ip", "-6", "route", verb, "default", "via", web6.String())
}

// probes changes what the gateways' owners allow.
func (p *pair) probes(t *testing.T, line string) {
	t.Helper()
	for _, g := range p.Gateways {
		text, err := g.ReadFile(lab.LimitsFile)
		must(t, err)
		kept, _, _ := strings.Cut(string(text), "clientSourceProbes")
		must(t, g.WriteFile(lab.LimitsFile, []byte(kept+line), 0o644))
	}
}

// seeing is web, for TCP and UDP, whose servers see the client.
func (p *pair) seeing() desired.LoadBalancer {
	lb := web()
	lb.Frontends = append(lb.Frontends, desired.Frontend{Name: "udp", Protocol: desired.UDP, Port: 80, NodePort: firstNodePort})
	lb.ClientSource = true
	lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
		Check: desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 250, Rise: 1, Fall: 2}}
	for _, w := range p.Workers {
		lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
	}
	return lb
}

// asks connects once and gives who answered and whom that one saw, without the port.
func (p *pair) asks(t *testing.T, target string) (who string, seen netip.Addr, err error) {
	t.Helper()
	conn, err := p.Client.Dial(t.Context(), "tcp", target)
	if err != nil {
		return "", seen, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", seen, err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", seen, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", seen, err
	}
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	words := strings.Fields(body)
	if len(words) != 3 {
		return "", seen, fmt.Errorf("answered %q", answer)
	}
	from, err := netip.ParseAddrPort(words[1])
	return words[0], from.Addr().Unmap(), err
}

// seesClient says what is wrong with what workers see, over TCP and UDP of both families: they are all asked, and these alone answer.
func (p *pair) seesClient(t *testing.T, by ...*lab.Host) error {
	t.Helper()
	for vip, client := range map[netip.Addr]netip.Addr{web4: afar4, web6: afar6} {
		counts := map[string]int{}
		for range 8 {
			who, seen, err := p.asks(t, port(vip, 80))
			if err != nil {
				return fmt.Errorf("%s: %w", vip, err)
			}
			if counts[who]++; seen != client {
				return fmt.Errorf("%s: %s saw %s, want %s", vip, who, seen, client)
			}
			k := p.talk(t, p.Client, port(vip, 80))
			who, at := k.ask(time.Second)
			if counts[who]++; at != k.conn.LocalAddr().String() {
				return fmt.Errorf("UDP %s: %s saw %s, want %s", vip, who, at, k.conn.LocalAddr())
			}
		}
		for _, w := range by {
			if counts[w.Name] == 0 {
				return fmt.Errorf("%s: %s got nothing of %v", vip, w.Name, counts)
			}
			delete(counts, w.Name)
		}
		if len(counts) > 0 {
			return fmt.Errorf("%s: also %v", vip, counts)
		}
	}
	return nil
}

// lacksReturn says whether the gateways that hold web's addresses name each of these workers with the route that it lacks.
func (p *pair) lacksReturn(t *testing.T, workers ...*lab.Host) error {
	t.Helper()
	var said string
	for name, s := range p.status(t) {
		for _, w := range s.Warnings {
			if w.Reason == "NoReturnPath" {
				said += name + ": " + w.Message + "\n"
			}
		}
	}
	for _, w := range p.Workers {
		for _, route := range []string{"ip route replace " + probe4.String() + " via " + web4.String(), "ip -6 route replace " + probe6.String() + " via " + web6.String()} {
			told := false
			for line := range strings.Lines(said) {
				told = told || strings.Contains(line, "node "+w.Name+" ") && strings.Contains(line, route)
			}
			if wanted := contains(workers, w); told != wanted {
				return fmt.Errorf("%s and %q: told %v, want %v, in\n%s", w.Name, route, told, wanted, said)
			}
		}
	}
	return nil
}

func contains(all []*lab.Host, one *lab.Host) bool {
	for _, h := range all {
		if h == one {
			return true
		}
	}
	return false
}

// workersRunAs is the user of HAProxy's present workers.
func (p *pair) workersRunAs(t *testing.T) error {
	t.Helper()
	for _, g := range p.Gateways {
		newest := strings.Fields(mustRun(t, g, "pgrep", "-n", "-P", mustRun(t, g, "cat", "/run/haproxy.pid")))
		if user := mustRun(t, g, "ps", "-o", "user=", "-p", newest[0]); user != "haproxy" {
			return errors.New(g.Name + ": " + user)
		}
	}
	return nil
}

// TestClientSource: workers that route back through the gateways see the client's address; what a gateway's owner does not allow, and
// workers that route elsewhere, are refused with the words that help; and the annotation comes and goes under traffic.
func TestClientSource(t *testing.T) {
	lab.RequirePrograms(t, "conntrack", "sysctl", "ps")
	p := clientSite(t)
	p.begin(t)
	must(t, p.workersRunAs(t))

	_, err := p.tryPush(t, p.state(p.Workers, p.seeing()))
	expectWords(t, err, "loadBalancers[0].clientSource", "clientSourceProbes: [203.0.113.1]", "clientSourceProbes: [3fff::1]", lab.LimitsFile)
	must(t, p.reaches(webTargets()...))

	p.probes(t, fmt.Sprintf("clientSourceProbes: [%s, %q]\n", probe4, probe6))
	out := p.push(t, p.state(p.Workers, p.seeing()))
	if !strings.Contains(out, "clientSourceProbes") {
		t.Errorf("push does not say why HAProxy was reloaded:\n%s", out)
	}
	if err := p.workersRunAs(t); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("HAProxy's workers run as %v, want root", err)
	}
	eventually(t, "the gateways name the workers' missing routes", func() error { return p.lacksReturn(t, p.Workers...) })
	for _, target := range webTargets() {
		begun := time.Now()
		if who, _, err := p.asks(t, target); err == nil || time.Since(begun) > time.Second {
			t.Errorf("without a route back %s answered by %q, error %v, after %v", target, who, err, time.Since(begun))
		}
		if who := p.askOnce(t, p.Client, target); who != "refused" {
			t.Errorf("without a route back UDP %s: %s", target, who)
		}
	}

	for _, w := range p.Workers {
		routes(t, w, "add")
	}
	begun := time.Now()
	eventually(t, "workers see the client", func() error { return p.seesClient(t, p.Workers...) })
	t.Logf("served %v after the routes were there", time.Since(begun).Round(time.Millisecond))
	eventually(t, "no route is missing", func() error { return p.lacksReturn(t) })

	routes(t, p.Workers[1], "delete")
	eventually(t, "a worker without its route serves nobody", func() error { return p.seesClient(t, p.Workers[0]) })
	eventually(t, "the gateways name it", func() error { return p.lacksReturn(t, p.Workers[1]) })
	routes(t, p.Workers[1], "add")
	eventually(t, "it serves again", func() error { return p.seesClient(t, p.Workers...) })

	testClientSourceComesAndGoes(t, p)
	testClientSourceMoves(t, p)

	p.push(t, p.state(p.Workers, web()))
	p.probes(t, "")
	p.push(t, p.state(p.Workers, web()))
	must(t, p.workersRunAs(t))
	for _, g := range p.Gateways {
		eventually(t, "nothing is left on "+g.Name, func() error {
			left := mustRun(t, g, "ip", "rule") + mustRun(t, g, "ip", "-6", "rule") + mustRun(t, g, "ip", "address", "show", "dev", "lo")
			if strings.Contains(left, "748") || strings.Contains(left, probe4.String()) || strings.Contains(left, probe6.String()) {
				return errors.New(left)
			}
			return nil
		})
	}
	must(t, p.reaches(webTargets()...))
	eventually(t, "all is in sync", func() error { return p.inSync(t) })
}

// testClientSourceComesAndGoes: without a reload, and when it goes without a failed connection.
func testClientSourceComesAndGoes(t *testing.T, p *pair) {
	t.Helper()
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	connections := p.flowTo(t, webTargets()...)
	plain := p.seeing()
	plain.ClientSource = false
	p.push(t, p.state(p.Workers, plain))
	for _, vip := range []netip.Addr{web4, web6} {
		if who, seen, err := p.asks(t, port(vip, 80)); err != nil || seen == afar4 || seen == afar6 {
			t.Errorf("without the annotation %s saw %s: %v", who, seen, err)
		}
	}
	p.push(t, p.state(p.Workers, web()))
	report := stop(t, connections)
	t.Logf("connections while it went: %v", report)
	if report.Failed != 0 {
		t.Errorf("%d connections failed: %v", report.Failed, report.Errors)
	}
	connections = p.flowTo(t, webTargets()...)
	p.push(t, p.state(p.Workers, p.seeing()))
	eventually(t, "workers see the client again", func() error { return p.seesClient(t, p.Workers...) })
	report = stop(t, connections)
	t.Logf("connections while it came: %v", report)
	if report.LongestGap > 2*time.Second {
		t.Errorf("nobody was served for %v", report.LongestGap)
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
}

// testClientSourceMoves: the next hop of the workers moves with the Service's address, and so do connections.
func testClientSourceMoves(t *testing.T, p *pair) {
	t.Helper()
	holder := p.home(t, web4)
	connections, err := p.Client.StartFlow(t.Context(), traffic.Flow{Targets: []string{port(web4, 80)}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	must(t, holder.PowerOff())
	eventually(t, "the other gateway serves", func() error { return p.seesClient(t, p.Workers...) })
	report := stop(t, connections)
	t.Logf("the holder lost its power: %v", report)
	if report.LongestGap > 10*time.Second {
		t.Errorf("nobody was served for %v", report.LongestGap)
	}
	must(t, holder.Boot(t.Context()))
	mustRun(t, holder, "ip", "route", "add", "198.51.100.0/24", "via", p.Client.Addr4.String())
	mustRun(t, holder, "ip", "-6", "route", "add", "2001:db8:51::/64", "via", p.Client.Addr6.String())
	eventually(t, "it is back", func() error { return errors.Join(p.atHome(t), p.seesClient(t, p.Workers...)) })
}
