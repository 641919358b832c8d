package gateway

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

func TestSignAndVerify(t *testing.T) {
	for name, key := range map[string]ssh.Signer{"ed25519": ed25519Key(t), "ecdsa": ecdsaKey(t), "rsa": rsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			signed, err := Signer{key}.Sign([]byte(`{"schema":1}`))
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := NewVerifier([]byte("# the controller\n\n" + keyText(ed25519Key(t)) + " old\n" + keyText(key) + " controller\n"))
			if err != nil {
				t.Fatal(err)
			}
			if err := verifier.Verify(signed); err != nil {
				t.Errorf("a good signature: %v", err)
			}
			bad := signed
			bad.State = []byte(`{"schema":2}`)
			if err := verifier.Verify(bad); err == nil || !strings.Contains(err.Error(), "is not what key "+signed.Signer+" signed") {
				t.Errorf("another State: %v", err)
			}
			bad = signed
			bad.Signature = signed.Signature[:len(signed.Signature)/2]
			if err := verifier.Verify(bad); err == nil {
				t.Error("half a signature was believed")
			}
			bad.Signature = nil
			if err := verifier.Verify(bad); err == nil {
				t.Error("no signature was believed")
			}
		})
	}
}

// A key that is not listed is named, also when its owner claims to be one that is.
func TestUnknownSigner(t *testing.T) {
	listed, stranger := ed25519Key(t), ed25519Key(t)
	verifier, err := NewVerifier([]byte(keyText(listed)))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(stranger, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	var unknown *UnknownSignerError
	if err := verifier.Verify(signed); !errors.As(err, &unknown) || unknown.Signer != ssh.FingerprintSHA256(stranger.PublicKey()) ||
		!strings.Contains(err.Error(), unknown.Signer) || !strings.Contains(err.Error(), "/etc/gatewayctl/signers") {
		t.Errorf("got %v", err)
	}
	signed.Signer = ssh.FingerprintSHA256(listed.PublicKey())
	if err := verifier.Verify(signed); err == nil {
		t.Error("a stranger's signature under a listed name was believed")
	}
}

// x/crypto verifies ssh-rsa (SHA-1) signatures; we must not believe them.
func TestSHA1IsNotBelieved(t *testing.T) {
	key := rsaKey(t)
	verifier, err := NewVerifier([]byte(keyText(key)))
	if err != nil {
		t.Fatal(err)
	}
	signed := desired.Signed{State: []byte("x"), Signer: ssh.FingerprintSHA256(key.PublicKey())}
	signature, err := key.Sign(rand.Reader, signed.SigningInput()) // ssh-rsa: the key type's own name
	if err != nil {
		t.Fatal(err)
	}
	if signature.Format != ssh.KeyAlgoRSA || key.PublicKey().Verify(signed.SigningInput(), signature) != nil {
		t.Fatalf("the premise is gone: format %s", signature.Format)
	}
	signed.Signature = ssh.Marshal(signature)
	if err := verifier.Verify(signed); err == nil || !strings.Contains(err.Error(), "SHA-1") {
		t.Errorf("got %v", err)
	}
}

func TestSignersFileIsStrict(t *testing.T) {
	good := keyText(ed25519Key(t))
	_, err := NewVerifier([]byte(good + "\nnonsense\n" + `expiry-time="20200101" ` + good + "\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2 is not a public key") || !strings.Contains(err.Error(), "line 3 has options (expiry-time") {
		t.Errorf("got %v", err)
	}
	verifier, err := NewVerifier(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(ed25519Key(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(signed); err == nil || !strings.Contains(err.Error(), "the 0 keys") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestLoadSigner(t *testing.T) {
	write := func(block *pem.Block, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "id")
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	key := newEd25519(t)
	signer, err := LoadSigner(write(ssh.MarshalPrivateKey(key, "")))
	if err != nil {
		t.Fatal(err)
	}
	if signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Errorf("type %s", signer.PublicKey().Type())
	}
	secret := "c2VjcmV0"
	broken := write(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte(secret)}, nil)
	locked := write(ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(secret)))
	for file, words := range map[string]string{locked: "has a passphrase", broken: "ssh-keygen", "/absent": "no such file"} {
		_, err := LoadSigner(file)
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", words, err)
		}
	}
}

// The files that ssh-keygen writes are what a person installs.
func TestLoadSignerReadsSSHKeygen(t *testing.T) {
	lab.RequirePrograms(t, "ssh-keygen")
	directory := t.TempDir()
	for _, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		file := filepath.Join(directory, kind)
		run(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file)
		signer, err := LoadSigner(file)
		if err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		signed, err := Sign(signer, []byte("state"))
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := NewVerifier(public)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(signed); err != nil || signed.Signer != fingerprint(t, file) {
			t.Errorf("%s: %v, signer %s", kind, err, signed.Signer)
		}
	}
}
