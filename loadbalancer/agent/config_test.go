package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeConfig(t *testing.T) {
	c, err := DecodeConfig([]byte("gateway: east\nhaproxy:\n  start: [/usr/sbin/haproxy, -W, -D]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.HAProxy.Start, " "); got != "/usr/sbin/haproxy -W -D" {
		t.Errorf("start is %q", got)
	}
	// What is not given keeps Debian's defaults, also beside a sibling that is.
	if got := strings.Join(c.HAProxy.Reload, " "); got != "/usr/bin/systemctl reload haproxy" {
		t.Errorf("reload is %q", got)
	}
	if c.Paths.HAProxySocket != "/run/haproxy/admin.sock" || c.ServicesPort != 7480 {
		t.Errorf("defaults are missing: %+v", c)
	}
}

func TestDecodeConfigTellsEveryFault(t *testing.T) {
	_, err := DecodeConfig([]byte(`
servicesPort: 7481
peersPort: 7481
maxConn: -1
slotsPerKind: 0
paths: {socket: agent.sock}
keepalived: {start: []}
peers:
  user: ""
  interval: 2h
  knownHostsFile: known_hosts
  gateways: [{name: west, sshAddress: "2001:db8::1"}, {name: west, sshAddress: ""}, {name: north, sshAddress: "a:b:c"}]
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, says := range []string{"gateway: is missing", "controlPlanePort: must differ", "peersPort: must differ", "maxConn: -1 is negative", "slotsPerKind: 0 leaves no room",
		`paths.socket: "agent.sock" is no absolute path`, `keepalived.start[0]: ""`,
		"peers.user: is empty", "peers.interval: 2h0m0s is not from", `peers.knownHostsFile: "known_hosts" is no absolute path`,
		`peers.gateways[1].name: "west" is empty or listed twice`, `peers.gateways[1].sshAddress: "" is no host:port`,
		`peers.gateways[2].sshAddress: "a:b:c" is no host:port`} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not tell %q:\n%v", says, err)
		}
	}
	if _, err := DecodeConfig([]byte("gateway: east\npath: {}\n")); err == nil || !strings.Contains(err.Error(), "path") {
		t.Errorf("an unknown key gives %v", err)
	}
}

func TestDecodePeers(t *testing.T) {
	c, err := DecodeConfig([]byte("gateway: east\npeers: {interval: 750ms, gateways: [{name: west, sshAddress: 192.0.2.3}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Peers{PrivateKeyFile: "/etc/gatewayctl/peer_ed25519", KnownHostsFile: "/etc/gatewayctl/known_hosts", User: "gatewayctl",
		Interval: Duration(750 * time.Millisecond), Gateways: []PeerAddress{{"west", "192.0.2.3"}}}
	if diff := cmp.Diff(want, c.Peers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := DecodeConfig([]byte("gateway: east\npeers: {interval: soon}\n")); err == nil || !strings.Contains(err.Error(), `"soon" is no time span`) {
		t.Errorf("interval soon: %v", err)
	}
	for address, want := range map[string]string{
		"gw": "gw:22", "192.0.2.3": "192.0.2.3:22", "2001:db8::1": "[2001:db8::1]:22", "[2001:db8::1]": "[2001:db8::1]:22",
		"gw:2222": "gw:2222", "[2001:db8::1]:2222": "[2001:db8::1]:2222", "": "",
	} {
		if got := withPort(address); got != want {
			t.Errorf("withPort(%q) is %q, want %q", address, got, want)
		}
	}
}
