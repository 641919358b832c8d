package prepare

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

func installed(t *testing.T, r Report) {
	t.Helper()
	if r.Error != "" {
		t.Fatalf("%s\n%+v", r.Error, r.Findings)
	}
}

// A bare machine gets all of it, and a second run has nothing to do.
func TestInstall(t *testing.T) {
	m := newMachine(t)
	dry := m.do(plan(t, Install, func(p *Plan) { p.DryRun = true }))
	installed(t, dry)
	if len(m.ran) > 0 || m.writes > 0 {
		t.Fatalf("a dry run ran %q and wrote %d times", m.ran, m.writes)
	}
	installed(t, m.do(plan(t, MakeKey, nil)))
	p := plan(t, Install, nil)
	first := m.do(p)
	installed(t, first)
	var would, did []string
	for _, s := range dry.Steps {
		if s.Outcome == WouldDo {
			would = append(would, s.What)
		}
	}
	for _, s := range first.Steps {
		if s.Outcome != Unchanged {
			did = append(did, s.What)
		}
	}
	if diff := cmp.Diff(slices.DeleteFunc(would, func(w string) bool { return w == "kernel modules" || w == peerKeyStep }), did); diff != "" {
		t.Errorf("the dry run promised other things than were done (-promised +done):\n%s", diff)
	}
	for _, f := range p.Files {
		entry, err := m.Stat(f.Path, f.Group)
		if err != nil || entry.Mode != f.Mode || m.read(f.Path) != string(f.Content) {
			t.Errorf("%s: %v, %v, or another content", f.Path, entry.Mode, err)
		}
	}
	want := []string{
		"useradd --system --user-group --shell /bin/sh --home-dir / --password * -- gatewayctl",
		"modprobe --all nft_tproxy nft_socket nft_dup_ipv4 nft_dup_ipv6 tcp_diag nf_conntrack",
		"sysctl --quiet --load=/etc/sysctl.d/90-cloud-provider-haproxy.conf",
		"systemctl daemon-reload", "systemctl try-reload-or-restart ssh.service",
		"systemctl enable haproxy.service", "systemctl enable keepalived.service", "systemctl enable gatewayctl-agent.service",
		"systemctl restart gatewayctl-agent.service",
	}
	if diff := cmp.Diff(want, m.ran); diff != "" {
		t.Errorf("ran (-want +got):\n%s", diff)
	}

	before := m.tree()
	m.ran = nil
	second := m.do(p)
	installed(t, second)
	for _, s := range second.Steps {
		if s.Outcome != Unchanged {
			t.Errorf("the second run: %+v", s)
		}
	}
	if diff := cmp.Diff(before, m.tree()); diff != "" {
		t.Errorf("the second run changed files (-before +after):\n%s", diff)
	}
	if want := []string{"modprobe --all nft_tproxy nft_socket nft_dup_ipv4 nft_dup_ipv6 tcp_diag nf_conntrack"}; !slices.Equal(m.ran, want) {
		t.Errorf("the second run ran %q", m.ran)
	}
}

// A new configuration replaces what we installed, not what somebody edited; --adopt does, and keeps copies.
func TestEdited(t *testing.T) {
	m := newMachine(t)
	installed(t, m.do(plan(t, Install, nil)))
	next := func(p *Plan) {
		for i := range p.Files {
			if p.Files[i].Path == site.LimitsFile {
				p.Files[i].Content = append(slices.Clone(p.Files[i].Content), "# next\n"...)
			}
		}
	}
	installed(t, m.do(plan(t, Install, next)))
	if !strings.HasSuffix(m.read(site.LimitsFile), "# next\n") {
		t.Error("what we installed ourselves was not replaced")
	}
	m.put(site.LimitsFile, "# edited\n")
	if r := m.do(plan(t, Install, next)); len(refusing(r.Findings)) != 1 || m.read(site.LimitsFile) != "# edited\n" {
		t.Errorf("an edit was overwritten: %+v", r)
	}
	adopt := func(p *Plan) { next(p); p.Adopt = true }
	installed(t, m.do(plan(t, Install, adopt)))
	m.put(site.LimitsFile, "# edited again\n")
	installed(t, m.do(plan(t, Install, adopt)))
	if first, second := m.read(site.LimitsFile+kept), m.read(site.LimitsFile+kept+".1"); first != "# edited\n" || second != "# edited again\n" {
		t.Errorf("the copies are %q and %q", first, second)
	}
	// What is alike although a person wrote it is ours from then on.
	m = newMachine(t)
	for _, f := range plan(t, Install, nil).Files {
		m.put(f.Path, string(f.Content))
	}
	installed(t, m.do(plan(t, Install, nil)))
	installed(t, m.do(plan(t, Install, next)))
}

