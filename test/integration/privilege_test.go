package integration

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

// testLeastPrivilege: on a gateway that serves, nothing of ours listens to the network but sshd and HAProxy for its peers, whom alone
// the firewall lets in there; and nobody but root can read what the agent wrote or reach the daemons' sockets. The agent's own socket
// is for the forced command's group.
func testLeastPrivilege(t *testing.T, p *pair) {
	p.begin(t)
	h := p.Gateways[0]
	peers := port(h.Addr(), 7482) // peersPort of agent.yaml, at the address of VRRP
	listens := 0
	for line := range strings.Lines(mustRun(t, h, "ss", "-Hltnu")) {
		words := strings.Fields(line)
		local := words[4]
		if strings.HasPrefix(local, "127.0.0.1:") || strings.HasPrefix(local, "[::1]:") || strings.HasSuffix(local, ":22") {
			continue
		}
		if words[0] == "tcp" && local == peers {
			listens++
			continue
		}
		t.Errorf("listens to the network: %s", line)
	}
	if listens == 0 {
		t.Errorf("HAProxy does not listen for its peers at %s", peers)
	}
	// Refused where it listens is what the firewall does; the peer, which it lets in, shows that somebody is there.
	must(t, p.refused(t, peers))
	conn, err := p.Gateways[1].Dial(t.Context(), "tcp", peers)
	if err != nil {
		t.Errorf("the other gateway's HAProxy cannot tell this one's: %v", err)
	} else {
		must(t, conn.Close())
	}
	// The track files are one number each, for everybody to look at.
	open := mustRun(t, h, "find", "/etc/haproxy/haproxy.cfg", "/etc/haproxy/services.map", "/etc/haproxy/checks.map",
		"/etc/keepalived/keepalived.conf", "/var/lib/gatewayctl", "/run/gatewayctl",
		"-type", "f", "-not", "-path", "/run/gatewayctl/track/*", "-perm", "/o=rwx")
	if open != "" {
		t.Errorf("others than root and its group may read or write:\n%s", open)
	}
	if got, want := mustRun(t, h, "stat", "-c", "%a %U %G", "/run/gatewayctl/agent.sock"), "660 root gatewayctl"; got != want {
		t.Errorf("the agent's socket is %s, want %s", got, want)
	}
	const connect = `IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$!\n"`
	for _, argv := range [][]string{
		{"cat", "/var/lib/gatewayctl/state.json"},
		{"cat", "/etc/haproxy/services.map"},
		{"perl", "-MIO::Socket::UNIX", "-e", connect, "/run/haproxy/admin.sock"},
		{"perl", "-MIO::Socket::UNIX", "-e", connect, "/run/haproxy-master.sock"},
	} {
		out, err := h.Run(t.Context(), append([]string{"setpriv", "--reuid=gatewayctl", "--regid=gatewayctl", "--init-groups", "--"}, argv...)...)
		if err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("the forced command's user can run %q: %v %s", argv, err, out)
		}
	}
}

// testKeyRotation: while two keys are listed, the States of both are taken; the old one can then go, and what it signed is served
// on, with a warning, until the new one has signed a State.
func testKeyRotation(t *testing.T, p *pair) {
	const key, config = "/root/next_ed25519", "/root/next-cloud-config.yaml"
	p.begin(t)
	mustRun(t, p.Controller, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	public, err := p.Controller.ReadFile(key + ".pub")
	must(t, err)
	text, err := p.Controller.ReadFile(lab.CloudConfigFile)
	must(t, err)
	must(t, p.Controller.WriteFile(config, []byte(strings.Replace(string(text), lab.KeyFile, key, 1)), 0o600))
	with := []string{"--cloud-config", config}
	if _, err := p.tryPush(t, p.state(p.Workers, web()), with...); err == nil {
		t.Fatal("a key that is listed nowhere is believed")
	}
	defer func() { p.push(t, p.state(p.Workers, web())) }() // once the files are what they were
	for _, g := range p.Gateways {
		old := map[string]string{}
		for _, path := range []string{lab.AuthorizedKeysFile, lab.SignersFile} {
			content, err := g.ReadFile(path)
			must(t, err)
			old[path] = string(content)
		}
		defer func() {
			for path, content := range old {
				must(t, g.WriteFile(path, []byte(content), 0o644))
			}
		}()
		next := `restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=controller" ` + string(public)
		must(t, g.WriteFile(lab.AuthorizedKeysFile, []byte(old[lab.AuthorizedKeysFile]+next), 0o644))
		must(t, g.WriteFile(lab.SignersFile, []byte(old[lab.SignersFile]+string(public)), 0o644))
	}
	p.push(t, p.state(p.Workers, web()), with...)
	p.push(t, p.state(p.Workers, web())) // both are valid, in any order
	for _, g := range p.Gateways {
		must(t, g.WriteFile(lab.SignersFile, public, 0o644))
	}
	_, err = p.tryPush(t, p.state(p.Workers, web()))
	expectWords(t, err, lab.SignersFile)
	must(t, p.reaches(webTargets()...))
	for name, s := range p.status(t) {
		if _, warned := warning(s, "SignerRemoved"); !warned {
			t.Errorf("%s serves what a removed key signed and does not say so", name)
		}
	}
	p.push(t, p.state(p.Workers, web()), with...)
	for name, s := range p.status(t) {
		if w, warned := warning(s, "SignerRemoved"); warned || !s.InSync {
			t.Errorf("%s: in sync %v, %s", name, s.InSync, w.Message)
		}
	}
	must(t, p.reaches(webTargets()...))
}
