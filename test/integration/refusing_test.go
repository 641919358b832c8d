package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// atOnce bounds a refusal that came from the gateway and not from somebody's patience.
const atOnce = 500 * time.Millisecond

// refused says what else than a refusal at once a client sees.
func (p *pair) refused(t *testing.T, target string) error {
	begun := time.Now()
	who, err := p.Client.Ask(target, 3*time.Second)
	took := time.Since(begun)
	switch {
	case err == nil:
		return fmt.Errorf("%s answered as %q", target, who)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w", target, err)
	case took > atOnce:
		return fmt.Errorf("%s refused after %v", target, took)
	}
	return nil
}

// testRefused: what no Service has is refused at once, in both families: ports nobody listens on, sshd, a wildcard listener of
// the gateway; and the Service's own port when HAProxy is dead.
func testRefused(t *testing.T, p *pair) {
	p.begin(t)
	const exporter = 9100
	for _, g := range p.Gateways {
		for _, network := range []string{"tcp4", "tcp6"} {
			listener, err := g.Listen(t.Context(), network, wildcard(network, exporter))
			must(t, err)
			defer listener.Close()
		}
		conn, err := p.Client.Dial(t.Context(), "tcp", port(g.Addr4, exporter))
		must(t, err) // at the gateway's own address it is there
		must(t, conn.Close())
	}
	expect := func(when string, ports ...uint16) {
		t.Helper()
		for _, vip := range []netip.Addr{web4, web6} {
			for _, number := range ports {
				if err := p.refused(t, port(vip, number)); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		}
	}
	expect("HAProxy serves", 81, 22, exporter, 7480, 7481)

	// A dead HAProxy, and an agent that cannot help: it stands still, so it neither starts HAProxy nor moves the VIP.
	for _, g := range p.Gateways {
		mustRun(t, g, "pkill", "-STOP", "-x", "gatewayctl")
		end(t, g, "-KILL", "haproxy")
	}
	expect("HAProxy is dead", 80, 81, 22, exporter, 7480, 7481)
	for _, g := range p.Gateways {
		mustRun(t, g, "pkill", "-CONT", "-x", "gatewayctl")
	}
	begun := time.Now()
	eventually(t, "the agents bring HAProxy back", func() error { return p.reaches(webTargets()...) })
	t.Logf("served again %v after the agents could act", time.Since(begun).Round(time.Millisecond))
}

func wildcard(network string, number uint16) string {
	host := "0.0.0.0"
	if network == "tcp6" {
		host = "::"
	}
	return net.JoinHostPort(host, fmt.Sprint(number))
}

// testLimits: a State outside limits.yaml is refused as a whole, the field is named, and what runs stays.
func testLimits(t *testing.T, p *pair) {
	p.begin(t)
	before := p.status(t)
	for _, test := range []struct {
		name  string
		state *desired.State
		wants []string
	}{
		{"VIP", p.state(p.Workers, web(), service("stray", desired.Frontend{Protocol: desired.TCP, Port: 80, NodePort: firstNodePort},
			netip.MustParseAddr("198.51.100.7"))), []string{"vips[", "].address", "198.51.100.7", lab.LimitsFile}},
		{"node", &desired.State{Fence: desired.Fence{ClusterUID: clusterUID}, LoadBalancers: []desired.LoadBalancer{web()},
			Nodes: []desired.Node{{Name: "elsewhere", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}}},
			[]string{"nodes[0].addresses[0]", "203.0.113.9", lab.LimitsFile}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := p.tryPush(t, test.state)
			expectWords(t, err, test.wants...)
		})
	}
	for name, s := range p.status(t) {
		if s.Digest != before[name].Digest || s.Fence != before[name].Fence {
			t.Errorf("%s holds %v now and held %v before the refusals", name, s.Fence, before[name].Fence)
		}
	}
	must(t, p.reaches(webTargets()...))
}