// Cut at every operation, and run again: the machine is as after one run, nothing that changed goes unread, and the second run
// finds no work of its own making.
func TestCutAnywhere(t *testing.T) {
	whole := newMachine(t)
	installed(t, whole.do(plan(t, MakeKey, nil)))
	installed(t, whole.do(plan(t, Install, nil)))
	count := 0
	for cut := 1; ; cut++ {
		m := newMachine(t)
		m.cut = cut
		r := m.do(plan(t, MakeKey, nil))
		if r.Error == "" {
			r = m.do(plan(t, Install, nil))
		}
		if r.Error == "" && m.writes < cut {
			count = cut - 1
			break
		}
		m.cut = 0
		installed(t, m.do(plan(t, MakeKey, nil)))
		if r := m.do(plan(t, Install, nil)); r.Error != "" {
			t.Fatalf("cut at operation %d, then: %s\n%+v", cut, r.Error, r.Findings)
		}
		for path := range whole.tree() {
			if path != site.PeerKeyFile && m.read(path) != whole.read(path) {
				t.Errorf("cut at operation %d: %s is\n%s\nwant\n%s", cut, path, m.read(path), whole.read(path))
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(whole.tree())), slices.Sorted(maps.Keys(m.tree()))); diff != "" {
			t.Errorf("cut at operation %d (-whole +cut):\n%s", cut, diff)
		}
		for _, command := range []string{"systemctl daemon-reload", "systemctl try-reload-or-restart ssh.service", "systemctl restart gatewayctl-agent.service"} {
			if !slices.Contains(m.ran, command) {
				t.Errorf("cut at operation %d: %s was never run", cut, command)
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d operations were cut", count)
	}
	t.Logf("cut at each of %d operations", count)
}

// An upgrade restarts the agent, also when the run was cut between the program and the restart.
func TestUpgradeRestartsTheAgent(t *testing.T) {
	m := newMachine(t)
	installed(t, m.do(plan(t, Install, nil)))
	m.put(site.Program, "an older one")
	if err := os.Chmod(filepath.Join(m.Root, site.Program), 0o755); err != nil {
		t.Fatal(err)
	}
	m.ran = nil
	m.fails["systemctl restart"] = errors.New("exit status 1")
	if r := m.do(plan(t, Install, nil)); r.Error == "" {
		t.Fatal("the agent did not start, and nothing was said")
	}
	delete(m.fails, "systemctl restart")
	m.ran = nil
	installed(t, m.do(plan(t, Install, nil)))
	if !slices.Contains(m.ran, "systemctl restart gatewayctl-agent.service") {
		t.Errorf("ran %q", m.ran)
	}
	damaged := plan(t, Install, func(p *Plan) { p.Program = digest([]byte("another")) })
	if r := m.do(damaged); !strings.Contains(r.Error, "not the one that the operator sent") || m.read(site.Program) != programText {
		t.Errorf("a program that is not what was sent: %q", r.Error)
	}
}

// A dry run does not carry out what a run before it left to be done, and tells of it.
func TestDryRunLeavesWhatIsPending(t *testing.T) {
	m := newMachine(t)
	m.fails["systemctl try-reload-or-restart"] = errors.New("exit status 1")
	if r := m.do(plan(t, Install, nil)); r.Error == "" {
		t.Fatal("sshd was not reloaded, and nothing was said")
	}
	delete(m.fails, "systemctl try-reload-or-restart")
	before := m.tree()
	m.ran = nil
	r := m.do(plan(t, Install, func(p *Plan) { p.DryRun = true }))
	installed(t, r)
	if diff := cmp.Diff(before, m.tree()); diff != "" || len(m.ran) > 0 {
		t.Errorf("a dry run ran %q, and changed (-before +after):\n%s", m.ran, diff)
	}
	for _, what := range []string{"sshd", "agent"} {
		if !slices.ContainsFunc(r.Steps, func(s Step) bool { return s.What == what && s.Outcome == WouldDo }) {
			t.Errorf("a dry run does not tell of %s: %+v", what, r.Steps)
		}
	}
}

// What sshd cannot read is taken back: it would be gone after the next boot. The next run installs it again.
func TestSSHDRefuses(t *testing.T) {
	m := newMachine(t)
	m.refusesSSHD = errors.New("Bad configuration option")
	p := plan(t, Install, nil)
	if r := m.do(p); !strings.Contains(r.Error, "Bad configuration option") || !strings.Contains(r.Error, site.SSHDFile) {
		t.Errorf("got %q", r.Error)
	}
	if text := m.read(site.SSHDFile); strings.Contains(text, "Match") || !strings.Contains(m.read(site.SSHDFile+".refused"), "Match") {
		t.Errorf("%s is left as %q", site.SSHDFile, text)
	}
	if slices.ContainsFunc(m.ran, func(r string) bool { return strings.Contains(r, "ssh") && strings.HasPrefix(r, "systemctl") }) {
		t.Errorf("sshd was told to read it: %q", m.ran)
	}
	m.refusesSSHD = nil
	installed(t, m.do(p))
	if !strings.Contains(m.read(site.SSHDFile), "Match") {
		t.Error("it was not installed again")
	}
}

// The key is made once, and stays.
func TestMakeKey(t *testing.T) {
	m := newMachine(t)
	first := m.do(plan(t, MakeKey, nil))
	installed(t, first)
	second := m.do(plan(t, MakeKey, nil))
	if first.Facts.PeerKey == "" || first.Facts.PeerKey != second.Facts.PeerKey || second.Steps[0].Outcome != Unchanged {
		t.Errorf("first %q, second %q", first.Facts.PeerKey, second.Facts.PeerKey)
	}
	signer, err := ssh.ParsePrivateKey([]byte(m.read(site.PeerKeyFile)))
	if err != nil || !strings.HasPrefix(second.Facts.PeerKey, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))) {
		t.Errorf("the public half is not the file's: %v", err)
	}
	if entry, _ := m.Stat(site.PeerKeyFile, ""); entry.Mode != 0o600 {
		t.Errorf("the key has mode %v", entry.Mode)
	}
}

