package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// bare is a lab whose gateways nobody has prepared, seen by the operator.
type bare struct {
	*lab.Lab
	argv []string // of bootstrap, as the site needs it
}

// newBare writes the operator's configuration: the lab's, with a control plane whose only API server the worker plays.
func newBare(t *testing.T, options lab.Options, address netip.Addr) *bare {
	t.Helper()
	options.Workers, options.BareGateways = 1, true
	l := lab.New(t, options)
	worker := l.Workers[0]
	backend, err := worker.Start("backend", l.Program("backend"), "-name", worker.Name, "-listen", ":6443")
	must(t, err)
	must(t, backend.AwaitLine(t.Context(), "ready"))
	config := l.CloudConfig() + fmt.Sprintf("controlPlane: {address: %q, endpoints: [%q], check: {type: tcp, interval: 250ms}}\n", address, worker.Addr())
	config = strings.Replace(config, "nodes:\n", "nodes:\n  cidrs: [192.0.2.0/26, 2001:db8::/112]\n", 1)
	must(t, l.Controller.WriteFile(lab.CloudConfigFile, []byte(config), 0o644))
	argv, err := l.BootstrapArgv()
	must(t, err)
	return &bare{l, argv}
}

func (b *bare) bootstrap(t *testing.T, more ...string) (string, error) {
	t.Helper()
	out, err := b.Controller.Run(t.Context(), append(b.argv[:len(b.argv):len(b.argv)], more...)...)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return out, err
}

func (b *bare) start(t *testing.T) {
	t.Helper()
	for _, g := range b.Gateways {
		must(t, g.StartBootstrapped(t.Context()))
	}
}

// disk is every file, with its mode, owner and time, where bootstrap could leave something.
func disk(t *testing.T, g *lab.Host) string {
	t.Helper()
	const form = "%p %m %u:%g %T@ %s\n"
	files := mustRun(t, g, "find", "/etc", "/usr/local/sbin", "-type", "f", "-printf", form) + "\n" +
		mustRun(t, g, "find", "/root", "-maxdepth", "1", "-type", "f", "-printf", form)
	if _, err := g.ReadFile(stateFile); err == nil {
		files += "\n" + mustRun(t, g, "find", "/var/lib/gatewayctl", "-name", "bootstrap*", "-printf", form)
	}
	return files
}

// TestBootstrap: a pair is made of bare machines, serves the API server's address before any controller, and a second bootstrap changes
// nothing.
func TestBootstrap(t *testing.T) {
	api := netip.MustParseAddr("192.0.2.250")
	b := newBare(t, lab.Options{}, api)

	// A host that nobody knows is not believed without a question, and there is no terminal here.
	_, err := b.bootstrap(t)
	key, keyErr := b.Gateways[0].HostKey(t.Context())
	must(t, keyErr)
	if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "--accept-new-host-keys") {
		t.Fatalf("an unknown host: %v, want its fingerprint %s", err, key)
	}

	b.inTheWay(t)

	before := disk(t, b.Gateways[0])
	out, err := b.bootstrap(t, "--accept-new-host-keys", "--dry-run")
	must(t, err)
	if after := disk(t, b.Gateways[0]); after != before {
		t.Errorf("a dry run changed the disk from\n%s\nto\n%s", before, after)
	}
	if !strings.Contains(out, `+restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=controller" ssh-ed25519`) {
		t.Errorf("a dry run shows no differences:\n%s", out)
	}

	out, err = b.bootstrap(t, "--accept-new-host-keys")
	must(t, err)
	t.Logf("\n%s", out)
	b.start(t)
	b.keysDoNoMore(t)

	b.serves(t, api)

	var disks []string
	for _, g := range b.Gateways {
		disks = append(disks, disk(t, g))
	}
	out, err = b.bootstrap(t)
	must(t, err)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "/") && strings.Count(line, "unchanged") != 2 {
			t.Errorf("the second bootstrap changed something: %s", line)
		}
	}
	if strings.Contains(out, "created") || strings.Contains(out, "changed ") && !strings.Contains(out, "unchanged") {
		t.Errorf("the second bootstrap:\n%s", out)
	}
	for i, g := range b.Gateways {
		if after := disk(t, g); after != disks[i] {
			t.Errorf("the second bootstrap changed the disk of %s from\n%s\nto\n%s", g.Name, disks[i], after)
		}
	}
	b.printIsInstalled(t)
	b.rotate(t)
	b.narrower(t)
	p := &pair{Lab: b.Lab}
	eventually(t, "each gateway is current, so it could ask the other", func() error { return p.allCurrent(t) })
	b.adopt(t, p)
	b.otherKeys(t)
}

