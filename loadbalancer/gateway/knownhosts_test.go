package gateway

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// line is a known_hosts line for the machine's address.
func line(marker string, key ssh.Signer) string {
	return strings.TrimSpace(marker + " " + knownhosts.Line([]string{machineAddress}, key.PublicKey()))
}

// Which hosts are let through (invariant 12), with the words for those that are not.
func TestHostKeys(t *testing.T) {
	host, other, ec, rsa, authority := ed25519Key(t), ed25519Key(t), ecdsaKey(t), rsaKey(t), ed25519Key(t)
	// The clock of a synctest bubble begins in 2000.
	valid := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	certificate := hostCertificate(t, authority, host, "192.0.2.1", valid)
	tests := []struct {
		name    string
		known   []string
		shown   []ssh.Signer
		address string
		refused []string // words of the refusal; none: accepted
	}{
		{name: "known", known: []string{line("", host)}, shown: []ssh.Signer{host}},
		{name: "known by its last key only", known: []string{line("", rsa)}, shown: []ssh.Signer{host, ec, rsa}},
		{name: "known by several keys", known: []string{line("", other), line("", ec), line("", host)}, shown: []ssh.Signer{host}},
		{name: "hashed name", shown: []ssh.Signer{host},
			known: []string{knownhosts.HashHostname("192.0.2.1") + " " + keyText(host)}},
		{name: "hashed name with a port", shown: []ssh.Signer{host}, address: "192.0.2.1:2222",
			known: []string{knownhosts.HashHostname("[192.0.2.1]:2222") + " " + keyText(host)}},
		{name: "other port", shown: []ssh.Signer{host}, address: "gw1.example.org:2222",
			known: []string{"[gw1.example.org]:2222 " + keyText(host), "gw1.example.org " + keyText(other)}},
		{name: "IPv6", shown: []ssh.Signer{host}, address: "[2001:db8::1]:22", known: []string{"2001:db8::1 " + keyText(host)}},
		{name: "IPv6 with a port", shown: []ssh.Signer{host}, address: "[2001:db8::1]:2222", known: []string{"[2001:db8::1]:2222 " + keyText(host)}},
		{name: "pattern", known: []string{"192.0.2.* " + keyText(host)}, shown: []ssh.Signer{host}},
		{name: "certificate", known: []string{line("@cert-authority", authority)}, shown: []ssh.Signer{certificate}},
		{name: "certificate and plain keys", known: []string{line("@cert-authority", authority), line("", rsa)}, shown: []ssh.Signer{rsa, certificate}},

		{name: "unknown", known: []string{"192.0.2.9 " + keyText(host)}, shown: []ssh.Signer{host},
			refused: []string{"unknown host: no entry in ", "it presented ssh-ed25519 " + ssh.FingerprintSHA256(host.PublicKey()),
				"`ssh-keyscan 192.0.2.1`"}},
		{name: "known at another port only", known: []string{line("", host)}, shown: []ssh.Signer{host}, address: "192.0.2.1:2222",
			refused: []string{"unknown host", "`ssh-keyscan -p 2222 192.0.2.1`"}},
		{name: "excluded by a pattern", known: []string{"192.0.2.*,!192.0.2.1 " + keyText(host)}, shown: []ssh.Signer{host},
			refused: []string{"unknown host"}},
		{name: "another key of the same type", known: []string{line("", other)}, shown: []ssh.Signer{host},
			refused: []string{"another host key", "expected ssh-ed25519 " + ssh.FingerprintSHA256(other.PublicKey()), "line 1)",
				"got ssh-ed25519 " + ssh.FingerprintSHA256(host.PublicKey()), "replace the lines of 192.0.2.1"}},
		{name: "no key of a known type", known: []string{line("", rsa), line("", ec)}, shown: []ssh.Signer{host},
			refused: []string{"another host key", "expected ssh-rsa " + ssh.FingerprintSHA256(rsa.PublicKey()),
				" or ecdsa-sha2-nistp256 " + ssh.FingerprintSHA256(ec.PublicKey()),
				"got ssh-ed25519 " + ssh.FingerprintSHA256(host.PublicKey())}},
		{name: "revoked", known: []string{line("", host), line("@revoked", host)}, shown: []ssh.Signer{host},
			refused: []string{"is revoked (", "line 2)", ssh.FingerprintSHA256(host.PublicKey()), "ssh-keygen -A"}},
		{name: "plain key where a certificate is wanted", known: []string{line("@cert-authority", authority)}, shown: []ssh.Signer{host},
			refused: []string{"expected certificate by ssh-ed25519 " + ssh.FingerprintSHA256(authority.PublicKey()),
				"got ssh-ed25519 " + ssh.FingerprintSHA256(host.PublicKey())}},
		{name: "the authority's own key as host key", known: []string{line("@cert-authority", authority), line("", host)},
			shown: []ssh.Signer{authority}, refused: []string{"another host key"}},
		{name: "certificate by a stranger", known: []string{line("@cert-authority", authority)},
			shown:   []ssh.Signer{hostCertificate(t, other, host, "192.0.2.1", valid)},
			refused: []string{"not accepted", "certificate by " + ssh.FingerprintSHA256(other.PublicKey()), "no authorities"}},
		{name: "certificate for another host", known: []string{line("@cert-authority", authority)},
			shown: []ssh.Signer{hostCertificate(t, authority, host, "192.0.2.2", valid)}, refused: []string{"not accepted", "principal"}},
		{name: "expired certificate", known: []string{line("@cert-authority", authority)},
			shown:   []ssh.Signer{hostCertificate(t, authority, host, "192.0.2.1", valid.AddDate(-2, 0, 0))},
			refused: []string{"not accepted", "expired", "issue a new host certificate"}},
		{name: "certificate of a revoked authority", known: []string{line("@cert-authority", authority), line("@revoked", authority)},
			shown: []ssh.Signer{certificate}, refused: []string{"revoked"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, config := newMachine(t)
				m.hostKeys = test.shown
				config.KnownHosts = knownHosts(t, test.known...)
				if test.address != "" {
					config.Address = test.address
				}
				asked := false
				m.command = func(session io.ReadWriter, stderr io.Writer) int {
					asked = true
					return agent(nil)(session, stderr)
				}
				_, err := newClient(t, config).State(t.Context())
				if len(test.refused) == 0 {
					if err != nil {
						t.Errorf("refused: %v", err)
					}
					return
				}
				var hostKey *HostKeyError
				if !errors.As(err, &hostKey) || asked {
					t.Fatalf("not refused: %v, asked %v", err, asked)
				}
				for _, words := range append(test.refused, "gateway gw1") {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("error does not say %q:\n%v", words, err)
					}
				}
			})
		})
	}
}

