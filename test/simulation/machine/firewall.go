package machine

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// table is our nftables table as its script says: the sets, and what nft would print. The rules are known: see
// nftables/table.nft.tmpl.
type table struct {
	sets    map[string][]string
	listing []byte
}

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
	t := &table{sets: map[string][]string{}}
	within := false
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		name, isSet := strings.CutPrefix(line, "set ")
		switch {
		case isSet && strings.HasSuffix(name, " {"):
			named.Name = strings.TrimSuffix(name, " {")
			objects = append(objects, map[string]object{"set": named})
			t.sets[named.Name] = nil
		case line == "elements = {":
			within = true
		case within && line == "}":
			within = false
		case within:
			element := strings.TrimSuffix(line, ",")
			t.sets[named.Name] = append(t.sets[named.Name], element)
			last := objects[len(objects)-1]["set"]
			last.Elem = append(last.Elem, element)
			objects[len(objects)-1]["set"] = last
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

// admits is chain front: whether a client's connection gets to HAProxy. guards is chain guard: whether the machine's own
// daemons are kept from it.
func (t *table) admits(client netip.Addr, to netip.AddrPort) bool {
	if t == nil {
		return false
	}
	door := to.Addr().String() + " . tcp . " + strconv.Itoa(int(to.Port()))
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
