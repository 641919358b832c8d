package nftables

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForeignDrops(t *testing.T) {
	const input = "type filter hook input priority filter; "
	chain := func(name, rules string) string { return "chain " + name + " { " + rules + "\n}\n" }
	table := func(chains ...string) string { return "table inet site {\n" + strings.Join(chains, "") + "}\n" }
	const clients, vrrp = "nft insert rule inet site input socket transparent 1 accept", "nft insert rule inet site input meta l4proto vrrp accept"
	both := []string{clients, vrrp}
	for _, c := range []struct {
		name, ruleset string
		commands      []string // nil: no finding
	}{
		{"nothing", "", nil},
		{"accepts", table(chain("input", input+"policy accept; tcp dport 23 drop")), nil},
		{"policy", table(chain("input", input+"policy drop; ct state established accept; tcp dport 22 accept")), both},
		{"final drop", table(chain("input", input+"tcp dport 22 accept; counter drop")), both},
		{"final reject", table(chain("input", input+"tcp dport 22 accept; log prefix \"no\" reject with icmpx admin-prohibited")), both},
		{"accept before the drop", table(chain("input", input+"policy drop; accept; drop")), nil},
		{"return to a policy", table(chain("input", input+"policy drop; return; accept")), both},
		{"not input", table(chain("input", "type filter hook forward priority filter; policy drop;")), nil},
		{"has both", table(chain("input", input+"policy drop; socket transparent 1 accept; meta l4proto vrrp accept")), nil},
		{"has clients", table(chain("input", input+"policy drop; socket transparent 1 counter accept")), []string{vrrp}},
		{"has VRRP of a peer", table(chain("input", input+"policy drop; ip saddr 10.0.0.2 ip protocol vrrp accept")), []string{clients}},
		{"VRRP in a set", table(chain("input", input+"policy drop; meta l4proto { icmp, vrrp } accept")), []string{clients}},
		{"clients of one port", table(chain("input", input+"policy drop; tcp dport 80 socket transparent 1 accept; meta l4proto 112 accept")), []string{clients}},
		{"everything but clients", table(chain("input", input+"policy drop; socket transparent 0 accept; meta l4proto != 112 accept")), both},
		{"after the drop", table(chain("input", input+"policy drop; drop; socket transparent 1 accept; meta l4proto vrrp accept")), both},
		{"drop in a jump", table(chain("zone", "tcp dport 22 accept; drop"), chain("input", input+"jump zone; accept")), both},
		{"drop in a goto", table(chain("zone", "drop"), chain("input", input+"goto zone; accept")), both},
		{"goto ends at the policy", table(chain("zone", "tcp dport 22 accept"), chain("input", input+"policy drop; goto zone; accept")), both},
		{"jump that comes back", table(chain("zone", "return; drop"), chain("input", input+"jump zone; accept")), nil},
		{"jump with a condition", table(chain("zone", "drop"), chain("input", input+"iifname eth9 jump zone; accept")), nil},
		{"accepts in a zone", table(chain("zone", "socket transparent 1 accept; meta l4proto vrrp accept; drop"),
			chain("input", input+"iifname eth0 jump zone; drop")), nil},
		{"verdict map", table(chain("zone", "drop"), chain("input", input+"tcp dport vmap { 22 : accept, 23 : goto zone }")), nil},
		{"firewalld", table(
			chain("public", "tcp dport 22 accept; meta l4proto { icmp, ipv6-icmp } accept; reject with icmpx admin-prohibited"),
			chain("zones", "iifname eth0 goto public; goto public"),
			chain("input", input+"ct state { established, related } accept; iifname lo accept; ct state invalid drop; jump zones; reject with icmpx admin-prohibited"),
		), both},
		{"ours is not foreign", "table inet cloud_provider_haproxy {\n" + chain("guard", input+"policy drop;") + "}\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			need(t, "nft", "ip")
			namespace := emptyNamespace(t)
			nft(t, namespace, []byte(c.ruleset), LoadArgv()...)
			findings, err := ForeignDrops(nft(t, namespace, nil, RulesetArgv()...))
			if err != nil {
				t.Fatal(err)
			}
			if c.commands == nil {
				if findings != nil {
					t.Errorf("found %+v", findings)
				}
				return
			}
			if len(findings) != 1 {
				t.Fatalf("found %+v", findings)
			}
			if d := cmp.Diff(c.commands, findings[0].Commands); d != "" {
				t.Errorf("%s", d)
			}
			for _, command := range findings[0].Commands {
				run(t, append([]string{"ip", "netns", "exec", namespace}, strings.Fields(command)...)...)
			}
			findings, err = ForeignDrops(nft(t, namespace, nil, RulesetArgv()...))
			if err != nil || findings != nil {
				t.Errorf("after the commands: %+v, %v", findings, err)
			}
		})
	}
}

// What iptables-nft 1.8.9 leaves in nftables needs iptables' own commands: it refuses a table with a rule that it cannot show
// ("table `filter' is incompatible, use 'nft' tool"). testdata/iptables-*.json is `nft -j -t list ruleset` after
// iptables -P INPUT DROP; iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -j REJECT, and after -I of both accepts.
func TestForeignDropsOfIPTables(t *testing.T) {
	for file, want := range map[string][]Finding{
		"iptables-drop.json": {{
			Family: "ip", Table: "filter", Chain: "INPUT",
			Problem: "chain INPUT of nftables table ip filter drops what it does not know: " +
				"clients of the VIPs time out and a gateway that does not hear the others takes every VIP",
			Commands: []string{"iptables -I INPUT -m socket --transparent -j ACCEPT", "iptables -I INPUT -p vrrp -j ACCEPT"},
		}},
		"iptables-cured.json": nil,
	} {
		ruleset, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ForeignDrops(ruleset)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", file, d)
		}
	}
}

func TestForeignDropsRefusesGarbage(t *testing.T) {
	for _, in := range []string{"", `{"nftables": [{"chain": 1}]}`, `{"nftables": [{"rule": 1}]}`} {
		if _, err := ForeignDrops([]byte(in)); err == nil {
			t.Errorf("%q was read", in)
		}
	}
}

// The whole story: a site's firewall makes clients time out, is found, and the printed commands cure it.
func TestForeignFirewallIsFoundAndCured(t *testing.T) {
	w := newWire(t)
	w.haproxy(t)
	w.load(t, pair())
	nft(t, w.gateway, []byte("table inet filter { chain input { type filter hook input priority filter; policy drop; "+
		"ct state established,related accept; meta l4proto ipv6-icmp accept; tcp dport 22 accept\n}\n}\n"), LoadArgv()...)
	if got := greeting(t, w.client, vip4, "80"); got != "timeout" {
		t.Fatalf("the firewall does not drop: %s", got)
	}
	findings, err := ForeignDrops(nft(t, w.gateway, nil, RulesetArgv()...))
	if err != nil || len(findings) != 1 {
		t.Fatalf("found %+v, %v", findings, err)
	}
	for _, command := range findings[0].Commands {
		run(t, append([]string{"ip", "netns", "exec", w.gateway}, strings.Fields(command)...)...)
	}
	for _, vip := range []string{vip4, vip6} {
		if got := greeting(t, w.client, vip, "80"); got != "services "+door(vip, "80") {
			t.Errorf("after %v: %s", findings[0].Commands, got)
		}
	}
}
