package integration

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

// haproxy asks HAProxy's stats socket on a host, as a person with socat would.
func haproxy(t *testing.T, h *lab.Host, command string) string {
	t.Helper()
	c, err := h.Dial(t.Context(), "unix", "/run/haproxy/admin.sock")
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(c, command+"\n")
	must(t, err)
	said, err := io.ReadAll(c)
	must(t, err)
	return string(said)
}

// edit changes a file on a host as sed does.
func edit(t *testing.T, h *lab.Host, path, old, changed string) {
	t.Helper()
	text, err := h.ReadFile(path)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", path, old)
	}
	must(t, h.WriteFile(path, []byte(strings.Replace(string(text), old, changed, 1)), 0o640))
}

// tampering is something that a person does to a gateway.
type tampering struct {
	name string
	do   func(*testing.T, *lab.Host)
	says string                            // by status, when it is undone
	left func(*testing.T, *lab.Host) error // why it is not undone
}

// has looks whether a file has a text.
func has(path, text string, want bool) func(*testing.T, *lab.Host) error {
	return func(_ *testing.T, h *lab.Host) error {
		content, err := h.ReadFile(path)
		if err == nil && strings.Contains(string(content), text) != want {
			err = fmt.Errorf("%q in %s: not %v", text, path, want)
		}
		return err
	}
}

// reloaded is undone at once: a worker that nothing was compared with is looked at when it is seen.
func reloaded() tampering {
	const config = "/etc/haproxy/haproxy.cfg"
	return tampering{"haproxy.cfg edited, and HAProxy reloaded with it", func(t *testing.T, h *lab.Host) {
		edit(t, h, config, "retries 3", "retries 7")
		before := mustRun(t, h, "pgrep", "-P", mustRun(t, h, "cat", "/run/haproxy.pid"))
		mustRun(t, h, "pkill", "-USR2", "-F", "/run/haproxy.pid")
		eventually(t, "HAProxy has a new worker", func() error {
			if now, err := h.Run(t.Context(), "pgrep", "-P", mustRun(t, h, "cat", "/run/haproxy.pid")); err != nil || strings.TrimSpace(now) == before {
				return fmt.Errorf("workers %s, %w", now, err)
			}
			return nil
		})
	}, "reload HAProxy: haproxy.cfg was edited", has(config, "retries 7", false)}
}

// tamperings are for a gateway that does not hold web6.
func tamperings() []tampering {
	const vrrp, services = "/etc/keepalived/keepalived.conf", "/etc/haproxy/services.map"
	answers := func(command, text string) func(*testing.T, *lab.Host) error {
		return func(t *testing.T, h *lab.Host) error {
			if said := haproxy(t, h, command); !strings.Contains(said, text) {
				return fmt.Errorf("%s: %s", command, said)
			}
			return nil
		}
	}
	return []tampering{
		{"set server", func(t *testing.T, h *lab.Host) { haproxy(t, h, "set server nodes/worker1 state maint") },
			"server nodes/worker1 put back from MAINT", func(t *testing.T, h *lab.Host) error {
				if said := haproxy(t, h, "show stat"); !strings.Contains(said, "worker1") || strings.Contains(said, "MAINT") {
					return fmt.Errorf("show stat: %s", said)
				}
				return nil
			}},
		{"map entry deleted", func(t *testing.T, h *lab.Host) { haproxy(t, h, "del map "+services+" "+web4.String()+":80") },
			"port " + web4.String() + ":80 added", answers("show map "+services, web4.String()+":80 ")},
		{"services.map edited", func(t *testing.T, h *lab.Host) { edit(t, h, services, web4.String()+":80", web4.String()+":81") },
			"write " + services + `: it had "` + web4.String() + ":81", has(services, web4.String()+":80 ", true)},
		{"keepalived.conf edited, and keepalived reloaded with it", func(t *testing.T, h *lab.Host) {
			edit(t, h, vrrp, "vrrp_garp_master_refresh 60", "vrrp_garp_master_refresh 61")
			mustRun(t, h, "pkill", "-HUP", "-F", "/run/keepalived.pid")
		}, "reload keepalived: somebody started it, or edited its configuration", has(vrrp, "refresh 61", false)},
		{"VIP added", func(t *testing.T, h *lab.Host) {
			mustRun(t, h, "ip", "address", "add", web6.String()+"/128", "dev", "eth0", "nodad")
		}, "VIP " + web6.String() + " is held although this gateway is not MASTER", func(t *testing.T, h *lab.Host) error {
			if said := mustRun(t, h, "ip", "address", "show", "to", web6.String()); said != "" {
				return fmt.Errorf("it is still there: %s", said)
			}
			return nil
		}},
		{"sysctl", func(t *testing.T, h *lab.Host) { mustRun(t, h, "sysctl", "-q", "-w", "net.ipv4.tcp_tw_reuse=2") },
			"set net.ipv4.tcp_tw_reuse=1: it was 2", has("/proc/sys/net/ipv4/tcp_tw_reuse", "1", true)},
	}
}

