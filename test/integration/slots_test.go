package integration

import (
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// testSlots: a Service goes from the shared pool to servers of its own, and from one algorithm, check and timeout to the next, under
// connections. None fails, and only the timeouts reload HAProxy.
func testSlots(t *testing.T, p *pair) {
	p.begin(t)
	own := service("own", desired.Frontend{Protocol: desired.TCP, Port: 8000, NodePort: firstNodePort + 3}, web4, web6)
	serve := func(change func(*desired.LoadBalancer)) {
		t.Helper()
		change(&own)
		p.push(t, p.state(p.Workers, web(), own))
	}
	serve(func(*desired.LoadBalancer) {})
	targets := []string{port(web4, 8000), port(web6, 8000)}
	eventually(t, "the Service is served", func() error { return p.reaches(targets...) })
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	connections := p.flowTo(t, targets...)

	check := desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 250, Rise: 1, Fall: 2}
	for _, algorithm := range []desired.Algorithm{desired.LeastConn, desired.Source, desired.Random, desired.RoundRobin} {
		serve(func(lb *desired.LoadBalancer) {
			pool := &desired.Pool{Algorithm: algorithm, Check: check}
			for _, w := range p.Workers {
				pool.Servers = append(pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
			}
			lb.Pool = pool
		})
	}
	serve(func(lb *desired.LoadBalancer) { lb.Pool.Check.Fall = 3 })
	serve(func(lb *desired.LoadBalancer) { lb.Pool.Check = desired.Check{Kind: desired.CheckNone} })
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
	serve(func(lb *desired.LoadBalancer) { lb.Timeouts = &desired.Timeouts{ConnectMillis: 500, IdleSeconds: 2} })
	if got := p.reloads(t); got != reloads+2 {
		t.Errorf("timeouts reloaded HAProxy %d times on two gateways", got-reloads)
	}
	for name, s := range p.status(t) {
		told := false
		for reason := range s.Reloads {
			told = told || strings.Contains(reason, "default/own has timeouts of its own")
		}
		if !told {
			t.Errorf("%s tells these reasons for reloads: %v", name, s.Reloads)
		}
	}
	serve(func(lb *desired.LoadBalancer) { lb.Timeouts = nil })
	serve(func(lb *desired.LoadBalancer) { lb.Pool = nil })
	if got := p.reloads(t); got != reloads+2 {
		t.Errorf("without timeouts HAProxy was reloaded %d times more", got-reloads-2)
	}
	report := stop(t, connections)
	t.Logf("connections meanwhile: %v", report)
	if report.Failed != 0 || report.LongestGap > time.Second {
		t.Errorf("%d connections failed", report.Failed)
	}
	eventually(t, "all is in sync", func() error { return p.inSync(t) })
}
