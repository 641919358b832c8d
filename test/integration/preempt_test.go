package integration

import (
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// testPreemptDelay: a gateway that returns leaves its addresses to the other one for the delay. Meanwhile States are taken, and the
// other one hands over at once when it is drained, or when its HAProxy dies.
func testPreemptDelay(t *testing.T, p *pair) {
	first, second := p.beginDrain(t)
	const delay = 60 * time.Second
	state := func(services ...desired.LoadBalancer) *desired.State {
		s := p.state(p.Workers, services...)
		s.VRRP = desired.VRRP{AdvertIntervalMillis: 100, PreemptDelaySeconds: int(delay / time.Second)}
		return s
	}
	p.push(t, state(web()))
	must(t, p.atHome(t))
	flow := p.flow(t)
	handOver := func(from, to *lab.Host) {
		t.Helper()
		eventually(t, "the drain of "+from.Name+" is granted", func() error { _, err := p.tryDrain(t, from); return err })
		must(t, p.onlyAt(t, to))
		p.undrain(t, from)
		stays(t, 2*time.Second, func() error { return p.onlyAt(t, to) })
	}
	handOver(first, second)
	p.push(t, state(append(many(2)[1:], web())...))
	must(t, p.onlyAt(t, second))
	handOver(second, first)
	handOver(first, second)
	report := stop(t, flow)
	t.Logf("three drains, two of them to a gateway that waits: %v", report)
	if report.Failed > 0 {
		t.Errorf("%d of %d new connections failed", report.Failed, report.Opened)
	}

	end(t, second, "-KILL", "haproxy")
	eventually(t, first.Name+", which waits, has the addresses", func() error { return p.onlyAt(t, first) })
	p.push(t, p.state(p.Workers, web()))
	eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
}
