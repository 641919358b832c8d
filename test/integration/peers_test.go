package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

const stateFile = "/var/lib/gatewayctl/state.json"

// held is the State on a gateway's disk.
func held(t *testing.T, g *lab.Host) (desired.Signed, *desired.State) {
	t.Helper()
	text, err := g.ReadFile(stateFile)
	must(t, err)
	var signed desired.Signed
	must(t, json.Unmarshal(text, &signed))
	s, err := desired.Decode(signed.State)
	must(t, err)
	return signed, s
}

// holdAll says which gateway does not hold the State with this fence.
func (p *pair) holdAll(t *testing.T, want desired.Fence) error {
	t.Helper()
	for _, g := range p.Gateways {
		if _, s := held(t, g); s.Fence != want {
			return fmt.Errorf("%s holds %v, want %v", g.Name, s.Fence, want)
		}
	}
	return nil
}

// allCurrent says which gateway is not confirmed current.
func (p *pair) allCurrent(t *testing.T) error {
	t.Helper()
	statuses := p.status(t)
	for _, g := range p.Gateways {
		if s := statuses[g.Name]; s == nil || !s.Current {
			return fmt.Errorf("%s is not current: %+v", g.Name, s)
		}
	}
	return nil
}

// successor gives the next State of the same controller, signed with its key.
func (p *pair) successor(t *testing.T, s *desired.State, change func(*desired.State)) (desired.Signed, *desired.State) {
	t.Helper()
	next := s.Clone()
	next.Fence.Sequence++
	change(next)
	for _, lb := range next.LoadBalancers {
		for _, address := range lb.Addresses {
			if !slices.ContainsFunc(next.VIPs, func(v desired.VIP) bool { return v.Address == address }) {
				next.VIPs = append(next.VIPs, desired.VIP{Address: address, RouterID: desired.Spread(address, next.Instances)})
			}
		}
	}
	next.Normalize()
	canonical, err := next.Canonical()
	must(t, err)
	signed, err := gateway.Sign(p.key(t), canonical)
	must(t, err)
	return signed, next
}

// shut refuses SSH from one gateway to another; VRRP and everything else goes on.
func shut(t *testing.T, from, to *lab.Host) (open func()) {
	t.Helper()
	_, err := to.RunInput(t.Context(), fmt.Sprintf("table ip shut { chain input { type filter hook input priority -300; "+
		"ip saddr %s tcp dport 22 reject with tcp reset; }; }\n", from.Addr4), "nft", "-f", "-")
	must(t, err)
	return func() { mustRun(t, to, "nft", "delete", "table", "ip", "shut") }
}

// testSleptThrough: a gateway that was off during 50 changes returns current from its peer, with nobody else to tell it, before it
// takes a VIP; no client meets what is no more.
func testSleptThrough(t *testing.T, p *pair) {
	p.begin(t)
	sleeper := p.home(t, web4)
	awake := p.other(sleeper)
	must(t, sleeper.PowerOff())
	client := p.client(t, awake)
	_, newest := held(t, awake)
	for n, lb := range many(50) {
		var signed desired.Signed
		signed, newest = p.successor(t, newest, func(s *desired.State) {
			s.LoadBalancers = append(s.LoadBalancers, lb)
			if n == 49 { // web moves to one worker: who goes by an older State is heard
				s.Nodes = slices.DeleteFunc(s.Nodes, func(n desired.Node) bool { return n.Name != p.Workers[2].Name })
			}
		})
		_, err := client.Apply(t.Context(), signed)
		must(t, err)
	}
	must(t, client.Close()) // the controller is gone
	eventually(t, "the last worker alone answers", func() error { return p.reaches(webTargets()...) })

	flow := p.flow(t)
	begun := time.Now()
	must(t, sleeper.Boot(t.Context()))
	var current time.Duration
	eventually(t, "the sleeper has its address back", func() error {
		holders := p.holders(t, web4)
		_, s := held(t, sleeper)
		if s.Fence == newest.Fence && current == 0 {
			current = time.Since(begun)
		}
		if slices.Contains(holders, sleeper) && s.Fence != newest.Fence {
			t.Fatalf("%s took %s while it held %v; the newest is %v", sleeper.Name, web4, s.Fence, newest.Fence)
		}
		return p.atHome(t)
	})
	t.Logf("50 changes behind: current %v after the power came, its VIP back after %v", current.Round(10*time.Millisecond), time.Since(begun).Round(10*time.Millisecond))
	stays(t, time.Second, func() error { return p.atHome(t) })
	report := stop(t, flow)
	t.Logf("while it returned: %v", report)
	if report.By[p.Workers[2].Name] == 0 || len(report.By) != 1 {
		t.Errorf("answered by %v, want %s alone", report.By, p.Workers[2].Name)
	}
	if report.LongestGap > time.Second {
		t.Errorf("nobody answered for %v when the gateway returned", report.LongestGap)
	}
	must(t, p.holdAll(t, newest.Fence))
	must(t, p.allCurrent(t))
	must(t, p.reaches(port(netip.MustParseAddr("192.0.2.70"), 8080)))
}

