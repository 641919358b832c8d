package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// epochObject is the ConfigMap that Events about gateways are told on.
const epochObject = "cloud-provider-haproxy-epoch"

// longestGap is what the death of a gateway may cost a client here; keepalived notices after three adverts of 100 ms.
const longestGap = 3 * time.Second

// testHolderDies: the gateway that holds a Service's address loses its power; the other serves, also new Services. It returns
// and gets its address back.
func testHolderDies(t *testing.T, s *site) {
	s.awaitInSync(t)
	s.create(t, service("failover", families(corev1.IPFamilyPolicyRequireDualStack)))
	addresses := s.addresses(t, "failover")
	for _, a := range addresses {
		s.reaches(t, target(a, 80))
	}
	watched := []string{target(addresses[0], 80)} // alone: its gap is what counts
	holder, err := s.SettledHolder(t.Context(), addresses[0])
	must(t, err)
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: watched, Rate: 200, Timeout: time.Second})
	must(t, err)
	must(t, holder.PowerOff())
	t.Cleanup(func() { must(t, holder.Boot(context.WithoutCancel(t.Context()))) }) // nothing when it runs
	s.await(t, "the other gateway to hold both addresses", func(ctx context.Context) error {
		for _, a := range addresses {
			if _, err := s.Holder(ctx, a); err != nil {
				return err
			}
			if _, err := s.client.Ask(target(a, 80), time.Second); err != nil {
				return err
			}
		}
		return nil
	})
	report, err := flow.Stop()
	must(t, err)
	t.Logf("%s, which held %v, lost its power: %v", holder.Name, addresses[0], report)
	if report.LongestGap > longestGap {
		t.Errorf("nobody answered for %v", report.LongestGap)
	}

	begun := time.Now()
	s.create(t, service("meanwhile"))
	s.reaches(t, target(s.addresses(t, "meanwhile")[0], 80))
	t.Logf("a Service created while %s is off was served after %v", holder.Name, time.Since(begun).Round(time.Millisecond))
	s.expectEvent(t, "ConfigMap", epochObject, "Warning", holder.Name, "unreachable", "check that the machine is up")

	flow, err = s.client.StartFlow(t.Context(), traffic.Flow{Targets: watched, Rate: 200, Timeout: time.Second})
	must(t, err)
	must(t, holder.Boot(t.Context()))
	s.awaitInSync(t)
	s.await(t, holder.Name+" to hold its address again", func(ctx context.Context) error {
		now, err := s.Holder(ctx, addresses[0])
		if err == nil && now != holder {
			err = fmt.Errorf("%s holds it", now.Name)
		}
		return err
	})
	report, err = flow.Stop()
	must(t, err)
	t.Logf("%s returned: %v", holder.Name, report)
	if report.LongestGap > longestGap {
		t.Errorf("nobody answered for %v when the gateway returned", report.LongestGap)
	}
	s.expectEvent(t, "ConfigMap", epochObject, "Normal", "GatewayConfirms", holder.Name)
}

const (
	sshdProcess  = "sshd"
	agentProcess = "^[^ ]*gatewayctl agent run"
)

