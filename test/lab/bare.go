package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// OperatorKeyFile is the key, on the controller's host, with which the operator is root on bare gateways.
const OperatorKeyFile = "/root/.ssh/operator_ed25519"

// furnishBare makes gateways as a site has them on the first day: Debian's packages, an sshd and root's own key. The
// controller's host has the operator's key, the controller's own and a configuration; it knows no host key yet.
func (l *Lab) furnishBare(ctx context.Context) error {
	h := l.Controller
	for _, argv := range [][]string{
		{"mkdir", "-p", filepath.Dir(KeyFile), filepath.Dir(OperatorKeyFile)},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", OperatorKeyFile},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "controller", "-f", KeyFile},
		{"ln", "-s", l.bin("gatewayctl"), "/usr/local/sbin/gatewayctl"},
	} {
		if _, err := h.Run(ctx, argv...); err != nil {
			return err
		}
	}
	if err := h.WriteFile(CloudConfigFile, []byte(l.CloudConfig()), 0o644); err != nil {
		return err
	}
	operator, err := h.ReadFile(OperatorKeyFile + ".pub")
	if err != nil {
		return err
	}
	for _, g := range l.Gateways {
		if err := g.WriteFile("/root/.ssh/authorized_keys", operator, 0o600); err != nil {
			return err
		}
		// What root's shell does at a login on the machine (pyenv may take a minute) is not the lab's.
		if err := g.WriteFile("/root/.bashrc", nil, 0o644); err != nil {
			return err
		}
		if err := g.makeHostKey(ctx); err != nil {
			return err
		}
		g.AtBoot(func(ctx context.Context) error {
			_, err := g.startBareGateway(ctx)
			return err
		})
	}
	return each(ctx, l.Hosts(), (*Host).startServices)
}

// makeHostKey gives the host a key of its own: the machine's shows through from below.
func (h *Host) makeHostKey(ctx context.Context) error {
	for _, argv := range [][]string{
		{"find", "/etc/ssh", "-name", "ssh_host_*", "-delete"},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"},
	} {
		if _, err := h.Run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// startBareGateway is a boot of a machine with Debian's packages: systemd-tmpfiles and sshd.
func (h *Host) startBareGateway(ctx context.Context) (*Process, error) {
	for _, argv := range [][]string{
		{"mkdir", "-p", "/run/sshd", "/run/haproxy"},
		{"chown", "haproxy:haproxy", "/run/haproxy"},
	} {
		if _, err := h.Run(ctx, argv...); err != nil {
			return nil, err
		}
	}
	sshd, err := h.Start("sshd", "/usr/sbin/sshd", "-D", "-e")
	if err != nil {
		return nil, err
	}
	return sshd, h.awaitPort(ctx, "127.0.0.1:22")
}

// BootstrapArgv is the operator's command, on the controller's host.
func (l *Lab) BootstrapArgv() ([]string, error) {
	const settings = "/root/agent-settings.yaml"
	if err := l.Controller.WriteFile(settings, []byte(AgentSettings()), 0o644); err != nil {
		return nil, err
	}
	return []string{"gatewayctl", "bootstrap", "--cloud-config", CloudConfigFile, "--agent-settings", settings, "--login", "root", "--identity", OperatorKeyFile}, nil
}

// StartBootstrapped does what systemd does on a real machine after a bootstrap.
func (h *Host) StartBootstrapped(ctx context.Context) error {
	for _, argv := range [][]string{{"pkill", "-HUP", "-x", "-o", "sshd"}, {"mkdir", "-p", "/run/gatewayctl"}} {
		if _, err := h.Run(ctx, argv...); err != nil {
			return err
		}
	}
	_, err := h.StartAgent(ctx)
	return err
}

// HostKey is the fingerprint of a gateway's sshd, as ssh-keygen -l prints it.
func (h *Host) HostKey(ctx context.Context) (string, error) {
	out, err := h.Run(ctx, "ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub")
	fields := strings.Fields(out)
	if err == nil && len(fields) < 2 {
		err = fmt.Errorf("ssh-keygen printed %q", out)
	}
	if err != nil {
		return "", err
	}
	return fields[1], nil
}
