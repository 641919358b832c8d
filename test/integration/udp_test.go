package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// TestDatagrams runs all tests of UDP and SCTP on one shared pair.
func TestDatagrams(t *testing.T) {
	lab.RequirePrograms(t, "conntrack", "sysctl")
	p := &pair{Lab: lab.New(t, lab.Options{Workers: 3, NodePorts: nodePorts()}), epoch: 10}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *pair)
	}{
		{"served", testDatagramsServed},
		{"shared-port", testBothProtocols},
		{"sources", testDatagramSources},
		{"local", testDatagramsLocal},
		{"stranger", testStrangerIsNotRouted},
		{"node-dies", testDatagramsNodeDies},
		{"all-die", testDatagramsAllUnhealthy},
		{"planned", testDatagramsPlannedMove},
		{"holder-dies", testDatagramsHolderDies},
		{"rate", testDatagramRate},
		{"sctp", testSCTP},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, p) })
	}
}

const dnsNodePort = firstNodePort + 5

// dns is a Service of TCP and UDP on the same port of the same addresses.
func dns() desired.LoadBalancer {
	lb := service("dns", desired.Frontend{Name: "tcp", Protocol: desired.TCP, Port: 53, NodePort: dnsNodePort}, web4, web6)
	lb.Frontends = append(lb.Frontends, desired.Frontend{Name: "udp", Protocol: desired.UDP, Port: 53, NodePort: dnsNodePort})
	return lb
}

func dnsTargets() []string { return []string{port(web4, 53), port(web6, 53)} }

// beginDatagrams makes web and dns run over all workers.
func (p *pair) beginDatagrams(t *testing.T, services ...desired.LoadBalancer) {
	t.Helper()
	p.begin(t)
	p.push(t, p.state(p.Workers, append(services, web())...))
	if len(services) > 0 {
		p.awaitDatagrams(t, services[0].Pool == nil)
	}
}

// awaitDatagrams waits until UDP is served, and every gateway has taken all workers into its table again: a flow that begins while
// one is left out stays where it is, and another gateway would give it to that one.
func (p *pair) awaitDatagrams(t *testing.T, byAll bool) {
	t.Helper()
	eventually(t, "UDP is served", func() error {
		for _, target := range dnsTargets() {
			if got := p.askOnce(t, p.Client, target); p.Host(got) == nil {
				return fmt.Errorf("%s: %s", target, got)
			}
		}
		if !byAll {
			return nil
		}
		for _, g := range p.Gateways {
			table := mustRun(t, g, "nft", "list", "table", "inet", "cloud_provider_haproxy")
			for _, w := range p.Workers {
				for _, a := range []netip.Addr{w.Addr4, w.Addr6} {
					if !strings.Contains(table, " : "+a.String()+",") {
						return fmt.Errorf("%s leaves out %s", g.Name, a)
					}
				}
			}
		}
		return nil
	})
}

// talk is a flow: one socket of a client.
type talk struct {
	target string
	conn   net.Conn
}

func (p *pair) talk(t *testing.T, from *lab.Host, target string) *talk {
	t.Helper()
	conn, err := from.Dial(t.Context(), "udp", target)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &talk{target, conn}
}

// ask sends a datagram and gives who answered, and whom that one saw; "refused" or "timeout" without an answer.
func (k *talk) ask(patience time.Duration) (who, seen string) {
	_ = k.conn.SetDeadline(time.Now().Add(patience))
	buffer := make([]byte, 2048)
	_, err := k.conn.Write([]byte("?"))
	n := 0
	if err == nil {
		n, err = k.conn.Read(buffer)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused", ""
	case err != nil:
		return "timeout", ""
	}
	words := strings.Fields(string(buffer[:n]))
	return words[0], words[1]
}

func (p *pair) askOnce(t *testing.T, from *lab.Host, target string) string {
	t.Helper()
	who, _ := p.talk(t, from, target).ask(300 * time.Millisecond)
	return who
}

// talks are flows of the client, half of them to each target, with who answered each.
func (p *pair) talks(t *testing.T, count int, targets ...string) (all []*talk, by []string) {
	t.Helper()
	for n := range count {
		k := p.talk(t, p.Client, targets[n%len(targets)])
		who, _ := k.ask(2 * time.Second)
		all, by = append(all, k), append(by, who)
	}
	return all, by
}

func tally(by []string) map[string]int {
	counts := map[string]int{}
	for _, who := range by {
		counts[who]++
	}
	return counts
}

