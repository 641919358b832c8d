package nftables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// want asks this machine's nft, as the agent does when it starts.
func want(t testing.TB, s *desired.State) *Table {
	t.Helper()
	script, err := RulesScript(DebianLocal("a"), Flows(s))
	if err != nil {
		t.Fatal(err)
	}
	argv := RulesArgv()
	c := nft(t, "", script, argv...)
	table, err := Want(s, DebianLocal("a"), c)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// read lists the table that runs in a namespace.
func read(t testing.TB, namespace string) *Table {
	t.Helper()
	out, stderr, err := tryNFT(namespace, nil, ListArgv()...)
	if err != nil && !Absent(stderr) {
		t.Fatalf("%v\n%s", err, stderr)
	}
	table, err := ReadTable(out)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTableReadBackIsTheTableWanted(t *testing.T) {
	w := newWire(t)
	empty := &desired.State{Gateways: pair().Gateways}
	for name, s := range map[string]*desired.State{"pair": pair(), "ranged": ranged(), "many ranged": manyRanged(300), "empty": empty, "many": many(2000),
		"UDP": manyDatagrams(50, false), "UDP with pools of their own": manyDatagrams(5, true), "all protocols": protocols()} {
		w.load(t, s)
		if d := read(t, w.gateway).Diff(want(t, s)); d != nil {
			t.Errorf("%s: right after loading it differs:\n%s", name, strings.Join(d, "\n"))
		}
	}
}

// Drift is found without anything remembered from the load, and cured by loading the script again.
func TestTableDriftIsFoundAndCured(t *testing.T) {
	const ours = "inet cloud_provider_haproxy"
	w := newWire(t)
	s := pair()
	some := ranged().LoadBalancers[3]
	some.Frontends[0].Port = 443
	some.AllowSources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	some.DenySources = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	s.LoadBalancers = append(s.LoadBalancers, some)
	wanted := want(t, s)
	for _, c := range []struct {
		name, nft string // {front 1} is the handle of the first rule of chain front
		want      string // in the one difference that is told
	}{
		{"table flushed", "flush table " + ours, "chain front lacks control plane ["},
		{"ruleset flushed", "flush ruleset", "table inet cloud_provider_haproxy is absent"},
		{"element removed", "delete element " + ours + " open4 { " + vip4 + " . tcp . 80 }", "set open4 lacks " + vip4 + " . tcp . 80"},
		{"element added", "add element " + ours + " open6 { " + vip6 + " . tcp . 9100 }", "set open6 also has " + vip6 + " . tcp . 9100"},
		{"source allowed", "add element " + ours + " allow4 { " + vip4 + " . tcp . 443 . 198.51.100.0/24 }", "set allow4 also has " + vip4 + " . tcp . 443 . 198.51.100.0/24"},
		{"range of sources allowed", "add element " + ours + " allow4 { " + vip4 + " . tcp . 443 . 198.51.100.1-198.51.100.7 }", "set allow4 also has " + vip4 + " . tcp . 443 . {"},
		{"source no longer allowed", "delete element " + ours + " allow6 { " + vip6 + " . tcp . 443 . 2001:db8::/32 }", "set allow6 lacks " + vip6 + " . tcp . 443 . 2001:db8::/32"},
		{"source no longer denied", "flush set " + ours + " deny4", "set deny4 lacks " + vip4 + " . tcp . 443 . 192.0.2.7"},
		{"set flushed", "flush set " + ours + " vips6", "set vips6 lacks " + vip6},
		{"rule removed", "delete rule " + ours + " guard handle {guard 1}", "chain guard lacks connections that HAProxy has"},
		{"rule added", "insert rule " + ours + " guard tcp dport 22 accept", `chain guard also has [{"match"`},
		{"rule changed, comment kept", "replace rule " + ours + " guard handle {guard 9} meta l4proto vrrp accept comment \"VRRP of anybody else\"",
			"chain guard lacks VRRP of anybody else"},
		{"rules in another order", "delete rule " + ours + " refuse handle {refuse 1}; " +
			"add rule " + ours + " refuse meta l4proto icmp accept comment \"ping, path MTU\"", "chain refuse has its rules in another order"},
		{"policy changed", "chain " + ours + " guard { policy drop; }", `chain guard is {`},
		{"slot removed", "delete element " + ours + " nodes4 { 17 }", "map nodes4 lacks 17 : 10.0.0.1"},
		{"slot of another node", "delete element " + ours + " nodes4 { 17 }; add element " + ours + " nodes4 { 17 : 10.0.0.99 }", "map nodes4 also has 17 : 10.0.0.99"},
		{"NodePort changed", "flush map " + ours + " nodeports4; add element " + ours + " nodeports4 { " + vip4 + " . udp . 53 : 22 }",
			"map nodeports4 also has " + vip4 + " . udp . 53 : 22"},
		{"forwards for strangers", "flush chain " + ours + " forward", "chain forward lacks this machine forwards for Services only"},
		{"chain added", "add chain " + ours + " mine", "chain mine is a stranger's"},
		{"map added", "add map " + ours + " m { type ipv4_addr : verdict; }", "map m is a stranger's"},
		{"chain removed", "flush chain " + ours + " guard; delete chain " + ours + " guard", "chain guard is absent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.load(t, s)
			command := c.nft
			for _, place := range []string{"guard 1", "guard 9", "refuse 1"} {
				command = strings.ReplaceAll(command, "{"+place+"}", handle(t, w, place))
			}
			nft(t, w.gateway, []byte(command), LoadArgv()...)
			got := read(t, w.gateway).Diff(wanted)
			if !strings.Contains(strings.Join(got, "\n"), c.want) {
				t.Errorf("told:\n%s\nwant in it: %s", strings.Join(got, "\n"), c.want)
			}
			w.load(t, s)
			if got := read(t, w.gateway).Diff(wanted); got != nil {
				t.Errorf("not cured:\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

// handle finds the number by which nft knows the nth rule of a chain.
func handle(t *testing.T, w wire, place string) string {
	t.Helper()
	var chain string
	var n int
	if _, err := fmt.Sscan(place, &chain, &n); err != nil {
		t.Fatal(err)
	}
	out := nft(t, w.gateway, nil, "nft", "--handle", "list", "chain", family, tableName, chain)
	for line := range strings.Lines(string(out)) {
		rule, number, ok := strings.Cut(strings.TrimSpace(line), " # handle ")
		if !ok || strings.HasPrefix(rule, "chain") || strings.HasPrefix(rule, "table") {
			continue
		}
		if n--; n == 0 {
			return number
		}
	}
	t.Fatalf("chain %s has fewer rules:\n%s", chain, out)
	return ""
}

// A script replaces our table and leaves every other as it is.
func TestLoadTouchesNobodyElse(t *testing.T) {
	w := newWire(t)
	const foreign = "table inet site {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t\ttcp dport 22 accept\n\t}\n}\n"
	nft(t, w.gateway, []byte(foreign), LoadArgv()...)
	w.load(t, pair())
	w.load(t, many(10))
	if got := string(nft(t, w.gateway, nil, "nft", "list", "table", "inet", "site")); got != foreign {
		t.Errorf("the site's table is now:\n%s", got)
	}
	// Half a script changes nothing.
	script, err := Render(pair(), DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tryNFT(w.gateway, append(script, "add rule inet absent nowhere accept\n"...), LoadArgv()...); err == nil {
		t.Fatal("nft took a script with an error")
	}
	if d := read(t, w.gateway).Diff(want(t, many(10))); d != nil {
		t.Errorf("a refused script changed:\n%s", strings.Join(d, "\n"))
	}
}

func TestDiffIsBounded(t *testing.T) {
	need(t, "nft", "unshare")
	full, bare := want(t, many(100)), want(t, many(0))
	got := bare.Diff(full)
	if last := got[len(got)-1]; len(got) != 2*(mostTold+1) || !strings.Contains(last, "lacks 90 more") {
		t.Errorf("%d lines, the last is %q", len(got), last)
	}
}

func TestReadTableRefusesGarbage(t *testing.T) {
	for _, in := range []string{"{", `{"nftables": 1}`, `{"nftables": [{"set": 1}]}`, `{"nftables": [{"add": 1}]}`} {
		if _, err := ReadTable([]byte(in)); err == nil {
			t.Errorf("%s was read", in)
		}
	}
	if _, err := Want(pair(), DebianLocal("a"), nil); err == nil {
		t.Error("Want took no rules")
	}
}

func BenchmarkLoad(b *testing.B) {
	need(b, "nft", "ip", "unshare")
	for _, c := range []struct {
		name  string
		state *desired.State
	}{{"1000", many(1000)}, {"5000", many(5000)}, {"1000x5ranges", manyRanged(1000)}, {"5000x5ranges", manyRanged(5000)},
		{"1000udp", manyDatagrams(1000, false)}, {"100udpOwn", manyDatagrams(100, true)}} {
		b.Run(c.name, func(b *testing.B) {
			script, err := Render(c.state, DebianLocal("a"))
			if err != nil {
				b.Fatal(err)
			}
			namespace := emptyNamespace(b)
			for b.Loop() {
				nft(b, namespace, script, LoadArgv()...)
			}
		})
	}
}

func BenchmarkReadAndDiff(b *testing.B) {
	need(b, "nft", "ip", "unshare")
	for name, s := range map[string]*desired.State{"1000": many(1000), "5000": many(5000), "1000x5ranges": manyRanged(1000),
		"1000udp": manyDatagrams(1000, false), "100udpOwn": manyDatagrams(100, true)} {
		b.Run(name, func(b *testing.B) {
			wanted := want(b, s)
			script, err := Render(s, DebianLocal("a"))
			if err != nil {
				b.Fatal(err)
			}
			namespace := emptyNamespace(b)
			nft(b, namespace, script, LoadArgv()...)
			for b.Loop() {
				if d := read(b, namespace).Diff(wanted); d != nil {
					b.Fatal(d)
				}
			}
		})
	}
}
