package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"k8s.io/component-base/cli"
)

// execute runs the command up to where it would ask for an API server.
func execute(t *testing.T, args ...string) error {
	t.Helper()
	command, err := newCommand(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	command.SetArgs(args)
	return cli.RunNoErrOutput(command)
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryFaultOfTheConfigurationIsTold(t *testing.T) {
	file := write(t, "cloud.yaml", `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: 192.0.2.2, interfaec: eth0}
ssh: {privateKeyFile: /nowhere/key, knownHostsFile: /nowhere/known_hosts}
vrrp: {firstRouterID: 300}
pools:
- {name: main, addresses: [192.0.2.90-192.0.2.80]}
ipMode: Both
`)
	err := execute(t, "--cloud-config", file, "--kubeconfig", "/nowhere/kubeconfig")
	for _, want := range []string{
		"7 errors occurred:",
		"gateways[0].interfaec: line 4: unknown field",
		"gateways[0].interface: is missing",
		"ssh.privateKeyFile: cannot be read: open /nowhere/key",
		"ssh.knownHostsFile: cannot be read: open /nowhere/known_hosts",
		"vrrp.firstRouterID: 300; 1 to 255 is allowed",
		`pools[0].addresses[0]: address range "192.0.2.90-192.0.2.80": is upside down`,
		`ipMode: "Both"; allowed is VIP, Proxy`,
	} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "kubeconfig") {
		t.Errorf("something was read before the configuration was valid:\n%v", err)
	}
}

func TestFlags(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "--cloud-config is missing; it names the file with the gateways and the address pools (kind CloudConfig)"},
		{[]string{"--cloud-provider=aws"}, `--cloud-provider is "aws"; allowed is haproxy`},
		{[]string{"--cloud-config=/nowhere/cloud.yaml"}, "reading the cloud configuration: open /nowhere/cloud.yaml: no such file or directory"},
	} {
		if err := execute(t, test.args...); fmt.Sprint(err) != test.want {
			t.Errorf("%q: %v, want %s", test.args, err, test.want)
		}
	}
	command, err := newCommand(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"concurrent-service-syncs": "200", "kube-api-qps": "-1", "cloud-provider": "haproxy",
		"leader-elect": "true", "leader-elect-resource-name": "haproxy-cloud-controller-manager", "secure-port": "10258",
	} {
		if f := command.Flags().Lookup(flag); f == nil || f.DefValue != want {
			t.Errorf("--%s is %+v, want default %s", flag, f, want)
		}
	}
	if f := command.Flags().Lookup("webhook-secure-port"); f != nil {
		t.Error("there is a flag for webhooks, of which there are none")
	}
}

// The files that the configuration names are read before anything else, too.
func TestKeyAndKnownHosts(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, "cloud.yaml", `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways: [{name: gw1, sshAddress: 192.0.2.2, interface: eth0}]
ssh:
  privateKeyFile: `+write(t, "key", string(pem.EncodeToMemory(block)))+`
  knownHostsFile: `+write(t, "known_hosts", "192.0.2.2 ssh-ed25519 not-a-key\n")+`
pools: [{name: main, addresses: [192.0.2.64/26]}]
`)
	err = execute(t, "--cloud-config", file)
	for _, want := range []string{"2 errors occurred", "ssh.privateKeyFile: private key", "has a passphrase", "ssh.knownHostsFile: ", "known_hosts:1: "} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}