// testGatewayFaults: each way in which a gateway cannot be talked to is an Event that names it and what to do. The other
// gateway serves meanwhile, and the faulty one is brought up to date when it is repaired.
func testGatewayFaults(t *testing.T, s *site) {
	faulty := s.Lab.Gateways[1]
	for _, test := range []struct {
		name  string
		fault func(*testing.T) (repair func())
		wants []string
	}{
		{"host-key", func(t *testing.T) func() {
			const key = "/etc/ssh/ssh_host_ed25519_key"
			s.run(t, faulty, "mv", key, key+".right")
			s.run(t, faulty, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
			s.restartSSH(t, faulty)
			return func() {
				s.run(t, faulty, "mv", key+".right", key)
				s.restartSSH(t, faulty)
			}
		}, []string{"presented another host key", "expected ssh-ed25519 SHA256:", "got ssh-ed25519 SHA256:"}},
		{"key-refused", func(t *testing.T) func() {
			authorized, err := faulty.ReadFile(lab.AuthorizedKeysFile)
			must(t, err)
			must(t, faulty.WriteFile(lab.AuthorizedKeysFile, nil, 0o644))
			s.restartSSH(t, faulty)
			return func() { must(t, faulty.WriteFile(lab.AuthorizedKeysFile, authorized, 0o644)) }
		}, []string{"refused the key", "authorized_keys"}},
		{"agent-missing", func(t *testing.T) func() {
			s.end(t, faulty, "-TERM", agentProcess)
			return func() {
				_, err := faulty.StartAgent(context.WithoutCancel(t.Context()))
				must(t, err)
			}
		}, []string{"no agent answers", "gatewayctl-agent"}},
		{"agent-of-another-schema", func(t *testing.T) func() {
			stop := s.startOtherAgent(t, faulty)
			return func() {
				stop()
				_, err := faulty.StartAgent(context.WithoutCancel(t.Context()))
				must(t, err)
			}
		}, []string{"State schema 2, this build 1", "upgrade this program"}},
		{"unreachable", func(t *testing.T) func() {
			must(t, s.Lab.Cut(t.Context(), s.Lab.Controller, faulty))
			return func() { must(t, s.Lab.Mend(context.WithoutCancel(t.Context()), s.Lab.Controller, faulty)) }
		}, []string{"is unreachable", "firewall"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.awaitInSync(t)
			repair := sync.OnceFunc(test.fault(t))
			t.Cleanup(repair)
			begun := time.Now()
			name := "despite-" + test.name
			s.create(t, service(name))
			s.reaches(t, target(s.addresses(t, name)[0], 80))
			t.Logf("served by the other gateway after %v", time.Since(begun).Round(time.Millisecond))
			words := append([]string{"Warning", "GatewayAway", faulty.Name, faulty.Addr4.String()}, test.wants...)
			t.Log(s.expectEvent(t, "ConfigMap", epochObject, words...))
			repair()
			begun = time.Now()
			s.awaitInSync(t)
			t.Logf("in sync %v after the repair", time.Since(begun).Round(time.Millisecond))
		})
	}
}

// restartSSH ends sshd with all its sessions and starts it again.
func (s *site) restartSSH(t *testing.T, h *lab.Host) {
	t.Helper()
	s.run(t, h, "pkill", "-KILL", "-x", sshdProcess)
	_, err := h.Start("sshd", "/usr/sbin/sshd", "-D", "-e")
	must(t, err)
	s.await(t, "sshd on "+h.Name, func(ctx context.Context) error {
		conn, err := h.Dial(ctx, "tcp", "127.0.0.1:22")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (s *site) run(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(context.WithoutCancel(t.Context()), argv...)
	must(t, err)
	return strings.TrimSpace(out)
}

// testLimits: a State outside a gateway's limits file is refused with the field named, the Service stays pending, and what is
// served stays served.
func testLimits(t *testing.T, s *site) {
	s.create(t, service("inside"))
	inside := target(s.addresses(t, "inside")[0], 80)
	s.reaches(t, inside)
	held := s.hold(t, 10, inside)
	// The gateways' owner allows 192.0.2.64 and above; 192.0.2.40 is a worker's neighbour.
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, "pools:\n", "pools:\n- {name: stray, addresses: [192.0.2.40-192.0.2.49]}\n", 1)
	})
	s.create(t, service("outside", annotated("cloud-provider-haproxy/load-balancer-ips", "192.0.2.40")))
	t.Log(s.expectEvent(t, "Service", "outside", "Warning", "192.0.2.40", "vips[", "].address", "vipPrefixes"))
	s.pending(t, "outside")
	s.create(t, service("neighbour", annotated("cloud-provider-haproxy/load-balancer-ips", "192.0.2.99")))
	s.reaches(t, target(s.addresses(t, "neighbour")[0], 80))
	s.reaches(t, inside)
	uncut(t, held)
}
