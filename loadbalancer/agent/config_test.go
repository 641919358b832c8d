package agent

import (
	"strings"
	"testing"
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
maxConn: -1
paths: {socket: agent.sock}
keepalived: {start: []}
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, says := range []string{"gateway: is missing", "controlPlanePort: must differ", "maxConn: -1 is negative",
		`paths.socket: "agent.sock" is no absolute path`, `keepalived.start[0]: ""`} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not tell %q:\n%v", says, err)
		}
	}
	if _, err := DecodeConfig([]byte("gateway: east\npath: {}\n")); err == nil || !strings.Contains(err.Error(), "path") {
		t.Errorf("an unknown key gives %v", err)
	}
}
