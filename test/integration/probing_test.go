package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

// testProbe: a gateway finds out over SSH who has an address, in both families: a stranger, a worker, its peer, nobody; and
// that somebody else has an address which it holds itself.
func testProbe(t *testing.T, p *pair) {
	p.begin(t)
	strange, behind := [2]string{"192.0.2.70", "2001:db8::1:70"}, "192.0.2.71"
	defer give(t, p.Client, "eth0", strange[:]...)()
	defer give(t, p.Workers[1], "lo", behind)() // as kube-proxy in IPVS mode
	asker, worker := p.Gateways[0], p.Workers[0]
	stranger, node, peer := macOf(t, p.Client), macOf(t, worker), macOf(t, p.Gateways[1])
	expectProbe(t, p, asker, map[string]string{
		strange[0]:                   stranger,
		strange[1]:                   stranger,
		worker.Addr4.String():        node + " node " + worker.Name,
		worker.Addr6.String():        node + " node " + worker.Name,
		behind:                       macOf(t, p.Workers[1]) + " node " + p.Workers[1].Name,
		p.Gateways[1].Addr4.String(): peer + " gateway " + p.Gateways[1].Name,
		p.Gateways[1].Addr6.String(): peer + " gateway " + p.Gateways[1].Name,
		asker.Addr4.String():         "nobody",
		asker.Addr6.String():         "nobody",
		"192.0.2.99":                 "nobody",
		"2001:db8::1:99":             "nobody",
		"198.51.100.7":               "198.51.100.7 is in no network of interface eth0 (192.0.2.0/24, 2001:db8::/64)",
		"2001:db8:1::7":              "2001:db8:1::7 is in no network of interface eth0 (192.0.2.0/24, 2001:db8::/64)",
	})
	for _, vip := range []netip.Addr{web4, web6} {
		holder := p.home(t, vip)
		expectProbe(t, p, p.other(holder), map[string]string{vip.String(): macOf(t, holder) + " gateway " + holder.Name})
		expectProbe(t, p, holder, map[string]string{vip.String(): "nobody"})
		take := give(t, p.Client, "eth0", vip.String())
		expectProbe(t, p, holder, map[string]string{vip.String(): stranger})
		take()
	}
	p.begin(t)
}

// testProbeMany: what a probe of many addresses takes, over SSH, and how many are too many.
func testProbeMany(t *testing.T, p *pair) {
	p.begin(t)
	var targets []wire.ProbeTarget
	address := netip.MustParseAddr("2001:db8::1:1000")
	for range wire.MaxProbeTargets {
		targets = append(targets, wire.ProbeTarget{Address: address, Interface: "eth0"})
		address = address.Next()
	}
	client := p.client(t, p.Gateways[0])
	_, err := client.Hello(t.Context()) // connected, from here on
	must(t, err)
	for _, count := range []int{1, 100, 1000, wire.MaxProbeTargets} {
		begun := time.Now()
		probed, err := client.Probe(t.Context(), targets[:count])
		must(t, err)
		took := time.Since(begun)
		t.Logf("a probe of %d free addresses took %v", count, took.Round(time.Millisecond))
		if took > 3*time.Second {
			t.Errorf("%d addresses took %v", count, took)
		}
		for _, a := range probed.Answers {
			if !a.Asked || len(a.Neighbors) != 0 {
				t.Errorf("%+v, want a free address", a)
			}
		}
	}
	_, err = client.Probe(t.Context(), append(targets, targets[0]))
	expectWords(t, err, p.Gateways[0].Name, "1025 addresses are more than the 1024 of one probe")
}

// testLinks: hello tells the networks that a gateway is on and the routers there, and nothing that floats.
func testLinks(t *testing.T, p *pair) {
	p.begin(t)
	g := p.Gateways[0]
	mustRun(t, g, "ip", "route", "add", "203.0.113.0/24", "via", p.Client.Addr4.String())
	defer func() { mustRun(t, g, "ip", "route", "delete", "203.0.113.0/24") }()
	mustRun(t, g, "ip", "route", "add", "2001:db8:5::/48", "via", p.Client.Addr6.String())
	defer func() { mustRun(t, g, "ip", "route", "delete", "2001:db8:5::/48") }()
	hello, err := p.client(t, g).Hello(t.Context())
	must(t, err)
	at := slices.IndexFunc(hello.Links, func(l wire.Link) bool { return l.Interface == "eth0" })
	if at < 0 {
		t.Fatalf("no eth0 in %+v", hello.Links)
	}
	const want = "{eth0 [192.0.2.0/24 2001:db8::/64] [192.0.2.3 2001:db8::3]}"
	if got := fmt.Sprint(hello.Links[at]); got != want {
		t.Errorf("link %s, want %s", got, want)
	}
}

// expectProbe has a gateway asked for addresses, and wants for each: who has it, "nobody", or the problem.
func expectProbe(t *testing.T, p *pair, g *lab.Host, want map[string]string) {
	t.Helper()
	var targets []wire.ProbeTarget
	for address := range want {
		targets = append(targets, wire.ProbeTarget{Address: netip.MustParseAddr(address)})
	}
	begun := time.Now()
	probed, err := p.client(t, g).Probe(t.Context(), targets)
	must(t, err)
	t.Logf("%s asked for %d addresses in %v", g.Name, len(targets), time.Since(begun).Round(time.Millisecond))
	for _, a := range probed.Answers {
		got := "nobody"
		if !a.Asked {
			got = a.Problem
		}
		for _, n := range a.Neighbors {
			got = strings.TrimPrefix(got+"; ", "nobody; ") + n.MAC
			if n.Gateway != "" {
				got += " gateway " + n.Gateway
			}
			if n.Node != "" {
				got += " node " + n.Node
			}
		}
		if got != want[a.Address.String()] {
			t.Errorf("%s asked for %s: %s, want %s", g.Name, a.Address, got, want[a.Address.String()])
		}
	}
}

// give puts addresses on a host's link until they are taken.
func give(t *testing.T, h *lab.Host, link string, addresses ...string) (take func()) {
	t.Helper()
	change := func(verb string) {
		for _, address := range addresses {
			a := netip.MustParseAddr(address)
			mustRun(t, h, "ip", "address", verb, netip.PrefixFrom(a, a.BitLen()).String(), "dev", link)
		}
	}
	change("add")
	return func() { change("delete") }
}

func macOf(t *testing.T, h *lab.Host) string {
	t.Helper()
	return strings.Fields(mustRun(t, h, "ip", "-br", "link", "show", "eth0"))[2]
}
