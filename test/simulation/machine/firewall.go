package machine

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// table is our nftables table as its script says: the sets and maps, and what nft would print. The rules are known: see
// nftables/table.nft.tmpl.
type table struct {
	sets    map[string][]string
	maps    map[string]map[string]string
	listing []byte
}

// ours begins the lines of a script that are about our table. One without any is about the second hop, which is not modelled.
const ours = "table inet cloud_provider_haproxy"

// Poison is a port that this nft refuses without saying whose it is.
const Poison = 666

// makeTable reads a script; nil when it only deletes the table.
func makeTable(script string) *table {
	type object struct {
		Family string   `json:"family"`
		Table  string   `json:"table"`
		Name   string   `json:"name"`
		Elem   []string `json:"elem,omitempty"`
	}
	named := object{Family: "inet", Table: "cloud_provider_haproxy", Name: "cloud_provider_haproxy"}
	objects := []map[string]object{{"table": named}}
	t := &table{sets: map[string][]string{}, maps: map[string]map[string]string{}}
	within := false
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		kind, name, _ := strings.Cut(line, " ")
		switch {
		case (kind == "set" || kind == "map") && strings.HasSuffix(name, " {"):
			named.Name = strings.TrimSuffix(name, " {")
			objects = append(objects, map[string]object{kind: named})
			if kind == "set" {
				t.sets[named.Name] = nil
			} else {
				t.maps[named.Name] = map[string]string{}
			}
		case line == "elements = {":
			within = true
		case within && line == "}":
			within = false
		case within:
			elements := strings.Split(strings.TrimSuffix(line, ","), ", ")
			t.add(named.Name, elements)
			for _, last := range objects[len(objects)-1:] {
				for kind, o := range last {
					o.Elem = append(o.Elem, elements...)
					last[kind] = o
				}
			}
		}
	}
	if len(t.sets) == 0 {
		return nil
	}
	listing, err := json.Marshal(map[string]any{"nftables": objects})
	if err != nil {
		panic(err) // strings alone
	}
	t.listing = listing
	return t
}

// add puts elements into a set, or a map.
func (t *table) add(name string, elements []string) {
	values, isMap := t.maps[name]
	if !isMap {
		t.sets[name] = append(t.sets[name], elements...)
		return
	}
	for _, e := range elements {
		key, value, _ := strings.Cut(e, " : ")
		values[key] = value
	}
}

func (m *Machine) setTable(t *table) {
	m.table = t
	select {
	case m.firewall <- struct{}{}:
	default: // one is waiting to be seen
	}
}

func (m *Machine) listTable(argv []string, output *agent.Output) error {
	if m.table == nil {
		return fails(argv, output, "Error: No such file or directory\n")
	}
	output.Stdout = m.table.listing
	return nil
}

func checkTable(argv []string, script []byte, output *agent.Output) error {
	if strings.Contains(string(script), ". "+strconv.Itoa(Poison)) {
		return fails(argv, output, "Error: Could not process rule: Invalid argument\n")
	}
	return nil
}

// admits is chain front, and for datagrams chain admit: whether a client gets to who serves the door. guards is chain guard:
// whether the machine's own daemons are kept from it.
func (t *table) admits(client netip.Addr, protocol string, to netip.AddrPort) bool {
	if t == nil {
		return false
	}
	door := doorOf(protocol, to)
	matches := func(element string) bool {
		source, ok := strings.CutPrefix(element, door+" . ")
		if !ok {
			return false
		}
		if prefix, err := netip.ParsePrefix(source); err == nil {
			return prefix.Contains(client)
		}
		return source == client.String()
	}
	switch {
	case slices.ContainsFunc(t.sets["deny4"], matches):
		return false
	case slices.Contains(t.sets["open4"], door):
		return true
	}
	return slices.ContainsFunc(t.sets["allow4"], matches)
}

func (t *table) guards(vip netip.Addr) bool {
	return t != nil && slices.Contains(t.sets["vips4"], vip.String())
}

// doorOf is a port of a VIP as elements begin.
func doorOf(protocol string, to netip.AddrPort) string {
	return to.Addr().String() + " . " + protocol + " . " + strconv.Itoa(int(to.Port()))
}
