package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Files on the controller's host.
const (
	CloudConfigFile = "/etc/cloud-provider-haproxy/cloud-config.yaml"
	KeyFile         = "/etc/cloud-provider-haproxy/id_ed25519"
	KnownHostsFile  = "/etc/cloud-provider-haproxy/known_hosts"
)

// controllerKey is where the controller's key is made, before any host is installed.
func (l *Lab) controllerKey() string { return filepath.Join(l.dir, "controller_ed25519") }

func (l *Lab) makeControllerKey(ctx context.Context) error {
	return l.onSegment(ctx, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "controller", "-f", l.controllerKey())
}

// installController gives the controller's host its key, the gateways' host keys and a configuration that names them.
func (l *Lab) installController(ctx context.Context) error {
	h := l.Controller
	key, err := os.ReadFile(l.controllerKey())
	if err != nil {
		return err
	}
	if err := h.WriteFile(KeyFile, key, 0o600); err != nil {
		return err
	}
	known, err := l.gatewayHostKeys()
	if err != nil {
		return err
	}
	if err := h.WriteFile(KnownHostsFile, []byte(known), 0o644); err != nil {
		return err
	}
	if err := h.WriteFile(CloudConfigFile, []byte(l.CloudConfig()), 0o644); err != nil {
		return err
	}
	_, err = h.Run(ctx, "ln", "-s", l.bin("gatewayctl"), "/usr/local/sbin/gatewayctl")
	return err
}

// CloudConfig is the configuration on the controller's host: the lab's gateways and pools, with timers for a site in a
// hurry.
func (l *Lab) CloudConfig() string {
	var b strings.Builder
	b.WriteString("apiVersion: cloud-provider-haproxy/v1\nkind: CloudConfig\ngateways:\n")
	for _, g := range l.Gateways {
		fmt.Fprintf(&b, "- {name: %s, sshAddress: %s, interface: eth0}\n", g.Name, g.Addr())
	}
	pool := `"2001:db8::1:0/112"`
	if !l.options.IPv6Only {
		pool = "192.0.2.64-192.0.2.254, " + pool
	}
	b.WriteString(`ssh:
  privateKeyFile: ` + KeyFile + `
  knownHostsFile: ` + KnownHostsFile + `
vrrp:
  advertInterval: 100ms
pools:
- name: default
  addresses: [` + pool + `]
nodes:
  healthCheck: {interval: 250ms, rise: 2, fall: 2}
resyncInterval: 5s
`)
	return b.String()
}
