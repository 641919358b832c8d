package e2e

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/test/lab"
)

// spellings are the forms in which a log could tell a private key: the lines of its file, and its secret half as Go prints bytes.
func spellings(t *testing.T, file []byte) map[string][]byte {
	t.Helper()
	parsed, err := ssh.ParseRawPrivateKey(file)
	must(t, err)
	key, isEd25519 := parsed.(*ed25519.PrivateKey)
	if !isEd25519 {
		t.Fatalf("the controller's key is a %T", parsed)
	}
	seed := key.Seed()
	all := map[string][]byte{
		"raw":     seed,
		"hex":     []byte(hex.EncodeToString(seed)),
		"decimal": []byte(strings.Trim(fmt.Sprint(seed), "[]")),
		"base64":  []byte(base64.StdEncoding.EncodeToString(seed[:30])), // in front of something else its end differs
	}
	for n, line := range bytes.Split(bytes.TrimSpace(file), []byte("\n")) {
		if !bytes.HasPrefix(line, []byte("-----")) && len(line) > 16 { // the end of a short one is padding, the same in every key
			all[fmt.Sprintf("line %d of the file", n+1)] = line
		}
	}
	return all
}

// told gives the spellings that a text has.
func told(text []byte, spellings map[string][]byte) []string {
	var found []string
	for name, spelling := range spellings {
		if bytes.Contains(text, spelling) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// What logs a key would be found, however it is logged.
func TestSpellings(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(key, "controller")
	must(t, err)
	file := pem.EncodeToMemory(block)
	secret := spellings(t, file)
	for _, text := range []string{
		fmt.Sprintf("key %s", file), fmt.Sprintf("%v", key), fmt.Sprintf("%x", key), string(key),
		`{"key":"` + base64.StdEncoding.EncodeToString(key) + `"}`,
	} {
		if told([]byte(text), secret) == nil {
			t.Errorf("not found in %q", text)
		}
	}
	if found := told([]byte(fmt.Sprint("nothing of it, but ", key.Public())), secret); found != nil {
		t.Errorf("%q is found where there is nothing", found)
	}
}

// testSecretsUntold: after all that the other tests made it do, no log of the site has the controller's private key.
func testSecretsUntold(t *testing.T, s *site) {
	file, err := s.Lab.Controller.ReadFile(lab.KeyFile)
	must(t, err)
	secret := spellings(t, file)
	s.awaitInSync(t) // the key was used, also when this test runs alone
	logs, err := s.Lab.Logs()
	must(t, err)
	silent := map[string]bool{s.controller.Log: true}
	for _, g := range s.Lab.Gateways {
		for _, program := range []string{"sshd.log", "agent.log"} {
			silent[filepath.Join(filepath.Dir(filepath.Dir(s.controller.Log)), g.Name, program)] = true
		}
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		must(t, err)
		if len(text) != 0 {
			delete(silent, log)
		}
		if found := told(text, secret); found != nil {
			t.Errorf("%s tells the controller's private key: %q", log, found)
		}
	}
	if len(silent) != 0 {
		t.Errorf("these logs are missing or empty, so that nothing was looked for: %v", slices.Sorted(maps.Keys(silent)))
	}
}