// testDatagramsServed: every node gets flows of both families, a flow stays at its node, and the nodes see the VIP and the client's port.
func testDatagramsServed(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	for _, target := range dnsTargets() {
		flows, by := p.talks(t, 60, target)
		counts := tally(by)
		t.Logf("%s: 60 flows by %v", target, counts)
		for _, w := range p.Workers {
			if counts[w.Name] < 8 {
				t.Errorf("%s: %s has %d of 60 flows", target, w.Name, counts[w.Name])
			}
		}
		for i, k := range flows {
			who, seen := k.ask(2 * time.Second)
			vip := netip.MustParseAddrPort(target).Addr()
			mine := netip.MustParseAddrPort(k.conn.LocalAddr().String()).Port()
			if who != by[i] || seen != port(vip, mine) {
				t.Errorf("flow %v: %s and then %s saw %s, want the same one to see %s", k.conn.LocalAddr(), by[i], who, seen, port(vip, mine))
			}
		}
	}
	for name, s := range p.status(t) {
		if !s.InSync {
			t.Errorf("%s is not in sync: %v", name, s.Drift)
		}
	}
}

// testBothProtocols: TCP and UDP have port 53 of one address, of one Service and of two that share it.
func testBothProtocols(t *testing.T, p *pair) {
	both := dns()
	overTCP, overUDP := dns(), dns()
	overTCP.Name, overTCP.Frontends = "dns-tcp", both.Frontends[:1]
	overUDP.Name, overUDP.Frontends = "dns-udp", []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: dnsNodePort + 1}}
	for name, services := range map[string][]desired.LoadBalancer{"one Service": {both}, "two Services": {overTCP, overUDP}} {
		p.beginDatagrams(t, services...)
		eventually(t, name+" is served over TCP", func() error { return p.reaches(dnsTargets()...) })
		for _, target := range dnsTargets() {
			if who := p.askOnce(t, p.Client, target); p.Host(who) == nil {
				t.Errorf("%s: %s over UDP: %s", name, target, who)
			}
		}
	}
	p.beginDatagrams(t) // without dns
	for _, target := range dnsTargets() {
		eventually(t, "a removed Service's UDP port refuses", func() error { return p.refusesDatagrams(t, p.Client, target) })
	}
}

func (p *pair) refusesDatagrams(t *testing.T, from *lab.Host, target string) error {
	t.Helper()
	if who := p.askOnce(t, from, target); who != "refused" {
		return errors.New(who)
	}
	return nil
}

// testDatagramSources: who may not connect is refused, the others are served.
func testDatagramSources(t *testing.T, p *pair) {
	lb := dns()
	lb.DenySources = []netip.Prefix{netip.PrefixFrom(p.Client.Addr4, 32), netip.PrefixFrom(p.Client.Addr6, 128)}
	p.begin(t)
	p.push(t, p.state(p.Workers, web(), lb))
	for _, target := range dnsTargets() {
		eventually(t, "a denied client is refused", func() error { return p.refusesDatagrams(t, p.Client, target) })
		eventually(t, "another one is served", func() error {
			if who := p.askOnce(t, p.Controller, target); p.Host(who) == nil {
				return errors.New(who)
			}
			return nil
		})
	}
	lb.AllowSources, lb.DenySources = lb.DenySources, nil
	p.push(t, p.state(p.Workers, web(), lb))
	for _, target := range dnsTargets() {
		eventually(t, "a client that is not allowed is refused", func() error { return p.refusesDatagrams(t, p.Controller, target) })
		if who := p.askOnce(t, p.Client, target); p.Host(who) == nil {
			t.Errorf("%s: an allowed client: %s", target, who)
		}
	}
}

// testDatagramsLocal: a Service with a pool of its own is served by its servers that pass their check, and refuses without one.
func testDatagramsLocal(t *testing.T, p *pair) {
	lb := dns()
	lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
		Check: desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 250, Rise: 1, Fall: 2}}
	for _, w := range p.Workers[1:] {
		lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
	}
	p.beginDatagrams(t, lb)
	by := func(want ...*lab.Host) func() error {
		return func() error {
			_, by := p.talks(t, 24, dnsTargets()...)
			counts, sum := tally(by), 0
			for _, w := range want {
				sum += counts[w.Name]
			}
			if sum != 24 || len(counts) != len(want) {
				return fmt.Errorf("answered by %v", counts)
			}
			return nil
		}
	}
	eventually(t, "its two servers serve", by(p.Workers[1:]...))
	must(t, p.Workers[1].SetHealthy(t.Context(), false))
	eventually(t, "the server that is left serves", by(p.Workers[2]))
	must(t, p.Workers[2].SetHealthy(t.Context(), false))
	for _, target := range dnsTargets() {
		eventually(t, "without a server it refuses", func() error { return p.refusesDatagrams(t, p.Client, target) })
	}
}

