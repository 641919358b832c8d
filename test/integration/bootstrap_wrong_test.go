package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

const wrongKeyFile = "/root/.ssh/wrong_ed25519"

// TestBootstrapWrong: what a stranger gets wrong is told so that it can be mended, and the same command goes on from there.
func TestBootstrapWrong(t *testing.T) {
	b := newBare(t, lab.Options{}, netip.MustParseAddr("192.0.2.250"))
	b.argv = append(b.argv, "--accept-new-host-keys")
	g := b.Gateways[1]
	before := disk(t, g)
	t.Run("configuration", b.wrongConfiguration)
	t.Run("login", b.wrongLogin)
	mustRun(t, g, "sh", "-c", "userdel --remove op; rm -f /usr/local/bin/sudo")
	t.Run("sshd", b.wrongSSHD)
	if after := disk(t, g); withoutAccounts(after) != withoutAccounts(before) {
		t.Errorf("the disk of %s was changed from\n%s\nto\n%s", g.Name, before, after)
	}
	t.Run("machine", b.wrongMachine)
	_, err := b.bootstrap(t)
	must(t, err)
}

// withoutAccounts leaves out what useradd and userdel touch.
func withoutAccounts(disk string) string {
	lines := slices.Collect(strings.Lines(disk))
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return slices.ContainsFunc([]string{"passwd", "shadow", "group", "subuid", "subgid", ".pwd.lock"}, func(f string) bool { return strings.Contains(line, f) })
	}), "")
}

// tells expects all the words in what bootstrap says.
func (b *bare) tells(t *testing.T, more []string, words ...string) {
	t.Helper()
	_, err := b.bootstrap(t, more...)
	if err == nil {
		t.Errorf("went on; want %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\nwant %q", err, w)
		}
	}
}

func (b *bare) wrongConfiguration(t *testing.T) {
	text, err := b.Controller.ReadFile(lab.CloudConfigFile)
	must(t, err)
	defer func() { must(t, b.Controller.WriteFile(lab.CloudConfigFile, text, 0o644)) }()
	for _, test := range []struct{ from, to, want string }{
		{"sshAddress: 192.0.2.12", "sshAddress: 192.0.2.77", "gateway gw2 (192.0.2.77:22) is unreachable: dial tcp 192.0.2.77:22: connect: no route to host; check that the machine is up"},
		{"sshAddress: 192.0.2.12", "sshPort: 2222, sshAddress: 192.0.2.12", "the machine is there and nothing listens on this port: start sshd, or correct sshPort"},
		{"sshAddress: 192.0.2.12", "vrrpAddress: 192.0.2.12, sshAddress: gw2.invalid", "correct sshAddress in the cloud configuration, or the name server"},
		{"sshAddress: 192.0.2.12, interface: eth0", "sshAddress: 192.0.2.12, interface: ens7", "there is no interface ens7: this machine has lo, eth0; correct the interface"},
		{"sshAddress: 192.0.2.12", "vrrpAddress: 192.0.2.13, sshAddress: 192.0.2.12", "interface eth0 does not have the address 192.0.2.13"},
		{"cidrs: [192.0.2.0/26, 2001:db8::/112]", "", "give nodes.cidrs, or --server-prefix"},
		{lab.KeyFile, "/root/absent", "ssh-keygen -t ed25519 -N '' -C controller -f /root/absent"},
	} {
		changed := strings.Replace(string(text), test.from, test.to, 1)
		if changed == string(text) {
			t.Fatalf("no %q in\n%s", test.from, text)
		}
		must(t, b.Controller.WriteFile(lab.CloudConfigFile, []byte(changed), 0o644))
		b.tells(t, nil, test.want)
	}
}

// as is bootstrap with another word in its command.
func (b *bare) as(from, to string) *bare {
	other := &bare{b.Lab, slices.Clone(b.argv)}
	other.argv[slices.Index(other.argv, from)] = to
	return other
}

func (b *bare) wrongLogin(t *testing.T) {
	g := b.Gateways[1]
	mustRun(t, b.Controller, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrongKeyFile)
	b.as(lab.OperatorKeyFile, wrongKeyFile).tells(t, nil,
		"gateway gw1 (192.0.2.11:22) does not let root in, with none of the keys "+wrongKeyFile, "gateway gw2", "nobody can be asked without a terminal", "give --login and --identity")
	b.as("root", "gatewayctl").tells(t, nil, "you would be locked out; log in as somebody else")
	mustRun(t, g, "useradd", "--create-home", "--shell", "/bin/sh", "op")
	mustRun(t, g, "cp", "-r", "/root/.ssh", "/home/op/")
	mustRun(t, g, "chown", "-R", "op", "/home/op/.ssh")
	op := b.as("root", "op")
	op.tells(t, []string{g.Name}, "user op is not root there, and there is no sudo: log in as root")
	for script, want := range map[string]string{
		`case "$*" in *-n*) echo "sudo: a password is required" >&2;; esac; exit 1`: "user op is not root there and sudo asks for a password: nobody can be asked without a terminal; log in as root",
		`echo "op is not in the sudoers file." >&2; exit 1`:                         "op is not in the sudoers file.; log in as root (--login root), or allow the user to run everything by sudo",
	} {
		must(t, g.WriteFile("/usr/local/bin/sudo", []byte("#!/bin/sh\n"+script+"\n"), 0o755))
		op.tells(t, []string{g.Name}, want)
	}
}

