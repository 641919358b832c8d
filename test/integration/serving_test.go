package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab/traffic"
)

// testServed: the client reaches the workers through the VIP in both families, each worker as often as the others.
func testServed(t *testing.T, p *pair) {
	p.begin(t)
	for _, target := range webTargets() {
		report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: []string{target}, Rate: 300, Count: 300, Timeout: 5 * time.Second})
		must(t, err)
		t.Logf("%s: %v", target, report)
		if report.Failed != 0 {
			t.Errorf("%s: %d of %d failed: %v", target, report.Failed, report.Opened, report.Errors)
		}
		for _, w := range p.Workers {
			if got := report.By[w.Name]; got < 99 || got > 101 {
				t.Errorf("%s: %s answered %d of 300 times, want 100 within 1", target, w.Name, got)
			}
		}
	}
	for name, s := range p.status(t) {
		if !s.InSync || !s.KeepalivedUp || s.HAProxyUp.IsZero() {
			t.Errorf("status of %s: in sync %v %v, keepalived %v, HAProxy up since %v", name, s.InSync, s.Drift, s.KeepalivedUp, s.HAProxyUp)
		}
		for _, w := range s.Warnings {
			// The lab leaves alone what the kernel has once for all namespaces.
			if w.Reason != "Sysctl" || strings.Count(w.Message, "=") != 1 || !strings.Contains(w.Message, "nf_conntrack_max=") {
				t.Errorf("%s warns: %v", name, w)
			}
		}
	}
}

// testServices: Services come and go without a reload and without a word to connections that are open (DESIGN.md invariant 11).
func testServices(t *testing.T, p *pair) {
	p.begin(t)
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 50, Timeout: 5 * time.Second})
	must(t, err)
	flow := p.flow(t)

	services := many(100)
	begun := time.Now()
	out := p.push(t, p.state(p.Workers, append(services, web())...))
	expectOutcome(t, out, wire.Runtime)
	for _, s := range services {
		eventually(t, s.Key.String()+" is served", func() error { return p.reaches(port(s.Addresses[0], 8080)) })
	}
	t.Logf("100 Services pushed and each reached after %v\n%s", time.Since(begun).Round(time.Millisecond), head(out, 5))

	expectOutcome(t, p.push(t, p.state(p.Workers, web())), wire.Runtime)
	eventually(t, "a removed Service's address is gone", func() error {
		if n := len(p.holders(t, services[0].Addresses[0])); n != 0 {
			return fmt.Errorf("held by %d gateways", n)
		}
		return nil
	})
	if err := p.reaches(port(services[99].Addresses[0], 8080)); err == nil {
		t.Error("a removed Service still answers")
	}

	if report := stop(t, flow); report.Failed != 0 {
		t.Errorf("Service web meanwhile: %v", report)
	}
	if held := stop(t, hold); held.Held != 50 || len(held.Cut) != 0 {
		t.Errorf("of %d held connections %d were cut, want none of 50: %+v", held.Held, len(held.Cut), held.Cut)
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
}

// testNodes: a node is added, fails, dies and is removed without a reload, and no client notices.
func testNodes(t *testing.T, p *pair) {
	p.begin(t)
	third := p.Workers[2]
	p.push(t, p.state(p.Workers[:2], web()))
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	answers := func(want bool) func() error {
		return func() error {
			report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: webTargets(), Rate: 300, Count: 60, Timeout: 5 * time.Second})
			if err == nil && report.Failed != 0 {
				t.Errorf("connections failed: %v", report)
			}
			if err == nil && (report.By[third.Name] != 0) != want {
				err = fmt.Errorf("answers by %v", report.By)
			}
			return err
		}
	}
	without, with := answers(false), answers(true)
	eventually(t, "a node that is not in the State gets nothing", without)
	p.push(t, p.state(p.Workers, web()))
	eventually(t, "a node that was added gets its share", with)

	flow := p.flow(t)
	must(t, third.SetHealthy(t.Context(), false))
	eventually(t, "a node that fails its check gets nothing", without)
	must(t, third.SetHealthy(t.Context(), true))
	eventually(t, "a node that recovered gets its share", with)
	must(t, third.PowerOff())
	eventually(t, "a dead node gets nothing", without)
	report := stop(t, flow)
	t.Logf("a node failed, recovered and died: %v", report)
	if report.Failed != 0 {
		t.Errorf("connections failed: %v", report.Errors)
	}
	p.push(t, p.state(p.Workers[:2], web()))
	must(t, third.Boot(t.Context()))
	eventually(t, "a node that was removed gets nothing", without)

	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
}

// testAllUnhealthy: when every node fails the check, all are used and status says so.
func testAllUnhealthy(t *testing.T, p *pair) {
	p.begin(t)
	for _, w := range p.Workers {
		must(t, w.SetHealthy(t.Context(), false))
	}
	eventually(t, "status tells that all nodes are down", func() error {
		for name, s := range p.status(t) {
			if _, found := warning(s, "AllNodesDown"); !found {
				return fmt.Errorf("%s warns %v", name, s.Warnings)
			}
		}
		return nil
	})
	report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: webTargets(), Rate: 300, Count: 120, Timeout: 5 * time.Second})
	must(t, err)
	if report.Failed != 0 || len(report.By) != 3 {
		t.Errorf("with all nodes failing the check: %v, want all served by 3 workers", report)
	}
	p.begin(t)
	for name, s := range p.status(t) {
		if _, found := warning(s, "AllNodesDown"); found {
			t.Errorf("%s still warns: %v", name, s.Warnings)
		}
	}
}

