package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// TestPair runs all tests of one shared pair.
func TestPair(t *testing.T) {
	p := &pair{Lab: lab.New(t, lab.Options{Workers: 3, NodePorts: nodePorts()}), epoch: 10} // there is something older
	for _, test := range []struct {
		name string
		run  func(*testing.T, *pair)
	}{
		{"served", testServed},
		{"services", testServices},
		{"affinity", testAffinity},
		{"affinity-at-boot", testAffinityAtBoot},
		{"shared", testShared},
		{"nodes", testNodes},
		{"pool", testPool},
		{"slots", testSlots},
		{"proxy-protocol", testProxyProtocol},
		{"control-plane", testControlPlane},
		{"unhealthy", testAllUnhealthy},
		{"refused", testRefused},
		{"ssh-port", testPortOfSSH},
		{"limits", testLimits},
		{"fence", testFence},
		{"rebuilt", testClusterRebuilt},
		{"ssh", testSSHFaults},
		{"probe", testProbe},
		{"probe-many", testProbeMany},
		{"links", testLinks},
		{"firewall", testForeignFirewall},
		{"flush", testFlushedRules},
		{"flush-at-once", testFlushedAtOnce},
		{"drift", testDrift},
		{"daemons-stopped", testDaemonsStopped},
		{"blame", testBlame},
		{"strange-vrrp", testStrangeVRRP},
		{"privilege", testLeastPrivilege},
		{"key-rotation", testKeyRotation},
		{"haproxy", testHAProxyDies},
		{"haproxy-hangs", testHAProxyHangs},
		{"worker-hangs", testHAProxyWorkerHangs},
		{"stats-socket", testStatsSocketGone},
		{"agent", testAgentRestarts},
		{"holder", testHolderDies},
		{"drain", testDrain},
		{"drain-ends", testDrainEnds},
		{"drain-lasts", testDrainLasts},
		{"drain-refused", testDrainRefused},
		{"drain-restart", testDrainRestart},
		{"preempt-delay", testPreemptDelay},
		{"stale", testStaleGateway},
		{"slept", testSleptThrough},
		{"forged", testForgedState},
		{"power", testPowerFailure},
		{"relay", testRelay},
		{"peers-key", testPeersKey},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, p) })
	}
}

// firstNodePort is the web Service's; the next ones are for others.
const firstNodePort = 30080

func nodePorts() []uint16 {
	var ports []uint16
	for n := range uint16(10) {
		ports = append(ports, firstNodePort+n)
	}
	return ports
}

// clusterUID is of the cluster whose controller we play.
const clusterUID = "6d1b5a1e-lab"

// pair is the lab, seen from the controller's host.
type pair struct {
	*lab.Lab
	epoch uint64 // of the newest State; every push claims the next one
}

// The addresses of Service default/web, which is in most States.
var (
	web4 = netip.MustParseAddr("192.0.2.64")
	web6 = netip.MustParseAddr("2001:db8::1:1")
)

func port(address netip.Addr, port uint16) string { return netip.AddrPortFrom(address, port).String() }

func webTargets() []string { return []string{port(web4, 80), port(web6, 80)} }

// web is the Service that most tests look at.
func web() desired.LoadBalancer {
	return service("web", desired.Frontend{Name: "http", Protocol: desired.TCP, Port: 80, NodePort: firstNodePort}, web4, web6)
}

func service(name string, frontend desired.Frontend, addresses ...netip.Addr) desired.LoadBalancer {
	return desired.LoadBalancer{
		Key: desired.Key{Namespace: "default", Name: name}, UID: "uid-" + name,
		Addresses: addresses, Frontends: []desired.Frontend{frontend},
	}
}

// many are Services with one IPv4 address each.
func many(count int) []desired.LoadBalancer {
	var services []desired.LoadBalancer
	address := web4
	for n := range count {
		address = address.Next()
		services = append(services, service(fmt.Sprintf("many-%03d", n),
			desired.Frontend{Protocol: desired.TCP, Port: 8080, NodePort: firstNodePort + 1}, address))
	}
	return services
}

// state is a hand-written State; what it leaves out push takes from the configuration.
func (p *pair) state(workers []*lab.Host, services ...desired.LoadBalancer) *desired.State {
	s := &desired.State{Fence: desired.Fence{ClusterUID: clusterUID}, LoadBalancers: services}
	for _, w := range workers {
		s.Nodes = append(s.Nodes, desired.Node{Name: w.Name, Addresses: w.Addresses()})
	}
	return s
}

// tryPush sends a State and gives what gatewayctl printed; the error has what it said on standard error.
func (p *pair) tryPush(t *testing.T, s *desired.State, flags ...string) (string, error) {
	t.Helper()
	text, err := json.Marshal(s) // JSON is YAML
	must(t, err)
	const file = "/root/state.yaml"
	must(t, p.Controller.WriteFile(file, text, 0o600))
	p.epoch++
	argv := append([]string{"gatewayctl", "push", "-f", file, "--cloud-config", lab.CloudConfigFile, "--force-epoch", fmt.Sprint(p.epoch)}, flags...)
	out, err := p.Controller.Run(t.Context(), argv...)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return out, err
}

// push sends a State that every gateway has to take.
func (p *pair) push(t *testing.T, s *desired.State, flags ...string) string {
	t.Helper()
	out, err := p.tryPush(t, s, flags...)
	must(t, err)
	return out
}

