package gateway

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// LoadSigner reads a private key file as ssh-keygen writes it. No error shows a byte of it.
func LoadSigner(file string) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("private key %s has a passphrase, which nobody could type here: make one without (`ssh-keygen -t ed25519 -N ''`)", file)
	}
	if err != nil {
		return nil, fmt.Errorf("private key %s is not in a form that ssh-keygen writes: %w", file, err)
	}
	return signer, nil
}

// Signer signs States with one key.
type Signer struct {
	Key ssh.Signer
}

// Sign is Sign with s.Key.
func (s Signer) Sign(state []byte) (desired.Signed, error) { return Sign(s.Key, state) }

// Sign signs the canonical bytes of a State. An RSA key signs with SHA-512: ssh-rsa means SHA-1, which nobody may believe.
func Sign(signer ssh.Signer, state []byte) (desired.Signed, error) {
	key := signer.PublicKey()
	signed := desired.Signed{State: state, Signer: ssh.FingerprintSHA256(key)}
	var signature *ssh.Signature
	var err error
	if key.Type() == ssh.KeyAlgoRSA {
		rsa, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return desired.Signed{}, fmt.Errorf("signing the State: RSA key %s cannot sign with SHA-512; use an ed25519 key", signed.Signer)
		}
		signature, err = rsa.SignWithAlgorithm(rand.Reader, signed.SigningInput(), ssh.KeyAlgoRSASHA512)
	} else {
		signature, err = signer.Sign(rand.Reader, signed.SigningInput())
	}
	if err != nil {
		return desired.Signed{}, fmt.Errorf("signing the State with key %s: %w", signed.Signer, err)
	}
	signed.Signature = ssh.Marshal(signature)
	return signed, nil
}

// Verifier believes the keys of a signers file.
type Verifier struct {
	keys map[string]ssh.PublicKey // by fingerprint
}

// NewVerifier reads the lines of a signers file: one public key a line as in ssh's *.pub files, blank lines, and
// comments with #. Options before a key are refused: authorized_keys has options that take trust away (expiry-time),
// and one that was overlooked here would give it. Every faulty line is told. Without a key it believes nothing.
func NewVerifier(authorizedKeys []byte) (*Verifier, error) {
	v := &Verifier{keys: map[string]ssh.PublicKey{}}
	var faults []error
	for i, line := range bytes.Split(authorizedKeys, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("line %d is not a public key (the content of a .pub file): %w", i+1, err))
		case len(options) > 0:
			faults = append(faults, fmt.Errorf("line %d has options (%s): write the key alone", i+1, options[0]))
		default:
			v.keys[ssh.FingerprintSHA256(key)] = key
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("reading signers: %w", errors.Join(faults...))
	}
	return v, nil
}

// UnknownSignerError says that a State was signed by a key that is not among the signers.
type UnknownSignerError struct {
	Signer string // fingerprint
	Known  int    // how many keys are among the signers
}

func (e *UnknownSignerError) Error() string {
	return fmt.Sprintf("the State was signed by key %q, which is not among the %d keys in the signers file; "+
		"if it is the controller's key, add its public key to /etc/gatewayctl/signers", e.Signer, e.Known)
}

// Verify returns nil when a believed key signed exactly these bytes.
func (v *Verifier) Verify(signed desired.Signed) error {
	key, ok := v.keys[signed.Signer]
	if !ok {
		return &UnknownSignerError{Signer: signed.Signer, Known: len(v.keys)}
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(signed.Signature, &signature); err != nil {
		return fmt.Errorf("reading the State's signature by key %s: %w", signed.Signer, err)
	}
	if signature.Format == ssh.KeyAlgoRSA {
		return fmt.Errorf("the State's signature by key %s uses SHA-1, which is not believed", signed.Signer)
	}
	if err := key.Verify(signed.SigningInput(), &signature); err != nil {
		return fmt.Errorf("the State is not what key %s signed: %w", signed.Signer, err)
	}
	return nil
}
