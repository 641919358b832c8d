package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// KnownHosts are files in the format of ssh's known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), with several keys
// for a host, hashed names, [host]:port, patterns, @revoked and @cert-authority.
type KnownHosts struct {
	files []string
}

// LoadKnownHosts reads the files to prove that they can be read; each connection reads them again.
func LoadKnownHosts(files ...string) (*KnownHosts, error) {
	if len(files) == 0 {
		return nil, errors.New("no known hosts file is named: host keys are always checked")
	}
	k := &KnownHosts{files: slices.Clone(files)}
	if _, err := k.read(); err != nil {
		return nil, err
	}
	return k, nil
}

// hostKeys is what the files say at one moment.
type hostKeys struct {
	files       []string
	check       ssh.HostKeyCallback
	authorities map[place]bool
}

// place is a line of a file; knownhosts tells it for each entry, but not the entry's marker.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s line %d", p.file, p.line) }

func (k *KnownHosts) read() (*hostKeys, error) {
	check, err := knownhosts.New(k.files...)
	if err != nil {
		return nil, fmt.Errorf("reading known hosts: %w", err)
	}
	h := &hostKeys{files: k.files, check: check, authorities: map[place]bool{}}
	for _, file := range k.files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading known hosts: %w", err)
		}
		for i, line := range bytes.Split(text, []byte("\n")) {
			if bytes.HasPrefix(bytes.Trim(line, " \t"), []byte("@cert-authority")) {
				h.authorities[place{file, i + 1}] = true
			}
		}
	}
	return h, nil
}

// expected is what the files say about one address.
type expected struct {
	address string
	keys    []knownhosts.KnownKey // of the host itself
	signers []knownhosts.KnownKey // authorities that sign host certificates
}

// lookUp finds the entries for address (host:port).
func (h *hostKeys) lookUp(address string) (*expected, error) {
	// A key that is in no file makes the package list all entries of the host; it has no other way to ask.
	err := h.check(address, noAddr{}, noKey{})
	var mismatch *knownhosts.KeyError
	if !errors.As(err, &mismatch) {
		return nil, fmt.Errorf("looking up %s in known hosts: %w", address, err)
	}
	e := &expected{address: address}
	for _, known := range mismatch.Want {
		if h.authorities[place{known.Filename, known.Line}] {
			e.signers = append(e.signers, known)
		} else {
			e.keys = append(e.keys, known)
		}
	}
	return e, nil
}

// algorithms are what we may offer for the host key, preferred first; nil for an unknown host.
func (e *expected) algorithms() []string {
	var offered []string
	supported := ssh.SupportedAlgorithms().HostKeys // without SHA-1 and DSA
	if len(e.signers) > 0 {
		// A certificate is signed by the authority, so the authority's type says nothing about the host key's.
		for _, algorithm := range supported {
			if isCertificate(algorithm) {
				offered = append(offered, algorithm)
			}
		}
	}
	for _, known := range e.keys {
		for _, algorithm := range signatureAlgorithms(known.Key.Type()) {
			if slices.Contains(supported, algorithm) && !slices.Contains(offered, algorithm) {
				offered = append(offered, algorithm)
			}
		}
	}
	return offered
}

// signatureAlgorithms are how a host proves that it has a key of a type (RFC 8332 for RSA, where one key type has several).
func signatureAlgorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

func isCertificate(algorithm string) bool {
	switch algorithm {
	case ssh.CertAlgoED25519v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
		ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01:
		return true
	}
	return false
}

// accept returns nil when key may be the host's; else a *HostKeyError without the gateway's name.
func (h *hostKeys) accept(e *expected, remote net.Addr, key ssh.PublicKey) error {
	refused := &HostKeyError{Address: e.address, Expected: e.describe(), Got: describeKey(key), Files: h.files}
	err := h.check(e.address, remote, key)
	var revoked *knownhosts.RevokedError
	var mismatch *knownhosts.KeyError
	switch {
	case errors.As(err, &revoked):
		refused.Revoked = place{revoked.Revoked.Filename, revoked.Revoked.Line}.String()
		return refused
	case errors.As(err, &mismatch):
		return refused
	case err != nil: // a certificate: foreign authority, expired, other principal, revoked
		refused.Err = err
		return refused
	}
	if _, certificate := key.(*ssh.Certificate); certificate {
		return nil
	}
	// The package also takes an authority's own key for a host key; sshd(8) lets an authority sign, no more.
	for _, known := range e.keys {
		if bytes.Equal(known.Key.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return refused
}

// describe lists what is expected, for people.
func (e *expected) describe() []string {
	var list []string
	for _, known := range e.keys {
		list = append(list, fmt.Sprintf("%s (%s)", describeKey(known.Key), place{known.Filename, known.Line}))
	}
	for _, known := range e.signers {
		list = append(list, fmt.Sprintf("certificate by %s (%s)", describeKey(known.Key), place{known.Filename, known.Line}))
	}
	return list
}

// describeKey gives type and fingerprint as `ssh-keygen -l` prints it.
func describeKey(key ssh.PublicKey) string {
	if certificate, ok := key.(*ssh.Certificate); ok {
		return fmt.Sprintf("%s %s, certificate by %s", certificate.Key.Type(),
			ssh.FingerprintSHA256(certificate.Key), ssh.FingerprintSHA256(certificate.SignatureKey))
	}
	return key.Type() + " " + ssh.FingerprintSHA256(key)
}

// noKey is equal to no key of a file.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// noAddr satisfies the callback; entries are looked up by the configured name only, as ssh does with CheckHostIP no.
type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "0.0.0.0:0" }
