package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
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

// Affinity that ends with a failover is told where a Service has it, and TCP ports.
func TestStatusTellsAffinityThatIsNotShared(t *testing.T) {
	linkLocal := func(s *desired.State) {
		for i := range s.Gateways {
			s.Gateways[i].VRRPAddress = addr(fmt.Sprintf("fe80::%d", i+2))
		}
	}
	alone := func(s *desired.State) {
		s.Gateways = s.Gateways[:1]
		s.Instances = []desired.Instance{{RouterID: 51, Gateways: []string{"east"}}}
	}
	web := service("web", "192.0.2.10", 51)
	udp := func(s *desired.State) { s.LoadBalancers[0].Frontends[0].Protocol = desired.UDP }
	for name, test := range map[string]struct {
		change []func(*desired.State)
		told   bool
	}{
		"link-local":                  {[]func(*desired.State){web, sticking(60), linkLocal}, true},
		"link-local without affinity": {[]func(*desired.State){web, linkLocal}, false},
		"link-local, UDP alone":       {[]func(*desired.State){web, udp, sticking(60), linkLocal}, false},
		"link-local and alone":        {[]func(*desired.State){web, sticking(60), linkLocal, alone}, false},
		"another address":             {[]func(*desired.State){web, sticking(60)}, false},
	} {
		a := started(t, holding(t, sample(1, test.change...)))
		got := warning(a.status(t.Context(), wire.RoleOperator), "AffinityNotShared")
		if strings.Contains(got, "fe80::2") != test.told || (got != "") != test.told {
			t.Errorf("%s: told is %q", name, got)
		}
	}
}

// What is wrong with the kernel's settings is told with the file to put them into.
func TestStatusTellsSysctls(t *testing.T) {
	m := newMachine()
	m.files["/proc/sys/net/ipv4/tcp_tw_reuse"] = "2\n"
	m.files["/proc/sys/net/ipv4/ip_local_port_range"] = "32768\t60999\n"
	m.files["/proc/sys/net/core/somaxconn"] = "65535\n"
	got := warning(started(t, m).status(t.Context(), wire.RoleOperator), "Sysctl")
	for _, says := range []string{"net.ipv4.tcp_tw_reuse=1 (it is 2)", "net.ipv4.ip_local_port_range=7500 65535 (it is 32768 60999)",
		"/etc/sysctl.d/90-cloud-provider-haproxy.conf", "sysctl --system"} {
		if !strings.Contains(got, says) {
			t.Errorf("the warning does not say %q: %s", says, got)
		}
	}
	if strings.Contains(got, "somaxconn") {
		t.Errorf("a setting that is right is warned of: %s", got)
	}
}

// deviation is something that a person or another program did to a machine.
type deviation struct {
	name string
	do   func(*testing.T, *machine)
	want wire.Outcome // of undoing it
	says string       // one of the changes that undo it
}

const tableFlushed = "table flushed"

