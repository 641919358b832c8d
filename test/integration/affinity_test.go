package integration

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// testAffinity: a client gets to the worker where it was, with sessionAffinity turned on without a reload: also when the
// gateway that knew it has lost its power and the other one serves.
func testAffinity(t *testing.T, p *pair) {
	p.begin(t)
	services := many(6)
	for i := range services {
		services[i].AffinitySeconds = 10800
	}
	expectOutcome(t, p.push(t, p.state(p.Workers, append(services, web())...)), wire.Runtime)
	var targets []string
	for _, s := range services {
		targets = append(targets, port(s.Addresses[0], s.Frontends[0].Port))
	}
	eventually(t, "all are served", func() error { return p.reaches(targets...) })
	homes := map[string]string{}
	for _, target := range targets {
		homes[target] = p.onlyWorker(t, target)
	}
	if len(slices.Compact(slices.Sorted(maps.Values(homes)))) < 2 {
		t.Fatalf("all are at one worker: %v", homes)
	}
	holder := p.home(t, services[0].Addresses[0])
	must(t, holder.PowerOff())
	eventually(t, "the other gateway serves", func() error { return p.reaches(targets...) })
	for target, home := range homes {
		if got := p.onlyWorker(t, target); got != home {
			t.Errorf("%s was served by %s, and is by %s at the other gateway", target, home, got)
		}
	}
	must(t, holder.Boot(t.Context()))
	eventually(t, "the gateway that returned is in sync", func() error { return p.inSync(t) })
	p.push(t, p.state(p.Workers, append(services, web())...))
	eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
	for target, home := range homes {
		if got := p.onlyWorker(t, target); got != home {
			t.Errorf("%s was served by %s, and is by %s at the gateway that returned", target, home, got)
		}
	}

	for _, g := range p.Gateways {
		eventually(t, "HAProxy of "+g.Name+" has learned", func() error { return learned(haproxy(t, g, "show peers")) })
	}
	services[0].AffinitySeconds = 600
	reloads := p.reloads(t)
	expectOutcome(t, p.push(t, p.state(p.Workers, append(services, web())...)), wire.Reloaded)
	if got := p.reloads(t) - reloads; got != 2 {
		t.Errorf("a new time was %d reloads, want one at each gateway", got)
	}
	for target, home := range homes {
		if got := p.onlyWorker(t, target); got != home && target != targets[0] {
			t.Errorf("%s was served by %s, and is by %s after a reload", target, home, got)
		}
	}
}

// testAffinityAtBoot: from its boot on nobody but the other gateway can tell a gateway's HAProxy where clients stick, also before the
// agent is there; and no floating address is.
func testAffinityAtBoot(t *testing.T, p *pair) {
	p.begin(t)
	boots := p.home(t, web4)
	other := p.other(boots)
	_, err := p.Client.Dial(t.Context(), "tcp", port(boots.Addr4, 7482))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("a stranger reaches the port of HAProxy's peers: %v", err)
	}
	config, err := boots.ReadFile(lab.AgentFile)
	must(t, err)
	must(t, boots.WriteFile(lab.AgentFile, nil, 0o644))
	must(t, boots.PowerOff())
	if err := boots.Boot(t.Context()); err == nil {
		t.Fatal("the agent started without its configuration: this test would show nothing")
	}
	eventually(t, "the other gateway reaches HAProxy of the one that boots", func() error {
		c, err := other.Dial(t.Context(), "tcp", port(boots.Addr4, 7482))
		if err != nil {
			return err
		}
		return c.Close()
	})
	if c, err := p.Client.Dial(t.Context(), "tcp", port(boots.Addr4, 7482)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before the agent is there a stranger reaches the port of HAProxy's peers: %v, %v", c, err)
	}
	if addresses := mustRun(t, boots, "ip", "--brief", "address", "show"); strings.Contains(addresses, web4.String()) {
		t.Errorf("before the agent is there the gateway has a floating address:\n%s", addresses)
	}
	must(t, boots.WriteFile(lab.AgentFile, config, 0o644))
	_, err = boots.StartAgent(t.Context())
	must(t, err)
	eventually(t, "the gateway that returned is in sync", func() error { return p.inSync(t) })
	p.push(t, p.state(p.Workers, web()))
	eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
}

// learned reads the flags of show peers: 1, from a worker before, and 2, from another gateway, or nobody was there for five
// seconds. A worker that was started and has not learned teaches the next one nothing, which then learns from the other gateway.
func learned(peers string) error {
	_, after, _ := strings.Cut(peers, " flags=0x")
	flags, _, _ := strings.Cut(after, " ")
	number, err := strconv.ParseUint(flags, 16, 32)
	if err == nil && number&3 != 3 {
		return fmt.Errorf("flags are %s", flags)
	}
	return err
}

// onlyWorker is who answers at a target all the time.
func (p *pair) onlyWorker(t *testing.T, target string) string {
	t.Helper()
	report, err := p.Client.Flow(t.Context(), traffic.Flow{Targets: []string{target}, Rate: 100, Count: 10, Timeout: 5 * time.Second})
	must(t, err)
	if report.Failed != 0 || len(report.By) != 1 {
		t.Errorf("%s: want one worker: %v", target, report)
	}
	for worker := range report.By {
		return worker
	}
	return ""
}
