package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"go.yaml.in/yaml/v3"
)

// faults collects what is wrong with a file, in the order in which it is found.
type faults struct{ list *multierror.Error }

// add notes one fault: the path of the field, what is wrong, and what is allowed.
func (f *faults) add(path, format string, args ...any) {
	f.list = multierror.Append(f.list, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (f *faults) err() error { return f.list.ErrorOrNil() }

// unmarshal reads the one YAML document of b into c. Keys that are unknown or written twice, values of another type,
// anchors and further documents are faults. What could be read is in c even if there are faults, so that Validate can
// tell its own in the same list.
func unmarshal(b []byte, c *Config, f *faults) {
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			f.add("file", "is empty; it begins with apiVersion: %s and kind: %s", APIVersion, Kind)
			return
		}
		f.add("file", "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	w := walker{faults: f}
	w.value(document.Content[0], reflect.ValueOf(c).Elem(), "")
	if err := decoder.Decode(&document); !errors.Is(err, io.EOF) {
		f.add("file", "holds more than one YAML document; one is allowed")
	}
}

// walker follows a YAML tree and a Go value side by side.
type walker struct{ faults *faults }

func (w walker) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		w.wrong(n, path, "uses a YAML anchor or alias; write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // as if the key were absent
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		w.text(n, text, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.structure(n, v, path)
	case reflect.Map:
		w.mapping(n, v, path)
	case reflect.Slice:
		w.sequence(n, v, path)
	default:
		w.scalar(n, v, path)
	}
}

func (w walker) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := map[string]int{}
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("yaml")] = i
	}
	w.entries(n, path, func(key, value *yaml.Node) {
		i, known := fields[key.Value]
		if !known {
			w.wrong(key, join(path, key.Value), "unknown field; here are allowed: %s", strings.Join(fieldNames(v.Type()), ", "))
			return
		}
		w.value(value, v.Field(i), join(path, key.Value))
	})
}

func (w walker) mapping(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	w.entries(n, path, func(key, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		w.value(value, element, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), element)
	})
}

// entries calls each for every key of a mapping that is there for the first time.
func (w walker) entries(n *yaml.Node, path string, each func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		w.wrong(n, path, "is %s; a mapping (key: value) is allowed", kindOf(n))
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			w.wrong(key, path, "has a key that is no plain word; merge keys and complex keys are not allowed")
			continue
		}
		if first, twice := lines[key.Value]; twice {
			w.wrong(key, join(path, key.Value), "is written twice, first in line %d; once is allowed", first)
			continue
		}
		lines[key.Value] = key.Line
		each(key, n.Content[i+1])
	}
}

func (w walker) sequence(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		w.wrong(n, path, "is %s; a list ([a, b]) is allowed", kindOf(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, element := range n.Content {
		w.value(element, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (w walker) scalar(n *yaml.Node, v reflect.Value, path string) {
	switch {
	case v.Kind() == reflect.String && n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		v.SetString(n.Value)
	case v.Kind() == reflect.String && n.Kind == yaml.ScalarNode:
		w.wrong(n, path, "%s is no text to YAML; write it in quotes: %q", n.Value, n.Value)
	case v.Kind() == reflect.Int && n.Tag == "!!int":
		number, err := strconv.Atoi(n.Value)
		if err != nil {
			w.wrong(n, path, "%s is not a decimal number", n.Value)
			return
		}
		v.SetInt(int64(number))
	case v.Kind() == reflect.Bool && n.Tag == "!!bool":
		v.SetBool(strings.EqualFold(n.Value, "true"))
	default:
		w.wrong(n, path, "is %s; %s is allowed", kindOf(n), map[reflect.Kind]string{
			reflect.String: "a text", reflect.Int: "a number", reflect.Bool: "true or false"}[v.Kind()])
	}
}

func (w walker) text(n *yaml.Node, v encoding.TextUnmarshaler, path string) {
	if n.Kind == yaml.ScalarNode && v.UnmarshalText([]byte(n.Value)) == nil {
		return
	}
	allowed := "a duration (200ms, 5s, 1m) is allowed"
	switch v.(type) {
	case *netip.Addr:
		allowed = "an IP address (192.0.2.1 or 2001:db8::1) is allowed"
	case *netip.Prefix:
		allowed = "a network (192.0.2.0/24 or 2001:db8::/64) is allowed"
	}
	if n.Kind != yaml.ScalarNode {
		w.wrong(n, path, "is %s; %s", kindOf(n), allowed)
		return
	}
	w.wrong(n, path, "%q; %s", n.Value, allowed)
}

// wrong notes a fault with the line where it stands.
func (w walker) wrong(n *yaml.Node, path, format string, args ...any) {
	if path == "" {
		path = "file"
	}
	w.faults.add(path, "line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return strconv.Quote(n.Value)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldNames gives the keys of a struct, sorted.
func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("yaml"))
	}
	slices.Sort(names)
	return names
}
