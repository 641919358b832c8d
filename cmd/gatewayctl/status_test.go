package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// toldStatus is a gateway that answers what it was made with.
type toldStatus struct {
	name   string
	status *wire.Status
	err    error
}

func (s toldStatus) Name() string                                 { return s.name }
func (s toldStatus) Status(context.Context) (*wire.Status, error) { return s.status, s.err }

// well is the status of a gateway where all is well; change edits it.
func well(name string, change func(*wire.Status)) toldStatus {
	status := &wire.Status{
		Hello: wire.Hello{Gateway: name, Agent: "v1.0.0", Role: wire.RoleController, Schema: desired.Schema,
			HAProxy: "2.6.12", Keepalived: "2.2.7", NFTables: "1.0.6"},
		Fence:   desired.Fence{ClusterUID: "uid-1", Epoch: 3, Instance: "a", Sequence: 17},
		Digest:  "0123456789abcdef0123456789abcdef",
		Applied: time.Date(2026, 3, 1, 10, 5, 0, 0, time.FixedZone("CET", 3600)),
		InSync:  true, HAProxyUp: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), KeepalivedUp: true,
		Held:    addrs("192.0.2.10", "192.0.2.12"),
		Current: true,
		Reloads: map[string]uint64{"first start": 1, "slots refilled": 2}, RuntimeUpdates: 112,
		Rounds:      map[wire.Outcome]uint64{wire.Runtime: 112, wire.Unchanged: 40, wire.Reloaded: 3},
		Nodes:       []wire.NodeStatus{{Name: "w1", State: "UP", Sessions: 100}, {Name: "w2", State: "NOCHECK", Sessions: 99}},
		Connections: 57, OldWorkers: 1,
		Limited: []wire.Limited{{Service: desired.Key{Namespace: "shop", Name: "db"}, Port: 5432, Lately: 17, Total: 2017}},
	}
	if change != nil {
		change(status)
	}
	return toldStatus{name: name, status: status}
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestStatus(t *testing.T) {
	unreachable := &gateway.UnreachableError{Gateway: "gw2", Address: "192.0.2.2:22", Doing: "connecting", Err: fmt.Errorf("connection refused")}
	tests := []struct {
		name    string
		sources []statusSource
		verdict string // empty: exit status 0
	}{
		{"well", []statusSource{well("gw1", nil), well("gw2", func(s *wire.Status) { s.Held, s.Reloads = nil, nil })}, ""},
		{"unreachable", []statusSource{well("gw1", nil), toldStatus{name: "gw2", err: unreachable}}, "unreachable: gw2"},
		{"refused", []statusSource{toldStatus{name: "gw1",
			err: fmt.Errorf("gateway gw1 refused status: %w", &wire.Refusal{Code: wire.CodeRole, Message: "a peer may not ask this", Remedy: "use the controller's key"})}},
			"unreachable: gw1"},
		{"behind", []statusSource{well("gw1", func(s *wire.Status) { s.Fence.Sequence = 16 }), well("gw2", nil)}, "out of sync: gw1"},
		{"same number, another State", []statusSource{well("gw1", nil), well("gw2", func(s *wire.Status) { s.Digest = "ff" })}, "out of sync: gw2"},
		{"another cluster", []statusSource{well("gw1", nil), well("gw2", func(s *wire.Status) { s.Fence.ClusterUID = "uid-2" })}, "out of sync: gw2"},
		{"drift", []statusSource{well("gw1", func(s *wire.Status) {
			s.InSync, s.Drift = false, []string{"map entry 192.0.2.10:80 is missing"}
			s.HAProxyUp, s.KeepalivedUp, s.Held = time.Time{}, false, nil
			s.Nodes = []wire.NodeStatus{{Name: "w1", State: "DOWN"}, {Name: "w2", State: "MAINT"}, {Name: "w3", State: "UP", StateIPv6: "DOWN"}}
			s.Warnings = []wire.Warning{{Reason: "ForeignFirewall", Message: "table inet filter drops; run: nft insert rule inet filter input socket transparent 1 accept"}}
		}), well("gw2", nil)}, "out of sync: gw1"},
		{"new gateway", []statusSource{toldStatus{name: "gw1", status: &wire.Status{Hello: wire.Hello{Gateway: "gw1", Schema: desired.Schema}, KeepalivedUp: true}}},
			"out of sync: gw1"},
		{"other schema", []statusSource{well("gw1", func(s *wire.Status) { s.Hello.Schema = 2 })}, "out of sync: gw1"},
		{"alone since it booted", []statusSource{well("gw1", func(s *wire.Status) {
			s.Current = false
			s.Peers = []wire.PeerStatus{{Gateway: "gw2", Problem: unreachable.Error()}, {Gateway: "gw3", Answers: true, Fence: &s.Fence}}
			s.Warnings = []wire.Warning{{Reason: "NotCurrent", Message: "since it booted nobody has confirmed"}}
		})}, ""},
		{"drained", []statusSource{well("gw1", func(s *wire.Status) {
			s.Held = nil
			s.Drain = &wire.DrainStatus{Since: s.Applied, Until: s.Applied.Add(30 * time.Second), By: wire.RoleOperator, Reason: "new kernel", Connections: 25}
		}), well("gw2", func(s *wire.Status) { s.Held, s.Drain = nil, &wire.DrainStatus{Reason: "the mark cannot be read"} })}, ""},
		{"many VIPs", []statusSource{well("gw1", func(s *wire.Status) {
			s.Held = addrs("192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "2001:db8::10")
		})}, ""},
	}
	var tables, wide strings.Builder
	for _, test := range tests {
		list := askStatus(t.Context(), test.sources)
		got := ""
		if err := judge(list); err != nil {
			got = err.Error()
		}
		if got != test.verdict {
			t.Errorf("%s: verdict %q, want %q", test.name, got, test.verdict)
		}
		fmt.Fprintf(&tables, "# %s\n%s\n", test.name, statusTable(list, false))
		fmt.Fprintf(&wide, "# %s\n%s\n", test.name, statusTable(list, true))
	}
	golden(t, "status", tables.String())
	golden(t, "status-wide", wide.String())
}

// The JSON is for scripts: its names are a promise.
func TestStatusJSON(t *testing.T) {
	missing := &gateway.AgentMissingError{Gateway: "gw2", Address: "192.0.2.2:22", User: "gatewayctl", Err: fmt.Errorf("exit status 127")}
	list := askStatus(t.Context(), []statusSource{well("gw1", nil), toldStatus{name: "gw2", err: missing}})
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status-json", string(text)+"\n")
}

func TestStatusFlags(t *testing.T) {
	for args, words := range map[string]string{
		"":                                       "cloud-config local",
		"--local --cloud-config x":               "none of the others can be",
		"--local -o yaml":                        `"yaml": give json or wide`,
		"--cloud-config /absent":                 "no such file",
		"--local --socket /absent/agent.sock":    "unreachable",
		"--local --socket /absent/agent.sock -o": "needs an argument",
	} {
		command := newStatusCommand()
		command.SetArgs(strings.Fields(args))
		command.SetOut(new(bytes.Buffer))
		command.SetErr(new(bytes.Buffer))
		if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", args, err, words)
		}
	}
}

