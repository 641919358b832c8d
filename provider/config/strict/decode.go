package strict

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrEmpty is what Unmarshal gives for a file without any YAML document: whoever knows the file says how it begins, or
// that it may be empty.
var ErrEmpty = errors.New("is empty")

// Form is a value that reads its own text (encoding.TextUnmarshaler) and says in words what is allowed: "a duration
// (200ms, 5s, 1m)".
type Form interface{ Form() string }

// Unmarshal reads the one YAML document of b into the struct that target points to, and notes in f what is wrong. The tag
// `yaml:"name"` gives a field's key; `like:"team=web"` gives an example of its value, for whom writes something of another
// kind there. Fields are structs, slices, maps of strings, pointers, strings, bools, int, uint64, and what reads its own
// text. A key without a value is as if it were absent.
func Unmarshal(b []byte, target any, f *Faults) error {
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return ErrEmpty
		}
		f.note("file", "is not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "))
		f.unreadable("")
		return nil
	}
	w := walker{f}
	w.value(document.Content[0], reflect.ValueOf(target).Elem(), place{})
	if err := decoder.Decode(&document); !errors.Is(err, io.EOF) {
		f.note("file", "holds more than one YAML document; one is allowed")
	}
	return nil
}

// place is where in the file a value stands, and what may stand there.
type place struct {
	path string
	// like is an example of the value; empty: none.
	like string
}

// walker follows a YAML tree and a Go value side by side.
type walker struct{ faults *Faults }

func (w walker) value(n *yaml.Node, v reflect.Value, at place) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		w.unread(n, at.path, "uses a YAML anchor or alias; write the value out")
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
		w.text(n, text, at)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.structure(n, v, at)
	case reflect.Map:
		w.mapping(n, v, at)
	case reflect.Slice:
		w.sequence(n, v, at)
	default:
		w.scalar(n, v, at)
	}
}

func (w walker) structure(n *yaml.Node, v reflect.Value, at place) {
	fields := map[string]int{}
	for i := range v.NumField() {
		fields[keyOf(v.Type().Field(i))] = i
	}
	w.entries(n, at.path, Field, func(key, value *yaml.Node) {
		path := Field(at.path, key.Value)
		i, known := fields[key.Value]
		if !known {
			w.wrong(key, path, "unknown field; here are allowed: %s", strings.Join(fieldNames(v.Type()), ", "))
			return
		}
		w.value(value, v.Field(i), place{path, v.Type().Field(i).Tag.Get("like")})
	})
}

func (w walker) mapping(n *yaml.Node, v reflect.Value, at place) {
	v.Set(reflect.MakeMap(v.Type()))
	w.entries(n, at.path, Key, func(key, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		w.value(value, element, place{Key(at.path, key.Value), at.like})
		v.SetMapIndex(reflect.ValueOf(key.Value), element)
	})
}

// entries calls each for every key of a mapping that is there for the first time. What inside gives is the path of a key.
func (w walker) entries(n *yaml.Node, path string, inside func(path, key string) string, each func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		w.unread(n, path, "is %s; a mapping (key: value) is allowed", kindOf(n))
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
			w.wrong(key, inside(path, key.Value), "is written twice, first in line %d; once is allowed", first)
			continue
		}
		lines[key.Value] = key.Line
		each(key, n.Content[i+1])
	}
}