// testDrift: with no controller at all, whatever somebody did to a gateway by hand is undone within a minute or so, a foreign reload of
// HAProxy at once, and told by status and in the agent's log; a client of the other gateway notices nothing.
func testDrift(t *testing.T, p *pair) {
	p.begin(t)
	h := p.other(p.home(t, web6))
	before := len(p.status(t)[h.Name].Differences)
	flow := p.flowTo(t, port(web6, 80))
	tampered(t, h, tamperings())
	if s := p.status(t)[h.Name]; s.InSync || len(s.Drift) < 5 {
		t.Errorf("status does not tell: in sync %v, %q", s.InSync, s.Drift)
	}
	undone(t, p, h, 80*time.Second, tamperings())
	tampered(t, h, []tampering{reloaded()})
	undone(t, p, h, 20*time.Second, []tampering{reloaded()})
	if report := stop(t, flow); report.Failed > 0 {
		t.Errorf("the other gateway's client: %v", report)
	}
	told := toldDifferences(p.status(t)[h.Name], before)
	for _, one := range append(tamperings(), reloaded()) {
		if !strings.Contains(told, one.says) {
			t.Errorf("%s: status does not tell %q:\n%s", one.name, one.says, told)
		}
	}
}

func tampered(t *testing.T, h *lab.Host, all []tampering) {
	for _, one := range all {
		one.do(t, h)
		if one.left(t, h) == nil {
			t.Fatalf("%s: nothing is wrong, so this test would show nothing", one.name)
		}
	}
}

func undone(t *testing.T, p *pair, h *lab.Host, limit time.Duration, all []tampering) {
	begun := time.Now()
	within(t, limit, "all is undone", func() error {
		for _, one := range all {
			if err := one.left(t, h); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
		}
		return p.inSync(t)
	})
	t.Logf("%d differences undone after %v", len(all), time.Since(begun).Round(time.Second))
}

func toldDifferences(s *wire.Status, from int) string {
	var told []string
	for _, d := range s.Differences[min(from, len(s.Differences)):] {
		told = append(told, d.Changes...)
	}
	return strings.Join(told, "\n")
}

// testDaemonsStopped: a daemon that somebody stops runs again in a few seconds, and that is told. A VIP that somebody takes off
// its holder is back at once.
func testDaemonsStopped(t *testing.T, p *pair) {
	p.begin(t)
	h := p.home(t, web4)
	for _, name := range []string{"haproxy", "keepalived"} {
		before := len(p.status(t)[h.Name].Differences)
		begun := time.Now()
		end(t, h, "-TERM", name)
		eventually(t, name+" runs again", func() error { return p.inSync(t) })
		t.Logf("%s stopped: runs again after %v", name, time.Since(begun).Round(time.Millisecond))
		if told := toldDifferences(p.status(t)[h.Name], before); !strings.Contains(told, "was not running") {
			t.Errorf("status does not tell that %s was stopped: %q", name, told)
		}
	}
	eventually(t, "the addresses are at home", func() error { return p.atHome(t) })
	begun := time.Now()
	mustRun(t, h, "ip", "address", "delete", web4.String()+"/32", "dev", "eth0")
	eventually(t, "the VIP is back", func() error { return p.atHome(t) })
	t.Logf("VIP taken off: back after %v", time.Since(begun).Round(time.Millisecond))
}