// testStrangerIsNotRouted: the gateways forward, and nobody who takes one for a router gets through it.
func testStrangerIsNotRouted(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	const beyond4, beyond6 = "203.0.113.7", "2001:db8:7::7"
	worker, gateway := p.Workers[0], p.Gateways[0]
	for _, argv := range [][]string{
		{"ip", "address", "add", beyond4 + "/32", "dev", "lo"}, {"ip", "address", "add", beyond6 + "/128", "dev", "lo", "nodad"},
	} {
		mustRun(t, worker, argv...)
	}
	for _, hop := range []struct {
		at, via *lab.Host
	}{{gateway, worker}, {p.Client, gateway}} {
		mustRun(t, hop.at, "ip", "route", "replace", beyond4+"/32", "via", hop.via.Addr4.String())
		mustRun(t, hop.at, "ip", "route", "replace", beyond6+"/128", "via", hop.via.Addr6.String())
	}
	for i, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		eventually(t, "the kernel forwards", func() error {
			if got := mustRun(t, gateway, "cat", file); got != "1" {
				return fmt.Errorf("%s is %s", file, got)
			}
			return nil
		})
		target := netip.AddrPortFrom(netip.MustParseAddr([]string{beyond4, beyond6}[i]), firstNodePort).String()
		// Over TCP: a worker's UDP socket answers from its first address, whoever asks which.
		if _, err := gateway.Ask(target, time.Second); err != nil {
			t.Errorf("the gateway itself does not reach %s: %v", target, err)
		}
		if who, err := p.Client.Ask(target, time.Second); err == nil {
			t.Errorf("through the gateway %s answers: %s", target, who)
		}
	}
	for _, host := range []*lab.Host{p.Client, gateway} {
		mustRun(t, host, "ip", "route", "del", beyond4+"/32")
		mustRun(t, host, "ip", "-6", "route", "del", beyond6+"/128")
	}
}

