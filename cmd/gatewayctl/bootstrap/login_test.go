package bootstrap

import (
	"context"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// Root is reached by sudo, with a password where it wants one.
func TestSudo(t *testing.T) {
	for _, password := range []string{"", "right"} {
		m := newMachine(t, "gw1")
		m.uid, m.sudo = "1000", password
		o := &operator{yes: true, secrets: []string{"right"}}
		if _, err := Run(t.Context(), order(t, o, m)); err != nil {
			t.Fatalf("sudo with password %q: %v", password, err)
		}
		if !slices.ContainsFunc(m.commands, func(c string) bool { return strings.HasPrefix(c, "sudo") && strings.HasSuffix(c, "bootstrap-local") }) {
			t.Errorf("ran %q", m.commands)
		}
	}
	m := newMachine(t, "gw1")
	m.uid, m.sudo, m.key = "1000", "right", nil
	file, public := identity(t, "")
	m.key = public
	o := order(t, &operator{yes: true}, m)
	o.Login.Identities = []string{file}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "sudo asks for a password") {
		t.Errorf("nobody to type sudo's password: %v", err)
	}
}

// identity writes a private key.
func identity(t *testing.T, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return file, signer.PublicKey()
}

// A key with a passphrase is asked for once for all gateways.
func TestPassphrase(t *testing.T) {
	file, public := identity(t, "open sesame")
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	for _, m := range []*machine{a, b} {
		m.password, m.key = "", public
	}
	terminal := &operator{yes: true, secrets: []string{"open sesame"}}
	o := order(t, terminal, a, b)
	o.Login.Identities, o.Login.AcceptNew = []string{file, file + ".absent"}, true
	if _, err := Run(t.Context(), o); err != nil || len(terminal.asked) != 1 || !strings.Contains(terminal.asked[0], file) {
		t.Errorf("asked %q: %v", terminal.asked, err)
	}
}

// A login that fails tells which keys were tried, and which could not be.
func TestKeysThatWereTried(t *testing.T) {
	locked, _ := identity(t, "open sesame")
	plain, _ := identity(t, "")
	broken := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(broken, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, "gw1")
	o := order(t, &operator{yes: true}, m)
	o.Login.Identities = []string{locked, plain, broken, plain + ".absent"}
	_, err := Run(t.Context(), o)
	for _, want := range []string{"does not let op in, with none of the keys ", locked + " (not read: it has a passphrase, and nobody is there)", plain + ", ", broken + " (not read: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), ".absent") {
		t.Errorf("tells of a file that is not there: %v", err)
	}
}

// A host key is confirmed or known; one that differs is refused whatever is accepted.
func TestHostKeys(t *testing.T) {
	m := newMachine(t, "gw1")
	o := order(t, &operator{secrets: []string{"right"}}, m)
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "was not confirmed") || len(m.commands) > 0 {
		t.Errorf("not confirmed: %v", err)
	}
	o.Login.AcceptNew = true
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), o); err != nil {
		t.Errorf("the second time: %v", err)
	}
	recorded, err := os.ReadFile(o.HostKeysFile)
	if err != nil || !strings.Contains(string(recorded), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(m.hostKey.PublicKey())))) {
		t.Errorf("recorded %q: %v", recorded, err)
	}
	other := site.Key{PublicKey: newSigner(t).PublicKey()}
	if err := os.WriteFile(o.HostKeysFile, fmt.Appendf(nil, "192.0.2.1 %s\n", other), 0o644); err != nil {
		t.Fatal(err)
	}
	before := len(m.commands)
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another host key than the known one") || len(m.commands) != before {
		t.Errorf("another key: %v", err)
	}
}

// sudo's password is tried before a plan is sent behind it, and asked for again when it is wrong; never when that cannot help.
func TestSudoPassword(t *testing.T) {
	for name, test := range map[string]struct {
		secrets []string // the first one logs in
		spoil   func(*machine)
		tries   int
		want    string
	}{
		"the login's":  {[]string{"right"}, nil, 1, ""},
		"another one":  {[]string{"right", "wrong", "sesame"}, func(m *machine) { m.sudo = "sesame" }, 3, ""},
		"three wrong":  {[]string{"right", "a", "b", "c"}, func(m *machine) { m.sudo = "sesame" }, 3, "sudo does not make user op root there"},
		"nobody there": {[]string{"right"}, func(m *machine) { m.sudo = "sesame" }, 1, "no password was provided"},
		"no rights":    {[]string{"right"}, func(m *machine) { m.notSudoer = true }, 0, "op is not in the sudoers file"},
		"no sudo":      {[]string{"right"}, func(m *machine) { m.noSudo = true }, 0, "there is no sudo: log in as root"},
	} {
		m := newMachine(t, "gw1")
		m.uid, m.sudo = "1000", "right"
		if test.spoil != nil {
			test.spoil(m)
		}
		_, err := Run(t.Context(), order(t, &operator{yes: true, secrets: test.secrets}, m))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) || m.sudoTries != test.tries {
			t.Errorf("%s: %d tries, %v, want %q", name, m.sudoTries, err, test.want)
		}
		if test.want != "" && m.did() != "" {
			t.Errorf("%s: asked for %s", name, m.did())
		}
	}
}

// What the controller's own file says of a host is what counts; another file may know another of its keys.
func TestTheControllersFileDecides(t *testing.T) {
	m := newMachine(t, "gw1")
	o := order(t, &operator{secrets: []string{"right", "right"}}, m)
	mine := filepath.Join(t.TempDir(), "known_hosts")
	o.Login.KnownHosts = []string{o.HostKeysFile, mine}
	write := func(file string, key ssh.PublicKey) {
		t.Helper()
		if err := os.WriteFile(file, fmt.Appendf(nil, "192.0.2.1 %s\n", site.Key{PublicKey: key}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, keys := range [][2]ssh.Signer{{m.hostKey, m.secondKey}, {m.secondKey, m.hostKey}} {
		write(o.HostKeysFile, keys[0].PublicKey())
		write(mine, keys[1].PublicKey())
		if _, err := Run(t.Context(), o); err != nil {
			t.Errorf("the controller's file knows it: %v", err)
		}
	}
	// A key of a kind that the host has no more is no reason to take another one, nor to cry wolf.
	write(o.HostKeysFile, newECDSASigner(t, elliptic.P384()).PublicKey())
	write(mine, m.hostKey.PublicKey())
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "has no host key of the kind that is known of it") {
		t.Errorf("the controller's file knows a key that is gone: %v", err)
	}
	write(o.HostKeysFile, newSigner(t).PublicKey())
	write(mine, m.hostKey.PublicKey())
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another host key than the known one") {
		t.Errorf("the controller's file knows another key: %v", err)
	}
}

// A host that accepts and says nothing is given up; typing a password has no limit.
func TestSilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Login{User: "op", Terminal: &operator{}, AcceptNew: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			t.Cleanup(func() { there.Close() })
			go func() { // it swallows what is said
				buffer := make([]byte, 1024)
				for {
					if _, err := there.Read(buffer); err != nil {
						return
					}
				}
			}()
			return here, nil
		}}
		m := machine{}
		m.gateway.Name, m.gateway.SSHAddress = "gw1", "192.0.2.1:22"
		if _, _, err := l.connect(t.Context(), m.gateway); err == nil || !strings.Contains(err.Error(), "gateway gw1 (192.0.2.1:22)") {
			t.Errorf("a host that says nothing: %v", err)
		}
	})
}