// Packages are installed when that is allowed, and looked at then.
func TestPackages(t *testing.T) {
	m := newMachine(t)
	m.remove("/usr/sbin/haproxy")
	r := m.do(plan(t, Install, nil))
	if r.Error == "" || !strings.Contains(r.Findings[0].Remedy, "apt-get --quiet --option=DPkg::Lock::Timeout=120 install --yes --no-install-recommends haproxy") {
		t.Errorf("%q, %+v", r.Error, r.Findings)
	}
	allowed := func(p *Plan) { p.InstallPackages = true }
	if r := m.do(plan(t, Check, allowed)); len(refusing(r.Findings)) > 0 {
		t.Errorf("in the way: %+v", r.Findings)
	}
	installed(t, m.do(plan(t, Install, allowed)))
	m = newMachine(t)
	m.put("/etc/os-release", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nPRETTY_NAME=\"Rocky Linux 10\"\n")
	m.remove("/usr/bin/ss")
	r = m.do(plan(t, Check, nil))
	if r.Facts.Family != site.RedHat || !strings.Contains(fmt.Sprint(r.Findings), "dnf install --assumeyes iproute") {
		t.Errorf("%+v", r)
	}
}

// Without systemd nothing is started, and the operator is told.
func TestWithoutSystemd(t *testing.T) {
	m := newMachine(t)
	m.remove("/run/systemd/system/here")
	m.remove("/run/systemd/system")
	r := m.do(plan(t, Install, nil))
	installed(t, r)
	if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "agent run` yourself") || !strings.Contains(notes, "SIGHUP") {
		t.Errorf("notes: %s", notes)
	}
	if again := m.do(plan(t, Install, nil)); len(again.Notes) > 0 {
		t.Errorf("told again: %q", again.Notes)
	}
}

func TestOlder(t *testing.T) {
	for version, want := range map[string]bool{"2.6": false, "2.5": true, "2.10": false, "3.0": false, "1.9": true, "": true, "2": true} {
		if got := older(version, "2.6"); got != want {
			t.Errorf("%q is older than 2.6: %t", version, got)
		}
	}
}

func TestDiff(t *testing.T) {
	got := diff([]byte("a\nb\nc\nd\n"), []byte("a\nx\nc\nd\n"))
	if want := []string{"-b", "+x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := diff(nil, []byte("a\n")); !slices.Equal(got, []string{"+a"}) {
		t.Errorf("%q", got)
	}
}
