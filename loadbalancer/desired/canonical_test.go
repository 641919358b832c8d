package desired_test

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloud-provider-haproxy/loadbalancer/desired"
)

var update = flag.Bool("update", false, "write the golden files anew")

var exact = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// The golden file is what gateways have on disk. When this test fails, either the change was not meant, or States of
// the last release are no longer read, or are signed differently: then Schema has to rise.
func TestCanonicalGolden(t *testing.T) {
	path := filepath.Join("testdata", "schema1.json")
	got := canonical(t, valid())
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("canonical bytes changed (-want +got):\n%s", cmp.Diff(string(want), string(got)))
	}
	s, err := desired.Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid(), s, exact); diff != "" {
		t.Errorf("decoded golden file (-want +got):\n%s", diff)
	}
}

// What gateways have on disk from before addresses could be shared, reserved and quarantined, before load balancers had
// source ranges, the control plane a CA and more ports, servers a drain, and Services knobs, is read and, unchanged, has the same bytes: their signatures stay good.
func TestOlderGoldenIsRead(t *testing.T) {
	for _, file := range []string{"schema1-before-sharing.json", "schema1-before-sources.json", "schema1-before-ca.json",
		"schema1-before-udp-idle.json", "schema1-before-drain.json", "schema1-before-knobs.json"} {
		want, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		s, err := desired.Decode(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if got := canonical(t, s); !bytes.Equal(got, want) {
			t.Errorf("%s: canonical bytes changed (-want +got):\n%s", file, cmp.Diff(string(want), string(got)))
		}
	}
}

func TestCanonicalTreatsNilAndEmptyAlike(t *testing.T) {
	empty := &desired.State{
		Schema: 1, Gateways: []desired.Gateway{}, Instances: []desired.Instance{{Gateways: []string{}}}, VIPs: []desired.VIP{},
		ControlPlane: &desired.ControlPlane{Endpoints: []netip.AddrPort{}}, Nodes: []desired.Node{{Addresses: []netip.Addr{}}},
		LoadBalancers: []desired.LoadBalancer{{Addresses: []netip.Addr{}, Frontends: []desired.Frontend{}, Pool: &desired.Pool{Servers: []desired.Server{}}, AllowSources: []netip.Prefix{}, DenySources: []netip.Prefix{}}},
		Releasing:     []desired.Releasing{{Ports: []desired.Port{}}}, Pools: []desired.PoolSummary{},
		Reserved: []desired.Reserved{}, Quarantined: []desired.Quarantined{},
	}
	missing := &desired.State{
		Schema: 1, Instances: []desired.Instance{{}}, ControlPlane: &desired.ControlPlane{}, Nodes: []desired.Node{{}},
		LoadBalancers: []desired.LoadBalancer{{Pool: &desired.Pool{}}}, Releasing: []desired.Releasing{{}},
	}
	if a, b := canonical(t, empty), canonical(t, missing); !bytes.Equal(a, b) {
		t.Errorf("empty lists give\n%s\nnil lists give\n%s", a, b)
	}
}

func TestDigestLeavesOutTheFenceOnly(t *testing.T) {
	digest := func(s *desired.State) string {
		t.Helper()
		d, err := s.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	refenced := valid()
	refenced.Fence = desired.Fence{ClusterUID: "other", Epoch: 9, Instance: "x", Sequence: 1}
	if a, b := digest(valid()), digest(refenced); a != b {
		t.Errorf("digest changed with the fence: %s, %s", a, b)
	}
	if refenced.Fence.Epoch != 9 {
		t.Error("Digest changed the State's fence")
	}
	for name, change := range map[string]func(s *desired.State){
		"weight":    func(s *desired.State) { s.LoadBalancers[1].Pool.Servers[0].Weight++ },
		"releasing": func(s *desired.State) { s.Releasing[0].SinceSequence++ },
		"schema":    func(s *desired.State) { s.Schema++ },
	} {
		changed := valid()
		change(changed)
		if digest(changed) == digest(valid()) {
			t.Errorf("digest did not change with the %s", name)
		}
	}
	if d := digest(valid()); len(d) != 64 || strings.ToLower(d) != d {
		t.Errorf("digest %q is not lower-case hex of 32 bytes", d)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := string(canonical(t, valid()))
	tests := map[string]struct{ input, want string }{
		"empty":          {"", "unexpected EOF"},
		"not JSON":       {"schema: 1", "invalid character"},
		"cut":            {good[:len(good)-1], "unexpected EOF"},
		"trailing byte":  {good + "x", "data after the state"},
		"second value":   {good + "{}", "data after the state"},
		"unknown field":  {strings.Replace(good, `"vrrp":{`, `"vrrp":{"zone":1,`, 1), `unknown field "zone"`},
		"unknown nested": {strings.Replace(good, `"uid":`, `"colour":1,"uid":`, 1), `unknown field "colour"`},
		"wrong type":     {strings.Replace(good, `"port":80`, `"port":"80"`, 1), "cannot unmarshal string"},
		"port too large": {strings.Replace(good, `"port":80`, `"port":65536`, 1), "65536"},
		"no address":     {strings.Replace(good, `"192.0.2.20"`, `"192.0.2.256"`, 1), "192.0.2.256"},
		"list at top":    {"[]", "cannot unmarshal array"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := desired.Decode([]byte(test.input))
			if err == nil || !strings.HasPrefix(err.Error(), "decode state: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want it to contain %q", err, test.want)
			}
		})
	}
}

func TestDecodeTellsAnotherSchemaBeforeItsUnknownFields(t *testing.T) {
	for input, got := range map[string]int{
		`{"schema":2,"warp":{"drive":true}}`: 2,
		`{"warp":9,"schema":99}`:             99,
		`{"fence":{}}`:                       0,
		`null`:                               0,
	} {
		_, err := desired.Decode([]byte(input))
		var schema *desired.SchemaError
		if !errors.As(err, &schema) {
			t.Errorf("%s: got error %v, want *SchemaError", input, err)
			continue
		}
		if *schema != (desired.SchemaError{Got: got, Want: desired.Schema}) {
			t.Errorf("%s: got %+v", input, *schema)
		}
	}
}

func TestDecodeNormalizes(t *testing.T) {
	s, err := desired.Decode([]byte(`{"schema":1,"nodes":[{"name":"b","addresses":["2001:db8::1","10.0.0.1"]},{"name":"a"}],"vips":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &desired.State{Schema: 1, Nodes: []desired.Node{
		{Name: "a"}, {Name: "b", Addresses: []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")}},
	}}
	if diff := cmp.Diff(want, s, exact); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeSortsByAddressThenOwner(t *testing.T) {
	s, err := desired.Decode([]byte(`{"schema":1,"releasing":[
		{"address":"192.0.2.2","owner":{"namespace":"a","name":"z"},"sinceEpoch":1,"sinceSequence":1},
		{"address":"192.0.2.2","owner":{"namespace":"a","name":"b"},"sinceEpoch":1,"sinceSequence":1,
			"ports":[{"protocol":"UDP","port":1},{"protocol":"TCP","port":443},{"protocol":"TCP","port":80}]},
		{"address":"192.0.2.1","owner":{"namespace":"x","name":"x"},"sinceEpoch":1,"sinceSequence":1}],
		"reserved":[{"address":"2001:db8::1","owner":{"namespace":"a","name":"a"}},{"address":"192.0.2.9","owner":{"namespace":"b","name":"b"}}],
		"quarantined":[{"address":"192.0.2.8","by":"b"},{"address":"192.0.2.7","by":"c"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.Releasing {
		line := r.Address.String() + " " + r.Owner.String()
		for _, p := range r.Ports {
			line += ", " + p.String()
		}
		got = append(got, line)
	}
	for _, r := range s.Reserved {
		got = append(got, r.Address.String()+" for "+r.Owner.String())
	}
	for _, q := range s.Quarantined {
		got = append(got, q.Address.String()+" by "+q.By)
	}
	want := []string{
		"192.0.2.1 x/x", "192.0.2.2 a/b, TCP port 80, TCP port 443, UDP port 1", "192.0.2.2 a/z",
		"192.0.2.9 for b/b", "2001:db8::1 for a/a", "192.0.2.7 by c", "192.0.2.8 by b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOrderAndText(t *testing.T) {
	keys := []desired.Key{{"a", "z"}, {"a-b", "a"}, {"b", "a"}, {"b", "b"}}
	fences := []desired.Fence{{Epoch: 0}, {Epoch: 3, Sequence: 16}, {Epoch: 3, Sequence: 17}, {Epoch: 4, Sequence: 1}}
	for i := range keys {
		for j := range keys {
			want := min(1, max(-1, i-j))
			if got := keys[i].Compare(keys[j]); got != want {
				t.Errorf("%s against %s: got %d, want %d", keys[i], keys[j], got, want)
			}
			if got := fences[i].Compare(fences[j]); got != want {
				t.Errorf("%s against %s: got %d, want %d", fences[i], fences[j], got, want)
			}
		}
	}
	if got := fences[2].String(); got != "epoch 3, sequence 17" {
		t.Errorf("fence is shown as %q", got)
	}
	if got := keys[0].String(); got != "a/z" {
		t.Errorf("key is shown as %q", got)
	}
	signed := desired.Signed{State: []byte("{}")}
	if got := string(signed.SigningInput()); got != "cloud-provider-haproxy state v1\x00{}" {
		t.Errorf("signing input is %q", got)
	}
}
