package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/provider/config"
)

const cloudConfig = `
apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw2, sshAddress: 192.0.2.2, interface: eth0}
- {name: gw1, sshAddress: 192.0.2.1, interface: eth0}
ssh: {privateKeyFile: /key, knownHostsFile: /known_hosts}
pools:
- {name: inside, addresses: [192.0.2.64/26]}
- {name: outside, addresses: [198.51.100.10-198.51.100.20], interface: eth1}
controlPlane: {address: 192.0.2.200, interface: eth2, endpoints: [192.0.2.11, 192.0.2.12]}
`

const webState = `
fence: {clusterUID: uid-1}
nodes:
- {name: w2, addresses: [192.0.2.22]}
- {name: w1, addresses: [192.0.2.21]}
loadBalancers:
- namespace: default
  name: web
  uid: web-uid
  addresses: [198.51.100.10]
  frontends:
  - {protocol: TCP, port: 80, nodePort: 30080}
- namespace: default
  name: dns
  uid: dns-uid
  addresses: [192.0.2.70]
  frontends:
  - {protocol: TCP, port: 53, nodePort: 30053}
`

func readCloudConfig(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Decode([]byte(cloudConfig))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func handwrittenWeb(t *testing.T) *desired.State {
	t.Helper()
	state, err := handwritten([]byte(webState), readCloudConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// What a person leaves out comes from the cloud configuration, and the whole is valid.
func TestHandwrittenIsCompleted(t *testing.T) {
	state := handwrittenWeb(t)
	state.Fence = desired.Fence{ClusterUID: "uid-1", Epoch: 1, Instance: "push-1", Sequence: 1}
	if err := state.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := state.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "handwritten", strings.ReplaceAll(string(text), `},{`, "},\n{")+"\n")
}

// What a person writes stays.
func TestHandwrittenIsKept(t *testing.T) {
	state, err := handwritten([]byte(webState+`
schema: 7
vrrp: {advertIntervalMillis: 500}
nodeCheck: {kind: none}
gateways: [{name: other, sshAddress: "192.0.2.9:22", vrrpAddress: 192.0.2.9, interface: bond0}]
instances: [{routerID: 9, gateways: [other]}]
vips: [{address: 198.51.100.10, routerID: 9}]
`), readCloudConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if state.Schema != 7 || state.VRRP.AdvertIntervalMillis != 500 || state.NodeCheck.Kind != desired.CheckNone ||
		state.Gateways[0].Name != "other" || state.Instances[0].RouterID != 9 || len(state.VIPs) != 1 {
		t.Errorf("got %+v", state)
	}
}

func TestHandwrittenIsStrict(t *testing.T) {
	for text, words := range map[string]string{
		"loadBalancer: []":                            `unknown field "loadBalancer"`,
		"nodes: [{name: w1, address: 192.0.2.1}]":     `unknown field`,
		"nodes: [{name: w1, addresses: [192.0.2]}]":   "192.0.2",
		"schema: 1\nschema: 1":                        "already set",
		"gateways: [{name: a}, {name: a}]\nnodes: []": "same name",
		// Each of these would read as a State without a Service, and a push of it would take all of them down.
		"":                           "is empty",
		"# later\n":                  "is empty",
		"---\n":                      "is empty",
		"null":                       "is empty",
		"---\n# web\n---" + webState: "more than one YAML document",
		webState + "---" + webState:  "more than one YAML document",
	} {
		if _, err := handwritten([]byte(text), readCloudConfig(t)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", text, err, words)
		}
	}
}

// target is a gateway that notes what it was asked.
type target struct {
	name   string
	fence  *desired.Fence
	held   *desired.Signed
	hello  error // of State, too
	result *wire.Result
	err    error

	applied, planned int
	signed           desired.Signed
}

func (g *target) Name() string { return g.name }

func (g *target) Hello(context.Context) (*wire.Hello, error) {
	return &wire.Hello{Gateway: g.name, Fence: g.fence}, g.hello
}

func (g *target) State(context.Context) (*desired.Signed, error) { return g.held, g.hello }

func (g *target) Apply(_ context.Context, signed desired.Signed) (*wire.Result, error) {
	g.applied++
	g.signed = signed
	return g.result, g.err
}

func (g *target) Plan(_ context.Context, signed desired.Signed) (*wire.Result, error) {
	g.planned++
	g.signed = signed
	return g.result, g.err
}

func holding(name string, epoch uint64) *target {
	return &target{name: name, fence: &desired.Fence{ClusterUID: "uid-1", Epoch: epoch, Instance: "a", Sequence: 17},
		result: &wire.Result{Outcome: wire.Runtime}}
}

func TestPush(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		flags   pushFlags
		one     *target
		other   *target
		edit    func(*desired.State)
		words   string // of the error; empty: none
		applied [2]int
		planned [2]int
		epoch   uint64
	}{
		{name: "no epoch is told", one: holding("gw1", 3), other: holding("gw2", 5),
			words: "gw1 holds epoch 3, sequence 17, gw2 holds epoch 5, sequence 17; give --force-epoch 6"},
		{name: "epoch that is not higher", flags: pushFlags{forced: true, epoch: 5}, one: holding("gw1", 3), other: holding("gw2", 5),
			words: "--force-epoch 5 is not higher than what is held: gw1 holds epoch 3, sequence 17, gw2 holds epoch 5, sequence 17; give 6 or more"},
		{name: "epoch 0", flags: pushFlags{forced: true}, one: &target{name: "gw1"}, other: &target{name: "gw2"}, words: "give 1 or more"},
		{name: "forced", flags: pushFlags{forced: true, epoch: 6}, one: holding("gw1", 3), other: holding("gw2", 5), applied: [2]int{1, 1}, epoch: 6},
		{name: "dry run", flags: pushFlags{dryRun: true}, one: holding("gw1", 3), other: holding("gw2", 5), planned: [2]int{1, 1}, epoch: 6},
		{name: "cluster unknown", flags: pushFlags{forced: true, epoch: 1}, one: &target{name: "gw1"}, other: &target{name: "gw2"},
			edit: func(s *desired.State) { s.Fence.ClusterUID = "" }, words: "write fence.clusterUID into the State"},
		{name: "cluster from a gateway", flags: pushFlags{forced: true, epoch: 6}, one: holding("gw1", 3), other: holding("gw2", 5),
			edit: func(s *desired.State) { s.Fence = desired.Fence{Epoch: 99, Instance: "z", Sequence: 9} }, applied: [2]int{1, 1}, epoch: 6},
		{name: "two clusters", flags: pushFlags{forced: true, epoch: 6}, one: holding("gw1", 3),
			other: &target{name: "gw2", fence: &desired.Fence{ClusterUID: "uid-2", Epoch: 1}}, words: "gw1 belongs to the cluster uid-1 and gw2 to uid-2"},
		{name: "one unreachable", flags: pushFlags{forced: true, epoch: 6}, one: holding("gw1", 3), other: &target{name: "gw2", hello: errors.New("down")},
			words: "nothing was changed; push to the other gateways with --gateway NAME, if you must: down"},
		{name: "invalid", flags: pushFlags{forced: true, epoch: 6, file: "state.yaml"}, one: holding("gw1", 3), other: holding("gw2", 3),
			edit:  func(s *desired.State) { s.LoadBalancers[0].Frontends[0].NodePort = 0; s.Nodes[0].Name = "" },
			words: "loadBalancers[default/dns].frontends[0].nodePort"},
		{name: "stops at the first failure", flags: pushFlags{forced: true, epoch: 6},
			one: &target{name: "gw1", result: &wire.Result{Outcome: wire.RolledBack}}, other: holding("gw2", 3),
			words: "failed on gw1; not tried: gw2", applied: [2]int{1, 0}, epoch: 6},
		{name: "stops at the first error", flags: pushFlags{forced: true, epoch: 6},
			one: &target{name: "gw1", err: errors.New("no")}, other: holding("gw2", 3),
			words: "failed on gw1; not tried: gw2", applied: [2]int{1, 0}, epoch: 6},
		{name: "a dry run asks everybody", flags: pushFlags{dryRun: true}, one: &target{name: "gw1", err: errors.New("no")}, other: holding("gw2", 3),
			words: "failed on gw1", planned: [2]int{1, 1}, epoch: 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			state := handwrittenWeb(t)
			if test.edit != nil {
				test.edit(state)
			}
			err := push(t.Context(), state, key, []pushTarget{test.one, test.other}, test.flags, new(bytes.Buffer))
			if test.words == "" && err != nil || test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words)) {
				t.Errorf("got %v\nwant %q", err, test.words)
			}
			if test.name == "invalid" && !strings.Contains(err.Error(), "nodes[0].name") {
				t.Errorf("the second fault is not told: %v", err)
			}
			if got := [2]int{test.one.applied, test.other.applied}; got != test.applied {
				t.Errorf("applied %v, want %v", got, test.applied)
			}
			if got := [2]int{test.one.planned, test.other.planned}; got != test.planned {
				t.Errorf("planned %v, want %v", got, test.planned)
			}
			if test.epoch > 0 {
				checkSent(t, key, test.one.signed, test.epoch)
			}
		})
	}
}

