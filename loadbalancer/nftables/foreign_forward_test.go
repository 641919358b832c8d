package nftables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForeignForwardDrops(t *testing.T) {
	const forward = "type filter hook forward priority filter; "
	table := func(rules string) string {
		return "table ip site {\n chain forward { " + forward + rules + "\n}\n}\n"
	}
	cure := []string{"nft insert rule ip site forward ct status dnat accept"}
	for _, c := range []struct {
		name, ruleset string
		commands      []string
	}{
		{"accepts", table("policy accept; tcp dport 23 drop"), nil},
		{"policy", table("policy drop; ct state established,related accept"), cure},
		{"final drop", table("ct state established accept; iifname docker0 accept; drop"), cure},
		{"cured", table("policy drop; ct status dnat accept"), nil},
		{"a part of them", table("policy drop; iifname docker0 ct status dnat accept"), cure},
		{"input", "table ip site {\n chain input { type filter hook input priority filter; policy drop;\n}\n}\n", nil},
		{"ours", "table inet cloud_provider_haproxy {\n chain forward { " + forward + "drop\n}\n}\n", nil},
		// Docker, as iptables-nft writes it.
		{"iptables", "table ip filter {\n chain FORWARD { " + forward + "policy drop; jump DOCKER-USER\n}\n chain DOCKER-USER { return\n}\n}\n",
			[]string{"iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			need(t, "nft", "ip")
			namespace := emptyNamespace(t)
			// Chains are known before a rule jumps to them.
			nft(t, namespace, []byte(strings.ReplaceAll(c.ruleset, "table ip filter {\n", "table ip filter {\n chain DOCKER-USER {\n}\n")), LoadArgv()...)
			findings, err := ForeignForwardDrops(nft(t, namespace, nil, RulesetArgv()...))
			if err != nil {
				t.Fatal(err)
			}
			var commands []string
			for _, f := range findings {
				commands = append(commands, f.Commands...)
			}
			if d := cmp.Diff(c.commands, commands); d != "" {
				t.Fatal(d)
			}
			if len(commands) == 0 || !strings.HasPrefix(commands[0], "nft") {
				return
			}
			run(t, append([]string{"ip", "netns", "exec", namespace}, strings.Fields(commands[0])...)...)
			if findings, err = ForeignForwardDrops(nft(t, namespace, nil, RulesetArgv()...)); err != nil || findings != nil {
				t.Errorf("after the command: %+v, %v", findings, err)
			}
		})
	}
}

// A forward chain whose first rule is iptables' conntrack is taken for cured: nft does not tell more of it.
func TestForeignForwardDropsOfIPTables(t *testing.T) {
	const chain = `{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},` +
		`{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": [%1]}},{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": [%2]}}]}`
	conntrack, other := `{"xt": {"type": "match", "name": "conntrack"}}, {"accept": null}`, `{"counter": {}}`
	for rules, want := range map[[2]string]int{{conntrack, other}: 0, {other, conntrack}: 1} {
		findings, err := ForeignForwardDrops([]byte(strings.NewReplacer("%1", rules[0], "%2", rules[1]).Replace(chain)))
		if err != nil || len(findings) != want {
			t.Errorf("%v: %+v, %v", rules, findings, err)
		}
	}
}