func keyText(key ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// The offer is what makes a host with several keys show the one that is known.
func TestOfferedAlgorithms(t *testing.T) {
	host, ec, rsa := ed25519Key(t), ecdsaKey(t), rsaKey(t)
	certificates := []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoRSASHA512v01}
	tests := []struct {
		name  string
		known []string
		want  []string // nil: the library's own list, for an unknown host
		some  []string // among them
	}{
		{name: "unknown host", known: []string{"192.0.2.9 " + keyText(host)}},
		{name: "RSA means SHA-2", known: []string{line("", rsa)}, want: []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}},
		{name: "each once, in the file's order", known: []string{line("", ec), line("", host), line("", ecdsaKey(t))},
			want: []string{ssh.KeyAlgoECDSA256, ssh.KeyAlgoED25519}},
		{name: "authority", known: []string{line("@cert-authority", host)}, some: certificates},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			keys, err := knownHosts(t, test.known...).read()
			if err != nil {
				t.Fatal(err)
			}
			want, err := keys.lookUp(machineAddress)
			if err != nil {
				t.Fatal(err)
			}
			got := want.algorithms()
			if test.some == nil && !slices.Equal(got, test.want) {
				t.Errorf("offered %q, want %q", got, test.want)
			}
			for _, algorithm := range test.some {
				if !slices.Contains(got, algorithm) || slices.Contains(got, ssh.KeyAlgoED25519) {
					t.Errorf("offered %q, want %s and no plain key", got, algorithm)
				}
			}
		})
	}
}

// A corrected file heals a running client.
func TestKnownHostsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		config.KnownHosts = knownHosts(t, line("", ed25519Key(t)))
		c := newClient(t, config)
		if _, err := c.State(t.Context()); err == nil {
			t.Fatal("a wrong key was accepted")
		}
		file := config.KnownHosts.files[0]
		if err := os.WriteFile(file, []byte(line("", m.hostKeys[0])+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.State(t.Context()); err != nil {
			t.Errorf("after the correction: %v", err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		c.drop()
		if _, err := c.State(t.Context()); err == nil || !strings.Contains(err.Error(), "reading known hosts") {
			t.Errorf("without the file: %v", err)
		}
	})
}

func TestLoadKnownHostsTellsWhere(t *testing.T) {
	file := t.TempDir() + "/known_hosts"
	if err := os.WriteFile(file, []byte("# fine\ngw1 ssh-ed25519 nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]string{
		file + ":2":                {file},
		"no known hosts file":      nil,
		"no such file or director": {t.TempDir() + "/absent"},
	} {
		if _, err := LoadKnownHosts(files...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// Host tells a host that is known from one that is not, and its own keys from those that only sign.
func TestHost(t *testing.T) {
	host, authority := ed25519Key(t), ed25519Key(t)
	for name, test := range map[string]struct {
		lines      []string
		known      bool
		keys       int
		algorithms []string
	}{
		"unknown":         {[]string{"192.0.2.9 " + keyText(host)}, false, 0, nil},
		"known":           {[]string{line("", host)}, true, 1, []string{ssh.KeyAlgoED25519}},
		"by an authority": {[]string{line("@cert-authority", authority)}, true, 0, []string{ssh.CertAlgoED25519v01}},
	} {
		file := t.TempDir() + "/known_hosts"
		if err := os.WriteFile(file, []byte(strings.Join(test.lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := LoadKnownHosts(file)
		if err != nil {
			t.Fatal(err)
		}
		h, err := k.Host(machineAddress)
		if err != nil {
			t.Fatal(err)
		}
		if h.Known() != test.known || len(h.Keys) != test.keys || (len(h.Algorithms) > 0) != test.known ||
			len(test.algorithms) > 0 && !slices.Contains(h.Algorithms, test.algorithms[0]) {
			t.Errorf("%s: known %t, %d keys, algorithms %q", name, h.Known(), len(h.Keys), h.Algorithms)
		}
		var mismatch *HostKeyError
		if err := h.Accept("", noAddr{}, ed25519Key(t).PublicKey()); !errors.As(err, &mismatch) {
			t.Errorf("%s: a foreign key: %v", name, err)
		}
		if got := h.Accept("", noAddr{}, host.PublicKey()) == nil; got != (name == "known") {
			t.Errorf("%s: the host's key is accepted: %t", name, got)
		}
	}
}
