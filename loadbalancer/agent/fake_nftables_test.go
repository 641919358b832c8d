package agent

import (
	"encoding/json"
	"errors"
	"strings"

	"cloud-provider-haproxy/loadbalancer/nftables"
)

// listTable lists our table as nft does, as far as it is read.
func (m *machine) listTable(output *Output) error {
	if m.script == "" {
		output.Stderr = []byte("Error: No such file or directory\n")
		return &CommandError{Argv: nftables.ListArgv(), Code: 1, Output: *output, Err: errors.New("exit status 1")}
	}
	output.Stdout = tableOf(m.script, m.spelling)
	return nil
}

// tableOf is what nft makes of a script of ours: its sets with their elements. Rules never change, but another release of
// nft may spell things in another way.
func tableOf(script, spelling string) []byte {
	type set struct {
		Family string   `json:"family"`
		Table  string   `json:"table"`
		Name   string   `json:"name"`
		Type   string   `json:"type"`
		Elem   []string `json:"elem,omitempty"`
	}
	ours := set{Family: "inet", Table: "cloud_provider_haproxy", Name: "cloud_provider_haproxy", Type: spelling}
	objects := []map[string]set{{"table": ours}}
	elements := false
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && (words[0] == "set" || words[0] == "map"):
			ours.Name = words[1]
			objects = append(objects, map[string]set{words[0]: ours})
		case strings.Join(words, " ") == "elements = {":
			elements = true
		case elements && len(words) == 1 && words[0] == "}":
			elements = false
		case elements:
			last := objects[len(objects)-1]
			for kind, s := range last {
				s.Elem = append(s.Elem, strings.Split(strings.TrimSuffix(strings.TrimSpace(line), ","), ", ")...)
				last[kind] = s
			}
		}
	}
	text, err := json.Marshal(map[string]any{"nftables": objects})
	if err != nil {
		panic(err)
	}
	return text
}
