package nftables

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Table is our table as far as it can be compared: definitions of sets and chains, elements, rules. Handles are not part of it.
type Table struct {
	present bool
	objects map[string]*object // by "set open4", "map nodes4", "chain front"...
	// strangers are not part of what is compared: the packet path writes them.
	strangers []netip.Addr
}

// Strangers are the sources of VRRP adverts of the last minutes that were dropped: no peers of the State, or behind a router.
// Sorted. A table that was just replaced has forgotten them; who goes on sending is noted again.
func (t *Table) Strangers() []netip.Addr { return t.strangers }

// Present says whether there is a table at all.
func (t *Table) Present() bool { return t.present }

// object is a set, map or chain. A kind of object that we never make is kept too, so that Diff tells it.
type object struct {
	definition string   // compact JSON, without handle, elements and rules
	members    []string // elements, sorted; or rules, in their order
	ordered    bool
}

// ListArgv prints our table for ReadTable. It exits with 1 when there is none, see Absent.
func ListArgv() []string { return []string{"nft", "--json", "list", "table", family, tableName} }

// Absent says whether stderr of ListArgv means that there is no such table (strerror(ENOENT): run nft with LC_ALL=C).
func Absent(stderr []byte) bool { return bytes.Contains(stderr, []byte("No such file or directory")) }

// RulesScript is the script of our table without any element. Of the State the rules depend on Flows alone: whether it has ports
// of UDP or SCTP.
func RulesScript(l Local, flows bool) ([]byte, error) {
	s := &desired.State{Gateways: []desired.Gateway{{Name: l.Gateway}}}
	if flows {
		s.LoadBalancers = []desired.LoadBalancer{{Frontends: []desired.Frontend{{Protocol: desired.UDP}}}} // at no address
	}
	return Render(s, l)
}

// RulesArgv loads RulesScript (stdin) into a network namespace that ends with the command, and prints the rules as this
// machine's nft and kernel spell them. Its output, for Want, is good until Local, Flows or nft changes: run it when the agent starts, and before a repair.
//
// xargs makes the script an argument. With --json, nft 1.0.6 reads stdin as JSON first, and finds a pipe empty when it then
// reads it as a script: it loads nothing and exits with 0. So nothing may ever be loaded with --json --file -.
func RulesArgv() []string {
	return []string{"xargs", "--null", "unshare", "--net", "--", "nft", "--json", "--echo"}
}

// Want is the table that Render's script makes. rules is the output of RulesArgv.
func Want(s *desired.State, l Local, rules []byte) (*Table, error) {
	t, err := ReadTable(rules)
	if err != nil {
		return nil, fmt.Errorf("reading the rules that nft printed: %w", err)
	}
	sets, err := newSets(s, l)
	if err != nil {
		return nil, fmt.Errorf("finding the wanted nftables table: %w", err)
	}
	for _, one := range sets {
		o, ok := t.objects[one.Kind()+" "+one.Name]
		if !ok {
			return nil, fmt.Errorf("finding the wanted nftables table: %q printed no %s %s", RulesArgv(), one.Kind(), one.Name)
		}
		o.members = one.Elements
	}
	return t, nil
}

// listing is libnftables-json(5).
type listing struct {
	Objects []map[string]json.RawMessage `json:"nftables"`
}

// attributes are those of any object that we look into.
type attributes struct {
	Family  string            `json:"family"`
	Table   string            `json:"table"`
	Name    string            `json:"name"`
	Chain   string            `json:"chain"`
	Comment string            `json:"comment"`
	Elem    json.RawMessage   `json:"elem"`
	Expr    []json.RawMessage `json:"expr"`
}

