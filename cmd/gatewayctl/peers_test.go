package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/test/lab"
)

// What is missing is named by its key in agent.yaml; once it is there, no restart is needed.
func TestDialPeer(t *testing.T) {
	lab.RequirePrograms(t, "ssh-keygen")
	directory := t.TempDir()
	config := agent.Peers{User: "gatewayctl", PrivateKeyFile: filepath.Join(directory, "peer_ed25519"), KnownHostsFile: filepath.Join(directory, "known_hosts")}
	dial := dialPeer(config)
	west := agent.PeerAddress{Name: "west", SSHAddress: "192.0.2.3:22"}
	expect := func(word string) {
		t.Helper()
		if _, err := dial(west); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got %v, want %q", err, word)
		}
	}
	expect("peers.privateKeyFile: reading the private key")
	if output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", config.PrivateKeyFile).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	expect("peers.knownHostsFile: reading known hosts")
	if err := os.WriteFile(config.KnownHostsFile, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	peer, err := dial(west)
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Close(); err != nil {
		t.Error(err)
	}
}
