package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const allowsClients = openLimits + "clientSourceProbes: [203.0.113.1, \"3fff::1\"]\n"

var bothProbes = []netip.Addr{addr("203.0.113.1"), addr("3fff::1")}

// changesClientSource notes the programs of clientsource.go.
func (m *machine) changesClientSource(argv []string) bool {
	is := func(a []string) bool { return slices.Equal(a, argv) }
	if !slices.ContainsFunc(nftables.ClientSourceArgvs(bothProbes), is) && !slices.ContainsFunc(nftables.ClientSourceRemovalArgvs(bothProbes), is) {
		return false
	}
	m.sourced = append(m.sourced, strings.Join(argv, " "))
	return true
}

// seeing makes a load balancer's servers see their clients.
func seeing(name string) func(*desired.State) {
	return func(s *desired.State) {
		for i := range s.LoadBalancers {
			if lb := &s.LoadBalancers[i]; lb.Name == name {
				lb.ClientSource = true
				lb.Pool.Check = desired.Check{Kind: desired.CheckHTTP, Port: 31999, Path: "/healthz", IntervalMillis: 1000, Rise: 1, Fall: 2}
			}
		}
	}
}

func TestLimitsOfClientSource(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51), local("web", "10.0.2.1"), seeing("web"))
	s.LoadBalancers[0].Addresses = append(s.LoadBalancers[0].Addresses, addr("2001:db8::10"))
	for probes, wants := range map[string][]string{
		"":                                    {"IPv4", "IPv6"},
		"clientSourceProbes: [203.0.113.1]\n": {"IPv6"},
		"clientSourceProbes: [203.0.113.1, \"3fff::1\"]\n": nil,
	} {
		limits, err := DecodeLimits([]byte(openLimits + probes))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range limits.check(s, "east") {
			if f.Field != "loadBalancers[0].clientSource" || f.LoadBalancer == nil || f.LoadBalancer.Name != "web" {
				continue
			}
			got = append(got, f.Message)
		}
		if len(got) != len(wants) {
			t.Errorf("%q: faults %q, want those of %v", probes, got, wants)
			continue
		}
		for i, want := range wants {
			if !strings.Contains(got[i], "needs an address of "+want+" in clientSourceProbes of the gateway's limits.yaml") || !strings.Contains(got[i], "clientSourceProbes: [") {
				t.Errorf("%q: told %q", probes, got[i])
			}
		}
	}
	for probes, want := range map[string]string{
		"[127.0.0.1]":                `clientSourceProbes[0]: 127.0.0.1 is no address that a client could have`,
		"[203.0.113.1, 203.0.113.2]": `clientSourceProbes[1]: 203.0.113.2 is a second address of its family`,
		"[192.0.2.9]":                `clientSourceProbes[0]: 192.0.2.9 is in vipPrefixes`,
		"[10.0.2.9]":                 `clientSourceProbes[0]: 10.0.2.9 is in serverPrefixes`,
	} {
		if _, err := DecodeLimits([]byte(openLimits + "clientSourceProbes: " + probes + "\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", probes, err, want)
		}
	}
}

// What limits.yaml allows is made in the kernel, again and again, and is gone with it, also what an agent before this one has made; a
// file that cannot be read takes nothing away.
func TestClientSourceOfTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.keepClientSource)
		look := func(d time.Duration) (ran []string) {
			time.Sleep(d)
			synctest.Wait()
			m.meanwhile(func() { ran, m.sourced = m.sourced, nil })
			return ran
		}
		if ran := look(5 * time.Second); ran != nil {
			t.Errorf("where it is not allowed the agent ran %q", ran)
		}
		write := func(text string) { m.meanwhile(func() { m.files["/etc/gatewayctl/limits.yaml"] = text }) }
		write(allowsClients)
		if ran := look(2 * time.Second); len(ran) != 8 || !slices.Contains(ran, "ip -4 address replace 203.0.113.1/32 dev lo scope host") {
			t.Errorf("where it is allowed the agent ran %q", ran)
		}
		if ran := look(2 * time.Minute); len(ran) != 16 {
			t.Errorf("in two minutes it was made again by %q", ran)
		}
		write("{")
		if ran := look(2 * time.Second); ran != nil {
			t.Errorf("with a file half written the agent ran %q", ran)
		}
		if got := started(t, m).clientSourceProbes(); !slices.Equal(got, bothProbes) {
			t.Errorf("an agent that starts with a file half written knows %v", got)
		}
		write(openLimits)
		again := started(t, m)
		watching(t, again.keepClientSource)
		if ran := look(2 * time.Second); !slices.Contains(ran, "ip -6 rule delete pref 7482") || !slices.Contains(ran, "ip -4 address delete 203.0.113.1/32 dev lo") {
			t.Errorf("where it is allowed no more the agent ran %q", ran)
		}
		if ran := look(2 * time.Minute); ran != nil {
			t.Errorf("and then %q", ran)
		}
	})
}

