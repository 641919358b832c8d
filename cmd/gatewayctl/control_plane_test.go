package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// bare is a gateway that holds this State, nil for none.
func bare(t *testing.T, name string, held *desired.State) *target {
	t.Helper()
	g := &target{name: name, result: &wire.Result{Outcome: wire.Reloaded}}
	if held != nil {
		text, err := held.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		g.held = &desired.Signed{State: text}
	}
	return g
}

func early(t *testing.T, sequence uint64, endpoints ...string) *desired.State {
	t.Helper()
	state, err := controlPlaneOnly(readCloudConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	state.Fence.Sequence = sequence
	if len(endpoints) > 0 {
		state.ControlPlane.Endpoints = nil
	}
	for _, e := range endpoints {
		state.ControlPlane.Endpoints = append(state.ControlPlane.Endpoints, netip.MustParseAddrPort(e))
	}
	return state
}

func TestPushControlPlane(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	const elsewhere = "192.0.2.13:6443"
	ofCluster := early(t, 9)
	ofCluster.Fence = desired.Fence{ClusterUID: "uid-1", Epoch: 1, Instance: "a", Sequence: 9}
	garbled := bare(t, "gw2", nil)
	garbled.held = &desired.Signed{State: []byte("{")}
	away := bare(t, "gw2", nil)
	away.hello = errors.New("down")
	tests := []struct {
		name       string
		one, other *target
		sequence   uint64 // 0: nothing is sent
		words      string
	}{
		{"bare gateways", bare(t, "gw1", nil), bare(t, "gw2", nil), 1, ""},
		{"once more", bare(t, "gw1", early(t, 4)), bare(t, "gw2", early(t, 4)), 4, ""},
		{"one has it", bare(t, "gw1", early(t, 4)), bare(t, "gw2", nil), 4, ""},
		{"one has an older one", bare(t, "gw1", early(t, 4)), bare(t, "gw2", early(t, 3, elsewhere)), 4, ""},
		{"other endpoints", bare(t, "gw1", early(t, 4, elsewhere)), bare(t, "gw2", early(t, 4, elsewhere)), 5, ""},
		{"one has a newer one", bare(t, "gw1", early(t, 4)), bare(t, "gw2", early(t, 6, elsewhere)), 7, ""},
		{"pushed by two at a time", bare(t, "gw1", early(t, 4, elsewhere)), bare(t, "gw2", early(t, 4)), 5, ""},
		{"and the other way round", bare(t, "gw1", early(t, 4)), bare(t, "gw2", early(t, 4, elsewhere)), 5, ""},
		{"gateway of a cluster", bare(t, "gw1", nil), bare(t, "gw2", ofCluster), 0, "gateway gw2 belongs to the cluster uid-1 already"},
		{"garbled", bare(t, "gw1", nil), garbled, 0, "gateway gw2: read the State"},
		{"unreachable", bare(t, "gw1", nil), away, 0, "nothing was changed; push to the other gateways with --gateway NAME"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := push(t.Context(), early(t, 0), key, []pushTarget{test.one, test.other}, pushFlags{controlPlane: true}, &out)
			if test.words == "" && err != nil || test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words)) {
				t.Errorf("got %v\nwant %q", err, test.words)
			}
			for _, g := range []*target{test.one, test.other} {
				if g.applied != int(min(test.sequence, 1)) {
					t.Errorf("%s was sent %d States", g.name, g.applied)
				}
				if g.applied == 0 {
					continue
				}
				sent, err := desired.Decode(g.signed.State)
				if err != nil {
					t.Fatal(err)
				}
				if want := (desired.Fence{Sequence: test.sequence}); sent.Fence != want {
					t.Errorf("%s was sent fence %+v, want %+v", g.name, sent.Fence, want)
				}
			}
		})
	}
}

// The State before the cluster is what the first controller's will be, but for what only a cluster has.
func TestControlPlaneOnly(t *testing.T) {
	state := early(t, 1)
	if err := state.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := state.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "control-plane", strings.ReplaceAll(string(text), `},{`, "},\n{")+"\n")
	none := readCloudConfig(t)
	none.ControlPlane = nil
	if _, err := controlPlaneOnly(none); err == nil || !strings.Contains(err.Error(), "controlPlane is missing") {
		t.Errorf("without a control plane: %v", err)
	}
}
