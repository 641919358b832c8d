package main

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/test/lab"
)

const gatewayManifests = "../../manifests/gateway"

func manifest(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(gatewayManifests, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// uncomment makes an example's commented settings real.
func uncomment(text []byte, setting *regexp.Regexp) []byte {
	return setting.ReplaceAll(text, []byte("$1"))
}

// The example files are read by what will read them on a gateway, with their commented examples too.
func TestGatewayExamples(t *testing.T) {
	setting := regexp.MustCompile(`(?m)^#( *[a-zA-Z]+:)`)
	for _, text := range [][]byte{manifest(t, "agent.yaml"), uncomment(manifest(t, "agent.yaml"), setting)} {
		config, err := agent.DecodeConfig(text)
		if err != nil {
			t.Fatal(err)
		}
		byName, err := agent.DecodeConfig([]byte("gateway: gw1"))
		if err != nil {
			t.Fatal(err)
		}
		if !sameDaemon(config.HAProxy, byName.HAProxy) || !sameDaemon(config.Keepalived, byName.Keepalived) ||
			!reflect.DeepEqual(config.Peers, byName.Peers) || config.ServicesPort != byName.ServicesPort || config.ControlPlanePort != byName.ControlPlanePort ||
			config.PeersPort != byName.PeersPort || config.Group != byName.Group {
			t.Error("agent.yaml shows defaults that are not the agent's")
		}
	}
	for _, text := range [][]byte{manifest(t, "limits.yaml"), uncomment(manifest(t, "limits.yaml"), setting)} {
		if _, err := agent.DecodeLimits(text); err != nil {
			t.Error(err)
		}
	}
}

func sameDaemon(a, b agent.Daemon) bool {
	join := func(d agent.Daemon) string {
		return strings.Join([]string{d.Program, strings.Join(d.Start, " "), strings.Join(d.Reload, " "), strings.Join(d.Stop, " "), d.PIDFile}, "\n")
	}
	return join(a) == join(b)
}

// The key files are good as they are (no key), and with their examples filled in.
func TestGatewayKeyFiles(t *testing.T) {
	key := regexp.MustCompile(`(?m)^#(.*ssh-ed25519) AAAA\.\.\.`)
	fill := func(name string) []byte {
		const real = "AAAAC3NzaC1lZDI1NTE5AAAAIJRYAcEbpfFb2mYUFnpYPq3wIOc5xVL9nkKMtg3eVzgp"
		filled := key.ReplaceAll(manifest(t, name), []byte("$1 "+real))
		if bytes.Equal(filled, manifest(t, name)) {
			t.Fatalf("%s has no example line", name)
		}
		return filled
	}
	for _, text := range [][]byte{manifest(t, "signers"), fill("signers")} {
		if _, err := gateway.NewVerifier(text); err != nil {
			t.Error(err)
		}
	}
	var roles []string
	for rest := fill("authorized_keys"); ; {
		_, _, options, remaining, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			break
		}
		if len(options) != 2 || options[0] != "restrict" {
			t.Fatalf("options %q", options)
		}
		argv := strings.Fields(strings.Trim(strings.TrimPrefix(options[1], "command="), `"`))
		if argv[0] != "/usr/local/sbin/gatewayctl" {
			t.Errorf("forced command %q", argv)
		}
		command, flags, err := newRootCommand().Find(argv[1:])
		if err != nil || command.Name() != "pipe" || command.ParseFlags(flags) != nil {
			t.Errorf("forced command %q: %v", argv, err)
		}
		roles = append(roles, command.Flag("role").Value.String())
		rest = remaining
	}
	if strings.Join(roles, " ") != "controller peer" {
		t.Errorf("roles %q", roles)
	}
}

// The real sshd says what the drop-in means for our user, and that nobody else is touched.
func TestGatewaySSHD(t *testing.T) {
	const sshd = "/usr/sbin/sshd"
	lab.RequirePrograms(t, sshd, "ssh-keygen")
	directory := t.TempDir()
	key := filepath.Join(directory, "key")
	output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, output)
	}
	dropIns, err := filepath.Abs(filepath.Join(gatewayManifests, "sshd_config.d"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(directory, "sshd_config")
	if err := os.WriteFile(config, []byte("HostKey "+key+"\nInclude "+dropIns+"/*.conf\nPermitTTY yes\nTrustedUserCAKeys "+key+".pub\nAuthorizedKeysCommand /bin/false\nAuthorizedKeysCommandUser nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	effective := func(user string) string {
		output, err := exec.Command(sshd, "-T", "-f", config, "-C", "user="+user+",host=controller,addr=192.0.2.9").CombinedOutput()
		if err != nil {
			t.Fatalf("sshd -T: %v\n%s", err, output)
		}
		return string(output)
	}
	ours, others := effective("gatewayctl"), effective("root")
	// What a site says for everybody does not let our user in.
	for _, setting := range []string{"trustedusercakeys none", "authorizedkeyscommand none"} {
		if !strings.Contains(ours, setting+"\n") {
			t.Errorf("for gatewayctl, sshd does not say %q", setting)
		}
	}
	for _, setting := range []string{"authorizedkeysfile /etc/gatewayctl/authorized_keys", "authenticationmethods publickey",
		"disableforwarding yes", "permittty no", "permituserrc no"} {
		if !strings.Contains(ours, setting+"\n") {
			t.Errorf("for gatewayctl, sshd does not say %q", setting)
		}
		if strings.Contains(others, setting+"\n") {
			t.Errorf("for others, sshd says %q", setting)
		}
	}
}

// systemd's own check of the unit. It reports to stderr and goes on, so any word is a fault.
func TestGatewayUnit(t *testing.T) {
	lab.RequirePrograms(t, "systemd-analyze")
	unit := filepath.Join(t.TempDir(), "gatewayctl-agent.service")
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.ReplaceAll(manifest(t, "gatewayctl-agent.service"), []byte("/usr/local/sbin/gatewayctl"), []byte(binary))
	if err := os.WriteFile(unit, text, 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || len(output) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, output)
	}
}

// exposure is what systemd-analyze makes of the unit, in tenths: what is open is what the agent needs, and it gets no more.
const exposure = "46"

func TestGatewayUnitIsConfined(t *testing.T) {
	lab.RequirePrograms(t, "systemd-analyze")
	file := filepath.Join(gatewayManifests, "gatewayctl-agent.service")
	output, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+exposure, file).CombinedOutput()
	if err != nil {
		t.Errorf("the unit is more exposed than %s: %v\n%s", exposure, err, output)
	}
}