// checkSent looks at what a gateway would look at: signature, form, fence.
func checkSent(t *testing.T, key ssh.Signer, signed desired.Signed, epoch uint64) {
	t.Helper()
	verifier, err := gateway.NewVerifier(ssh.MarshalAuthorizedKey(key.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(signed); err != nil {
		t.Error(err)
	}
	state, err := desired.Decode(signed.State)
	if err != nil {
		t.Fatal(err)
	}
	if f := state.Fence; f.ClusterUID != "uid-1" || f.Epoch != epoch || f.Sequence != 1 || !strings.HasPrefix(f.Instance, "push-") {
		t.Errorf("fence %+v", f)
	}
}

// What can be said without asking a gateway is said at once, from the real files.
func TestPushFlags(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("key", string(pem.EncodeToMemory(block)))
	write("known_hosts", "# nobody yet\n")
	cloud := write("cloud.yaml", strings.NewReplacer("/key", "key", "/known_hosts", "known_hosts").Replace(cloudConfig))
	web, faulty := write("web.yaml", webState), write("faulty.yaml", "loadBalancer: []")
	for args, words := range map[string]string{
		"-f " + web:               `required flag(s) "cloud-config" not set`,
		"--cloud-config " + cloud: "at least one of the flags in the group [filename control-plane] is required",
		"--cloud-config " + cloud + " --control-plane -f " + web:          "none of the others can be",
		"--cloud-config " + cloud + " --control-plane --force-epoch 1":    "none of the others can be",
		"--cloud-config " + cloud + " -f /absent":                         "reading the State",
		"--cloud-config " + cloud + " -f " + faulty:                       faulty + ": reading the State",
		"--cloud-config " + cloud + " -f " + web + " --gateway gw1,gw9":   "--gateway gw9: no such gateway in the cloud configuration; it has gw1, gw2",
		"--cloud-config " + cloud + " -f " + web + " --force-epoch minus": "invalid argument",
	} {
		command := newPushCommand()
		command.SetArgs(strings.Fields(args))
		command.SetOut(new(bytes.Buffer))
		command.SetErr(new(bytes.Buffer))
		if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", args, err, words)
		}
	}
}

func TestOutcomeTable(t *testing.T) {
	web := desired.Key{Namespace: "default", Name: "web"}
	fence := desired.Fence{Epoch: 6, Sequence: 1}
	unreachable := &gateway.UnreachableError{Gateway: "gw1", Address: "192.0.2.1:22", Doing: "waiting for the reply to apply", Connected: true, Err: errors.New("no answer within 1m0s")}
	refusal := fmt.Errorf("gateway gw1 refused apply: %w", &wire.Refusal{Code: wire.CodeLimits, Message: "the State is outside what /etc/gatewayctl/limits.yaml allows",
		Remedy: "change the configuration", Faults: []wire.Fault{{LoadBalancer: &web, Field: "frontends[0].port", Message: "80 is not in ports (443)"}}})
	cases := []struct {
		name     string
		dryRun   bool
		outcomes []pushed
	}{
		{"done", false, []pushed{
			{gateway: "gw1", took: 1234567 * time.Microsecond, result: &wire.Result{Outcome: wire.Reloaded, Fence: fence, Held: addrs("192.0.2.70"),
				Reasons: []string{"first start"}, Changes: []string{"add 192.0.2.70:53 default/dns"}}},
			{gateway: "gw2", took: 80 * time.Millisecond, result: &wire.Result{Outcome: wire.Runtime, Fence: fence,
				Warnings: []wire.Warning{{Reason: "AllNodesDown", Message: "every node fails its check, so all are used"}}}},
		}},
		{"dry run", true, []pushed{{gateway: "gw1", took: time.Millisecond, result: &wire.Result{Outcome: wire.Runtime, Fence: desired.Fence{Epoch: 5, Sequence: 3}, Changes: []string{"add 192.0.2.70:53 default/dns"}}}}},
		{"rolled back", false, []pushed{
			{gateway: "gw1", took: time.Second, result: &wire.Result{Outcome: wire.RolledBack, Fence: desired.Fence{Epoch: 5, Sequence: 3},
				Faults: []wire.Fault{{LoadBalancer: &web, Field: "frontends[0]", Message: "port 80 cannot be had"}, {Message: "keepalived -t: line 3"}}}},
			{gateway: "gw2"}}},
		{"stuck", false, []pushed{{gateway: "gw1", took: time.Second, result: &wire.Result{Outcome: wire.Stuck, Faults: []wire.Fault{{Field: "rollback", Message: "disk full"}}}}}},
		{"unreachable", false, []pushed{{gateway: "gw1", took: time.Minute, err: unreachable}, {gateway: "gw2"}}},
		{"refused", false, []pushed{{gateway: "gw1", took: 9 * time.Millisecond, err: refusal}, {gateway: "gw2"}}},
	}
	var text strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&text, "# %s\n%s\n", c.name, outcomeTable(c.outcomes, c.dryRun))
	}
	golden(t, "push", text.String())
}