func deviations() []deviation {
	const services, config, vrrp = "/etc/haproxy/services.map", "/etc/haproxy/haproxy.cfg", "/etc/keepalived/keepalived.conf"
	load := func(t *testing.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return []deviation{
		{tableFlushed, func(_ *testing.T, m *machine) { m.script = "" }, wire.Runtime, "nftables: table inet cloud_provider_haproxy is absent"},
		{"set element gone", func(_ *testing.T, m *machine) {
			m.script = strings.Replace(m.script, "\t\t\t192.0.2.10 . tcp . 80,\n", "", 1)
		}, wire.Runtime,
			"nftables: set open4 lacks 192.0.2.10 . tcp . 80"},
		{"map entry deleted", func(_ *testing.T, m *machine) { delete(m.haproxy.maps[services], "192.0.2.10:80") }, wire.Runtime, "port 192.0.2.10:80 added"},
		{"server deleted", func(_ *testing.T, m *machine) { delete(m.haproxy.config.backends["nodes"], "worker-1") }, wire.Runtime, "server nodes/worker-1 added"},
		{"server moved", func(_ *testing.T, m *machine) {
			server := m.haproxy.config.backends["nodes"]["worker-1"]
			server.Addr = netip.MustParseAddr("10.0.2.99")
			m.haproxy.config.backends["nodes"]["worker-1"] = server
		}, wire.Runtime, "server nodes/worker-1 moved"},
		{"haproxy.cfg edited at its end", func(_ *testing.T, m *machine) { m.files[config] += "# tuned\n" }, wire.Runtime, `write ` + config + `: it had "# tuned"`},
		{"haproxy.cfg edited and loaded", func(t *testing.T, m *machine) {
			m.files[config] = strings.Replace(m.files[config], "timeout client 1h", "timeout client 2h", 1)
			load(t, m.loadHAProxy(false))
		}, wire.Reloaded, "reload HAProxy: haproxy.cfg was edited"},
		{"services.map edited", func(_ *testing.T, m *machine) { m.files[services] = "" }, wire.Runtime, "write " + services + ": it lacked"},
		{"haproxy.cfg removed", func(_ *testing.T, m *machine) { delete(m.files, config) }, wire.Runtime, "write " + config + ": it was gone"},
		{"keepalived.conf edited and loaded", func(t *testing.T, m *machine) {
			m.files[vrrp] = strings.Replace(m.files[vrrp], "192.0.2.10/32", "192.0.2.99/32", 1)
			load(t, m.loadKeepalived(false))
		}, wire.Runtime, "reload keepalived"},
		{"keepalived restarted by somebody", func(t *testing.T, m *machine) {
			m.stop("/run/keepalived.pid", m.keepalived.pid)
			m.keepalived = nil
			load(t, m.loadKeepalived(true))
		}, wire.Runtime, "reload keepalived: somebody started it"},
		{"keepalived stopped", func(_ *testing.T, m *machine) { m.stop("/run/keepalived.pid", m.keepalived.pid); m.keepalived = nil }, wire.Runtime,
			"start keepalived: it was not running"},
		{"HAProxy stopped", func(_ *testing.T, m *machine) { m.stop("/run/haproxy.pid", m.haproxy.pid); m.haproxy = nil }, wire.Reloaded,
			"start HAProxy: HAProxy was not running"},
		{"HAProxy runs something else", func(_ *testing.T, m *machine) { m.haproxy = &fakeHAProxy{pid: m.haproxy.pid} }, wire.Reloaded, "reload HAProxy: haproxy runs a configuration"},
		{"VIP removed", func(_ *testing.T, m *machine) {
			m.keepalived.addresses[51] = slices.DeleteFunc(m.keepalived.addresses[51], func(a string) bool { return a == "192.0.2.10" })
		}, wire.Runtime, "VIP 192.0.2.10 is missing"},
		{"VIP added", func(_ *testing.T, m *machine) { m.added = []string{"192.0.2.12"} }, wire.Runtime, "VIP 192.0.2.12 is held although"},
		{"slots forgotten", func(_ *testing.T, m *machine) { delete(m.files, "/var/lib/gatewayctl/slots.json") }, wire.Runtime, "slots.json: it was gone"},
		{"slots garbled", func(_ *testing.T, m *machine) { m.files["/var/lib/gatewayctl/slots.json"] = "{" }, wire.Runtime, "slots.json: it had"},
	}
}

// deviating is what is held while somebody changes the machine: east is MASTER of instance 51.
func deviating() *desired.State {
	return sample(1, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), local("db", "10.0.2.1"), service("far", "192.0.2.12", 52))
}

// Whatever a person or another program did to the machine, the same State makes good, and status tells what it was.
func TestDriftIsRepaired(t *testing.T) {
	for _, d := range deviations() {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, deviating())
				want := m.moment()
				a := started(t, m)
				d.do(t, m)
				if status := a.status(t.Context(), wire.RoleController); status.InSync {
					t.Error("status does not tell the drift")
				}
				result, refusal := a.apply(t.Context(), sign(t, deviating()))
				if refusal != nil || result.Outcome != d.want {
					t.Fatalf("got %+v, %v, want %s", result, refusal, d.want)
				}
				repaired(t, a, m, want, d)
			})
		})
	}
}