// testDatagramsNodeDies: flows of a node that dies move within the time of its check, all others stay, and it gets its own back.
func testDatagramsNodeDies(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	flows, before := p.talks(t, 90, dnsTargets()...)
	victim := p.Workers[1]
	begun := time.Now()
	must(t, victim.PowerOff())
	within(t, 10*time.Second, "no flow goes to a dead node", func() error {
		left := 0
		for i, k := range flows {
			if before[i] != victim.Name {
				continue
			}
			if who, _ := k.ask(50 * time.Millisecond); p.Host(who) == nil || who == victim.Name {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d flows have no answer", left)
		}
		return nil
	})
	t.Logf("a node lost its power: its %d of %d flows moved within %v", tally(before)[victim.Name], len(flows), time.Since(begun).Round(10*time.Millisecond))
	for i, k := range flows {
		who, _ := k.ask(time.Second)
		if before[i] != victim.Name && who != before[i] {
			t.Errorf("a flow of %s went to %s although only %s died", before[i], who, victim.Name)
		}
	}
	must(t, victim.Boot(t.Context()))
	eventually(t, "new flows reach it again", func() error {
		_, by := p.talks(t, 30, dnsTargets()...)
		if tally(by)[victim.Name] == 0 {
			return fmt.Errorf("answered by %v", tally(by))
		}
		return nil
	})
}

// testDatagramsAllUnhealthy: when every node fails the check, all are used.
func testDatagramsAllUnhealthy(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
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
	eventually(t, "all nodes serve", func() error {
		if _, by := p.talks(t, 60, dnsTargets()...); len(tally(by)) != 3 || tally(by)["timeout"]+tally(by)["refused"] != 0 {
			return fmt.Errorf("answered by %v", tally(by))
		}
		return nil
	})
}

// chatter asks over each flow all the time, until stop, and tells how many datagrams had no answer and whether a node changed.
func chatter(flows []*talk, by []string) (stop func() (sent, lost, moved int64, longest time.Duration)) {
	var sent, lost, moved atomic.Int64
	gaps := make([]time.Duration, len(flows))
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i, k := range flows {
		group.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for last := time.Now(); ; {
				who, _ := k.ask(200 * time.Millisecond)
				sent.Add(1)
				switch who {
				case "timeout", "refused":
					lost.Add(1)
				default:
					if who != by[i] {
						moved.Add(1)
					}
					gaps[i] = max(gaps[i], time.Since(last))
					last = time.Now()
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() (int64, int64, int64, time.Duration) {
		cancel()
		group.Wait()
		longest := time.Duration(0)
		for _, g := range gaps {
			longest = max(longest, g)
		}
		return sent.Load(), lost.Load(), moved.Load(), longest
	}
}

// testDatagramsPlannedMove: a gateway hands its addresses over and takes them back, and each flow goes on at its node.
func testDatagramsPlannedMove(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	p.push(t, p.state(p.Workers, web(), dns()))
	p.awaitDatagrams(t, true)
	flows, by := p.talks(t, 40, dnsTargets()...)
	stopChatter := chatter(flows, by)
	const rounds = 3
	for range rounds {
		eventually(t, "the drain is granted", func() error {
			_, err := p.tryDrain(t, drained, "--reason", "new kernel", "--grace", "2s")
			return err
		})
		must(t, p.onlyAt(t, heir))
		p.undrain(t, drained)
		eventually(t, "the addresses are back", func() error { return p.atHome(t) })
	}
	sent, lost, moved, longest := stopChatter()
	t.Logf("%d drains and undrains: of %d datagrams of 40 flows %d had no answer, longest gap %v, %d answers by another node", rounds, sent, lost, longest.Round(time.Millisecond), moved)
	if moved != 0 {
		t.Errorf("%d answers came from another node than the flow's", moved)
	}
	if lost*50 > sent {
		t.Errorf("%d of %d datagrams had no answer", lost, sent)
	}
}

// testDatagramsHolderDies: the heir gives each flow to the node that the dead holder had given it to.
func testDatagramsHolderDies(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	holder := p.home(t, web4)
	flows, by := p.talks(t, 40, dnsTargets()...)
	stopChatter := chatter(flows, by)
	must(t, holder.PowerOff())
	eventually(t, "the heir has the addresses", func() error { return p.onlyAt(t, p.other(holder)) })
	for i, k := range flows {
		eventually(t, "the flow goes on", func() error {
			who, _ := k.ask(200 * time.Millisecond)
			if who != by[i] {
				return fmt.Errorf("%s answered, before it was %s", who, by[i])
			}
			return nil
		})
	}
	sent, lost, moved, longest := stopChatter()
	t.Logf("the holder lost its power: of %d datagrams of 40 flows %d had no answer, longest gap %v, %d answers by another node", sent, lost, longest.Round(time.Millisecond), moved)
	if moved != 0 {
		t.Errorf("%d answers came from another node than the flow's", moved)
	}
	must(t, holder.Boot(t.Context()))
	eventually(t, "the addresses are back", func() error { return p.atHome(t) })
}

// testDatagramRate measures; what is slow today fails nothing.
func testDatagramRate(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	measure := func(target string) float64 {
		var answered atomic.Int64
		var group sync.WaitGroup
		begun := time.Now()
		for range 16 {
			k := p.talk(t, p.Client, target)
			group.Go(func() {
				for time.Since(begun) < 2*time.Second {
					if who, _ := k.ask(time.Second); p.Host(who) != nil {
						answered.Add(1)
					}
				}
			})
		}
		group.Wait()
		return float64(answered.Load()) / time.Since(begun).Seconds()
	}
	for _, c := range []struct{ direct, vip string }{
		{port(p.Workers[0].Addr4, dnsNodePort), port(web4, 53)}, {port(p.Workers[0].Addr6, dnsNodePort), port(web6, 53)},
	} {
		direct, through := measure(c.direct), measure(c.vip)
		t.Logf("%s: %.0f exchanges a second, directly %s: %.0f (%+.0f %%)", c.vip, through, c.direct, direct, 100*(through/direct-1))
		if through < 100 {
			t.Errorf("%s: %.0f exchanges a second", c.vip, through)
		}
	}
}

// testSCTP needs a kernel with SCTP sockets.
func testSCTP(t *testing.T, p *pair) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_SEQPACKET, syscall.IPPROTO_SCTP)
	if err != nil {
		t.Skipf("this kernel has no SCTP sockets (%v): the table for SCTP is only checked by nft", err)
	}
	must(t, syscall.Close(fd))
	lb := dns()
	lb.Frontends = []desired.Frontend{{Protocol: desired.SCTP, Port: 53, NodePort: dnsNodePort}}
	p.begin(t)
	p.push(t, p.state(p.Workers, web(), lb))
	for _, w := range p.Workers {
		_, err := w.Start("sctp", "socat", fmt.Sprintf("SCTP-LISTEN:%d,fork,reuseaddr", dnsNodePort), "SYSTEM:echo "+w.Name)
		must(t, err)
	}
	eventually(t, "SCTP is served", func() error {
		out, err := p.Client.Run(t.Context(), "socat", "-u", "SCTP-CONNECT:"+port(web4, 53), "-")
		if err == nil && p.Host(strings.TrimSpace(out)) == nil {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
}