// A worker that is silent to clients' addresses, and not to the gateway, is named where the VIP is held, with the route that it
// lacks, and only when that lasts.
func TestNoReturnPath(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51), local("web", "10.0.2.1"), seeing("web"))
	lb := &s.LoadBalancers[0]
	current := &rendering{revision: &revision{state: s}, config: &haproxy.Config{Local: haproxy.Local{ClientSourceProbes: bothProbes}},
		slots: haproxy.Slots{}}
	const slot = "slot-http-roundrobin-client4-1"
	tenant := haproxy.Tenant{Key: lb.Key, Client: 4}
	current.slots[tenant] = slot
	node := s.Nodes[0].Name
	state := func(own, shared, lastCheck string) *haproxy.Running {
		server := func(state, last string) *haproxy.RunningBackend {
			return &haproxy.RunningBackend{Servers: map[string]haproxy.RunningServer{node: {Name: node, Addr: addr("10.0.2.1"), State: state, LastCheck: last}}}
		}
		return &haproxy.Running{Backends: map[string]*haproxy.RunningBackend{slot: server(own, lastCheck), nodesBackend: server(shared, "")}}
	}
	held := []netip.Addr{addr("192.0.2.10")}
	for name, test := range map[string]struct {
		running *haproxy.Running
		held    []netip.Addr
		want    bool
	}{
		"silent":                         {state("DOWN", "UP", "L4TOUT"), held, true},
		"silent, with no check of nodes": {state("DOWN", "NOCHECK", "L4TOUT"), held, true},
		"the VIP is elsewhere":           {state("DOWN", "UP", "L4TOUT"), nil, false},
		"the node is dead":               {state("DOWN", "DOWN", "L4TOUT"), held, false},
		"nobody listens":                 {state("DOWN", "UP", "L4CON"), held, false},
		"no endpoint":                    {state("DOWN", "UP", "L7STS"), held, false},
		"not checked yet":                {state("DOWN", "UP", ""), held, false},
		"answers":                        {state("UP", "UP", "L7OK"), held, false},
	} {
		found := astray(current, test.running, test.held)
		if len(found) > 0 != test.want {
			t.Errorf("%s: told %v", name, found)
		}
		for _, w := range found {
			if w.Reason != "NoReturnPath" || !slices.Equal(w.LoadBalancers, []desired.Key{lb.Key}) || !strings.Contains(w.Message, node) || !strings.Contains(w.Message, "ip route replace 203.0.113.1 via 192.0.2.10") {
				t.Errorf("%s: %v", name, w)
			}
		}
	}
	six := noReturn(lb, addr("2001:db8::10"), node, addr("2001:db8:1::1"), bothProbes[1])
	if want := "ip -6 route replace 3fff::1 via 2001:db8::10"; !strings.Contains(six.Message, want) {
		t.Errorf("of IPv6: %s, want %s", six.Message, want)
	}
}

// People are told when it has lasted, in the log too, and of what fails in the kernel.
func TestSilentServersAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.files["/etc/gatewayctl/limits.yaml"] = allowsClients
		a := started(t, m)
		s := sample(1, service("web", "192.0.2.10", 51), local("web", "10.0.2.1"), seeing("web"))
		if result, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || len(result.Faults) > 0 {
			t.Fatal(result, refusal)
		}
		slot := a.rendered().slots.AtVIP(&s.LoadBalancers[0], addr("192.0.2.10"))
		m.meanwhile(func() {
			for name, server := range m.haproxy.config.backends[slot] {
				server.State, server.LastCheck = "DOWN", noAnswer
				m.haproxy.config.backends[slot][name] = server
			}
		})
		silent := map[string]time.Time{}
		told := func() bool { return warning(a.status(t.Context(), wire.RoleController), "NoReturnPath") != "" }
		if a.watchReturns(t.Context(), silent); told() {
			t.Error("told at once")
		}
		time.Sleep(returnPatience)
		if a.watchReturns(t.Context(), silent); !told() {
			t.Error("not told")
		}
		a.noteTrouble(t.Context(), "ClientSource", leadingIn, errStruck)
	})
}

