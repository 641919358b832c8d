package haproxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// seeing is a State of a load balancer on both families whose servers see their clients, on a gateway whose owner allows it.
func seeing(s *desired.State, l *Local) {
	l.ClientSourceProbes = addrs("203.0.113.1", "3fff::1")
	health := kubeProxyCheck()
	health.Port = 31999
	lb := localPolicy("ingress", "192.0.2.20", health,
		desired.Server{Name: "worker1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 2},
		desired.Server{Name: "worker2", Address: netip.MustParseAddr("10.0.0.12"), Weight: 1},
		desired.Server{Name: "worker3", Address: netip.MustParseAddr("fd00::13"), Weight: 1, Backup: true})
	lb.Addresses = addrs("192.0.2.20", "2001:db8::20")
	lb.ClientSource = true
	s.LoadBalancers = []desired.LoadBalancer{lb, web("192.0.2.10")}
}

// To be allowed is a reason to reload, which is told, and to be allowed no more; a Service that makes use of it is none.
func TestClientSourceReloads(t *testing.T) {
	s, l := baseState(), testLocal()
	render := func(s *desired.State, l Local) *Config {
		slots, _ := Assign(nil, s, func(string) bool { return true }, l)
		c, err := Render(s, l, slots)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	plain := render(s, l)
	l.ClientSourceProbes = addrs("203.0.113.1", "3fff::1")
	allowed := render(s, l)
	reasons := func(from, to *Config) string {
		var d Diff
		d.reload(&Running{Generation: from.Generation, Backends: backendsOf(from)}, to)
		return strings.Join(d.Reload, "\n")
	}
	if got := reasons(plain, allowed); !strings.Contains(got, "connections from clients' addresses were allowed (clientSourceProbes of limits.yaml)") {
		t.Errorf("what is told when it is allowed: %s", got)
	}
	if got := reasons(allowed, plain); !strings.Contains(got, "connections from clients' addresses are not allowed any more") {
		t.Errorf("what is told when it is allowed no more: %s", got)
	}
	seeing(s, &l)
	if got := reasons(allowed, render(s, l)); got != "" {
		t.Errorf("a Service whose servers see their clients reloads: %s", got)
	}
}

func backendsOf(c *Config) map[string]*RunningBackend {
	backends := map[string]*RunningBackend{}
	for name := range c.Servers {
		backends[name] = &RunningBackend{Servers: map[string]RunningServer{}}
	}
	return backends
}

// A server that is to see its clients passes a check first, also where all others did before, and where nobody else serves.
func TestClientSourceIsProvenFirst(t *testing.T) {
	s, l := baseState(), testLocal()
	seeing(s, &l)
	slots, short := Assign(nil, s, func(string) bool { return true }, l)
	if len(short) > 0 {
		t.Fatalf("slots are short for %v", short)
	}
	want, err := Render(s, l, slots)
	if err != nil {
		t.Fatal(err)
	}
	running := &Running{Generation: want.Generation, Backends: backendsOf(want), Maps: map[string][]Entry{}}
	before := running.Backends["slot-http-roundrobin-1"]
	for _, server := range s.LoadBalancers[0].Pool.Servers {
		before.Servers[server.Name] = RunningServer{Name: server.Name, Addr: server.Address, State: "UP"}
	}
	running.Maps[l.ServicesMap] = []Entry{{"192.0.2.20:80", "slot-http-roundrobin-1|30080|edge/ingress|0|0|0|0"}}
	var added []string
	for _, c := range Compare(running, want).add {
		if strings.Contains(c.line, "add server "+slotPrefix) {
			added = append(added, c.line)
		}
	}
	slices.Sort(added)
	if len(added) != 3 || !strings.Contains(added[0], "-client4-1/worker1 10.0.0.11 ") || !strings.Contains(added[1], "-client4-1/worker2 10.0.0.12 ") ||
		!strings.Contains(added[2], "-client6-1/worker2 [fd00::12] ") {
		t.Fatalf("added: %q", added)
	}
	for _, line := range added {
		if !strings.HasSuffix(line, " health down") || !strings.Contains(line, "downinter 250") {
			t.Errorf("gets connections before its check: %s", line)
		}
	}
}

// From where servers saw their clients a load balancer goes without waiting for a check: each node serves, at its address of the family
// whose VIP is held here.
func TestFromClientSourceAtOnce(t *testing.T) {
	s, l := baseState(), testLocal()
	seeing(s, &l)
	s.LoadBalancers[0].ClientSource = false
	slots, _ := Assign(nil, s, func(string) bool { return true }, l)
	want, err := Render(s, l, slots)
	if err != nil {
		t.Fatal(err)
	}
	running := &Running{Generation: want.Generation, Backends: backendsOf(want), Maps: map[string][]Entry{}}
	running.Backends["slot-http-roundrobin-client6-1"].Servers["worker2"] = RunningServer{Name: "worker2", Addr: netip.MustParseAddr("fd00::12"), State: "UP"}
	running.Backends["slot-http-roundrobin-client4-1"].Servers["worker1"] = RunningServer{Name: "worker1", Addr: netip.MustParseAddr("10.0.0.11"), State: "DOWN"}
	running.Maps[l.ServicesMap] = []Entry{{"192.0.2.20:80", "slot-http-roundrobin-client4-1|30080|edge/ingress|0|0|0|0"},
		{"2001:db8::20:80", "slot-http-roundrobin-client6-1|30080|edge/ingress|0|0|0|0"}}
	tested := map[string]bool{}
	for _, c := range Compare(running, want).add {
		for _, name := range []string{"worker1", "worker2"} {
			if strings.Contains(c.line, "add server slot-http-roundrobin-1/"+name+" ") {
				tested[name] = strings.HasSuffix(c.line, " health down")
			}
		}
	}
	if len(tested) != 2 || !tested["worker1"] || tested["worker2"] {
		t.Errorf("who waits for a check: %v, want worker1, which failed the one before, and not worker2", tested)
	}
}

// As whom the worker runs depends on what is allowed and on what this HAProxy can keep.
func TestRunsAs(t *testing.T) {
	for _, test := range []struct {
		version string
		probes  []netip.Addr
		want    string // without the line for people
	}{
		{"2.6.12", nil, "user haproxy, group haproxy"},
		{"2.6.12", addrs("203.0.113.1"), ""},
		{"", addrs("203.0.113.1"), ""},
		{"2.9.0", addrs("203.0.113.1"), "user haproxy, group haproxy, setcap cap_net_raw"},
		{"3.0.2", addrs("203.0.113.1", "3fff::1"), "user haproxy, group haproxy, setcap cap_net_raw"},
		{"3.0.2", nil, "user haproxy, group haproxy"},
	} {
		l := testLocal()
		l.Version, l.ClientSourceProbes = test.version, test.probes
		var lines []string
		for _, line := range l.RunsAs() {
			if !strings.HasPrefix(line, clientSourceMark) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if got := strings.Join(lines, ", "); got != test.want || l.Root() != (test.want == "") {
			t.Errorf("%s, %v: got %q and root %v, want %q", test.version, test.probes, got, l.Root(), test.want)
		}
	}
}
