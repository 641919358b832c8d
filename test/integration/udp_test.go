package integration

import (
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
		{"pods", testPods},
		{"slots", testDatagramsChangeSlot},
		{"affinity", testDatagramsStick},
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

// testDatagramSources: who may not connect is refused, the others are served. A flow that was there is served for the drain time.
func testDatagramSources(t *testing.T, p *pair) {
	lb := dns()
	lb.DrainSeconds = 3
	p.beginDatagrams(t, lb)
	flows, _ := p.talks(t, 2, dnsTargets()...)
	lb.DenySources = []netip.Prefix{netip.PrefixFrom(p.Client.Addr4, 32), netip.PrefixFrom(p.Client.Addr6, 128)}
	p.push(t, p.state(p.Workers, web(), lb))
	for _, k := range flows {
		if who, _ := k.ask(time.Second); p.Host(who) == nil {
			t.Errorf("a flow whose client may not connect any more: %s, before the drain time", who)
		}
	}
	for _, k := range flows {
		eventually(t, "it is refused after the drain time", func() error {
			if who, _ := k.ask(300 * time.Millisecond); who != "refused" {
				return errors.New(who)
			}
			return nil
		})
	}
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

// testDatagramsLocal: a Service with a pool of its own is served by its servers that pass their check, else by its backups, and
// refuses without any.
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
	// A backup is not checked: kube-proxy's answer is 503 where pods only terminate.
	lb.Pool.Servers[0].Backup = true
	p.push(t, p.state(p.Workers, web(), lb))
	eventually(t, "a backup serves while the other server fails", by(p.Workers[1]))
	must(t, p.Workers[2].SetHealthy(t.Context(), true))
	eventually(t, "the other server serves again, and it alone", by(p.Workers[2]))
	lb.Pool.Servers[0].Backup, lb.Pool.Servers[1].Backup, lb.Pool.Servers[0].Drains = false, true, true
	p.push(t, p.state(p.Workers, web(), lb))
	eventually(t, "one that drains has no flow beside a backup", by(p.Workers[2]))
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
