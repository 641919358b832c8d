package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// tryDrain asks for a hand-over, with flags beside it.
func (p *pair) tryDrain(t *testing.T, g *lab.Host, flags ...string) (string, error) {
	t.Helper()
	argv := append([]string{"gatewayctl", "drain", "--cloud-config", lab.CloudConfigFile, g.Name}, flags...)
	return p.Controller.Run(t.Context(), argv...)
}

func (p *pair) drain(t *testing.T, g *lab.Host, flags ...string) string {
	t.Helper()
	out, err := p.tryDrain(t, g, flags...)
	must(t, err)
	return out
}

func (p *pair) undrain(t *testing.T, g *lab.Host) {
	t.Helper()
	mustRun(t, p.Controller, "gatewayctl", "undrain", "--cloud-config", lab.CloudConfigFile, g.Name)
}

// onlyAt says which of web's addresses is not held by this gateway, and by it alone.
func (p *pair) onlyAt(t *testing.T, g *lab.Host) error {
	t.Helper()
	for _, address := range []netip.Addr{web4, web6} {
		if holders := p.holders(t, address); len(holders) != 1 || holders[0] != g {
			return fmt.Errorf("%s is held by %q, want %s", address, names(holders), g.Name)
		}
	}
	return nil
}

// beginDrain is begin, and the gateways know of each other that they can take over.
func (p *pair) beginDrain(t *testing.T) (drained, heir *lab.Host) {
	t.Helper()
	p.begin(t)
	drained = p.home(t, web4)
	t.Cleanup(func() {
		for _, g := range p.Gateways {
			_, _ = p.Controller.Run(t.Context(), "gatewayctl", "undrain", "--cloud-config", lab.CloudConfigFile, g.Name)
		}
	})
	return drained, p.other(drained)
}

// testDrain: a gateway hands its addresses over under load and takes them back; nobody notices, neither new connections nor those
// that are held. What is left of those ends when the grace does.
func testDrain(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 50, Timeout: 5 * time.Second})
	must(t, err)
	const rounds = 10
	flow, err := p.Client.StartFlow(t.Context(), traffic.Flow{Targets: webTargets(), Rate: 200, Timeout: 5 * time.Second})
	must(t, err)
	var took []time.Duration
	cookies := func(value string) {
		for _, g := range p.Gateways {
			mustRun(t, g, "sysctl", "--quiet", "--write", "net.ipv4.tcp_syncookies="+value)
		}
	}
	for round := range rounds {
		if round == rounds/2 {
			cookies("2") // as in a flood: the gateway forgets who asked, and the first that it hears of a client is an ACK
			defer cookies("1")
		}
		begun := time.Now()
		eventually(t, "the drain is granted", func() error { // the peer may not have told yet that it is fit
			begun = time.Now()
			_, err := p.tryDrain(t, drained, "--grace", "1m")
			return err
		})
		took = append(took, time.Since(begun).Round(time.Millisecond))
		must(t, p.onlyAt(t, heir))
		p.undrain(t, drained)
		eventually(t, "the addresses are back", func() error { return p.atHome(t) })
	}
	report := stop(t, flow)
	t.Logf("%d drains and undrains of %s, each drain in %v: %v", rounds, drained.Name, took, report)
	held := stop(t, hold)
	t.Logf("of %d connections held, cut %d: %v", held.Held, len(held.Cut), held.Cut)
	if report.Failed > 0 || report.LongestGap > 500*time.Millisecond {
		t.Errorf("%d of %d new connections failed, longest gap %v", report.Failed, report.Opened, report.LongestGap)
	}
	if len(held.Cut) > 0 {
		t.Errorf("%d of %d connections were cut", len(held.Cut), held.Held)
	}
}

// testDrainEnds: what is established lives on for the grace of a drain and no longer.
func testDrainEnds(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 50, Timeout: 5 * time.Second})
	must(t, err)
	eventually(t, "the drain is granted", func() error {
		_, err := p.tryDrain(t, drained, "--reason", "new kernel", "--grace", "4s")
		return err
	})
	p.sawDrain(t, drained)
	p.undrain(t, drained)
	eventually(t, "the addresses are back", func() error { return p.atHome(t) })
	held := stop(t, hold)
	cut := map[string]int{}
	for _, c := range held.Cut {
		cut[c.Target]++
		if c.After < 2*time.Second {
			t.Errorf("a connection was cut after %v, in the middle of the grace", c.After)
		}
	}
	t.Logf("of %d connections held, cut %d: %v", held.Held, len(held.Cut), cut)
	for _, address := range []netip.Addr{web4, web6} {
		if got, through := cut[port(address, 80)], p.home(t, address); through == heir && got > 0 || through == drained && got != 25 {
			t.Errorf("of 25 connections to %s, which is at home on %s, %d were cut", address, through.Name, got)
		}
	}
}