// boundingSet is what the unit leaves of root's capabilities, as setpriv spells it.
func boundingSet(unit string) string {
	bounding := "-all"
	for _, line := range regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindAllStringSubmatch(unit, -1) {
		for _, capability := range strings.Fields(line[1]) {
			bounding += ",+" + strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
		}
	}
	return bounding
}

// dropsCapabilities is what a test needs that runs something with the rights of the unit.
func dropsCapabilities(t *testing.T) {
	t.Helper()
	lab.RequireRoot(t, "it drops capabilities as the unit does")
	lab.RequirePrograms(t, "setpriv", "nft", "ip")
}

// What the agent asks of the kernel works with the rights that the unit leaves it. Asking nft how it spells our rules takes
// the most: a network namespace.
func TestGatewayUnitLeavesEnoughRights(t *testing.T) {
	dropsCapabilities(t)
	unit := string(manifest(t, "gatewayctl-agent.service"))
	script, err := nftables.RulesScript(nftables.DebianLocal("gw1"), true)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("setpriv", append([]string{"--bounding-set", boundingSet(unit), "--no-new-privs"}, nftables.RulesArgv()...)...)
	command.Stdin = bytes.NewReader(script)
	if output, err := command.CombinedOutput(); err != nil || !bytes.Contains(output, []byte("cloud_provider_haproxy")) {
		t.Errorf("with the capabilities %s: %v\n%s", boundingSet(unit), err, output)
	}
	if !regexp.MustCompile(`(?m)^RestrictNamespaces=net$`).MatchString(unit) {
		t.Error("the unit must allow network namespaces, and no others")
	}
}

// asksVariable is set for the process that TestGatewayUnitLetsAsk starts.
const asksVariable = "TEST_ASKS_THE_NETWORK"

// The network can be asked with what the unit leaves: a process with these capabilities does.
func TestGatewayUnitLetsAsk(t *testing.T) {
	if os.Getenv(asksVariable) != "" {
		askLoopback(t)
		return
	}
	dropsCapabilities(t)
	unit := string(manifest(t, "gatewayctl-agent.service"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("setpriv", "--bounding-set", boundingSet(unit), "--no-new-privs", self, "-test.run", "^"+t.Name()+"$", "-test.count", "1")
	command.Env = append(os.Environ(), asksVariable+"=yes")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if output, err := command.CombinedOutput(); err != nil || !bytes.Contains(output, []byte("PASS")) {
		t.Errorf("with the capabilities %s: %v\n%s", boundingSet(unit), err, output)
	}
	// What systemd makes of this line can be seen under systemd alone.
	if !regexp.MustCompile(`(?m)^RestrictAddressFamilies=.*\bAF_PACKET\b`).MatchString(unit) {
		t.Error("the unit must allow packet sockets")
	}
}

// askLoopback asks where nobody hears it: on the loopback of the namespace that it was started in.
func askLoopback(t *testing.T) {
	if output, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	loopback := neighbor.Link{Name: "lo", Index: 1, MAC: make(net.HardwareAddr, 6)}
	for _, address := range []string{"192.0.2.70", "2001:db8::70"} {
		if _, err := neighbor.Ask(t.Context(), loopback, []netip.Addr{netip.MustParseAddr(address)}, neighbor.Patience{Times: 1}); err != nil {
			t.Error(err)
		}
	}
}
