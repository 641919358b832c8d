package integration

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// Two Services on one address: each is served at its own port, the one that leaves takes its port along and nothing else,
// and `gatewayctl pools` tells who has what.
func testShared(t *testing.T, p *pair) {
	p.begin(t)
	reloads := p.reloads(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 20, Timeout: 5 * time.Second})
	must(t, err)
	flow := p.flow(t)

	partner := service("partner", desired.Frontend{Protocol: desired.TCP, Port: 8080, NodePort: firstNodePort + 1}, web4)
	expectOutcome(t, p.push(t, p.state(p.Workers, web(), partner)), wire.Runtime)
	eventually(t, "both Services are served", func() error { return p.reaches(append(webTargets(), port(web4, 8080))...) })
	if holders := p.holders(t, web4); len(holders) != 1 {
		t.Errorf("the shared address is held by %d gateways, want one", len(holders))
	}
	expectLines(t, p.pools(t), `^192\.0\.2\.64 +default +default/partner TCP 8080$`, `^ +default/web TCP 80$`, `^2001:db8::1:1 +default +default/web$`)

	left := p.state(p.Workers, web())
	left.Releasing = []desired.Releasing{{Address: web4, Owner: partner.Key, Ports: []desired.Port{{Protocol: desired.TCP, Port: 8080}},
		SinceEpoch: p.epoch + 1, SinceSequence: 1}}
	left.Reserved = []desired.Reserved{{Address: netip.MustParseAddr("192.0.2.70"), Owner: partner.Key, Kept: true}}
	left.Quarantined = []desired.Quarantined{{Address: netip.MustParseAddr("192.0.2.71"), By: "52:54:00:12:34:56 (node worker1)"}}
	expectOutcome(t, p.push(t, left), wire.Runtime)
	if err := p.reaches(port(web4, 8080)); err == nil {
		t.Error("the port of the Service that left still answers")
	}
	must(t, p.reaches(webTargets()...))
	expectLines(t, p.pools(t), `^192\.0\.2\.64 +default +default/web TCP 80$`, `^ +releasing TCP 8080 \(default/partner; waits for the controller alone\)$`,
		`^192\.0\.2\.70 +default +kept for default/partner$`, `^192\.0\.2\.71 +default +quarantined: 52:54:00:12:34:56 \(node worker1\)$`)

	heir := service("heir", partner.Frontends[0], web4)
	left.LoadBalancers = append(left.LoadBalancers, heir)
	if _, err := p.tryPush(t, left); err == nil || !strings.Contains(err.Error(), "TCP port 8080 of 192.0.2.64 was default/partner's and is still on its way back") {
		t.Errorf("a port on its way back was given away: %v", err)
	}

	if report := stop(t, flow); report.Failed != 0 {
		t.Errorf("Service web meanwhile: %v", report)
	}
	if held := stop(t, hold); held.Held != 20 || len(held.Cut) != 0 {
		t.Errorf("of %d held connections %d were cut, want none of 20: %+v", held.Held, len(held.Cut), held.Cut)
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
}

// pools is what `gatewayctl pools` prints.
func (p *pair) pools(t *testing.T) string {
	t.Helper()
	return mustRun(t, p.Controller, "gatewayctl", "pools", "--cloud-config", lab.CloudConfigFile)
}

// expectLines wants a line of text for each pattern.
func expectLines(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		if !slices.ContainsFunc(strings.Split(text, "\n"), regexp.MustCompile(pattern).MatchString) {
			t.Errorf("no line is %s in\n%s", pattern, text)
		}
	}
}