// serves: the pair takes the control plane of the configuration and serves it.
func (b *bare) serves(t *testing.T, api netip.Addr) {
	t.Helper()
	t.Logf("\n%s", mustRun(t, b.Controller, "gatewayctl", "push", "--control-plane", "--cloud-config", lab.CloudConfigFile))
	eventually(t, "the API server's address is served", func() error {
		_, err := b.Client.Ask(port(api, 6443), limit)
		return err
	})
}

// TestBootstrapIPv6Only: the same where no machine has an IPv4 address.
func TestBootstrapIPv6Only(t *testing.T) {
	b := newBare(t, lab.Options{IPv6Only: true}, api6)
	out, err := b.bootstrap(t, "--accept-new-host-keys")
	must(t, err)
	t.Logf("\n%s", out)
	b.start(t)
	b.serves(t, api6)
	p := &pair{Lab: b.Lab}
	eventually(t, "each gateway is current, so it could ask the other", func() error { return p.allCurrent(t) })
	if out, err = b.bootstrap(t, "--dry-run"); err != nil || strings.Contains(out, "created") {
		t.Errorf("once more: %v\n%s", err, out)
	}
}

// adopt: gateways of a cluster are handed over with the operator's login, and take the control plane of the next one.
func (b *bare) adopt(t *testing.T, p *pair) {
	t.Helper()
	p.push(t, p.state(b.Workers))
	controlPlane := []string{"gatewayctl", "push", "--control-plane", "--cloud-config", lab.CloudConfigFile}
	if out, err := b.Controller.Run(t.Context(), controlPlane...); err == nil || !strings.Contains(err.Error(), "belongs to the cluster") {
		t.Fatalf("the gateways of a cluster: %v\n%s", err, out)
	}
	public := mustRun(t, b.Controller, "cat", lab.KeyFile+".pub")
	must(t, b.Controller.WriteFile("/root/next.pub", []byte(mustRun(t, b.Controller, "cat", lab.OperatorKeyFile+".pub")+"\n"), 0o644))
	adopt := slices.Concat([]string{"gatewayctl", "adopt"}, b.argv[2:], []string{"--signer", lab.KeyFile + ".pub", "--signer", "/root/next.pub"})
	out, err := b.Controller.Run(t.Context(), adopt...)
	must(t, err)
	t.Logf("\n%s", out)
	for _, g := range b.Gateways {
		signers := mustRun(t, g, "cat", lab.SignersFile)
		if !strings.Contains(signers, public) || strings.Count(signers, "ssh-ed25519") != 2 {
			t.Errorf("%s believes\n%s", g.Name, signers)
		}
	}
	_, err = b.Controller.Run(t.Context(), controlPlane...)
	must(t, err)
	eventually(t, "both gateways hold the State of before the new cluster", func() error { return p.holdAll(t, desired.Fence{Sequence: 1}) })
	if out, err := b.bootstrap(t); err != nil { // one key again
		t.Errorf("%v\n%s", err, out)
	}
}

// inTheWay: a machine that serves something else and a firewall that would drop the clients are told at once, and nobody is
// touched.
func (b *bare) inTheWay(t *testing.T) {
	t.Helper()
	g := b.Gateways[1]
	shipped, err := g.ReadFile("/etc/haproxy/haproxy.cfg")
	must(t, err)
	must(t, g.WriteFile("/etc/haproxy/haproxy.cfg", append(shipped, "frontend site\n"...), 0o644))
	_, err = g.RunInput(t.Context(), foreignRules, "nft", "-f", "-")
	must(t, err)
	before := []string{disk(t, b.Gateways[0]), disk(t, g)}
	_, err = b.bootstrap(t, "--accept-new-host-keys")
	for _, words := range []string{g.Name + ": in the way (foreign): /etc/haproxy/haproxy.cfg was written by somebody",
		g.Name + ": in the way (firewall): chain input of nftables table inet site drops", "nft insert rule inet site input socket transparent 1 accept",
		"nothing was changed"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("in the way: %v\nwant %q", err, words)
		}
	}
	if err != nil && strings.Contains(err.Error(), b.Gateways[0].Name+": in the way") {
		t.Errorf("%s as Debian installs it is in the way: %v", b.Gateways[0].Name, err)
	}
	for i, g := range b.Gateways {
		if after := disk(t, g); after != before[i] {
			t.Errorf("the disk of %s was changed from\n%s\nto\n%s", g.Name, before[i], after)
		}
	}
	must(t, g.WriteFile("/etc/haproxy/haproxy.cfg", shipped, 0o644))
	mustRun(t, g, "nft", "delete", "table", "inet", "site")
}