// repaired looks whether a deviation is undone and told.
func repaired(t *testing.T, a *Agent, m *machine, want moment, d deviation) {
	t.Helper()
	if diff := cmp.Diff(want, m.moment()); diff != "" || len(m.added) > 0 {
		t.Errorf("after the repair (-want +got):\n%s, %q still added", diff, m.added)
	}
	status := a.status(t.Context(), wire.RoleController)
	if !status.InSync {
		t.Errorf("after the repair status tells the drift %q", status.Drift)
	}
	if len(status.Differences) != 1 || status.Differences[0].Left || status.Differences[0].Problem != "" ||
		!strings.Contains(strings.Join(status.Differences[0].Changes, "\n"), d.says) {
		t.Errorf("told %+v, want one difference with %q", status.Differences, d.says)
	}
}

// Who asks for the status again and again does not put the comparison off.
func TestDriftIsFoundWhileTheStatusIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, deviating())
		a := started(t, m)
		want, d := m.moment(), deviations()[0]
		watching(t, a.watchDrift)
		time.Sleep(driftEvery - time.Second)
		if err := a.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.meanwhile(func() { d.do(t, m) })
		time.Sleep(2 * time.Second)
		a.release()
		synctest.Wait()
		repaired(t, a, m, want, d)
	})
}

// The agent looks by itself, whether there is a controller or not.
func TestDriftIsFoundWithoutAController(t *testing.T) {
	for _, d := range deviations() {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, deviating())
				want := m.moment()
				a := started(t, m)
				watching(t, a.watchDrift)
				synctest.Wait()
				m.meanwhile(func() { d.do(t, m) })
				time.Sleep(driftEvery + 10*time.Second)
				synctest.Wait()
				repaired(t, a, m, want, d)
				time.Sleep(3 * driftEvery)
				synctest.Wait()
				if told := a.foundDifferences(); len(told) != 1 {
					t.Errorf("told again: %+v", told)
				}
			})
		})
	}
}

// Where differences are only reported, the agent keeps its hands off until it gets another State.
func TestDriftIsOnlyReported(t *testing.T) {
	for _, d := range deviations() {
		if d.name == tableFlushed {
			continue // TestFlushedTableIsRestoredWhereDriftIsReported
		}
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, deviating())
				a := started(t, m)
				a.config.Drift = driftReport
				events := told(a)
				watching(t, a.watchDrift)
				watching(t, a.watchDaemons)
				watching(t, a.watchFirewall)
				synctest.Wait()
				m.meanwhile(func() { d.do(t, m) })
				events <- struct{}{}
				var is moment
				m.meanwhile(func() { is = m.moment() })
				time.Sleep(5 * driftEvery)
				synctest.Wait()
				if result, refusal := a.apply(t.Context(), sign(t, deviating())); refusal != nil || result.Outcome != wire.Unchanged {
					t.Errorf("the same State once more: %+v, %v", result, refusal)
				}
				synctest.Wait()
				if diff := cmp.Diff(is, m.moment()); diff != "" {
					t.Errorf("it was touched (-before +now):\n%s", diff)
				}
				status := a.status(t.Context(), wire.RoleController)
				if status.InSync || len(status.Differences) != 1 || !status.Differences[0].Left ||
					!strings.Contains(strings.Join(status.Differences[0].Changes, "\n"), d.says) {
					t.Errorf("in sync %t, told %+v, want one difference that is left, with %q", status.InSync, status.Differences, d.says)
				}
				next := deviating()
				next.Fence.Sequence++
				if result, refusal := a.apply(t.Context(), sign(t, next)); refusal != nil || result.Outcome != d.want {
					t.Fatalf("the next State: %+v, %v, want %s", result, refusal, d.want)
				}
				if status := a.status(t.Context(), wire.RoleController); !status.InSync {
					t.Errorf("the next State leaves %q", status.Drift)
				}
			})
		})
	}
}

