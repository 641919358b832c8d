package prepare

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/test/lab"
)

// An sshd that would keep the controller out, or let it do something else, is told before anything is installed.
func TestSSHDWouldNotDo(t *testing.T) {
	for name, test := range map[string]struct{ effective, want string }{
		"as it is":                  {"", ""},
		"allowed by name":           {"allowusers root\nallowusers gateway*\n", ""},
		"allowed from somewhere":    {"allowusers gatewayctl@10.0.0.1\n", ""},
		"refused from somewhere":    {"denyusers gatewayctl@10.0.0.1\n", ""},
		"allowed by group":          {"allowgroups wheel gatewayctl\n", ""},
		"others allowed":            {"allowusers root\n", "would not let user gatewayctl in: allowusers is root"},
		"all but it allowed":        {"allowusers * !gatewayctl\n", "allowusers is * !gatewayctl"},
		"refused":                   {"denyusers gate*\n", "denyusers is gate*"},
		"others' groups":            {"allowgroups wheel\n", "allowgroups is wheel"},
		"its group":                 {"denygroups gatewayctl\n", "denygroups is gatewayctl"},
		"a command for all":         {"forcecommand internal-sftp\n", "would run ForceCommand internal-sftp"},
		"a directory of keys":       {"authorizedkeyscommand /usr/bin/sss_ssh_authorizedkeys\n", "would take AuthorizedKeysCommand /usr/bin/sss_ssh_authorizedkeys"},
		"a second factor":           {"authenticationmethods publickey,keyboard-interactive\n", "would take AuthenticationMethods"},
		"no keys":                   {"pubkeyauthentication no\n", "would take PubkeyAuthentication no"},
		"FIPS":                      {"pubkeyacceptedalgorithms ecdsa-sha2-nistp256,rsa-sha2-256\n", "takes no keys of type ssh-ed25519"},
		"a terminal from elsewhere": {"permittty yes\n", "would take PermitTTY yes"},
	} {
		m := newMachine(t)
		m.effective = test.effective
		r := m.do(plan(t, Check, nil))
		switch {
		case test.want == "" && len(r.Findings) > 0:
			t.Errorf("%s: %+v", name, r.Findings)
		case test.want != "" && (len(r.Findings) != 1 || r.Findings[0].Check != checkSSHD || !strings.Contains(r.Findings[0].Problem, test.want)):
			t.Errorf("%s: %+v, want %q", name, r.Findings, test.want)
		}
		// What changes in between is told as well, at the end.
		if m.effective = ""; test.want == "" {
			continue
		}
		installed(t, m.do(plan(t, Install, nil)))
		m.effective = test.effective
		if r := m.do(plan(t, Install, nil)); r.Error == "" {
			t.Errorf("%s: installed", name)
		}
	}
}

// Ours is judged behind what sshd reads before it, for the address that controllers and gateways come to.
func TestSSHDIsAskedAsItWillRead(t *testing.T) {
	m := newMachine(t)
	m.dropIns = []string{"/etc/ssh/sshd_config.d/zz.conf", "/etc/ssh/sshd_config.d/10-site.conf", site.SSHDFile}
	m.put("/etc/ssh/sshd_config", "LogLevel VERBOSE\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
	m.do(plan(t, Check, func(p *Plan) {
		p.Listen, p.From = netip.MustParseAddrPort("198.51.100.7:2222"), netip.MustParseAddr("198.51.100.8")
	}))
	if len(m.asked) != 4 || !strings.HasSuffix(m.asked[0], "-C user=gatewayctl,host=198.51.100.8,addr=198.51.100.8,laddr=198.51.100.7,lport=2222") {
		t.Fatalf("asked %q", m.asked)
	}
	if want := "LogLevel VERBOSE\nInclude \"/etc/ssh/sshd_config.d/10-site.conf\"\n"; !strings.HasPrefix(m.asked[1], want) || strings.Contains(m.asked[1], "zz.conf") {
		t.Errorf("ours was judged in\n%s", m.asked[1])
	}
	if !strings.HasPrefix(m.asked[3], "LogLevel VERBOSE\nInclude") || !strings.Contains(m.asked[3], "UsePAM yes\n") {
		t.Errorf("the whole was judged in\n%s", m.asked[3])
	}
}

// The real sshd understands the questions, and its answers are understood.
func TestRealSSHDIsAsked(t *testing.T) {
	lab.RequirePrograms(t, sshd, "ssh-keygen")
	directory := t.TempDir()
	key, included := filepath.Join(directory, "key"), filepath.Join(directory, "site.conf")
	if output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	config := "HostKey " + key + "\nInclude " + included + "\nInclude /etc/ssh/sshd_config.d/*.conf\n"
	for site, want := range map[string]string{
		"":                                   "",
		"Match User gate*\n PermitTTY yes\n": "would take PermitTTY yes",
		"Match LocalPort 2222\n ForceCommand /bin/false\n": "ForceCommand /bin/false",
		"Match LocalPort 22\n ForceCommand /bin/false\n":   "",
		"AllowUsers root\nAllowUsers op\n":                 "allowusers is root op",
		"PubkeyAcceptedAlgorithms rsa-sha2-512\n":          "takes no keys of type ssh-ed25519",
		"PubkeyAuthentication no\nPermitTTY yes\n":         "", // ours is a Match
	} {
		m := newMachine(t)
		m.real = true
		m.put("/etc/ssh/sshd_config", config)
		if err := os.WriteFile(included, []byte(site), 0o600); err != nil {
			t.Fatal(err)
		}
		p := plan(t, Check, func(p *Plan) { p.Listen = netip.MustParseAddrPort("198.51.100.7:2222") })
		found := m.do(p).Findings
		if want == "" && len(found) > 0 || want != "" && !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.Problem, want) }) {
			t.Errorf("%q: %+v, want %q", site, found, want)
		}
	}
}
