package site

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/provider/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

const cloud = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw2, sshAddress: gw2.example.org, sshPort: 2222, vrrpAddress: 192.0.2.3, interface: eth0}
- {name: gw1, sshAddress: 192.0.2.2, interface: ens18}
- {name: gw3, sshAddress: "2001:db8::4", vrrpAddress: 192.0.2.4, interface: eth0}
ssh: {privateKeyFile: key, knownHostsFile: known_hosts}
vrrp: {firstRouterID: 50}
pools:
- {name: a, addresses: [192.0.2.64/27, 192.0.2.96-192.0.2.100]}
- {name: b, addresses: ["2001:db8::1:0/112"], interface: vlan.7}
nodes:
  cidrs: [198.51.100.0/24]
  addresses: {worker-9: [203.0.113.9]}
controlPlane: {address: 192.0.2.10, endpoints: ["192.0.2.11", "192.0.2.12"]}
`

const (
	controllerKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJRYAcEbpfFb2mYUFnpYPq3wIOc5xVL9nkKMtg3eVzgp controller"
	secondKey     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtyZaNsvBsCu3J0rzKzvMy5w5W4dL1m7ipu0qc5b8Sx next"
)

func decode(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func key(t *testing.T, line string) ssh.PublicKey {
	t.Helper()
	k, err := ParseKey(line)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey
}

// The files of each gateway are what a person has looked at.
func TestFiles(t *testing.T) {
	s, err := New(decode(t, cloud), Options{ControllerKeys: []string{controllerKey, secondKey, controllerKey}, AgentSettings: []byte("maxConn: 50000\n")})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]Acquaintance{
		"gw1": {PeerKey: key(t, controllerKey), HostKeys: []ssh.PublicKey{key(t, controllerKey)}},
		"gw2": {PeerKey: key(t, secondKey), HostKeys: []ssh.PublicKey{key(t, controllerKey), key(t, secondKey)}},
	}
	for _, name := range []string{"gw1", "gw2"} {
		for _, family := range []Family{Debian, RedHat} {
			files, err := s.Files(name, family, known)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, f := range files {
				got.WriteString("=== " + f.Path + " " + f.Mode.String() + " " + f.Group + "\n")
				// The others are the same everywhere, and tested where they are made.
				if strings.HasPrefix(f.Path, ConfigDirectory) || f.Path == TemporaryFile {
					got.Write(f.Content)
				}
			}
			golden := filepath.Join("testdata", name+"."+string(family)+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
			for _, line := range regexp.MustCompile(`(?m)^.*ssh-ed25519.*$`).FindAllString(string(files[5].Content), -1) {
				if !strings.HasPrefix(line, `restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=`) {
					t.Errorf("a key may do anything: %s", line)
				}
			}
		}
	}
}

// What the configuration says of clients' addresses is what the gateways allow, and without a word nothing.
func TestLimitsOfClientSource(t *testing.T) {
	for line, want := range map[string]int{"": 0, "\n  clientSourceProbes: [203.0.113.200, \"3fff::1\"]": 2} {
		s, err := New(decode(t, strings.Replace(cloud, "cidrs: [198.51.100.0/24]", "cidrs: [198.51.100.0/24]"+line, 1)),
			Options{ControllerKeys: []string{controllerKey}})
		if err != nil {
			t.Fatal(err)
		}
		g, _ := s.Gateway("gw1")
		limits, err := agent.DecodeLimits([]byte(s.limits(g)))
		if err != nil || len(limits.ClientSourceProbes) != want {
			t.Errorf("with %q: %v, %v", line, limits, err)
		}
	}
}

// limits.yaml allows what the configuration needs, to the address.
func TestLimitsAreTight(t *testing.T) {
	withPods := strings.Replace(cloud, "cidrs: [198.51.100.0/24]", "cidrs: [198.51.100.0/24]\n  podCIDRs: [172.30.0.0/16, \"fd00:30::/56\"]", 1)
	s, err := New(decode(t, withPods), Options{ControllerKeys: []string{controllerKey}, ServerPrefixes: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}})
	if err != nil {
		t.Fatal(err)
	}
	g, _ := s.Gateway("gw1")
	limits, err := agent.DecodeLimits([]byte(s.limits(g)))
	if err != nil {
		t.Fatal(err)
	}
	contains := func(list []netip.Prefix, address string) bool {
		for _, p := range list {
			if p.Contains(netip.MustParseAddr(address)) {
				return true
			}
		}
		return false
	}
	for address, want := range map[string]bool{"192.0.2.64": true, "192.0.2.100": true, "192.0.2.101": false, "192.0.2.63": false,
		"192.0.2.10": true, "192.0.2.11": false, "2001:db8::1:ffff": true, "2001:db8::2:0": false} {
		if got := contains(limits.VIPPrefixes, address); got != want {
			t.Errorf("floating address %s: allowed is %t", address, got)
		}
	}
	for address, want := range map[string]bool{"198.51.100.255": true, "203.0.113.9": true, "203.0.113.8": false, "192.0.2.11": true,
		"192.0.2.12": true, "192.0.2.13": false, "10.255.0.1": true, "11.0.0.0": false,
		"172.30.9.9": true, "172.31.0.1": false, "fd00:30::9": true} {
		if got := contains(limits.ServerPrefixes, address); got != want {
			t.Errorf("server %s: allowed is %t", address, got)
		}
	}
	if got := cmp.Diff([]agent.Interval{{First: 50, Last: 55}}, limits.RouterIDs); got != "" {
		t.Errorf("router IDs (-want +got):\n%s", got)
	}
	if got := cmp.Diff([]string{"ens18", "vlan.7"}, limits.Interfaces); got != "" {
		t.Errorf("interfaces (-want +got):\n%s", got)
	}
}

// Everything that is wrong is told at once.
func TestFaults(t *testing.T) {
	text := strings.NewReplacer("cidrs: [198.51.100.0/24]", "", "addresses: {worker-9: [203.0.113.9]}", "addressType: InternalIP").Replace(cloud)
	_, err := New(decode(t, text), Options{ControllerKeys: []string{`from="*" ` + controllerKey, "nonsense", controllerKey + "\n" + secondKey}})
	for _, want := range []string{"nodes.cidrs", "--server-prefix", "options (from=", `"nonsense" is no public key`, "there is more"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := New(decode(t, cloud), Options{}); err == nil || !strings.Contains(err.Error(), "no controller's public key") {
		t.Errorf("without a key: %v", err)
	}
	_, err = New(decode(t, cloud), Options{ControllerKeys: []string{controllerKey}, AgentSettings: []byte("maxCon: 5\n")})
	if err == nil || !strings.Contains(err.Error(), "maxCon") {
		t.Errorf("settings with a fault: %v", err)
	}
	_, err = New(decode(t, cloud), Options{ControllerKeys: []string{controllerKey}, AgentSettings: []byte("gateway: other\n")})
	if err == nil {
		t.Error("settings may not give the gateway another name")
	}
}

// Whatever stands as a comment behind a key, its line is one line and the key's options are ours.
func TestKeyStaysOnItsLine(t *testing.T) {
	public := key(t, controllerKey)
	rapid.Check(t, func(t *rapid.T) {
		line := forced("peer", Key{PublicKey: public, Comment: rapid.String().Draw(t, "comment")})
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%q is not one line", line)
		}
		got, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 || len(options) != 2 || options[0] != "restrict" || !bytes.Equal(got.Marshal(), public.Marshal()) {
			t.Fatalf("%q is read as key %v with options %q, rest %q: %v", line, got, options, rest, err)
		}
	})
}

// A gateway that is left alone is known by what stands on the others.
func TestPeersIn(t *testing.T) {
	s, err := New(decode(t, cloud), Options{ControllerKeys: []string{controllerKey}})
	if err != nil {
		t.Fatal(err)
	}
	text := s.authorizedKeys("gw1", map[string]Acquaintance{"gw2": {PeerKey: key(t, secondKey)}})
	peers := PeersIn([]byte(text))
	if len(peers) != 1 || peers[0].Comment != "gw2" || !bytes.Equal(peers[0].Marshal(), key(t, secondKey).Marshal()) {
		t.Errorf("%q has the peers %v", text, peers)
	}
}

// The drop-in is for the user of the configuration.
func TestSSHDForAnotherUser(t *testing.T) {
	s, err := New(decode(t, strings.Replace(cloud, "privateKeyFile: key,", "privateKeyFile: key, user: lb-agent,", 1)), Options{ControllerKeys: []string{controllerKey}})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.sshd(); !strings.Contains(got, "\nMatch User lb-agent\n") || strings.Contains(got, "Match User gatewayctl") {
		t.Errorf("the drop-in is\n%s", got)
	}
}
