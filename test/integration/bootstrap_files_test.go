package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/test/lab"
)

// printIsInstalled: what --print writes is what was installed, all of it, byte for byte and with the same modes and owners.
func (b *bare) printIsInstalled(t *testing.T) {
	t.Helper()
	directory := filepath.Join(b.Shared, "printed")
	argv := []string{"--print", directory}
	for _, g := range b.Gateways {
		public := filepath.Join(b.Shared, g.Name+".pub")
		must(t, os.WriteFile(public, []byte(mustRun(t, g, "ssh-keygen", "-yf", lab.PeerKeyFile)), 0o644))
		argv = append(argv, "--peer-key", g.Name+"="+public)
	}
	// --login and --identity are not for --print.
	_, err := b.Controller.Run(t.Context(), append(slices.Clone(b.argv[:slices.Index(b.argv, "--login")]), argv...)...)
	must(t, err)
	for _, g := range b.Gateways {
		tree := filepath.Join(directory, g.Name)
		var printed []string
		must(t, filepath.WalkDir(tree, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			path := strings.TrimPrefix(file, tree)
			printed = append(printed, path)
			want, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if got, err := g.ReadFile(path); err != nil || string(got) != string(want) {
				t.Errorf("%s on %s is\n%s\n%v, and --print writes\n%s", path, g.Name, got, err, want)
			}
			return nil
		}))
		ledger, err := g.ReadFile("/var/lib/gatewayctl/bootstrap.json")
		must(t, err)
		var installed struct{ Files map[string][]string }
		must(t, json.Unmarshal(ledger, &installed))
		if diff := cmp.Diff(slices.Sorted(maps.Keys(installed.Files)), slices.Sorted(slices.Values(printed))); diff != "" || len(printed) < 11 {
			t.Errorf("%s: files that were installed, and printed (-installed +printed):\n%s", g.Name, diff)
		}
		permissions, err := os.ReadFile(tree + ".permissions")
		must(t, err)
		for line := range strings.Lines(string(permissions)) {
			words := strings.Fields(line)
			if got := mustRun(t, g, "stat", "-c", "0%a %U %G", words[3]); got != strings.Join(words[:3], " ") {
				t.Errorf("%s on %s is %s, and --print says %s", words[3], g.Name, got, line)
			}
		}
	}
}

// rotate replaces the controller's key as the README says. While two are valid both are let in by sshd and believed by the agent, and
// afterwards the new one alone.
func (b *bare) rotate(t *testing.T) {
	t.Helper()
	const next, nextConfig = "/root/rotated_ed25519", "/root/rotated.yaml"
	mustRun(t, b.Controller, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "controller", "-f", next)
	text, err := b.Controller.ReadFile(lab.CloudConfigFile)
	must(t, err)
	must(t, b.Controller.WriteFile(nextConfig, []byte(strings.Replace(string(text), lab.KeyFile, next, 1)), 0o600))
	works := func(config string) error {
		if _, err := b.Controller.Run(t.Context(), "gatewayctl", "push", "--control-plane", "--cloud-config", config); err != nil {
			return fmt.Errorf("a State: %w", err)
		}
		_, err := b.Controller.Run(t.Context(), "gatewayctl", "status", "--cloud-config", config)
		return err
	}
	if err := works(nextConfig); err == nil {
		t.Fatal("a key that is listed nowhere is let in")
	}
	_, err = b.bootstrap(t, "--controller-key", lab.KeyFile+".pub", "--controller-key", next+".pub")
	must(t, err)
	for range 2 { // in any order
		must(t, works(nextConfig))
		must(t, works(lab.CloudConfigFile))
	}
	_, err = b.bootstrap(t, "--controller-key", next+".pub")
	must(t, err)
	if err := works(lab.CloudConfigFile); err == nil || !strings.Contains(err.Error(), "does not let") && !strings.Contains(err.Error(), "refuse") {
		t.Errorf("the old key: %v", err)
	}
	must(t, works(nextConfig))
	_, err = b.bootstrap(t, "--controller-key", lab.KeyFile+".pub", "--controller-key", next+".pub")
	must(t, err)
	_, err = b.bootstrap(t) // and back
	must(t, err)
	must(t, works(lab.CloudConfigFile))
}

// narrower: limits that would refuse what the gateways serve are not written.
func (b *bare) narrower(t *testing.T) {
	t.Helper()
	text, err := b.Controller.ReadFile(lab.CloudConfigFile)
	must(t, err)
	defer func() { must(t, b.Controller.WriteFile(lab.CloudConfigFile, text, 0o644)) }()
	changed := string(text)
	for old, narrow := range map[string]string{"192.0.2.64-192.0.2.254": "192.0.2.64-192.0.2.200", `address: "192.0.2.250"`: `address: "192.0.2.199"`} {
		if strings.Count(changed, old) != 1 {
			t.Fatalf("the configuration does not say %s once:\n%s", old, changed)
		}
		changed = strings.Replace(changed, old, narrow, 1)
	}
	must(t, b.Controller.WriteFile(lab.CloudConfigFile, []byte(changed), 0o644))
	before := disk(t, b.Gateways[0])
	b.tells(t, nil, "gw1: in the way (limits): /etc/gatewayctl/limits.yaml would not allow what this gateway serves: 192.0.2.250 is not in vipPrefixes",
		"gw2: in the way (limits)", "first, have the Services leave")
	if after := disk(t, b.Gateways[0]); after != before {
		t.Errorf("the disk was changed from\n%s\nto\n%s", before, after)
	}
}