func (b *bare) wrongSSHD(t *testing.T) {
	const file = "/etc/ssh/sshd_config.d/10-site.conf"
	g := b.Gateways[1]
	for text, want := range map[string]string{
		"AllowUsers root\n":                         "gw2: in the way (sshd): sshd would not let user gatewayctl in: allowusers is root",
		"Match User *\nForceCommand /bin/true\n":    "sshd would run ForceCommand /bin/true for user gatewayctl",
		"Match User gate*\nPermitTTY yes\n":         "sshd would take PermitTTY yes for the user of controllers and gateways, from a setting before /etc/ssh/sshd_config.d/gatewayctl.conf",
		"Match Address 192.0.2.11\nPermitTTY yes\n": "sshd would take PermitTTY yes",
		"Nonsense yes\n":                            "sshd refuses its own configuration, in which nothing is ours",
	} {
		must(t, g.WriteFile(file, []byte(text), 0o644))
		b.tells(t, nil, want, "nothing was changed on any gateway")
	}
	mustRun(t, g, "rm", file)
}

// wrongMachine: another bootstrap, and a full disk in the middle, after which the same command goes on.
func (b *bare) wrongMachine(t *testing.T) {
	g := b.Gateways[1]
	// What bootstrap holds while it changes a machine.
	const holds = "exec 9<>/run/gatewayctl-bootstrap.lock; flock 9; echo of a colleague > /run/gatewayctl-bootstrap.lock; echo held; exec sleep 600"
	other, err := g.Start("other-bootstrap", "sh", "-c", holds)
	must(t, err)
	must(t, other.AwaitLine(t.Context(), "held"))
	b.tells(t, nil, "gateway gw2: another bootstrap changes this machine (of a colleague): wait until it has ended", "nothing was changed on any")
	must(t, other.Stop())
	b.operatorGoes(t, g)
	mustRun(t, g, "mkdir", "-p", "/etc/gatewayctl")
	mustRun(t, g, "mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", "/etc/gatewayctl")
	b.tells(t, nil, "gateway gw2: writing /etc/gatewayctl/", "no space left on device", "stopped at the first failure: mend it, and run the same command again")
	mustRun(t, g, "umount", "/etc/gatewayctl")
}

// operatorGoes: an operator's machine dies in the middle. What was begun goes on to its end, keeps others out and cleans up.
func (b *bare) operatorGoes(t *testing.T, g *lab.Host) {
	t.Helper()
	const useradd, waits, goOn = "/usr/local/sbin/useradd", "/run/useradd-waits", "/run/useradd-goes-on"
	script := "#!/bin/sh\ntouch " + waits + "\nuntil test -e " + goOn + "; do sleep 0.1; done\nexec /usr/sbin/useradd \"$@\"\n"
	must(t, g.WriteFile(useradd, []byte(script), 0o755))
	argv := append(slices.Clone(b.argv), g.Name)
	operator, err := b.Controller.Start("operator", argv...)
	must(t, err)
	exists := func(file string) func() error {
		return func() error { _, err := g.Run(t.Context(), "test", "-e", file); return err }
	}
	eventually(t, "the user is being made", exists(waits))
	must(t, operator.Kill())
	b.tells(t, []string{g.Name}, "another bootstrap changes this machine (process ", "wait until it has ended")
	must(t, g.WriteFile(goOn, nil, 0o644))
	eventually(t, "what was begun is finished", exists("/etc/systemd/system/keepalived.service.d/cloud-provider-haproxy.conf"))
	eventually(t, "what was uploaded is removed", func() error {
		left, err := g.Run(t.Context(), "find", "/root", "-maxdepth", "1", "-name", ".gatewayctl-*")
		if err == nil && left != "" {
			err = fmt.Errorf("there is %s", left)
		}
		return err
	})
	mustRun(t, g, "rm", useradd)
	mustRun(t, g, "sh", "-c", "rm -rf /etc/gatewayctl")
}
