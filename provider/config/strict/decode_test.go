package strict

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/go-multierror"
)

type file struct {
	Text    string            `yaml:"text,omitempty"`
	Label   string            `yaml:"label" like:"team=web"`
	Number  int               `yaml:"number"`
	Count   uint64            `yaml:"count"`
	Switch  *bool             `yaml:"switch"`
	Address netip.Addr        `yaml:"address"`
	Names   []string          `yaml:"names"`
	Owners  map[string]string `yaml:"owners" like:"default/web"`
	Rooms   []room            `yaml:"rooms"`
}

type room struct {
	Name string   `yaml:"name"`
	Door *door    `yaml:"door"`
	Keys []string `yaml:"keys"`
}

type door struct {
	Width int `yaml:"width"`
}

func faultsOf(t *testing.T, f *Faults) []string {
	t.Helper()
	if f.Err() == nil {
		return nil
	}
	var list *multierror.Error
	if !errors.As(f.Err(), &list) {
		t.Fatalf("%v is no go-multierror list", f.Err())
	}
	var texts []string
	for _, err := range list.Errors {
		texts = append(texts, err.Error())
	}
	return texts
}

func TestWhatIsRight(t *testing.T) {
	yes := true
	tests := map[string]struct {
		text string
		want file
	}{
		"all": {`text: "5"
label: a b
number: -7
count: 18446744073709551615
switch: True
address: "2001:DB8::1"
names: [a, "1"]
owners: {192.0.2.1: a/b}
rooms:
- {name: x, door: {width: 007}}
-
`, file{Text: "5", Label: "a b", Number: -7, Count: 1<<64 - 1, Switch: &yes, Address: netip.MustParseAddr("2001:db8::1"),
			Names: []string{"a", "1"}, Owners: map[string]string{"192.0.2.1": "a/b"},
			Rooms: []room{{Name: "x", Door: &door{7}}, {}}}},
		"keys without values": {"text:\nnumber: ~\nswitch: null\nrooms:\n", file{}},
		"nothing":             {"{}", file{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got file
			var f Faults
			if err := Unmarshal([]byte(test.text), &got, &f); err != nil || f.Err() != nil {
				t.Fatal(err, f.Err())
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string
	}{
		"kinds": {`text: [a]
label: {matchLabels: {team: web}}
number: "7"
count: -1
switch: "False"
address: here
names: a
owners: [a]
rooms: {name: a}
`, []string{
			"text: line 1: is a list; a text is allowed",
			"label: line 2: is a mapping; a text like team=web is allowed",
			`number: line 3: is the text "7"; write it without quotes: 7`,
			"count: line 4: is -1; a whole number from 0 to 18446744073709551615 is allowed",
			`switch: line 5: is the text "False"; write it without quotes: false`,
			`address: line 6: "here"; an IP address (192.0.2.1 or 2001:db8::1) is allowed`,
			`names: line 7: is "a"; a list ([a]) is allowed`,
			"owners: line 8: is a list; a mapping (key: value) is allowed",
			"rooms: line 9: is a mapping; a list (each entry begins with -) is allowed"}},
		"numbers": {"text: 5\nlabel: 5\nnumber: 1.5\ncount: 1e3\nswitch: 1\n", []string{
			`text: line 1: 5 is no text to YAML; write it in quotes: "5"`,
			`label: line 2: is "5"; a text like team=web is allowed`,
			`number: line 3: is "1.5"; a whole number is allowed`,
			`count: line 4: is "1e3"; a whole number is allowed`,
			`switch: line 5: is "1"; true or false is allowed`}},
		"too large": {"number: 9223372036854775808\n", []string{
			"number: line 1: is 9223372036854775808; a whole number from -9223372036854775808 to 9223372036854775807 is allowed"}},
		"keys": {"name: a\nnames: []\nnames: [a]\n? [a]\n: b\n<<: {text: a}\nrooms: [{doors: 1}]\nowners: {a.b: [], a.b: c}\n", []string{
			"name: line 1: unknown field; here are allowed: address, count, label, names, number, owners, rooms, switch, text",
			"names: line 3: is written twice, first in line 2; once is allowed",
			"file: line 4: has a key that is no plain word; merge keys and complex keys are not allowed",
			"file: line 6: has a key that is no plain word; merge keys and complex keys are not allowed",
			"rooms[0].doors: line 7: unknown field; here are allowed: door, keys, name",
			"owners[a.b]: line 8: is a list; a text like default/web is allowed",
			"owners[a.b]: line 8: is written twice, first in line 8; once is allowed"}},
		"anchors": {"text: &a b\nlabel: *a\n", []string{
			"text: line 1: uses a YAML anchor or alias; write the value out",
			"label: line 2: uses a YAML anchor or alias; write the value out"}},
		"no YAML":       {"text: [", []string{"file: is not YAML: line 1: did not find expected node content"}},
		"two documents": {"text: a\n---\ntext: b\n", []string{"file: holds more than one YAML document; one is allowed"}},
		"a list":        {"[text]", []string{"file: line 1: is a list; a mapping (key: value) is allowed"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var f Faults
			if err := Unmarshal([]byte(test.text), new(file), &f); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, faultsOf(t, &f)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if err := Unmarshal([]byte(text), new(file), &Faults{}); text != "---\n" && !errors.Is(err, ErrEmpty) {
			t.Errorf("%q: %v, want that it is empty", text, err)
		}
	}
}

// What could not be read is judged by nobody, and neither are its parts; its neighbours are.
func TestUnreadIsNotJudged(t *testing.T) {
	text := "rooms: [{name: [], keys: [a, []]}, 5, {name: []}]\nowners: {worker: [], worker.example: a}\nnames: x\nnumber: 5\nnumber: 6\n"
	var f Faults
	if err := Unmarshal([]byte(text), new(file), &f); err != nil {
		t.Fatal(err)
	}
	before := len(faultsOf(t, &f))
	for path, judged := range map[string]bool{
		"rooms": true, "rooms[0]": true, "rooms[0].name": false, "rooms[0].names": true, "rooms[0].keys": true, "rooms[0].keys[0]": true,
		"rooms[0].keys[1]": false, "rooms[1]": false, "rooms[1].name": false, "rooms[1].door.width": false, "rooms[10].name": true,
		"owners[worker]": false, "owners[worker.example]": true, "names": false, "names[0]": false, "number": true, "text": true,
	} {
		if f.Unread(path) == judged {
			t.Errorf("%s is unread: %t, want %t", path, !judged, judged)
		}
		f.Add(path, "told")
	}
	if told := len(faultsOf(t, &f)) - before; told != 9 {
		t.Errorf("%d more faults are told, want the 9 of what could be read", told)
	}
	var none Faults
	if err := Unmarshal([]byte("5"), new(file), &none); err != nil || !none.Unread("text") || !none.Unread("file") {
		t.Errorf("a part of a file that is no mapping was read: %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("rooms: [{name: a, door: {width: 1}}]\nowners: {a: b}"))
	f.Add([]byte("&a [*a]: {<<: 1}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var faults Faults
		var v file
		if err := Unmarshal(b, &v, &faults); err != nil && !errors.Is(err, ErrEmpty) {
			t.Error(err)
		}
	})
}
