package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/provider/config"
)

// toldState is a gateway that answers what it was made with.
type toldState struct {
	name   string
	signed *desired.Signed
	err    error
}

func (s toldState) Name() string                                   { return s.name }
func (s toldState) State(context.Context) (*desired.Signed, error) { return s.signed, s.err }

// busyState has one of everything that an address can be. It is valid, as a gateway's is.
func busyState(t *testing.T, change func(*desired.State)) *desired.State {
	t.Helper()
	addr := netip.MustParseAddr
	key := func(name string) desired.Key { return desired.Key{Namespace: "default", Name: name} }
	tcp := func(port uint16) desired.Frontend {
		return desired.Frontend{Protocol: desired.TCP, Port: port, NodePort: 30000 + port}
	}
	s := handwrittenWeb(t) // the pair, its instances and the control plane
	s.Fence = desired.Fence{ClusterUID: "uid-1", Epoch: 3, Instance: "a", Sequence: 17}
	s.LoadBalancers, s.VIPs = nil, s.VIPs[:0]
	serve := func(name string, frontends []desired.Frontend, on ...string) {
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{Key: key(name), UID: name, Addresses: addrs(on...), Frontends: frontends})
	}
	serve("web", []desired.Frontend{tcp(80), tcp(443)}, "192.0.2.65", "2001:db8::65")
	serve("dns", []desired.Frontend{tcp(53), {Protocol: desired.UDP, Port: 53, NodePort: 30053}}, "192.0.2.66")
	serve("mail", []desired.Frontend{tcp(25)}, "192.0.2.66")
	serve("printer", []desired.Frontend{tcp(631)}, "192.0.2.70")
	serve("left-pool", []desired.Frontend{tcp(80)}, "203.0.113.9")
	for _, a := range addrs("192.0.2.65", "192.0.2.66", "192.0.2.70", "192.0.2.200", "203.0.113.9", "2001:db8::65") {
		s.VIPs = append(s.VIPs, desired.VIP{Address: a, RouterID: s.Instances[0].RouterID})
	}
	s.Releasing = []desired.Releasing{
		{Address: addr("192.0.2.66"), Owner: key("imap"), Ports: []desired.Port{{Protocol: desired.TCP, Port: 143}, {Protocol: desired.TCP, Port: 993}}, SinceEpoch: 3, SinceSequence: 17},
		{Address: addr("192.0.2.67"), Owner: key("gone"), SinceEpoch: 3, SinceSequence: 16},
		{Address: addr("192.0.2.68"), Owner: key("kept"), SinceEpoch: 3, SinceSequence: 17},
		{Address: addr("192.0.2.70"), Owner: key("scanner"), Ports: []desired.Port{{Protocol: desired.UDP, Port: 161}}, SinceEpoch: 3, SinceSequence: 17},
	}
	s.Reserved = []desired.Reserved{
		{Address: addr("192.0.2.68"), Owner: key("kept"), Kept: true},
		{Address: addr("192.0.2.70"), Owner: key("printer")},
		{Address: addr("192.0.2.71"), Owner: key("later")},
	}
	s.Quarantined = []desired.Quarantined{
		{Address: addr("192.0.2.71"), By: "52:54:00:12:34:56"}, {Address: addr("2001:db8::66"), By: "52:54:00:aa:bb:cc (node w1)"},
	}
	s.Pools = []desired.PoolSummary{
		{Name: "inside", Family: 4, Size: 62, Assigned: 3, Releasing: 2, Quarantined: 1},
		{Name: "inside", Family: 6, Size: 1<<64 - 1, Assigned: 1, Quarantined: 1},
		{Name: "outside", Family: 4, Size: 11},
	}
	s.Normalize()
	if change != nil {
		change(s)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func told(t *testing.T, name string, s *desired.State) toldState {
	t.Helper()
	text, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return toldState{name: name, signed: &desired.Signed{State: text}}
}

func TestPools(t *testing.T) {
	c, err := config.Decode([]byte(strings.Replace(cloudConfig, "[192.0.2.64/26]", `[192.0.2.64/26, "2001:db8::/64"]`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	inside := c.AddressPools()
	// few is a State with little in it, for what depends on the gateways alone.
	few := func(name string, change func(*desired.State)) stateSource {
		return told(t, name, busyState(t, func(s *desired.State) {
			s.LoadBalancers, s.Reserved, s.Quarantined = nil, nil, nil
			s.Releasing, s.ControlPlane, s.VIPs = s.Releasing[1:3], nil, nil
			if change != nil {
				change(s)
			}
		}))
	}
	unreachable := &gateway.UnreachableError{Gateway: "gw2", Address: "192.0.2.2:22", Doing: "connecting", Err: fmt.Errorf("connection refused")}
	refused := fmt.Errorf("gateway gw1 refused state: %w", &wire.Refusal{Code: wire.CodeRole, Message: "a stranger may not ask this", Remedy: "use the controller's key"})
	tests := []struct {
		name    string
		sources []stateSource
		pools   []ipam.Pool
		verdict string // empty: exit status 0
	}{
		{"well", []stateSource{told(t, "gw1", busyState(t, nil)), told(t, "gw2", busyState(t, nil))}, inside, ""},
		{"one is behind", []stateSource{few("gw1", func(s *desired.State) { s.Fence.Sequence = 16 }), few("gw2", nil)}, inside, "hold another State: gw1"},
		{"one cannot be asked", []stateSource{few("gw1", nil), toldState{name: "gw2", err: unreachable}}, inside, "cannot be asked: gw2"},
		{"same number, another State", []stateSource{few("gw1", nil), few("gw2", func(s *desired.State) { s.Pools = s.Pools[:1] })}, inside, "hold another State: gw2"},
		{"another cluster", []stateSource{few("gw1", nil), few("gw2", func(s *desired.State) { s.Fence.ClusterUID, s.Fence.Sequence = "uid-2", 16 })},
			inside, "hold another State: gw2"},
		{"one is new", []stateSource{toldState{name: "gw1"}, few("gw2", nil)}, inside, "hold another State: gw1"},
		{"nobody has one", []stateSource{toldState{name: "gw1"}, toldState{name: "gw2"}}, inside, "no gateway ever got a State"},
		{"nobody can be asked", []stateSource{toldState{name: "gw1", err: refused}, toldState{name: "gw2", err: unreachable}}, inside, "cannot be asked: gw1, gw2"},
		{"State of another release", []stateSource{toldState{name: "gw1", signed: &desired.Signed{State: []byte(`{"schema":9}`)}}, few("gw2", nil)},
			inside, "cannot be asked: gw1"},
		{"other pools", []stateSource{few("gw1", nil)}, inside[1:], ""},
		{"excluded later", []stateSource{few("gw1", nil)}, []ipam.Pool{
			{Name: "inside", Ranges: inside[0].Ranges, Exclude: []netipx.IPRange{ipam.Exclude(netip.MustParseAddr("192.0.2.67"), "").Range}}, inside[1]}, ""},
		{"written by hand", []stateSource{few("gw1", func(s *desired.State) { s.Releasing, s.Pools = nil, nil })}, inside, ""},
		{"full", []stateSource{few("gw1", func(s *desired.State) {
			s.Releasing = nil
			s.Pools = []desired.PoolSummary{
				{Name: "inside", Family: 4, Size: 1000, Assigned: 990, Releasing: 3, Reserved: 3, Quarantined: 3}, {Name: "inside", Family: 6, Size: 4, Assigned: 1, Reserved: 2},
				{Name: "outside", Family: 4, Size: 11, Assigned: 8, Reserved: 3}, {Name: "outside", Family: 6, Size: 1<<64 - 1, Assigned: 1 << 63},
			}
		})}, inside, ""},
	}
	var tables strings.Builder
	for _, test := range tests {
		var out strings.Builder
		got := ""
		if err := showPools(t.Context(), test.sources, test.pools, "table", &out); err != nil {
			got = err.Error()
		}
		if got != test.verdict {
			t.Errorf("%s: verdict %q, want %q", test.name, got, test.verdict)
		}
		fmt.Fprintf(&tables, "# %s\n%s\n", test.name, out.String())
	}
	golden(t, "pools", tables.String())
}

// The JSON is for scripts: its names are a promise.
func TestPoolsJSON(t *testing.T) {
	unreachable := &gateway.UnreachableError{Gateway: "gw2", Address: "192.0.2.2:22", Doing: "connecting", Err: fmt.Errorf("connection refused")}
	var out strings.Builder
	for _, sources := range [][]stateSource{
		{told(t, "gw1", busyState(t, nil)), toldState{name: "gw2", err: unreachable}, toldState{name: "gw3"}},
		{toldState{name: "gw1"}},
	} {
		if err := showPools(t.Context(), sources, readCloudConfig(t).AddressPools(), "json", &out); err == nil {
			t.Error("a gateway that cannot be asked and one without a State are no fault")
		}
	}
	golden(t, "pools-json", out.String())
}

func TestPoolsFlags(t *testing.T) {
	for args, words := range map[string]string{
		"":                               `required flag(s) "cloud-config" not set`,
		"--cloud-config /absent -o yaml": `"yaml": give table or json`,
		"--cloud-config /absent":         "no such file",
		"--cloud-config /absent extra":   "unknown command",
	} {
		command := newPoolsCommand()
		command.SetArgs(strings.Fields(args))
		command.SetOut(new(bytes.Buffer))
		command.SetErr(new(bytes.Buffer))
		if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", args, err, words)
		}
	}
}