// What no one did is not told: a transition that is seen half-way, a boot.
func TestNoDriftIsToldWithoutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, deviating())
		a := started(t, m)
		watching(t, a.watchDrift)
		synctest.Wait()
		m.meanwhile(func() {
			m.added = []string{"192.0.2.12"} // keepalived has not put the anchor there yet
		})
		time.Sleep(driftEvery + transitionLimit/2)
		m.meanwhile(func() { m.added, m.masters = nil, map[int]bool{51: true, 52: true} })
		time.Sleep(2 * driftEvery)
		synctest.Wait()
		if told := a.foundDifferences(); len(told) > 0 {
			t.Errorf("told %+v", told)
		}
	})
	boot := holding(t, deviating())
	boot.powerOff()
	if told := started(t, boot).foundDifferences(); len(told) > 0 {
		t.Errorf("a boot is told as %+v", told)
	}
}

// A difference that somebody else's change meets is told too, although the transaction has changes of its own.
func TestDriftIsFoundByTheNextState(t *testing.T) {
	m := holding(t, deviating())
	a := started(t, m)
	delete(m.haproxy.maps["/etc/haproxy/services.map"], "192.0.2.10:80")
	next := sample(2, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), local("db", "10.0.2.1"), service("new", "192.0.2.13", 51))
	if result, refusal := a.apply(t.Context(), sign(t, next)); refusal != nil || result.Outcome != wire.Runtime {
		t.Fatalf("got %+v, %v", result, refusal)
	}
	told := a.foundDifferences()
	if len(told) != 1 || len(told[0].Changes) != 1 || !strings.Contains(told[0].Changes[0], "192.0.2.10:80") {
		t.Errorf("told %+v, want the entry of 192.0.2.10:80 alone", told)
	}
}

// Kernel settings are set, and what cannot be set stays a warning.
func TestSysctlsAreSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1))
		m.files["/proc/sys/net/ipv4/tcp_tw_reuse"] = "2\n"
		m.files["/proc/sys/net/core/somaxconn"] = "128\n"
		m.strike = func(_ int, operation string) strike {
			if strings.HasPrefix(operation, "run sysctl") && strings.Contains(operation, "somaxconn") {
				return failsBefore
			}
			return passes
		}
		a := started(t, m)
		watching(t, a.watchDrift)
		synctest.Wait()
		if got := m.file("/proc/sys/net/ipv4/tcp_tw_reuse"); got != "1\n" {
			t.Errorf("tcp_tw_reuse is %q", got)
		}
		status := a.status(t.Context(), wire.RoleOperator)
		if len(status.Differences) != 1 || strings.Join(status.Differences[0].Changes, "") != "set net.ipv4.tcp_tw_reuse=1: it was 2" {
			t.Errorf("told %+v", status.Differences)
		}
		if got := warning(status, "Sysctl"); !strings.Contains(got, "somaxconn") || strings.Contains(got, "tcp_tw_reuse") {
			t.Errorf("warned %q", got)
		}
	})
}

// A VIP that has arrived with an instance which the State before did not have is no stray, as long as another one is awaited.
func TestVIPOfANewInstanceIsNoStray(t *testing.T) {
	before, want := sample(1, service("web", "192.0.2.10", 51)), sample(2, service("web", "192.0.2.10", 53))
	want.Instances = append(want.Instances, desired.Instance{RouterID: 53, Gateways: []string{"east", "west"}})
	m := holding(t, before)
	a := started(t, m)
	m.masters, m.added = nil, []string{"192.0.2.10", "169.254.53.1"}
	if strays, err := a.strays(m.listAddresses(), want, before); err != nil || len(strays) != 0 {
		t.Errorf("strays are %+v, %v", strays, err)
	}
	m.added = []string{"192.0.2.10"}
	if strays, err := a.strays(m.listAddresses(), want, before); err != nil || len(strays) != 1 {
		t.Errorf("without being MASTER strays are %+v, %v", strays, err)
	}
	before.VRRP.AdvertIntervalMillis = 1000
	if got := transitionTime(before); got != 4*time.Second {
		t.Errorf("with an advert a second a transition has %s", got)
	}
}