// ReadTable reads the output of ListArgv. Empty input gives the absent table.
func ReadTable(jsonListTable []byte) (*Table, error) {
	t := &Table{objects: map[string]*object{}}
	if len(bytes.TrimSpace(jsonListTable)) == 0 {
		return t, nil
	}
	var l listing
	if err := json.Unmarshal(jsonListTable, &l); err != nil {
		return nil, fmt.Errorf("reading nft's JSON: %w", err)
	}
	for _, o := range l.Objects {
		if added, ok := o["add"]; ok { // --echo wraps each object
			o = nil
			if err := json.Unmarshal(added, &o); err != nil {
				return nil, fmt.Errorf("reading nft's JSON: %w", err)
			}
		}
		for kind, raw := range o {
			if err := t.read(kind, raw); err != nil {
				return nil, fmt.Errorf("reading %s in nft's JSON: %w", kind, err)
			}
		}
	}
	for _, o := range t.objects {
		if !o.ordered {
			slices.Sort(o.members)
		}
	}
	return t, nil
}

func (t *Table) read(kind string, raw json.RawMessage) error {
	var a attributes
	if err := json.Unmarshal(raw, &a); err != nil {
		return err
	}
	switch {
	case kind == "metainfo" || a.Family != family:
		return nil
	case kind == "table":
		t.present = t.present || a.Name == tableName
		return nil
	case a.Table != tableName:
		return nil
	case kind == "rule":
		o := t.object("chain " + a.Chain)
		o.ordered = true
		expression, err := json.Marshal(a.Expr)
		if err != nil {
			return err
		}
		o.members = append(o.members, strings.TrimSpace(a.Comment+" "+string(expression)))
		return nil
	}
	definition, err := define(raw)
	if err != nil {
		return err
	}
	o := t.object(kind + " " + a.Name)
	o.definition, o.ordered = definition, kind == "chain"
	if kind == "set" && strings.HasPrefix(a.Name, strangersSet) {
		return t.readStrangers(a.Elem)
	}
	o.members, err = readElements(a.Elem)
	return err
}

// strangersSet begins the names of the sets that the rules themselves fill.
const strangersSet = "strangers"

func (t *Table) readStrangers(raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var elements []struct {
		Elem struct {
			Val netip.Addr `json:"val"`
		} `json:"elem"`
	}
	if err := json.Unmarshal(raw, &elements); err != nil {
		return err
	}
	for _, e := range elements {
		t.strangers = append(t.strangers, e.Elem.Val)
	}
	slices.SortFunc(t.strangers, netip.Addr.Compare)
	return nil
}

func (t *Table) object(name string) *object {
	if t.objects[name] == nil {
		t.objects[name] = &object{}
	}
	return t.objects[name]
}

// define gives the object without what differs from load to load or is compared on its own.
func define(raw json.RawMessage) (string, error) {
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return "", err
	}
	delete(all, "handle")
	delete(all, "elem")
	out, err := json.Marshal(all)
	return string(out), err
}

// readElements spells elements as Render does: 192.0.2.10 . tcp . 80 . 10.0.0.0/8, and those of a map 192.0.2.10 . udp . 53 : 30053.
func readElements(raw json.RawMessage) ([]string, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var elements []any
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, err
	}
	out := make([]string, 0, len(elements))
	for _, e := range elements {
		out = append(out, spell(e))
	}
	return out, nil
}

func spell(element any) string {
	switch e := element.(type) {
	case string:
		if a, err := netip.ParseAddr(e); err == nil {
			return a.String() // RFC 5952; inet_ntop differs for ::192.0.2.1
		}
		return e
	case float64:
		return strconv.FormatFloat(e, 'f', -1, 64)
	case []any: // of a map
		if len(e) == 2 {
			return spell(e[0]) + " : " + spell(e[1])
		}
	case map[string]any:
		if p, ok := e["prefix"].(map[string]any); ok && len(e) == 1 && len(p) == 2 {
			return fmt.Sprintf("%s/%s", spell(p["addr"]), spell(p["len"]))
		}
		if jump, ok := e["jump"].(map[string]any); ok && len(e) == 1 {
			return "jump " + spell(jump["target"])
		}
		if parts, ok := e["concat"].([]any); ok && len(e) == 1 {
			words := make([]string, 0, len(parts))
			for _, p := range parts {
				words = append(words, spell(p))
			}
			return strings.Join(words, " . ")
		}
	}
	out, err := json.Marshal(element) // an element that Render never makes: a range, a timeout, a counter
	if err != nil {
		return fmt.Sprint(element)
	}
	return string(out)
}