// testFence: a State that is older than the held one is refused by the gateway, whoever signed it (DESIGN.md invariant 4). A
// controller of old is played by the gateway's client, its connections made on the controller's host.
func testFence(t *testing.T, p *pair) {
	p.begin(t)
	g := p.Gateways[0]
	client := p.client(t, g)
	held, err := client.State(t.Context())
	must(t, err)
	if _, err := client.Apply(t.Context(), *held); err != nil {
		t.Errorf("the same State once more: %v, want it welcome", err)
	}
	for _, test := range []struct {
		name   string
		change func(*desired.Fence)
		want   wire.Code
	}{
		{"older epoch", func(f *desired.Fence) { f.Epoch-- }, wire.CodeEpoch},
		{"another instance", func(f *desired.Fence) { f.Instance = "other"; f.Sequence++ }, wire.CodeEpoch},
		{"another cluster", func(f *desired.Fence) { f.ClusterUID = "other"; f.Epoch++ }, wire.CodeCluster},
		{"same sequence, other content", func(*desired.Fence) {}, wire.CodeSequence},
	} {
		state, err := desired.Decode(held.State)
		must(t, err)
		test.change(&state.Fence)
		state.LoadBalancers = nil
		canonical, err := state.Canonical()
		must(t, err)
		signed, err := gateway.Sign(p.key(t), canonical)
		must(t, err)
		_, err = client.Apply(t.Context(), signed)
		var refusal *wire.Refusal
		if !errors.As(err, &refusal) || refusal.Code != test.want {
			t.Errorf("%s: %v, want a refusal with code %s", test.name, err, test.want)
		}
	}
	must(t, p.reaches(webTargets()...))
}

// testClusterRebuilt: a new cluster's State is refused with what to do; after `gatewayctl adopt` on each gateway it is
// welcome, and no connection of the old cluster's Services was cut on the way.
func testClusterRebuilt(t *testing.T, p *pair) {
	p.begin(t)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 20, Timeout: 5 * time.Second})
	must(t, err)
	for _, uid := range []string{"rebuilt", clusterUID} {
		state := p.state(p.Workers, web())
		state.Fence.ClusterUID = uid
		_, err := p.tryPush(t, state)
		for _, words := range []string{"belongs to the cluster", "`gatewayctl adopt --cloud-config FILE`"} {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Fatalf("a State of cluster %s: %v, want %q", uid, err, words)
			}
		}
		for _, g := range p.Gateways {
			said := mustRun(t, g, "gatewayctl", "adopt", "--local")
			if !strings.Contains(said, "is handed over") {
				t.Errorf("adopt says %q", said)
			}
		}
		p.push(t, state)
		eventually(t, "web is served for cluster "+uid, func() error { return p.reaches(webTargets()...) })
	}
	eventually(t, "both are in sync", func() error { return p.inSync(t) })
	if held := stop(t, hold); len(held.Cut) != 0 {
		t.Errorf("handing the gateways over: %+v", held)
	}
}

// key is the controller's.
func (p *pair) key(t *testing.T) ssh.Signer { return keyOf(t, p.Controller, lab.KeyFile) }

func keyOf(t *testing.T, h *lab.Host, file string) ssh.Signer {
	t.Helper()
	text, err := h.ReadFile(file)
	must(t, err)
	key, err := ssh.ParsePrivateKey(text)
	must(t, err)
	return key
}

func (p *pair) client(t *testing.T, g *lab.Host) *gateway.Client {
	t.Helper()
	return p.clientOf(t, p.Controller, lab.KeyFile, lab.KnownHostsFile, g)
}

