package nftables

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Finding is somebody else's chain that drops what our table lets in or forwards: an accept of ours does not overrule a drop
// in another table.
type Finding struct {
	Family, Table, Chain string
	Problem              string   // one sentence
	Commands             []string // what to run as root, in this order; to be kept in that firewall's own configuration
}

// RulesetArgv prints the tables of everybody, without set elements, for ForeignDrops.
func RulesetArgv() []string { return []string{"nft", "--json", "--terse", "list", "ruleset"} }

// ForeignDrops finds the input chains of other tables that drop or reject what none of their rules accepts, and whose rules
// do not accept the clients of a VIP (socket transparent 1) and VRRP of the other gateways (protocol 112). It sees neither
// iptables-legacy, which nft cannot list, nor a drop that depends on a condition.
func ForeignDrops(jsonListRuleset []byte) ([]Finding, error) {
	return findDrops(jsonListRuleset, "input", func(c *foreignChain, w walk) (Finding, bool) {
		return newFinding(c, w), !w.clients || !w.vrrp
	})
}

// ForeignForwardDrops finds the forward chains of other tables that drop what none of their rules accepts, and do not accept
// flows that were DNATed: Services of UDP and SCTP need it, as Docker's own published ports do.
func ForeignForwardDrops(jsonListRuleset []byte) ([]Finding, error) {
	return findDrops(jsonListRuleset, "forward", func(c *foreignChain, w walk) (Finding, bool) {
		return newForwardFinding(c), !w.flows
	})
}

// findDrops looks through the chains of a hook that drop; found says whether it matters.
func findDrops(jsonListRuleset []byte, hook string, found func(*foreignChain, walk) (Finding, bool)) ([]Finding, error) {
	order, chains, err := readChains(jsonListRuleset)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, key := range order {
		c := chains[key]
		if c.Hook != hook || (c.Family == family && c.Table == tableName) || !slices.Contains([]string{"inet", "ip", "ip6"}, c.Family) {
			continue
		}
		w := walk{chains: chains, seen: map[chainKey]bool{}}
		if w.through(key) != drops {
			continue
		}
		if f, matters := found(c, w); matters {
			findings = append(findings, f)
		}
	}
	return findings, nil
}

func readChains(jsonListRuleset []byte) (order []chainKey, chains map[chainKey]*foreignChain, err error) {
	var l listing
	if err := json.Unmarshal(jsonListRuleset, &l); err != nil {
		return nil, nil, fmt.Errorf("reading nft's JSON: %w", err)
	}
	chains = map[chainKey]*foreignChain{}
	for _, o := range l.Objects {
		if raw, ok := o["chain"]; ok {
			c := &foreignChain{}
			if err := json.Unmarshal(raw, c); err != nil {
				return nil, nil, fmt.Errorf("reading a chain in nft's JSON: %w", err)
			}
			key := chainKey{c.Family, c.Table, c.Name}
			chains[key] = c
			order = append(order, key)
		}
		if raw, ok := o["rule"]; ok {
			var r foreignRule
			if err := json.Unmarshal(raw, &r); err != nil {
				return nil, nil, fmt.Errorf("reading a rule in nft's JSON: %w", err)
			}
			if c := chains[chainKey{r.Family, r.Table, r.Chain}]; c != nil {
				c.rules = append(c.rules, r.Statements)
			}
		}
	}
	return order, chains, nil
}

type chainKey struct{ family, table, name string }

type foreignChain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Hook   string `json:"hook"`
	Policy string `json:"policy"`
	rules  [][]statement
}

type foreignRule struct {
	Family     string      `json:"family"`
	Table      string      `json:"table"`
	Chain      string      `json:"chain"`
	Statements []statement `json:"expr"`
}

func newFinding(c *foreignChain, w walk) Finding {
	f := Finding{Family: c.Family, Table: c.Table, Chain: c.Name}
	insert := "nft insert rule " + c.Family + " " + c.Table + " " + c.Name + " "
	clients, vrrp := insert+"socket transparent 1 accept", insert+"meta l4proto vrrp accept"
	if c.ofIPTables() {
		// iptables-nft calls a table incompatible, and stops, once it holds a rule of nft's own.
		tool := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.Family]
		clients = tool + " -I " + c.Name + " -m socket --transparent -j ACCEPT"
		vrrp = tool + " -I " + c.Name + " -p vrrp -j ACCEPT"
	}
	lost := ""
	if !w.clients {
		lost = "clients of the VIPs time out"
		f.Commands = append(f.Commands, clients)
	}
	if !w.vrrp {
		if lost != "" {
			lost += " and "
		}
		lost += "a gateway that does not hear the others takes every VIP"
		f.Commands = append(f.Commands, vrrp)
	}
	f.Problem = fmt.Sprintf("chain %s of nftables table %s %s drops what it does not know: %s", c.Name, c.Family, c.Table, lost)
	return f
}

func newForwardFinding(c *foreignChain) Finding {
	command := "nft insert rule " + c.Family + " " + c.Table + " " + c.Name + " ct status dnat accept"
	if c.ofIPTables() {
		command = map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.Family] + " -I " + c.Name + " -m conntrack --ctstate DNAT -j ACCEPT"
	}
	return Finding{Family: c.Family, Table: c.Table, Chain: c.Name, Commands: []string{command},
		Problem: fmt.Sprintf("chain %s of nftables table %s %s drops what it does not know: UDP and SCTP ports of Services time out", c.Name, c.Family, c.Table)}
}

// ofIPTables knows the tables that iptables-nft owns by their fixed names (iptables-nft(8)).
func (c *foreignChain) ofIPTables() bool {
	return c.Family != "inet" && slices.Contains([]string{"INPUT", "FORWARD"}, c.Name) && slices.Contains([]string{"filter", "mangle", "nat", "raw", "security"}, c.Table)
}
