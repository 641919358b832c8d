package agent

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// warning finds a warning by its reason.
func warning(status *wire.Status, reason string) string {
	for _, w := range status.Warnings {
		if w.Reason == reason {
			return w.Message
		}
	}
	return ""
}

// A gateway that never got a State is in sync with nothing.
func TestStatusWithoutState(t *testing.T) {
	status := started(t, newMachine()).status(t.Context(), wire.RoleOperator)
	if status.InSync || len(status.Drift) > 0 {
		t.Errorf("in sync %t, drift %q; want out of sync without drift", status.InSync, status.Drift)
	}
}

// What could not be put back after a first State that was cut is told, although no State is held.
func TestStatusTellsFailedRestore(t *testing.T) {
	m := newMachine()
	m.files["/var/lib/gatewayctl/before.json"] = "{"
	status := started(t, m).status(t.Context(), wire.RoleOperator)
	if status.InSync || len(status.Drift) != 1 || !strings.Contains(status.Drift[0], "before.json") {
		t.Errorf("in sync %t, drift %q; want the journal named", status.InSync, status.Drift)
	}
}

// A VIP that somebody put on another interface is answered for by this machine whoever is MASTER: no repair of ours helps,
// so a person is told what to run.
func TestStatusTellsMisplacedVIP(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	m.strays = []string{"192.0.2.10"}
	status := started(t, m).status(t.Context(), wire.RoleOperator)
	if got := warning(status, "MisplacedVIP"); !strings.Contains(got, "ip address delete 192.0.2.10/32 dev eth1") || !status.InSync {
		t.Errorf("in sync %t, warning %q", status.InSync, got)
	}
}

// What is wrong with the kernel's settings is told with the file to put them into.
func TestStatusTellsSysctls(t *testing.T) {
	m := newMachine()
	m.files["/proc/sys/net/ipv4/tcp_tw_reuse"] = "2\n"
	m.files["/proc/sys/net/ipv4/ip_local_port_range"] = "32768\t60999\n"
	m.files["/proc/sys/net/core/somaxconn"] = "65535\n"
	got := warning(started(t, m).status(t.Context(), wire.RoleOperator), "Sysctl")
	for _, says := range []string{"net.ipv4.tcp_tw_reuse=1 (it is 2)", "net.ipv4.ip_local_port_range=1024 65535 (it is 32768 60999)",
		"/etc/sysctl.d/90-cloud-provider-haproxy.conf", "sysctl --system"} {
		if !strings.Contains(got, says) {
			t.Errorf("the warning does not say %q: %s", says, got)
		}
	}
	if strings.Contains(got, "somaxconn") {
		t.Errorf("a setting that is right is warned of: %s", got)
	}
}