// keysDoNoMore: the keys that bootstrap installed reach the agent and nothing else.
func (b *bare) keysDoNoMore(t *testing.T) {
	t.Helper()
	known := strings.TrimSpace(mustRun(t, b.Controller, "cat", lab.KnownHostsFile))
	if len(strings.Split(known, "\n")) != len(b.Gateways) {
		t.Errorf("the controller knows the hosts\n%s", known)
	}
	ssh := []string{"ssh", "-i", lab.KeyFile, "-o", "UserKnownHostsFile=" + lab.KnownHostsFile, "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
		"-o", "LogLevel=ERROR"}
	g := b.Gateways[0]
	login := "gatewayctl@" + g.Addr4.String()
	with := func(more ...string) []string { return append(ssh[:len(ssh):len(ssh)], more...) }
	for name, argv := range map[string][]string{
		"a terminal":        with("-tt", login, "id"),
		"remote forwarding": with("-N", "-R", "2222:127.0.0.1:22", login),
		"root":              with("root@"+g.Addr4.String(), "id"),
	} {
		if out, err := b.Controller.Run(t.Context(), argv...); err == nil {
			t.Errorf("the controller's key got %s: %q", name, out)
		}
	}
	// These end well: what runs is the agent's pipe, whose input is empty.
	for name, argv := range map[string][]string{"a command": with(login, "id"), "sftp": with("-s", login, "sftp"), "a shell": with(login)} {
		if out, _ := b.Controller.Run(t.Context(), argv...); out != "" {
			t.Errorf("the controller's key got %s: %q", name, out)
		}
	}
	// A forwarded connection is refused when it is used: the agent's own pipe never is.
	out, err := b.Controller.Run(t.Context(), with("-W", "127.0.0.1:22", login)...)
	if err == nil || strings.Contains(out, "SSH-2.0") {
		t.Errorf("the controller's key was let through to another port: %q, %v", out, err)
	}
	for path, want := range map[string]string{
		"/etc/gatewayctl": "750 root:gatewayctl", "/etc/gatewayctl/authorized_keys": "640 root:gatewayctl", "/etc/gatewayctl/signers": "600 root:root",
		"/etc/gatewayctl/limits.yaml": "600 root:root", "/etc/gatewayctl/agent.yaml": "600 root:root", "/etc/gatewayctl/peer_ed25519": "600 root:root",
		"/etc/gatewayctl/known_hosts": "600 root:root", "/usr/local/sbin/gatewayctl": "755 root:root", "/var/lib/gatewayctl": "700 root:root",
	} {
		if got := mustRun(t, g, "stat", "-c", "%a %U:%G", path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// otherKeys: a host that shows another key than before is refused, whatever is accepted of new ones; what somebody edited is not
// overwritten.
func (b *bare) otherKeys(t *testing.T) {
	t.Helper()
	g := b.Gateways[1]
	limits, err := g.ReadFile(lab.LimitsFile)
	must(t, err)
	must(t, g.WriteFile(lab.LimitsFile, append([]byte("# my own\n"), limits...), 0o600))
	_, err = b.bootstrap(t)
	if err == nil || !strings.Contains(err.Error(), g.Name+": in the way (edited): "+lab.LimitsFile) {
		t.Errorf("limits.yaml was edited: %v", err)
	}
	_, err = b.bootstrap(t, "--adopt")
	must(t, err)
	if got, err := g.ReadFile(lab.LimitsFile); err != nil || string(got) != string(limits) {
		t.Errorf("after --adopt limits.yaml is\n%s%v", got, err)
	}
	if kept, err := g.ReadFile(lab.LimitsFile + ".before-gatewayctl"); err != nil || !strings.HasPrefix(string(kept), "# my own") {
		t.Errorf("--adopt kept %q, %v", kept, err)
	}
	mustRun(t, g, "rm", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub")
	mustRun(t, g, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key")
	mustRun(t, g, "pkill", fmt.Sprintf("-%d", syscall.SIGHUP), "-x", "-o", "sshd")
	eventually(t, "another host key is refused", func() error {
		_, err := b.bootstrap(t, "--accept-new-host-keys")
		if err == nil || !strings.Contains(err.Error(), "presented another host key than the known one") {
			return fmt.Errorf("it was not: %w", err)
		}
		return nil
	})
}
