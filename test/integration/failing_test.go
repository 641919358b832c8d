package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// foreignRules are a host firewall as found in the field: everything is dropped but what its author thought of.
const foreignRules = `table inet site {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp, 112 } accept
		tcp dport 22 accept
	}
}
`

// testForeignFirewall: a firewall of somebody else that drops the clients is named by status, with the rule that it needs; the
// rule helps.
func testForeignFirewall(t *testing.T, p *pair) {
	p.begin(t)
	for _, g := range p.Gateways {
		_, err := g.RunInput(t.Context(), foreignRules, "nft", "-f", "-")
		must(t, err)
		defer func() { mustRun(t, g, "nft", "delete", "table", "inet", "site") }()
	}
	if err := p.reaches(port(web4, 80)); err == nil {
		t.Fatal("the firewall drops nothing: this test would show nothing")
	}
	const rule = "socket transparent 1 accept"
	var commands []string
	eventually(t, "status names the chain and the rule", func() error {
		commands = nil
		for name, s := range p.status(t) {
			w, found := warning(s, "ForeignFirewall")
			if !found || !strings.Contains(w.Message, "inet site") || !strings.Contains(w.Message, rule) {
				return fmt.Errorf("%s warns %v", name, s.Warnings)
			}
			_, command, _ := strings.Cut(w.Message, "run: ")
			commands = append(commands, command)
		}
		if len(commands) != len(p.Gateways) {
			return errors.New("a gateway is silent")
		}
		return nil
	})
	t.Logf("status says: run %s", commands[0])
	for _, g := range p.Gateways {
		mustRun(t, g, "sh", "-c", commands[0]) // as a person pastes it
	}
	eventually(t, "served once the rule is there", func() error { return p.reaches(webTargets()...) })
	eventually(t, "the warning is gone", func() error {
		for name, s := range p.status(t) {
			if w, found := warning(s, "ForeignFirewall"); found {
				return fmt.Errorf("%s: %s", name, w.Message)
			}
		}
		return nil
	})
}

// testFlushedRules: `nft flush ruleset`, which a reload of Debian's nftables.service does, is repaired by the agent.
func testFlushedRules(t *testing.T, p *pair) {
	p.begin(t)
	begun := time.Now()
	for _, g := range p.Gateways {
		mustRun(t, g, "nft", "flush", "ruleset")
	}
	eventually(t, "the rules are back", func() error {
		if err := p.reaches(webTargets()...); err != nil {
			return err
		}
		return p.refused(t, port(web4, 22))
	})
	t.Logf("served %v after nft flush ruleset on both gateways", time.Since(begun).Round(time.Millisecond))
}

// testHAProxyDies: HAProxy killed on the gateway that holds the VIP: the other takes the VIP, HAProxy is started again.
func testHAProxyDies(t *testing.T, p *pair) {
	p.begin(t)
	holder := p.home(t, web4)
	flow := p.flowTo(t, port(web4, 80))
	end(t, holder, "-KILL", "haproxy")
	eventually(t, "HAProxy runs again where it was killed", func() error {
		s := p.status(t)[holder.Name]
		if s == nil || s.HAProxyUp.IsZero() || !s.InSync {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	report := stop(t, flow)
	t.Logf("HAProxy killed on the holder of %s: %v", web4, report)
	if report.LongestGap > 5*time.Second {
		t.Errorf("nobody answered for %v", report.LongestGap)
	}
}

// testAgentRestarts: the data plane does not notice that the agent is killed and started again.
func testAgentRestarts(t *testing.T, p *pair) {
	p.begin(t)
	reloads, workers := p.reloads(t), p.workerPIDs(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 20, Timeout: 5 * time.Second})
	must(t, err)
	flow := p.flow(t)
	for _, g := range p.Gateways {
		end(t, g, "-KILL", "gatewayctl")
		_, err := g.StartAgent(t.Context())
		must(t, err)
	}
	eventually(t, "both are in sync", func() error { return p.inSync(t) })
	if report := stop(t, flow); report.Failed != 0 {
		t.Errorf("agents restarted: %v", report)
	}
	if held := stop(t, hold); len(held.Cut) != 0 {
		t.Errorf("agents restarted: %+v", held)
	}
	if got := p.reloads(t); got != reloads {
		t.Errorf("HAProxy was reloaded %d times", got-reloads)
	}
	if got := p.workerPIDs(t); got != workers {
		t.Errorf("HAProxy's workers were %s and are %s", workers, got)
	}
}

func (p *pair) inSync(t *testing.T) error {
	statuses := p.status(t)
	for _, g := range p.Gateways {
		s := statuses[g.Name]
		if s == nil {
			return fmt.Errorf("%s does not answer", g.Name)
		}
		if !s.InSync || !s.KeepalivedUp || s.HAProxyUp.IsZero() {
			return fmt.Errorf("%s: in sync %v %v, keepalived %v, HAProxy up since %v", g.Name, s.InSync, s.Drift, s.KeepalivedUp, s.HAProxyUp)
		}
	}
	return nil
}

// testHolderDies: the gateway that holds a VIP loses its power: the other takes over. It returns: it serves again.
func testHolderDies(t *testing.T, p *pair) {
	p.begin(t)
	for _, vip := range []netip.Addr{web4, web6} {
		holder := p.home(t, vip)
		heir := p.other(holder)
		flow := p.flowTo(t, port(vip, 80))
		must(t, holder.PowerOff())
		eventually(t, "the other gateway serves both addresses", func() error {
			for _, address := range []netip.Addr{web4, web6} {
				if !slices.Contains(p.holders(t, address), heir) {
					return fmt.Errorf("%s does not hold %s", heir.Name, address)
				}
			}
			return p.reaches(webTargets()...)
		})
		report := stop(t, flow)
		t.Logf("%s, which held %s, lost its power: %v", holder.Name, vip, report)
		if report.LongestGap > 3*time.Second {
			t.Errorf("nobody answered for %v", report.LongestGap)
		}

		flow = p.flowTo(t, port(vip, 80))
		must(t, holder.Boot(t.Context()))
		eventually(t, "the gateway that returned is in sync", func() error { return p.inSync(t) })
		p.push(t, p.state(p.Workers, web())) // as a controller's resync: it confirms that the State is current
		eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
		report = stop(t, flow)
		t.Logf("%s returned: %v", holder.Name, report)
		if report.LongestGap > time.Second {
			t.Errorf("nobody answered for %v when the gateway returned", report.LongestGap)
		}
	}
}

// stays looks again and again that something does not happen.
func stays(t *testing.T, long time.Duration, fault func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); <-tick.C {
		must(t, fault())
	}
}

func names(hosts []*lab.Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return strings.Join(all, ", ")
}