// While HAProxy is root its connections are those at a VIP; ss names no user for root, and the gateway's own sshd is root too.
func TestRootsConnections(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	m.connections = []string{"192.0.2.10:80 198.51.100.7:40000", "192.0.2.1:22 198.51.100.7:40001"}
	all := func() (ours []netip.AddrPort) {
		a := started(t, m)
		found, err := a.connections(t.Context(), func(connection) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			if c.ofHAProxy {
				ours = append(ours, c.vip)
			}
		}
		return ours
	}
	if got := all(); got != nil {
		t.Errorf("while HAProxy has a user, root's are taken for its: %v", got)
	}
	m.files["/etc/gatewayctl/limits.yaml"] = allowsClients
	if got := all(); len(got) != 1 || got[0] != netip.MustParseAddrPort("192.0.2.10:80") {
		t.Errorf("of root's, HAProxy's are said to be %v", got)
	}
}

// Consent that is taken back under a State which needs it closes the Service, and takes the right from HAProxy, with the next
// comparison; the reason is told, the State stays, and all others are served.
func TestConsentIsTakenBack(t *testing.T) {
	m := newMachine()
	m.files["/etc/gatewayctl/limits.yaml"] = allowsClients
	a := started(t, m)
	s := sample(1, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 52), local("web", "10.0.2.1"), seeing("web"))
	if result, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || result.Outcome != wire.Reloaded {
		t.Fatalf("with consent: %+v %v", result, refusal)
	}
	config, services := "/etc/haproxy/haproxy.cfg", "/etc/haproxy/services.map"
	if strings.Contains(m.files[config], "\n  user haproxy\n") || !strings.Contains(m.files[services], "192.0.2.10:80 slot-http-roundrobin-client4-1|") {
		t.Fatalf("with consent HAProxy keeps its user, or the Service has no slot:\n%s", m.files[services])
	}
	m.files["/etc/gatewayctl/limits.yaml"] = openLimits
	a.recover(t.Context())
	if !strings.Contains(m.files[config], "\n  user haproxy\n") || strings.Contains(m.files[config], "usesrc") {
		t.Error("without consent HAProxy is to keep the right")
	}
	if got := m.files[services]; strings.Contains(got, "192.0.2.10:80 ") || !strings.Contains(got, "192.0.2.11:80 ") {
		t.Errorf("without consent these are served:\n%s", got)
	}
	status := a.status(t.Context(), wire.RoleOperator)
	told := slices.ContainsFunc(status.Differences, func(d wire.Difference) bool {
		return strings.Contains(strings.Join(d.Changes, "\n"), "connections from clients' addresses are not allowed any more")
	})
	outside := slices.ContainsFunc(status.Warnings, func(w wire.Warning) bool {
		return w.Reason == "OutsideLimits" && strings.Contains(w.Message, "clientSourceProbes")
	})
	if !told || !outside || !status.InSync {
		t.Errorf("told why HAProxy was reloaded: %v, that the State is outside of the limits: %v, in sync: %v", told, outside, status.InSync)
	}
}

// Who edits limits.yaml while a State is rendered gets the one truth or the other, in HAProxy and in our table alike.
func TestLimitsAreReadOnceInARendering(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	m.files["/etc/gatewayctl/limits.yaml"] = allowsClients
	a := started(t, m)
	before, err := a.render(t.Context(), a.held(), m.haproxy.running())
	if err != nil {
		t.Fatal(err)
	}
	m.strike = func(_ int, operation string) strike {
		if operation == "read /etc/gatewayctl/limits.yaml" {
			m.meanwhile(func() {
				if len(m.log) > 1 && strings.Contains(strings.Join(m.log[:len(m.log)-1], "\n"), operation) {
					m.files["/etc/gatewayctl/limits.yaml"] = openLimits
				}
			})
		}
		return passes
	}
	m.log = nil
	after, err := a.render(t.Context(), a.held(), m.haproxy.running())
	if err != nil {
		t.Fatal(err)
	}
	if string(after.script()) != string(before.script()) || after.config.Generation != before.config.Generation {
		t.Errorf("HAProxy allows %v, and the table is\n%s", after.config.Local.ClientSourceProbes, after.script())
	}
}