func warning(s *wire.Status, reason string) (wire.Warning, bool) {
	for _, w := range s.Warnings {
		if w.Reason == reason {
			return w, true
		}
	}
	return wire.Warning{}, false
}

// testPortOfSSH: a Service may have port 22 although sshd listens on the wildcard, and clients reach the Service.
func testPortOfSSH(t *testing.T, p *pair) {
	p.begin(t)
	git := service("git", desired.Frontend{Protocol: desired.TCP, Port: 22, NodePort: firstNodePort + 2}, web4, web6)
	p.push(t, p.state(p.Workers, web(), git))
	for _, vip := range []netip.Addr{web4, web6} {
		eventually(t, "port 22 of "+vip.String()+" is the Service's", func() error {
			who, err := p.Client.Ask(port(vip, 22), time.Second)
			if err == nil && p.Host(who) == nil {
				err = errors.New("answered by " + who)
			}
			return err
		})
	}
	for _, g := range p.Gateways {
		mustRun(t, p.Client, "ssh-keyscan", "-T", "2", g.Addr4.String()) // the gateway's own sshd answers at its own address
	}
}

// testPool: a Service with servers of its own (externalTrafficPolicy: Local) gets them without a reload, is served by them alone,
// and refuses when it has none.
func testPool(t *testing.T, p *pair) {
	p.begin(t)
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	local := service("local", desired.Frontend{Protocol: desired.TCP, Port: 8000, NodePort: firstNodePort + 3}, web4, web6)
	local.Pool = &desired.Pool{
		Algorithm: desired.RoundRobin,
		Check:     desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 250, Rise: 1, Fall: 2},
	}
	for _, w := range p.Workers[1:] {
		local.Pool.Servers = append(local.Pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
	}
	targets := []string{port(web4, 8000), port(web6, 8000)}
	p.push(t, p.state(p.Workers, web(), local))
	eventually(t, "the Service is served by its own servers", func() error { return p.reaches(targets...) })
	report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: targets, Rate: 300, Count: 100, Timeout: 5 * time.Second})
	must(t, err)
	if report.Failed != 0 || report.By[p.Workers[0].Name] != 0 || len(report.By) != 2 {
		t.Errorf("with worker2 and worker3 as servers: %v", report)
	}
	local.Pool.Servers = nil
	p.push(t, p.state(p.Workers, web(), local))
	for _, target := range targets {
		eventually(t, "without servers it refuses", func() error { return p.refused(t, target) })
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
}

// testControlPlane: the gateways carry the API server's address before there is any Service, over the endpoints that live.
func testControlPlane(t *testing.T, p *pair) {
	address := netip.MustParseAddr("192.0.2.250")
	const apiPort = firstNodePort + 4 // a backend stands in for the API server
	var endpoints []netip.AddrPort
	for _, w := range p.Workers {
		endpoints = append(endpoints, netip.AddrPortFrom(w.Addr4, apiPort))
	}
	state := p.state(nil)
	state.ControlPlane = &desired.ControlPlane{Address: address, Port: 6443, Endpoints: endpoints,
		Check: desired.Check{Kind: desired.CheckTCP, Port: apiPort, IntervalMillis: 250, Rise: 1, Fall: 2}}
	p.push(t, state)
	eventually(t, "the control plane is served", func() error { return p.reaches(port(address, 6443)) })
	ask := traffic.Flow{Targets: []string{port(address, 6443)}, Rate: 200, Count: 60, Timeout: 5 * time.Second}
	report, err := p.Client.Flow(t.Context(), ask)
	must(t, err)
	if report.Failed != 0 || len(report.By) != 3 {
		t.Errorf("three API servers: %v", report)
	}
	must(t, p.Workers[0].PowerOff())
	report, err = p.Client.Flow(t.Context(), ask)
	must(t, err)
	must(t, p.Workers[0].Boot(t.Context()))
	t.Logf("an API server lost its power: %v", report)
	if report.Failed != 0 {
		t.Errorf("one API server is dead: %v", report)
	}
	// A check that is wrong for all of them must not take the API away.
	state.ControlPlane.Check.Port = apiPort + 1000
	p.push(t, state)
	eventually(t, "status tells that no API server passes its check", func() error {
		for name, s := range p.status(t) {
			if _, found := warning(s, "AllAPIServersDown"); !found {
				return fmt.Errorf("%s warns %v", name, s.Warnings)
			}
		}
		return nil
	})
	report, err = p.Client.Flow(t.Context(), ask)
	must(t, err)
	if report.Failed != 0 || len(report.By) != 3 {
		t.Errorf("all API servers fail their check: %v", report)
	}
	if err := p.refused(t, port(web4, 80)); err == nil {
		t.Error("a VIP that is in no State refuses: somebody still holds it")
	}
}

// expectOutcome looks at the table that push prints.
func expectOutcome(t *testing.T, table string, want wire.Outcome) {
	t.Helper()
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) > 1 && strings.HasPrefix(words[0], "gw") && !strings.HasSuffix(words[0], ":") && words[1] != string(want) {
			t.Errorf("outcome %s, want %s:\n%s", words[1], want, table)
		}
	}
}

func head(text string, lines int) string {
	return strings.Join(strings.SplitN(text, "\n", lines+1)[:min(lines, strings.Count(text, "\n"))], "\n")
}