// testStaleGateway: a gateway that slept through a change and cannot ask does not take a VIP from the one that knows it (DESIGN.md
// invariant 6), however long it takes; nor does its older State go anywhere. Once it can ask, it helps itself.
func testStaleGateway(t *testing.T, p *pair) {
	p.begin(t)
	sleeper := p.home(t, web4)
	awake := p.other(sleeper)
	must(t, sleeper.PowerOff())
	late := service("late", desired.Frontend{Protocol: desired.TCP, Port: 82, NodePort: firstNodePort + 1}, web4, web6)
	p.push(t, p.state(p.Workers, web(), late), "--gateway", awake.Name)
	_, newest := held(t, awake)
	open := shut(t, sleeper, awake)
	must(t, sleeper.Boot(t.Context()))
	eventually(t, "the gateway that slept runs what it knew", func() error { return p.inSync(t) })
	stays(t, 4*time.Second, func() error {
		if holders := p.holders(t, web4); len(holders) != 1 || holders[0] != awake {
			return fmt.Errorf("%s is held by %s", web4, names(holders))
		}
		return p.reaches(port(web4, 82))
	})
	if s := p.status(t)[sleeper.Name]; s == nil {
		t.Error("the sleeper does not answer the controller")
	} else if w, found := warning(s, "NotCurrent"); !found {
		t.Errorf("the sleeper warns %v", s.Warnings)
	} else {
		t.Logf("told: %s", w.Message)
	}
	eventually(t, awake.Name+", which may ask, knows what the sleeper holds", func() error {
		told := p.status(t)[awake.Name].Peers
		if len(told) != 1 || !told[0].Answers || told[0].Fence == nil || told[0].Fence.Compare(newest.Fence) >= 0 {
			return fmt.Errorf("it tells %+v", told)
		}
		return nil
	})
	if _, s := held(t, awake); s.Fence != newest.Fence {
		t.Errorf("%s took an older State: %v instead of %v", awake.Name, s.Fence, newest.Fence)
	}
	open()
	eventually(t, "once it can ask, it takes its address back", func() error {
		if err := p.atHome(t); err != nil {
			return err
		}
		return p.reaches(port(web4, 82), port(web6, 82))
	})
	must(t, p.holdAll(t, newest.Fence))
}

// testForgedState: a peer whose State nobody believes is told of, and changes nothing.
func testForgedState(t *testing.T, p *pair) {
	p.begin(t)
	liar, honest := p.Gateways[0], p.Gateways[1]
	signed, before := held(t, honest)
	end(t, liar, "-TERM", "gatewayctl")
	forged := before.Clone()
	forged.Fence.Sequence += 100
	forged.Nodes = forged.Nodes[:1]
	canonical, err := forged.Canonical()
	must(t, err)
	signed.State = canonical // under the signature of another one
	text, err := json.Marshal(signed)
	must(t, err)
	must(t, liar.WriteFile(stateFile, text, 0o600))
	_, err = liar.StartAgent(t.Context())
	must(t, err)
	eventually(t, "the forgery is told", func() error {
		s := p.status(t)[honest.Name]
		if w, found := warning(s, "NewerStateNotTaken"); found {
			t.Logf("told: %s", w.Message)
			return nil
		}
		return fmt.Errorf("%s warns %v and sees %+v", honest.Name, s.Warnings, s.Peers)
	})
	if _, s := held(t, honest); s.Fence != before.Fence {
		t.Errorf("%s took a forged State: %v", honest.Name, s.Fence)
	}
	if s := p.status(t)[honest.Name]; len(s.Nodes) != len(p.Workers) {
		t.Errorf("%s serves %v", honest.Name, s.Nodes)
	}
	p.epoch++ // the next push is newer than the forgery, too
	p.push(t, p.state(p.Workers, web()))
	must(t, p.allCurrent(t))
}

// testPowerFailure: both gateways are off and back with no controller, one with a newer State than the other: they serve, then both
// are current. One that comes back alone serves alone.
func testPowerFailure(t *testing.T, p *pair) {
	p.begin(t)
	for _, knows := range p.Gateways {
		p.push(t, p.state(p.Workers, web()))
		late := service("late", desired.Frontend{Protocol: desired.TCP, Port: 82, NodePort: firstNodePort + 1}, web4, web6)
		p.push(t, p.state(p.Workers, web(), late), "--gateway", knows.Name)
		_, newest := held(t, knows)
		for _, g := range p.Gateways {
			must(t, g.PowerOff())
		}
		if _, err := p.Client.Ask(port(web4, 80), time.Second); err == nil {
			t.Fatal("served without a gateway")
		}
		alone := p.other(knows)
		must(t, alone.Boot(t.Context())) // nobody to ask
		eventually(t, alone.Name+" serves alone", func() error { return p.reaches(webTargets()...) })
		if s := p.status(t)[alone.Name]; s == nil || s.Current {
			t.Errorf("%s, which could ask nobody, is current: %+v", alone.Name, s)
		}
		must(t, alone.PowerOff())
		begun := time.Now()
		must(t, each(p.Gateways, func(g *lab.Host) error { return g.Boot(t.Context()) }))
		eventually(t, "both serve the newest State", func() error {
			if err := p.atHome(t); err != nil {
				return err
			}
			return p.reaches(port(web4, 80), port(web6, 80), port(web4, 82), port(web6, 82))
		})
		t.Logf("%s knew more: all as it should be %v after the power came", knows.Name, time.Since(begun).Round(10*time.Millisecond))
		must(t, p.holdAll(t, newest.Fence))
		eventually(t, "both are current", func() error { return p.allCurrent(t) })
	}
}

