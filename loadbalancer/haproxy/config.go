package haproxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Names of the backends that Render always makes. Of each pair, the first is checked and the second is not.
const (
	nodesBackend            = "nodes"
	nodesOpenBackend        = "nodes-open"
	nodes6Backend           = "nodes6"
	nodes6OpenBackend       = "nodes6-open"
	controlPlaneBackend     = "control-plane"
	controlPlaneOpenBackend = "control-plane-open"
	servicesFrontend        = "services"
	openSuffix              = "-open"
)

// Config is everything that one gateway's HAProxy runs from.
type Config struct {
	// File, ServicesMap and ChecksMap are the contents of the files that Local names.
	File, ServicesMap, ChecksMap []byte
	// Generation is a digest of each part that only a reload changes, as "part:digest/part:digest". It is rendered as
	// the description in global, so that `show info` of the running worker proves which configuration it loaded.
	// Servers, slots and the contents of maps are no part of it.
	Generation string
	// Servers are the servers of every backend that takes servers, sorted by name; an empty slot has none.
	Servers map[string][]Server
	// Entries and Checks are the entries of the two maps, sorted by key.
	Entries, Checks []Entry
	// CA is the content of CAFile, certificates in PEM; both are empty when no check verifies.
	CA     []byte
	CAFile string
	// Local is what the configuration was rendered for.
	Local Local

	owners  map[int]desired.Key
	tenants map[string]Tenant // of slots
	pods    map[pod]bool      // all that State names
}

// Entry is one line of a map.
type Entry struct {
	Key, Value string
}

// Owner tells which load balancer alone is behind a line of File, the first being 1. Lines that serve all of them have
// no owner.
func (c *Config) Owner(line int) (desired.Key, bool) {
	key, ok := c.owners[line]
	return key, ok
}

// slotLines finds the owners of all lines that belong to slots.
func slotLines(file []byte, tenants map[string]Tenant) map[int]desired.Key {
	owners := map[int]desired.Key{}
	var owner Tenant
	var owned bool
	number := 0
	for line := range bytes.Lines(file) {
		number++
		if name, ok := sectionName(line); ok {
			owner, owned = tenants[strings.TrimPrefix(name, "backend ")]
		}
		if owned {
			owners[number] = owner.Key
		}
	}
	return owners
}

// sectionName gives "backend nodes" for the line that begins that section.
func sectionName(line []byte) (string, bool) {
	if len(line) == 0 || bytes.ContainsAny(line[:1], " #\n") {
		return "", false
	}
	words := strings.Fields(string(line))
	if len(words) > 1 {
		return words[0] + " " + words[1], true
	}
	return words[0], true
}

// GenerationOf is the Generation that a worker would have to tell that loaded these bytes, whatever they say themselves. It
// differs from Config.Generation when somebody edited what only a reload changes.
func GenerationOf(file []byte) string { return generation(file) }

// slotSection begins the name of each slot's section, as generation has it.
const slotSection = "backend-" + slotPrefix

// generation digests a rendered file by section, leaving out what changes at run time. Comments count: the one above
// nodes says how its servers are checked, which no runtime command changes.
func generation(file []byte) string {
	sections := map[string][]byte{}
	current := "preamble"
	var comment []byte
	var told []string // what the name of the section says already
	sticks := map[string]bool{}
	for line := range bytes.Lines(file) {
		switch {
		case line[0] == '#':
			comment = append(comment, line...) // belongs to the section that follows
			continue
		case bytes.HasPrefix(line, []byte("  server ")) || bytes.HasPrefix(line, []byte("  description ")),
			len(told) > 0 && slices.Contains(told, string(bytes.TrimSpace(line))):
			continue
		}
		if table, ok := tableOf(line); ok {
			sticks[stickOf(table, current, line)] = true
			continue
		}
		if name, ok := sectionName(line); ok {
			current = strings.ReplaceAll(name, " ", "-")
			kind, _ := parseSlot(strings.TrimPrefix(name, "backend "))
			told = kind.timeoutLines()
			line, comment = append(comment, line...), nil
			if strings.HasPrefix(current, slotSection) {
				sections[current] = nil
				continue // its name and its owner
			}
		}
		if line[0] != '\n' {
			sections[current] = append(sections[current], line...)
		}
	}
	// How many slots there are is Compare's own question; what each kind of them says is not.
	shapes := map[string]bool{}
	for name, section := range sections {
		if strings.HasPrefix(name, slotSection) {
			shapes[string(section)] = true
			delete(sections, name)
		}
	}
	for _, stick := range slices.Sorted(maps.Keys(sticks)) {
		table, line, _ := strings.Cut(stick, " ")
		sections[table] = append(sections[table], line...)
	}
	sections["slots"] = []byte(strings.Join(slices.Sorted(maps.Keys(shapes)), "\n"))
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		sum := sha256.Sum256(sections[name])
		parts = append(parts, fmt.Sprintf("%s:%s", name, hex.EncodeToString(sum[:6])))
	}
	return strings.Join(parts, "/")
}

// parseGeneration is the reverse of generation; nil when it was not made by it. (`show info` puts a description with a
// comma in quotes, hence the slashes.)
func parseGeneration(text string) map[string]string {
	parts := map[string]string{}
	for part := range strings.SplitSeq(text, "/") {
		name, digest, ok := strings.Cut(part, ":")
		if !ok {
			return nil
		}
		parts[name] = digest
	}
	return parts
}