// home is the gateway that holds an address while all are well.
func (p *pair) home(t *testing.T, address netip.Addr) *lab.Host {
	t.Helper()
	var gateways []desired.Gateway
	for _, g := range p.Gateways {
		gateways = append(gateways, desired.Gateway{Name: g.Name})
	}
	instances, err := desired.Instances(gateways, 200)
	must(t, err)
	routerID := desired.Spread(address, instances)
	for _, i := range instances {
		if i.RouterID == routerID {
			return p.Host(i.Gateways[0])
		}
	}
	t.Fatalf("no instance moves %s", address)
	return nil
}

// atHome says which of web's addresses is elsewhere than at its home, or at two places.
func (p *pair) atHome(t *testing.T) error {
	t.Helper()
	for _, address := range []netip.Addr{web4, web6} {
		if holders := p.holders(t, address); len(holders) != 1 || holders[0] != p.home(t, address) {
			return fmt.Errorf("%s is held by %q, want %s", address, names(holders), p.home(t, address).Name)
		}
	}
	return nil
}

// begin makes Service web run over all workers, and waits until its addresses are where they belong and the client reaches it.
func (p *pair) begin(t *testing.T) {
	t.Helper()
	for _, w := range p.Workers {
		if err := w.SetHealthy(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	p.push(t, p.state(p.Workers, web()))
	eventually(t, "web is served by all workers", func() error {
		for name, s := range p.status(t) {
			for _, n := range s.Nodes {
				if n.State != "UP" {
					return fmt.Errorf("on %s node %s is %s", name, n.Name, n.State)
				}
			}
		}
		if err := p.atHome(t); err != nil {
			return err
		}
		return p.reaches(webTargets()...)
	})
}

// reaches says why the client does not reach a target.
func (p *pair) reaches(targets ...string) error {
	for _, target := range targets {
		if _, err := p.Client.Ask(target, time.Second); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	return nil
}

// status is what `gatewayctl status` says, by gateway. Gateways that do not answer are missing.
func (p *pair) status(t *testing.T) map[string]*wire.Status {
	t.Helper()
	out, _ := p.Controller.Run(t.Context(), "gatewayctl", "status", "--cloud-config", lab.CloudConfigFile, "-o", "json")
	var all []struct {
		Gateway string
		Status  *wire.Status
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("reading what status printed: %v\n%s", err, out)
	}
	statuses := map[string]*wire.Status{}
	for _, g := range all {
		if g.Status != nil {
			statuses[g.Gateway] = g.Status
		}
	}
	return statuses
}

// holders are the gateways that have an address now, as the kernel says.
func (p *pair) holders(t *testing.T, address netip.Addr) []*lab.Host {
	t.Helper()
	var holders []*lab.Host
	for _, g := range p.Gateways {
		if g.PID() == 0 {
			continue
		}
		out, err := g.Run(t.Context(), "ip", "-o", "address", "show", "to", address.String())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, address.String()) {
			holders = append(holders, g)
		}
	}
	return holders
}

func (p *pair) other(than *lab.Host) *lab.Host {
	return p.Gateways[1-slices.Index(p.Gateways, than)]
}

// reloads is how often HAProxy was reloaded or started on all gateways together.
func (p *pair) reloads(t *testing.T) uint64 {
	t.Helper()
	var sum uint64
	for _, s := range p.status(t) {
		for _, n := range s.Reloads {
			sum += n
		}
	}
	return sum
}

// workerPIDs are HAProxy's worker processes: no reload is one that only the counters do not know of.
func (p *pair) workerPIDs(t *testing.T) string {
	t.Helper()
	var pids string
	for _, g := range p.Gateways {
		pids += mustRun(t, g, "pgrep", "-P", mustRun(t, g, "cat", "/run/haproxy.pid")) + "\n"
	}
	return pids
}

// end sends a signal to the host's processes of that name, and waits until nothing is left of them: a killed process that is
// still letting go of its locks has no command line any more, but a name.
func end(t *testing.T, h *lab.Host, signal, name string) {
	t.Helper()
	mustRun(t, h, "pkill", signal, "-x", name)
	eventually(t, name+" ended on "+h.Name, func() error {
		if out, err := h.Run(t.Context(), "pgrep", "-x", name); err == nil {
			return errors.New("runs as " + out)
		}
		return nil
	})
}

// flow is 100 connections a second to web until Stop.
func (p *pair) flow(t *testing.T) *lab.Running[traffic.Report] {
	t.Helper()
	return p.flowTo(t, webTargets()...)
}

func (p *pair) flowTo(t *testing.T, targets ...string) *lab.Running[traffic.Report] {
	t.Helper()
	running, err := p.Client.StartFlow(t.Context(), traffic.Flow{Targets: targets, Rate: 100, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return running
}

func stop[R any](t *testing.T, r *lab.Running[R]) R {
	t.Helper()
	report, err := r.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// limit is how long anything may take before it counts as broken.
const limit = 20 * time.Second

// eventually tries until there is no fault.
func eventually(t *testing.T, what string, fault func() error) {
	t.Helper()
	within(t, limit, what, fault)
}

// within is eventually with a limit of its own.
func within(t *testing.T, limit time.Duration, what string, fault func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fault()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: still not after %v: %v", what, limit, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustRun(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), argv...)
	must(t, err)
	return strings.TrimSpace(out)
}