// clientOf gives a client of g with the keys of a host, and from there.
func (p *pair) clientOf(t *testing.T, from *lab.Host, keyFile, knownHosts string, g *lab.Host) *gateway.Client {
	t.Helper()
	known, err := from.ReadFile(knownHosts)
	must(t, err)
	file := filepath.Join(t.TempDir(), "known_hosts")
	must(t, os.WriteFile(file, known, 0o600))
	hosts, err := gateway.LoadKnownHosts(file)
	must(t, err)
	client, err := gateway.New(gateway.Config{
		Name: g.Name, Address: port(g.Addr(), 22), User: "gatewayctl",
		Signers: []ssh.Signer{keyOf(t, from, keyFile)}, KnownHosts: hosts, Dial: from.Dial,
	})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	return client
}

// expectWords wants a failure that says all words.
func expectWords(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("it succeeded, want a failure that says %q", words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the failure does not say %q:\n%v", word, err)
		}
	}
}

// testSSHFaults: each way in which a gateway cannot be talked to is told with its name and what to do; the other gateway takes
// the State, and the faulty one does when it is repaired.
func testSSHFaults(t *testing.T, p *pair) {
	faulty := p.Gateways[1]
	for _, test := range []struct {
		name  string
		fault func(*testing.T) (repair func())
		wants []string
	}{
		{"host key", func(t *testing.T) func() {
			known, err := p.Controller.ReadFile(lab.KnownHostsFile)
			must(t, err)
			lines := strings.SplitAfter(string(known), "\n")
			wrong := lines[0] + strings.Replace(lines[0], p.Gateways[0].Addr4.String(), faulty.Addr4.String(), 1)
			must(t, p.Controller.WriteFile(lab.KnownHostsFile, []byte(wrong), 0o644))
			return func() { must(t, p.Controller.WriteFile(lab.KnownHostsFile, known, 0o644)) }
		}, []string{"presented another host key", "expected ssh-ed25519 SHA256:", "got ssh-ed25519 SHA256:"}},
		{"key refused", func(t *testing.T) func() {
			authorized, err := faulty.ReadFile(lab.AuthorizedKeysFile)
			must(t, err)
			must(t, faulty.WriteFile(lab.AuthorizedKeysFile, nil, 0o644))
			return func() { must(t, faulty.WriteFile(lab.AuthorizedKeysFile, authorized, 0o644)) }
		}, []string{"refused", "authorized_keys"}},
		{"agent missing", func(t *testing.T) func() {
			end(t, faulty, "-TERM", "gatewayctl")
			return func() {
				_, err := faulty.StartAgent(t.Context())
				must(t, err)
			}
		}, []string{"no agent answers", "gatewayctl-agent"}},
		{"unreachable", func(t *testing.T) func() {
			must(t, p.Cut(t.Context(), p.Controller, faulty))
			return func() { must(t, p.Mend(t.Context(), p.Controller, faulty)) }
		}, []string{"is unreachable", "check that the machine is up"}},
		{"signer unknown", func(t *testing.T) func() {
			signers, err := faulty.ReadFile(lab.SignersFile)
			must(t, err)
			must(t, faulty.WriteFile(lab.SignersFile, nil, 0o644))
			return func() { must(t, faulty.WriteFile(lab.SignersFile, signers, 0o644)) }
		}, []string{"not among", lab.SignersFile}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.begin(t)
			repair := test.fault(t)
			fresh := service("fresh", desired.Frontend{Protocol: desired.TCP, Port: 81, NodePort: firstNodePort + 1}, web4, web6)
			_, err := p.tryPush(t, p.state(p.Workers, web(), fresh))
			expectWords(t, err, append(test.wants, faulty.Name)...)
			if err != nil {
				t.Logf("told:\n%v", err)
			}
			must(t, p.reaches(webTargets()...)) // whatever was told, nobody suffers
			p.push(t, p.state(p.Workers, web(), fresh), "--gateway", p.Gateways[0].Name)
			repair()
			p.push(t, p.state(p.Workers, web(), fresh))
			eventually(t, "served after the repair", func() error { return p.reaches(port(web4, 81), port(web6, 81)) })
		})
	}
}