func (w walker) sequence(n *yaml.Node, v reflect.Value, at place) {
	if n.Kind != yaml.SequenceNode {
		w.unread(n, at.path, "is %s; a list (%s) is allowed", kindOf(n), listOf(n, v.Type().Elem()))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, element := range n.Content {
		w.value(element, v.Index(i), place{Index(at.path, i), at.like})
	}
}

// listOf shows how to write a list: with the value that stands there, when it may be the only element.
func listOf(n *yaml.Node, element reflect.Type) string {
	switch {
	case element.Kind() == reflect.Struct && !reflect.PointerTo(element).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "each entry begins with -"
	case n.Kind == yaml.ScalarNode && n.Value != "":
		return "[" + n.Value + "]"
	default:
		return "[a, b]"
	}
}

func (w walker) scalar(n *yaml.Node, v reflect.Value, at place) {
	switch v.Kind() {
	case reflect.String:
		w.string(n, v, at)
	case reflect.Bool:
		w.bool(n, v, at)
	default:
		w.number(n, v, at)
	}
}

func (w walker) string(n *yaml.Node, v reflect.Value, at place) {
	switch {
	case (n.Kind != yaml.ScalarNode || n.Tag != "!!str") && at.like != "":
		w.unread(n, at.path, "is %s; a text like %s is allowed", kindOf(n), at.like)
	case n.Kind != yaml.ScalarNode:
		w.unread(n, at.path, "is %s; a text is allowed", kindOf(n))
	case n.Tag != "!!str":
		w.unread(n, at.path, "%s is no text to YAML; write it in quotes: %q", n.Value, n.Value)
	default:
		v.SetString(n.Value)
	}
}

func (w walker) bool(n *yaml.Node, v reflect.Value, at place) {
	word := strings.ToLower(n.Value)
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool":
		v.SetBool(word == "true")
	case n.Kind == yaml.ScalarNode && (word == "true" || word == "false"):
		w.unread(n, at.path, "is the text %q; write it without quotes: %s", n.Value, word)
	default:
		w.unread(n, at.path, "is %s; true or false is allowed", kindOf(n))
	}
}

// number reads whole numbers in decimal digits.
func (w walker) number(n *yaml.Node, v reflect.Value, at place) {
	number, whole := new(big.Int).SetString(n.Value, 10)
	lowest, highest := limits(v)
	switch {
	case n.Kind != yaml.ScalarNode || !whole:
		w.unread(n, at.path, "is %s; a whole number is allowed", kindOf(n))
	case n.Tag == "!!str":
		w.unread(n, at.path, "is the text %q; write it without quotes: %s", n.Value, number)
	case number.Cmp(lowest) < 0 || number.Cmp(highest) > 0:
		w.unread(n, at.path, "is %s; a whole number from %s to %s is allowed", n.Value, lowest, highest)
	case v.CanUint():
		v.SetUint(number.Uint64())
	default:
		v.SetInt(number.Int64())
	}
}

// limits are the lowest and the highest number that v can be.
func limits(v reflect.Value) (lowest, highest *big.Int) {
	bits := uint(v.Type().Bits())
	one := big.NewInt(1)
	if v.CanUint() {
		return new(big.Int), new(big.Int).Sub(new(big.Int).Lsh(one, bits), one)
	}
	half := new(big.Int).Lsh(one, bits-1)
	return new(big.Int).Neg(half), new(big.Int).Sub(half, one)
}

func (w walker) text(n *yaml.Node, v encoding.TextUnmarshaler, at place) {
	if n.Kind == yaml.ScalarNode && v.UnmarshalText([]byte(n.Value)) == nil {
		return
	}
	allowed := "a text"
	switch v := v.(type) {
	case Form:
		allowed = v.Form()
	case *netip.Addr:
		allowed = "an IP address (192.0.2.1 or 2001:db8::1)"
	case *netip.Prefix:
		allowed = "a network (192.0.2.0/24 or 2001:db8::/64)"
	}
	if n.Kind != yaml.ScalarNode {
		w.unread(n, at.path, "is %s; %s is allowed", kindOf(n), allowed)
		return
	}
	w.unread(n, at.path, "%q; %s is allowed", n.Value, allowed)
}

// unread notes that a value could not be read, with the line where it stands.
func (w walker) unread(n *yaml.Node, path, format string, args ...any) {
	w.wrong(n, path, format, args...)
	w.faults.unreadable(path)
}

// wrong notes a fault with the line where it stands.
func (w walker) wrong(n *yaml.Node, path, format string, args ...any) {
	if path == "" {
		path = "file"
	}
	w.faults.note(path, fmt.Sprintf("line %d: %s", n.Line, fmt.Sprintf(format, args...)))
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

// fieldNames gives the keys of a struct, sorted.
func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, keyOf(t.Field(i)))
	}
	slices.Sort(names)
	return names
}

// keyOf gives the key of a field, without the encoder's options.
func keyOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	return name
}
