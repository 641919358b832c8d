package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// The gateway's own files that tests change.
const (
	LimitsFile         = "/etc/gatewayctl/limits.yaml"
	SignersFile        = "/etc/gatewayctl/signers"
	AuthorizedKeysFile = "/etc/gatewayctl/authorized_keys"
	AgentFile          = "/etc/gatewayctl/agent.yaml"
	PeerKeyFile        = "/etc/gatewayctl/peer_ed25519"
	PeerHostsFile      = "/etc/gatewayctl/known_hosts"
)

// installGateway does what manifests/gateway asks of a gateway's owner. It runs once; the disk keeps it.
func (h *Host) installGateway(ctx context.Context) error {
	manifests := filepath.Join(h.lab.module, "manifests", "gateway")
	key, err := os.ReadFile(h.lab.controllerKey() + ".pub")
	if err != nil {
		return err
	}
	dropIn, err := os.ReadFile(filepath.Join(manifests, "sshd_config.d", "gatewayctl.conf"))
	if err != nil {
		return err
	}
	files := []struct{ path, content string }{
		{"/etc/ssh/sshd_config.d/gatewayctl.conf", string(dropIn)},
		{AuthorizedKeysFile, `restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=controller" ` + string(key)},
		{SignersFile, string(key)},
		{AgentFile, h.agentConfig()},
		{LimitsFile, limits},
	}
	for _, f := range files {
		if err := h.WriteFile(f.path, []byte(f.content), 0o644); err != nil {
			return err
		}
	}
	if err := h.makeHostKey(ctx); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"useradd", "--system", "--user-group", "--shell", "/bin/sh", "--home-dir", "/", "--password", "*", "gatewayctl"},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", h.Name, "-f", PeerKeyFile},
		{"ln", "-s", h.lab.bin("gatewayctl"), "/usr/local/sbin/gatewayctl"},
	} {
		if _, err := h.Run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// introduceGateways lets every gateway ask every other one which State it holds, once all have their keys.
func (l *Lab) introduceGateways() error {
	hosts, err := l.gatewayHostKeys()
	if err != nil {
		return err
	}
	for _, g := range l.Gateways {
		if err := g.WriteFile(PeerHostsFile, []byte(hosts), 0o644); err != nil {
			return err
		}
		authorized, err := g.ReadFile(AuthorizedKeysFile)
		if err != nil {
			return err
		}
		for _, other := range l.Gateways {
			if other == g {
				continue
			}
			key, err := other.ReadFile(PeerKeyFile + ".pub")
			if err != nil {
				return err
			}
			authorized = fmt.Appendf(authorized, `restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=peer" %s`, key)
		}
		if err := g.WriteFile(AuthorizedKeysFile, authorized, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// gatewayHostKeys are the lines of a known_hosts file for all gateways.
func (l *Lab) gatewayHostKeys() (string, error) {
	var known strings.Builder
	for _, g := range l.Gateways {
		public, err := g.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&known, "%s %s", g.Addr(), public)
	}
	return known.String(), nil
}

// agentConfig is agent.yaml for a machine without systemd: the daemons put themselves into the background, as they did
// before it. Everything that is not said here is Debian's default, as on a real gateway.
func (h *Host) agentConfig() string {
	var peers strings.Builder
	for _, g := range h.lab.Gateways {
		if g != h {
			fmt.Fprintf(&peers, "  - {name: %s, sshAddress: %q}\n", g.Name, g.Addr())
		}
	}
	return `gateway: ` + h.Name + `
peers:
  gateways:
` + peers.String() + AgentSettings()
}

// AgentSettings are those of agent.yaml that a machine without systemd needs.
func AgentSettings() string {
	return `haproxy:
  program: /usr/sbin/haproxy
  start: [` + strings.Join(startHAProxy, ", ") + `]
  reload: [/usr/bin/pkill, -USR2, -F, /run/haproxy.pid]
  stop: [/usr/bin/pkill, -TERM, -F, /run/haproxy.pid]
  kill: []
  pidFile: /run/haproxy.pid
keepalived:
  program: /usr/sbin/keepalived
  start: [/usr/bin/chrt, --rr, "10", /usr/sbin/keepalived, --vrrp]
  reload: [/usr/bin/pkill, -HUP, -F, /run/keepalived.pid]
  stop: [/usr/bin/pkill, -TERM, -F, /run/keepalived.pid]
  pidFile: /run/keepalived.pid
`
}

var startHAProxy = []string{"/usr/sbin/haproxy", "-W", "-D", "-f", "/etc/haproxy/haproxy.cfg",
	"-p", "/run/haproxy.pid", "-S", "/run/haproxy-master.sock"}

// limits allow what the lab's segment has.
const limits = `vipPrefixes: [192.0.2.64/26, 192.0.2.128/25, "2001:db8::1:0/112"]
serverPrefixes: [192.0.2.0/26, "2001:db8::/112"]
interfaces: [eth0]
routerIDs: [200-209]
`

// startGateway is a boot of a gateway: what systemd would start.
func (h *Host) startGateway(ctx context.Context) error {
	if err := h.applySysctls(); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "mkdir", "-p", "/run/gatewayctl"); err != nil { // RuntimeDirectory=
		return err
	}
	if _, err := h.startBareGateway(ctx); err != nil {
		return err
	}
	if err := h.startHAProxyUnit(ctx); err != nil {
		return err
	}
	if _, err := h.StartAgent(ctx); err != nil {
		return err
	}
	return h.awaitPort(ctx, "127.0.0.1:22")
}

// startHAProxyUnit does what systemd does with our drop-in: what it has to do first may fail ("-").
func (h *Host) startHAProxyUnit(ctx context.Context) error {
	dropIn, err := os.ReadFile(filepath.Join(h.lab.module, "manifests", "gateway", "haproxy.service.d", "cloud-provider-haproxy.conf"))
	if err != nil {
		return err
	}
	before := regexp.MustCompile(`(?m)^ExecStartPre=-/bin/sh -c '(.*)'$`).FindSubmatch(dropIn)
	if before == nil {
		return errors.New("the drop-in of haproxy.service has nothing to do before HAProxy starts")
	}
	_, _ = h.Run(ctx, "/bin/sh", "-c", string(before[1]))
	_, err = h.Run(ctx, startHAProxy...)
	return err
}

// StartAgent starts the agent and returns when it answers.
func (h *Host) StartAgent(ctx context.Context) (*Process, error) {
	agent, err := h.Start("agent", "/usr/local/sbin/gatewayctl", "agent", "run")
	if err != nil {
		return nil, err
	}
	answers := func() error {
		conn, err := h.Dial(ctx, "unix", "/run/gatewayctl/agent.sock")
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return agent, await(ctx, "the agent on "+h.Name, answers, agent.Done())
}

func (h *Host) awaitPort(ctx context.Context, address string) error {
	return await(ctx, address+" on "+h.Name, func() error {
		conn, err := h.Dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}, nil)
}

// await tries until it works, ctx ends or what it waits for is dead.
func await(ctx context.Context, what string, try func() error, dead <-chan struct{}) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-dead:
			return fmt.Errorf("waiting for %s: it ended: %w", what, err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, ctx.Err(), err)
		}
	}
}

// applySysctls sets what manifests/gateway/sysctl.d asks for. Those that belong to the machine and not to a network namespace
// (neighbour and conntrack table sizes) are left alone: the lab changes nothing of the machine.
func (h *Host) applySysctls() error {
	files, err := filepath.Glob(filepath.Join(h.lab.module, "manifests", "gateway", "sysctl.d", "*.conf"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			key, value, found := strings.Cut(strings.TrimSpace(line), "=")
			if !found || strings.HasPrefix(key, "#") {
				continue
			}
			key = strings.TrimPrefix(strings.TrimSpace(key), "-") // no failure when the kernel has none: notOurs
			if err := h.WriteSysctl(key, strings.TrimSpace(value)); err != nil && !notOurs(err) {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}