// sawDrain follows a drain with a grace of 4 s: status tells of it, and what is left is ended in time.
func (p *pair) sawDrain(t *testing.T, drained *lab.Host) {
	t.Helper()
	d := p.status(t)[drained.Name].Drain
	if d == nil || d.Reason != "new kernel" || d.By != wire.RoleController || d.Since.IsZero() {
		t.Fatalf("status of a drained gateway says %+v", d)
	}
	if d.Connections == 0 {
		t.Error("status says that no connection is left; 50 were held")
	}
	t.Logf("%d connections of addresses that have left are there after the drain", d.Connections)
	eventually(t, "no connection is left", func() error {
		d := p.status(t)[drained.Name].Drain
		if left := time.Until(d.Until); d.Connections == 0 && left > time.Second {
			t.Errorf("the connections ended %v early", left)
		}
		if d.Connections > 0 {
			return fmt.Errorf("%d are left", d.Connections)
		}
		return nil
	})
	out := mustRun(t, drained, "ss", "--no-header", "--tcp", "--numeric", "state", "established", "src", web4.String())
	if out != "" {
		t.Errorf("the kernel still has connections:\n%s", head(out, 3))
	}
}

// testDrainLasts: an agent that starts anew and a reboot change nothing; what the peer loses, the drained gateway serves.
func testDrainLasts(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	eventually(t, "the drain is granted", func() error { _, err := p.tryDrain(t, drained); return err })
	end(t, drained, "-KILL", "gatewayctl")
	_, err := drained.StartAgent(t.Context())
	must(t, err)
	stays(t, 2*time.Second, func() error { return p.onlyAt(t, heir) })

	must(t, drained.PowerOff())
	must(t, drained.Boot(t.Context()))
	eventually(t, "the gateway is current again", func() error { return p.allCurrent(t) })
	stays(t, 2*time.Second, func() error { return p.onlyAt(t, heir) })
	if d := p.status(t)[drained.Name].Drain; d == nil {
		t.Error("after a reboot the gateway is drained no more")
	}

	eventually(t, "the other gateway knows that this one is back, and drained", func() error {
		if _, err = p.tryDrain(t, heir); err == nil {
			t.Fatal("both gateways are drained")
		}
		if strings.Contains(err.Error(), "does not answer") {
			return err
		}
		return nil
	})
	expectWords(t, err, "no other gateway can take over", drained.Name+" is drained itself", "--force")
	must(t, p.onlyAt(t, heir))

	must(t, heir.PowerOff())
	eventually(t, "the drained gateway serves what nobody else does", func() error {
		if holders := p.holders(t, web4); !slices.Equal(holders, []*lab.Host{drained}) {
			return errors.New("nobody holds the address")
		}
		return p.reaches(webTargets()...)
	})
	must(t, heir.Boot(t.Context()))
	eventually(t, "the other one has them again", func() error { return p.onlyAt(t, heir) })
	p.undrain(t, drained)
	eventually(t, "the addresses are back", func() error { return p.atHome(t) })
}

// testDrainRefused: nobody is left to take over, or who says so does not take.
func testDrainRefused(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	must(t, heir.PowerOff())
	defer func() {
		must(t, heir.Boot(t.Context()))
	}()
	eventually(t, "it is known that the other one is gone", func() error {
		if s := p.status(t)[drained.Name]; s == nil || s.Peers[0].Answers {
			return errors.New("the peer is said to answer")
		}
		return nil
	})
	_, err := p.tryDrain(t, drained)
	expectWords(t, err, "no other gateway can take over", heir.Name+" does not answer")
	must(t, p.reaches(webTargets()...))
	if out := p.drain(t, drained, "--force"); out == "" {
		t.Error("a forced drain says nothing")
	}
	must(t, p.reaches(webTargets()...))
	p.undrain(t, drained)
}

// testDrainRestart: what must restart HAProxy on both gateways, one after the other, drains each meanwhile; clients do not notice.
func testDrainRestart(t *testing.T, p *pair) {
	p.beginDrain(t)
	flow, err := p.Client.StartFlow(t.Context(), traffic.Flow{Targets: webTargets(), Rate: 200, Timeout: 5 * time.Second})
	must(t, err)
	for _, g := range p.Gateways {
		before := p.status(t)[g.Name].HAProxyUp
		eventually(t, "the gateway is drained, HAProxy restarted, and all is back", func() error { // the peer may not be fit yet
			_, err := g.Run(t.Context(), "gatewayctl", "drain", "--local", "--reason", "restart", "--", "pkill", "-KILL", "-x", "haproxy")
			return err
		})
		s := p.status(t)[g.Name]
		if s.Drain != nil || !s.HAProxyUp.After(before) {
			t.Errorf("%s: drained %+v, HAProxy runs since %v, before since %v", g.Name, s.Drain, s.HAProxyUp, before)
		}
		eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
	}
	out := mustRun(t, p.Controller, "gatewayctl", "drain", "--cloud-config", lab.CloudConfigFile, "--all", "--", "echo", "it is the turn of {}")
	for _, g := range p.Gateways {
		for _, words := range []string{"it is the turn of " + g.Name + "\n", g.Name + ": well again and no longer drained"} {
			if strings.Count(out, words) != 1 {
				t.Errorf("in turn: no %q in\n%s", words, out)
			}
		}
	}
	eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
	report := stop(t, flow)
	t.Logf("HAProxy killed on both gateways in turn, each drained meanwhile: %v", report)
	if report.Failed > 0 || report.LongestGap > 500*time.Millisecond {
		t.Errorf("%d of %d new connections failed, longest gap %v", report.Failed, report.Opened, report.LongestGap)
	}
}