// --local asks the socket as an operator and prints what comes back.
func TestStatusLocal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	replies := []wire.Reply{
		{Version: wire.Version, Status: well("gw1", nil).status},
		{Version: wire.Version, Refusal: &wire.Refusal{Code: wire.CodeRole, Message: "operators are root"}},
		{Version: wire.Version, Empty: true},
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for _, reply := range replies {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var preamble wire.Preamble
			var request wire.Request
			if wire.ReadFrame(conn, &preamble) != nil || wire.ReadFrame(conn, &request) != nil ||
				preamble.Role != wire.RoleOperator || request.Verb != wire.VerbStatus || request.Version != wire.Version {
				t.Errorf("asked %+v as %+v", request, preamble)
			}
			_ = wire.WriteFrame(conn, reply)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	out := new(bytes.Buffer)
	if err := showStatus(t.Context(), statusFlags{local: true, socket: socket}, out); err != nil || !strings.Contains(out.String(), "gw1      yes        3/17       yes") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, words := range []string{"operators are root", "something else than status"} {
		out.Reset()
		if err := showStatus(t.Context(), statusFlags{local: true, socket: socket}, out); err == nil || !strings.Contains(out.String(), words) {
			t.Errorf("%v, want %q\n%s", err, words, out)
		}
	}
}