// testFlushedAtOnce: our table is back within a fifth of a second.
func testFlushedAtOnce(t *testing.T, p *pair) {
	p.begin(t)
	h := p.home(t, web4)
	var took []time.Duration
	for range 5 {
		mustRun(t, h, "nft", "flush", "ruleset")
		begun := time.Now()
		eventually(t, "the table is back", func() error {
			_, err := h.Run(t.Context(), "nft", "list", "set", "inet", "cloud_provider_haproxy", "open4")
			return err
		})
		took = append(took, time.Since(begun))
		eventually(t, "in sync", func() error { return p.inSync(t) })
	}
	slices.Sort(took)
	t.Logf("nft flush ruleset: the table is back after %v", took)
	if took[0] > 200*time.Millisecond { // the rest may be what other tests do to the processors
		t.Errorf("the table is back after %v at best, want 200ms", took[0])
	}
}

// testStrangeVRRP: who sends VRRP and is no gateway is named.
func testStrangeVRRP(t *testing.T, p *pair) {
	p.begin(t)
	h := p.Gateways[0]
	if w, found := warning(p.status(t)[h.Name], "StrangeVRRP"); found {
		t.Errorf("before anybody sent: %s", w.Message)
	}
	const advert = `use Socket; socket(my $s, PF_INET, SOCK_RAW, 112) or die $!;
		send($s, pack("C*", 0x31, 200, 255, 1, 0, 10, 0, 0), 0, pack_sockaddr_in(0, inet_aton($ARGV[0]))) or die $!`
	mustRun(t, p.Client, "perl", "-e", advert, h.Addr4.String())
	eventually(t, "status names the stranger", func() error {
		w, found := warning(p.status(t)[h.Name], "StrangeVRRP")
		if !found || !strings.Contains(w.Message, p.Client.Addr4.String()+" sends VRRP adverts") {
			return fmt.Errorf("warnings %+v", p.status(t)[h.Name].Warnings)
		}
		return nil
	})
	if s := p.status(t)[h.Name]; !s.InSync {
		t.Errorf("a stranger's advert is drift: %q", s.Drift)
	}
	must(t, p.atHome(t))
}

// testBlame: what only a gateway can know to be wrong is refused with whose fault it is, and nothing is touched.
func testBlame(t *testing.T, p *pair) {
	p.begin(t)
	h := p.Gateways[1]
	own := netip.MustParseAddr("192.0.2.90")
	mustRun(t, h, "ip", "address", "add", own.String()+"/24", "dev", "eth0")
	defer func() { mustRun(t, h, "ip", "address", "delete", own.String()+"/24", "dev", "eth0") }()
	mine := web()
	mine.Name, mine.UID, mine.Addresses = "mine", "uid-mine", []netip.Addr{own}
	before := p.status(t)[h.Name]
	_, err := p.tryPush(t, p.state(p.Workers, web(), mine))
	expectWords(t, err, "fault: default/mine ", "the gateway "+h.Name+" has "+own.String()+" itself, on eth0", "ip address delete "+own.String()+"/24 dev eth0")
	if now := p.status(t)[h.Name]; now.Digest != before.Digest || !now.InSync {
		t.Errorf("it holds %s and held %s; in sync %v %q", now.Fence, before.Fence, now.InSync, now.Drift)
	}
	must(t, p.reaches(webTargets()...))

	// The control plane's port is tried before HAProxy is reloaded, and whoever has it is named.
	listen, err := h.Start("squatter", "perl", "-MIO::Socket::INET", "-e",
		`my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:7481", Listen => 1) or die $!; sleep 600`)
	must(t, err)
	defer func() { must(t, listen.Kill()) }()
	eventually(t, "somebody has the port", func() error {
		if out := mustRun(t, h, "ss", "-Hltn", "sport = :7481"); out == "" {
			return fmt.Errorf("nobody listens")
		}
		return nil
	})
	flow := p.flow(t)
	withAPI := p.state(p.Workers, web())
	withAPI.ControlPlane = &desired.ControlPlane{Address: netip.MustParseAddr("192.0.2.250"), Port: 6443,
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(p.Workers[0].Addr4, firstNodePort)}, Check: desired.Check{Kind: desired.CheckNone}}
	_, err = p.tryPush(t, withAPI)
	expectWords(t, err, "controlPlanePort", "address already in use", "stop perl (process ")
	if report := stop(t, flow); report.Failed > 0 {
		t.Errorf("a port that is taken cost connections: %v", report)
	}
}
