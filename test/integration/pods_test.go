package integration

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// pod is a program with addresses of its own on a worker, in a network that gateways have routes to, and with a port of its own.
type pod struct {
	name   string
	v4, v6 netip.Addr
	port   uint16
}

// startPod starts the nth pod, on a worker.
func (p *pair) startPod(t *testing.T, n int, on *lab.Host, name string, port uint16) pod {
	t.Helper()
	one := pod{name, netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00:244::%d", n)), port}
	mustRun(t, on, "ip", "address", "replace", one.v4.String()+"/32", "dev", "lo")
	mustRun(t, on, "ip", "address", "replace", one.v6.String()+"/128", "dev", "lo", "nodad")
	for _, g := range p.Gateways {
		mustRun(t, g, "ip", "route", "replace", one.v4.String()+"/32", "via", on.Addr4.String())
		mustRun(t, g, "ip", "route", "replace", one.v6.String()+"/128", "via", on.Addr6.String())
	}
	process, err := on.Start(name, filepath.Join(p.Shared, "bin", "backend"), "-name", name,
		"-listen", netip.AddrPortFrom(one.v4, port).String(), "-listen", netip.AddrPortFrom(one.v6, port).String())
	must(t, err)
	must(t, process.AwaitLine(t.Context(), "ready"))
	return one
}

// servers are pods as a controller writes them: of one family for TCP, of both for UDP.
func servers(protocol desired.Protocol, pods ...pod) (all []desired.Server) {
	for _, one := range pods {
		for _, address := range []netip.Addr{one.v4, one.v6} {
			if address.Is4() || protocol == desired.UDP {
				name := strings.ReplaceAll(address.StringExpanded(), ":", "-")
				all = append(all, desired.Server{Name: fmt.Sprintf("%s-%d", name, one.port), Address: address, Port: one.port, Weight: 1})
			}
		}
	}
	return all
}

// podService has TCP and UDP 7000 without a NodePort, each over these pods.
func podService(change func(*desired.Server), pods ...pod) desired.LoadBalancer {
	lb := service("pods", desired.Frontend{}, web4, web6)
	lb.Frontends = nil
	for protocol, check := range map[desired.Protocol]desired.Check{
		desired.TCP: {Kind: desired.CheckTCP, IntervalMillis: 250, Rise: 1, Fall: 2}, desired.UDP: {Kind: desired.CheckNone},
	} {
		pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: check, Servers: servers(protocol, pods...)}
		for i := range pool.Servers {
			if change != nil {
				change(&pool.Servers[i])
			}
		}
		lb.Frontends = append(lb.Frontends, desired.Frontend{Name: strings.ToLower(string(protocol)), Protocol: protocol, Port: 7000, Pool: pool})
	}
	return lb
}

func podTargets() []string { return []string{port(web4, 7000), port(web6, 7000)} }

// servedByPods waits until new connections and new flows are answered by exactly these.
func (p *pair) servedByPods(t *testing.T, when string, want ...pod) {
	t.Helper()
	isWanted := func(counts map[string]int) bool {
		for _, one := range want {
			if counts[one.name] == 0 {
				return false
			}
		}
		return len(counts) == len(want)
	}
	eventually(t, when+", over UDP", func() error {
		for _, target := range podTargets() {
			if _, by := p.talks(t, 12*len(want), target); !isWanted(tally(by)) {
				return fmt.Errorf("%s is answered by %v", target, tally(by))
			}
		}
		return nil
	})
	eventually(t, when+", over TCP", func() error {
		report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: podTargets(), Rate: 200, Count: 12 * len(want), Timeout: 2 * time.Second})
		counts := map[string]int{}
		for name, n := range report.By {
			counts[name] = int(n)
		}
		if err == nil && (report.Failed != 0 || !isWanted(counts)) {
			err = fmt.Errorf("%v", report)
		}
		return err
	})
}

// testPods: ports without a NodePort are served by pods at their own addresses and ports, of TCP and UDP, and follow what comes and
// goes without a reload. What the gateways' limits do not name is refused.
func testPods(t *testing.T, p *pair) {
	p.beginDatagrams(t)
	var pods []pod
	for i, w := range p.Workers {
		pods = append(pods, p.startPod(t, i+1, w, fmt.Sprintf("pod%d", i+1), uint16(5301+i)))
	}
	if _, err := p.tryPush(t, p.state(p.Workers, web(), podService(nil, pods...))); err == nil || !strings.Contains(err.Error(), "serverPrefixes") {
		t.Errorf("pods outside the limits: %v", err)
	}
	const limits = lab.LimitsFile
	for _, g := range p.Gateways {
		before, err := g.ReadFile(limits)
		must(t, err)
		must(t, g.WriteFile(limits, []byte(strings.Replace(string(before), "serverPrefixes: [", `serverPrefixes: [10.244.0.0/16, "fd00:244::/64", `, 1)), 0o644))
		t.Cleanup(func() {
			if err := g.WriteFile(limits, before, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	serve := func(change func(*desired.Server), pods ...pod) {
		t.Helper()
		p.push(t, p.state(p.Workers, web(), podService(change, pods...)))
	}
	serve(nil, pods...)
	p.servedByPods(t, "all pods serve", pods...)
	p.podGoes(t, pods, serve)
	again := p.startPod(t, 1, p.Workers[0], "pod1-again", 5399)
	serve(nil, again, pods[1], pods[2])
	p.servedByPods(t, "a pod comes with another port", again, pods[1], pods[2])
	serve(func(s *desired.Server) { s.Backup = s.Port != pods[2].port }, pods[1], pods[2])
	p.servedByPods(t, "one terminates", pods[2])
	serve(func(s *desired.Server) { s.Backup = true }, pods[1])
	p.servedByPods(t, "the last one terminates and serves", pods[1])
	serve(nil)
	for _, target := range podTargets() {
		eventually(t, "without pods TCP refuses", func() error { return p.refused(t, target) })
		eventually(t, "without pods UDP refuses", func() error { return p.refusesDatagrams(t, p.Client, target) })
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
	eventually(t, "all is in sync", func() error { return p.inSync(t) })
}

// podGoes takes the first pod out while all are in use: no new connection fails, its flows go to others at once although it still
// answers, and theirs stay.
func (p *pair) podGoes(t *testing.T, pods []pod, serve func(func(*desired.Server), ...pod)) {
	t.Helper()
	flows, before := p.talks(t, 60, podTargets()...)
	connections := p.flowTo(t, podTargets()...)
	begun := time.Now()
	serve(nil, pods[1:]...)
	within(t, 5*time.Second, "no flow goes to a pod that is gone", func() error {
		for _, k := range flows {
			if who, _ := k.ask(200 * time.Millisecond); who == pods[0].name || who == "timeout" || who == "refused" {
				return fmt.Errorf("a flow is answered by %s", who)
			}
		}
		return nil
	})
	t.Logf("its %d of 60 flows had moved %v after the push began", tally(before)[pods[0].name], time.Since(begun).Round(10*time.Millisecond))
	for i, k := range flows {
		if who, _ := k.ask(time.Second); before[i] != pods[0].name && who != before[i] {
			t.Errorf("a flow of %s went to %s", before[i], who)
		}
	}
	report, err := connections.Stop()
	must(t, err)
	if report.Failed != 0 {
		t.Errorf("while a pod went: %v", report)
	}
	p.servedByPods(t, "the others serve", pods[1:]...)
}
