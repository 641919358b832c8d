package nftables

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares a file with what was made, and writes it with -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("differs from %s (go test -update writes it anew):\n%s", file, d)
	}
}

func TestRenderGolden(t *testing.T) {
	noNodes, noNodes6 := pair(), pair()
	noNodes.Nodes, noNodes6.Nodes = nil, noNodes6.Nodes[:1]
	noControlPlane := pair()
	noControlPlane.ControlPlane.Endpoints = nil
	noControlPlane.LoadBalancers = nil
	single := &desired.State{Gateways: pair().Gateways[:1]}
	for _, c := range []struct {
		name  string
		state *desired.State
	}{
		{"pair", pair()}, {"shared-address", shared()}, {"source-ranges", ranged()}, {"no-nodes", noNodes}, {"no-nodes6", noNodes6}, {"no-endpoints", noControlPlane}, {"single-empty", single},
		{"protocols", protocols()},
	} {
		t.Run(c.name, func(t *testing.T) {
			script, err := Render(c.state, DebianLocal("a"))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", c.name+".nft"), script)
			need(t, "nft", "unshare")
			argv := append([]string{"unshare", "--net", "--"}, CheckArgv()...)
			check := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			check.Stdin = bytes.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("nft: %v\n%s", err, out)
			}
		})
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	s := pair()
	first, err := Render(s, DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	s.Fence = desired.Fence{ClusterUID: "u", Epoch: 7, Instance: "i", Sequence: 9}
	s.LoadBalancers[0], s.LoadBalancers[1] = s.LoadBalancers[1], s.LoadBalancers[0]
	second, err := Render(s, DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same content gave other bytes")
	}
}

func TestRenderRefusesAnotherGatewaysState(t *testing.T) {
	if _, err := Render(pair(), DebianLocal("z")); err == nil || !strings.Contains(err.Error(), `no gateway "z"`) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkRender5000(b *testing.B) {
	for name, s := range map[string]*desired.State{"open": many(5000), "ranges": manyRanged(5000), "1000udp": manyDatagrams(1000, false), "100udpOwn": manyDatagrams(100, true)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Render(s, DebianLocal("a")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