// each does something on all hosts at once.
func each(hosts []*lab.Host, do func(*lab.Host) error) error {
	done := make(chan error, len(hosts))
	for _, h := range hosts {
		go func() { done <- do(h) }()
	}
	var first error
	for range hosts {
		if err := <-done; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// testPeersKey: the key with which a gateway asks another one reads the State there, and does nothing else.
func testPeersKey(t *testing.T, p *pair) {
	p.begin(t)
	from, to := p.Gateways[0], p.Gateways[1]
	client := p.clientOf(t, from, lab.PeerKeyFile, lab.PeerHostsFile, to)
	signed, err := client.State(t.Context())
	must(t, err)
	want, _ := held(t, to)
	if !bytes.Equal(signed.State, want.State) {
		t.Error("the State that is handed over is not the one that is held")
	}
	_, applying := client.Apply(t.Context(), *signed)
	_, planning := client.Plan(t.Context(), *signed)
	_, asking := client.Status(t.Context())
	_, probing := client.Probe(t.Context(), []wire.ProbeTarget{{Address: web4}})
	for verb, err := range map[string]error{"plan": planning, "status": asking, "probe": probing} {
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || refusal.Code != wire.CodeRole {
			t.Errorf("%s: %v, want a refusal with code %s", verb, err, wire.CodeRole)
		}
	}
	if applying == nil {
		t.Error("apply with a peer's key succeeded")
	}
	out, _ := from.Run(t.Context(), "ssh", "-i", lab.PeerKeyFile, "-o", "UserKnownHostsFile="+lab.PeerHostsFile, "-o", "BatchMode=yes",
		"gatewayctl@"+to.Addr4.String(), "id")
	if strings.Contains(out, "uid=") {
		t.Errorf("a peer's key ran a command of its choice: %s", out)
	}
}

// testRelay: a controller that reaches one gateway alone gets its State to the other through it, and a gateway that lost its State
// gets it back.
func testRelay(t *testing.T, p *pair) {
	p.begin(t)
	near, far := p.Gateways[0], p.Gateways[1]
	// The controller has a session there, as a running one has; it is cut without a word, so sshd has to notice.
	_, err := p.client(t, far).Hello(t.Context())
	must(t, err)
	must(t, p.Cut(t.Context(), p.Controller, far))
	defer func() {
		must(t, p.Mend(t.Context(), p.Controller, far))
		// What asked for its neighbour in vain until now is told "no route to host" yet.
		eventually(t, "the controller reaches the far gateway again", func() error {
			_, err := p.client(t, far).Hello(t.Context())
			return err
		})
	}()
	late := service("late", desired.Frontend{Protocol: desired.TCP, Port: 82, NodePort: firstNodePort + 1}, web4, web6)
	p.push(t, p.state(p.Workers, web(), late), "--gateway", near.Name)
	begun := time.Now()
	_, newest := held(t, near)
	within(t, 45*time.Second, "the far gateway has the State", func() error { return p.holdAll(t, newest.Fence) })
	t.Logf("handed on %v after it was pushed", time.Since(begun).Round(10*time.Millisecond))
	must(t, p.reaches(port(web4, 82), port(web6, 82)))
	eventually(t, "the near gateway tells what the far one holds", func() error {
		peers := p.status(t)[near.Name].Peers
		if len(peers) != 1 || peers[0].Fence == nil || *peers[0].Fence != newest.Fence {
			return fmt.Errorf("it tells %+v", peers)
		}
		return nil
	})

	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 20, Timeout: 5 * time.Second})
	must(t, err)
	end(t, far, "-TERM", "gatewayctl")
	mustRun(t, far, "rm", stateFile)
	_, err = far.StartAgent(t.Context())
	must(t, err)
	eventually(t, "the far gateway has the State again", func() error {
		text, _ := far.ReadFile(stateFile)
		if !bytes.Contains(text, []byte("signer")) {
			return fmt.Errorf("its disk has %q", text)
		}
		return p.holdAll(t, newest.Fence)
	})
	if held := stop(t, hold); len(held.Cut) != 0 {
		t.Errorf("a State that was lost and found: %+v", held)
	}
}
