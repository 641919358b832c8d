package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/cmd/gatewayctl/bootstrap"
	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/test/lab"
)

// bareSite is a directory with a cloud configuration and the controller's public key, as on the first day: no known hosts.
func bareSite(t *testing.T, nodes string) string {
	t.Helper()
	directory := t.TempDir()
	example, err := os.ReadFile("../../manifests/controller/example/cloud-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/etc/cloud-provider-haproxy-key/id_ed25519", "id_ed25519", "/etc/cloud-provider-haproxy/", "",
		"nodes:\n", "nodes:\n"+nodes).Replace(string(example))
	for name, content := range map[string]string{
		"cloud.yaml":     text,
		"id_ed25519.pub": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJRYAcEbpfFb2mYUFnpYPq3wIOc5xVL9nkKMtg3eVzgp controller\n",
	} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

func runRoot(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	root := newRootCommand()
	var out strings.Builder
	root.SetOut(&out)
	root.SetArgs(argv)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// The printed tree has everything, and is not mixed with an older one.
func TestBootstrapPrint(t *testing.T) {
	directory := bareSite(t, "  cidrs: [192.0.2.0/26]\n")
	print := []string{"bootstrap", "--cloud-config", filepath.Join(directory, "cloud.yaml"), "--print", filepath.Join(directory, "out")}
	readme := filepath.Join(directory, "out", "README.md")
	if err := os.MkdirAll(filepath.Dir(readme), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readme, []byte("of a checkout\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := runRoot(t, print...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gw1: its own key is not known", "give --peer-key gw2=FILE.pub", "gw2: its host key is not in ", "GATEWAYS.md says"} {
		if !strings.Contains(out, want) {
			t.Errorf("printing says\n%s\nand not %q", out, want)
		}
	}
	if text, err := os.ReadFile(readme); err != nil || string(text) != "of a checkout\n" {
		t.Errorf("somebody's README is now %q, %v", text, err)
	}
	var files []string
	err = filepath.WalkDir(filepath.Join(directory, "out"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, strings.TrimPrefix(path, filepath.Join(directory, "out")+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	permissions, err := os.ReadFile(filepath.Join(directory, "out", "gw1.permissions"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "print", strings.Join(files, "\n")+"\n\n"+string(permissions))
	for family, want := range map[string]string{"debian": "conntrack, haproxy, iproute2, keepalived, nftables, procps,", "rhel": "systemd-tmpfiles --create /etc/tmpfiles.d/cloud-provider-haproxy.conf"} {
		directory := filepath.Join(t.TempDir(), family)
		if _, err := runRoot(t, append(print[:len(print)-1:len(print)-1], directory, "--family", family)...); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(directory, "GATEWAYS.md")); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("for %s it says\n%s%v", family, text, err)
		}
	}
	if _, err := runRoot(t, print...); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("printed over an older one: %v", err)
	}
}

// What is wrong is told before anybody is connected to.
func TestBootstrapRefuses(t *testing.T) {
	good := bareSite(t, "  cidrs: [192.0.2.0/26]\n")
	for name, test := range map[string]struct {
		directory string
		argv      []string
		want      string
	}{
		"no worker's network": {bareSite(t, ""), nil, "--server-prefix"},
		"unknown gateway":     {good, []string{"gw9"}, "no gateway gw9 in the cloud configuration; it has gw1, gw2"},
		"unknown check":       {good, []string{"--ignore", "foreign"}, "no such check can be ignored"},
		"no key":              {good, []string{"--controller-key", filepath.Join(good, "absent.pub")}, "absent.pub"},
		"no identity":         {good, []string{"--identity", "/nonexistent"}, "--identity"},
		"family":              {good, []string{"--print", t.TempDir(), "--family", "bsd"}, "--family"},
		"own login":           {good, []string{"--login", "gatewayctl"}, "you would be locked out; log in as somebody else"},
		"print and do":        {good, []string{"--print", t.TempDir(), "--dry-run"}, "[dry-run print]"},
		"script":              {good, []string{"--binary", filepath.Join(good, "cloud.yaml")}, "reading the program"},
	} {
		_, err := runRoot(t, append([]string{"bootstrap", "--cloud-config", filepath.Join(test.directory, "cloud.yaml")}, test.argv...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	lab.RequirePrograms(t, "ssh-keygen")
	private := filepath.Join(good, "id_ed25519")
	if output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private+".other").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if err := os.Rename(private+".other", private); err != nil {
		t.Fatal(err)
	}
	if _, err := runRoot(t, "bootstrap", "--cloud-config", filepath.Join(good, "cloud.yaml")); err == nil || !strings.Contains(err.Error(), "is not the public half of") {
		t.Errorf("a public key of before: %v", err)
	}
	if err := os.Remove(private); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(good, "id_ed25519.pub")); err != nil {
		t.Fatal(err)
	}
	if _, err := runRoot(t, "bootstrap", "--cloud-config", filepath.Join(good, "cloud.yaml")); err == nil || !strings.Contains(err.Error(), "ssh-keygen -t ed25519") {
		t.Errorf("without the controller's key: %v", err)
	}
}

// What people read.
func TestResultTable(t *testing.T) {
	results := []bootstrap.Result{
		{Gateway: "gw1", Report: &prepare.Report{
			Steps: []prepare.Step{{What: "packages", Outcome: prepare.Unchanged}, {What: "/etc/gatewayctl/limits.yaml", Outcome: prepare.WouldDo, Diff: []string{"-a", "+b"}}},
			Findings: []prepare.Finding{
				{Check: "foreign", Problem: "it serves something else", Remedy: "take another one"}, {Check: "clock", Problem: "the clock is 3s apart", Warning: true},
			},
			Notes: []string{"start it yourself"},
		}},
		{Gateway: "gw2", Report: &prepare.Report{Steps: []prepare.Step{{What: "packages", Outcome: prepare.Failed}}}, Err: errors.New("told by the command")},
		{Gateway: "gw3"},
	}
	golden(t, "bootstrap-dry-run", resultTable(results, true))
	golden(t, "bootstrap", resultTable(results, false))
}

// Every flag that the two commands share means the same.
func TestAdoptIsLikeBootstrap(t *testing.T) {
	bootstrap, adopt := newBootstrapCommand().Flags(), newAdoptCommand().Flags()
	for _, name := range []string{"cloud-config", "server-prefix", "agent-settings", "peer-key", "login", "identity", "known-hosts", "accept-new-host-keys", "binary", "dry-run"} {
		if b, a := bootstrap.Lookup(name), adopt.Lookup(name); b == nil || a == nil || b.Usage != a.Usage {
			t.Errorf("--%s differs", name)
		}
	}
	if _, err := runRoot(t, "adopt"); err == nil || !slices.ContainsFunc([]string{"local", "cloud-config"}, func(w string) bool { return strings.Contains(err.Error(), w) }) {
		t.Errorf("adopt without anything: %v", err)
	}
}

// What a gateway says cannot move the operator's terminal.
func TestPrintable(t *testing.T) {
	if got := printable("gw1\x1b[2J\r\x07: a\n\tb\u009b"); got != "gw1[2J: a\n\tb" {
		t.Errorf("%q", got)
	}
}
