package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const serversHead = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_port srv_fqdn srv_check_port\n"

// serversState is what HAProxy tells of its servers, version 1.
func (m *machine) serversState() []byte {
	var out strings.Builder
	out.WriteString(serversHead)
	if m.haproxy == nil {
		return []byte(serversHead)
	}
	for _, backend := range slices.Sorted(maps.Keys(m.haproxy.config.backends)) {
		servers := m.haproxy.config.backends[backend]
		for _, name := range slices.Sorted(maps.Keys(servers)) {
			operational, admin := 2, 0
			switch servers[name].State {
			case "DOWN":
				operational = 0
			case "MAINT":
				operational, admin = 0, 1
			}
			fmt.Fprintf(&out, "1 %s 1 %s %s %d %d 1 0 0 - 0\n", backend, name, servers[name].Addr, operational, admin)
		}
	}
	return []byte(out.String())
}

// trackFlows is conntrack(8).
func (m *machine) trackFlows(argv []string, output *Output) bool {
	if argv[0] != "conntrack" {
		return false
	}
	here := func(line string) bool {
		return strings.HasPrefix(line, argv[5]) && strings.Contains(line, ":") == (argv[3] == "ipv6")
	}
	if argv[1] == "-L" {
		for _, line := range m.tracked {
			if here(line) {
				output.Stdout = append(output.Stdout, line+"\n"...)
			}
		}
		return true
	}
	m.walked++
	m.tracked = slices.DeleteFunc(slices.Clone(m.tracked), func(line string) bool {
		f, err := parseFlow(line, desired.UDP)
		if err != nil {
			panic(err)
		}
		has := map[string]string{"--reply-src": f.node.Addr().String(), "--reply-port-src": fmt.Sprint(f.node.Port()),
			"--orig-dst": f.vip.Addr().String(), "--orig-port-dst": fmt.Sprint(f.vip.Port()), "--orig-src": f.client.Addr().String()}
		for i := 6; i+1 < len(argv); i += 2 {
			if has[argv[i]] != argv[i+1] {
				return false
			}
		}
		return here(line)
	})
	return true
}

// setSysctls is sysctl(8).
func (m *machine) setSysctls(argv []string, output *Output) bool {
	switch {
	case argv[0] != "sysctl":
		return false
	case argv[1] == "--all":
		output.Stdout = []byte("net.ipv6.conf.all.accept_ra = 1\nnet.ipv6.conf.eth0.accept_ra = 1\nnet.ipv6.conf.eth1.accept_ra = 0\n")
		return true
	}
	for _, setting := range argv[3:] {
		name, value, _ := strings.Cut(setting, "=")
		if !strings.Contains(name, "/") {
			name = strings.ReplaceAll(name, ".", "/")
		}
		m.files["/proc/sys/"+name] = value + "\n"
	}
	return true
}

// datagrams gives a load balancer UDP 53 on NodePort 30053.
func datagrams(name string) func(*desired.State) {
	return func(s *desired.State) {
		for i := range s.LoadBalancers {
			if lb := &s.LoadBalancers[i]; lb.Name == name {
				lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.UDP, Port: 53, NodePort: 30053})
			}
		}
	}
}

func tracked(client, vip, node string, nodePort int) string {
	return fmt.Sprintf("udp      17 29 src=%s dst=%s sport=40000 dport=53 src=%s dst=%s sport=%d dport=40000 [ASSURED] mark=0 use=1", client, vip, node, vip, nodePort)
}

func (m *machine) setServer(backend, name, state string) {
	m.meanwhile(func() {
		server := m.haproxy.config.backends[backend][name]
		server.State = state
		m.haproxy.config.backends[backend][name] = server
	})
}

// slotsOf counts the slots that a node has in the table that runs.
func (m *machine) slotsOf(node string) (count int) {
	m.meanwhile(func() { count = strings.Count(m.script, " : "+node+",") })
	return count
}

func (m *machine) flows() (lines []string) {
	m.meanwhile(func() { lines = slices.Clone(m.tracked) })
	return lines
}

// foreignFlow is of somebody else on the machine, whose node sees the client.
const foreignFlow = "udp      17 29 src=10.9.0.1 dst=192.0.2.99 sport=40000 dport=53 src=10.0.2.1 dst=10.9.0.1 sport=53 dport=40000 [ASSURED] mark=0 use=1"

func TestHealthIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
		a := started(t, m)
		dead := tracked("198.51.100.7", "192.0.2.10", "10.0.2.1", 30053)
		alive := tracked("198.51.100.7", "192.0.2.10", "10.0.2.2", 30053)
		other := foreignFlow
		m.tracked = []string{dead, alive, other}
		watching(t, a.followFlows)
		look := func() { time.Sleep(flowsEvery + time.Millisecond); synctest.Wait() }
		look()
		if one, two := m.slotsOf("10.0.2.1"), m.slotsOf("10.0.2.2"); one+two < 900 || one < 400 || two < 400 {
			t.Fatalf("the two nodes have %d and %d slots", one, two)
		}
		m.setServer("nodes", "worker-1", "DOWN")
		look()
		if got := m.slotsOf("10.0.2.1"); got != 0 {
			t.Errorf("a node that fails its check has %d slots", got)
		}
		if got := m.flows(); slices.Contains(got, dead) || len(got) != 2 {
			t.Errorf("conntrack has %q, want only the dead node's flow to be gone", got)
		}
		if want := a.rendered(); m.file("/var/lib/gatewayctl/front.nft") != string(want.content("/var/lib/gatewayctl/front.nft")) {
			t.Error("front.nft is not what runs")
		}
		// What another agent, or a comparison, finds then is no difference.
		before := m.slotsOf("10.0.2.2")
		m.meanwhile(func() { m.log = nil })
		again := started(t, m)
		if m.did("run nft --file -") || len(again.faults()) != 0 {
			t.Errorf("an agent that starts changes the table: %v", again.faults())
		}
		m.setServer("nodes", "worker-2", "DOWN")
		look()
		if m.slotsOf("10.0.2.1") < 400 || m.slotsOf("10.0.2.2") < 400 {
			t.Error("with all nodes failing, not all are used")
		}
		m.setServer("nodes", "worker-1", "UP")
		m.setServer("nodes", "worker-2", "UP")
		look()
		if m.slotsOf("10.0.2.1") < 400 || m.slotsOf("10.0.2.2") >= before {
			t.Error("a node that is well again has not its slots back")
		}
	})
}

// A flow that may not go on has its Service's drain time: counted from when its client may not, or its node left.
func TestFlowsOfRemovedNodesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns"), draining(300), drainsOf("dns", 90)))
		a := started(t, m)
		stays := tracked("198.51.100.7", "192.0.2.10", "10.0.2.2", 30053)
		removed := tracked("198.51.100.7", "192.0.2.10", "10.0.2.9", 30053)
		denied := tracked("198.51.100.66", "192.0.2.10", "10.0.2.2", 30053)
		moved := tracked("198.51.100.7", "192.0.2.10", "10.0.2.2", 30999)
		m.tracked = []string{stays, removed, denied}
		watching(t, a.followFlows)
		time.Sleep(20 * time.Second)
		follows(t, a, sample(2, service("dns", "192.0.2.10", 51), datagrams("dns"), admitting("dns", "!198.51.100.66/32"), draining(300), drainsOf("dns", 90)))
		time.Sleep(69 * time.Second)
		synctest.Wait()
		if got := m.flows(); len(got) != 3 {
			t.Errorf("before the drain time conntrack has %q", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := m.flows(); !slices.Equal(got, []string{stays, denied}) {
			t.Errorf("after the drain time of the node's flow conntrack has %q", got)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := m.flows(); !slices.Equal(got, []string{stays}) {
			t.Errorf("after the drain time of the client's flow conntrack has %q", got)
		}
		// A NodePort that is another one now is closed; flows of the new one stay.
		m.meanwhile(func() { m.tracked = []string{moved, stays, tracked("198.51.100.8", "192.0.2.10", "10.0.2.1", 30053)} })
		m.setServer("nodes", "worker-1", "MAINT")
		time.Sleep(2 * flowsEvery)
		synctest.Wait()
		if got := m.flows(); len(got) != 2 || slices.Contains(got, moved) {
			t.Errorf("conntrack has %q", got)
		}
	})
}

// What was open for a port that is gone ends at once, with its address or without it: the NodePort may be another Service's soon.
// What is nobody's of ours stays.
func TestFlowsOfRemovedServiceEnd(t *testing.T) {
	for name, remaining := range map[string][]func(*desired.State){
		"its port":        {service("web", "192.0.2.10", 51), service("dns", "192.0.2.11", 51)},
		"and its address": {service("web", "192.0.2.10", 51)},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51), service("dns", "192.0.2.11", 51), datagrams("dns")))
			a := started(t, m)
			m.tracked = []string{tracked("198.51.100.7", "192.0.2.11", "10.0.2.2", 30053), foreignFlow}
			watching(t, a.followFlows)
			time.Sleep(2 * flowsEvery)
			if got := m.flows(); len(got) != 2 {
				t.Fatalf("%s: before it is gone conntrack has %q", name, got)
			}
			if _, refusal := a.apply(t.Context(), sign(t, sample(2, remaining...))); refusal != nil {
				t.Fatal(refusal)
			}
			time.Sleep(2 * flowsEvery)
			synctest.Wait()
			if got := m.flows(); !slices.Equal(got, []string{foreignFlow}) {
				t.Errorf("%s: conntrack has %q", name, got)
			}
		})
	}
}

// Forwarding is turned on where a State needs it, and is no sign of a router then; a machine that forwarded before is one.
func TestForwarding(t *testing.T) {
	const v4, v6, redirects = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/ipv4/conf/eth0/send_redirects"
	for _, c := range []struct {
		name     string
		state    *desired.State
		before   string
		wants    string // ip_forward
		isRouter bool
	}{
		{"no UDP", sample(1, service("web", "192.0.2.10", 51)), "0\n", "0\n", false},
		{"UDP", sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")), "0\n", "1\n", false},
		{"a router", sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")), "1\n", "1\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, c.state)
				m.files[v4], m.files[v6] = c.before, "0\n"
				a := started(t, m)
				watching(t, a.followFlows)
				time.Sleep(3 * flowsEvery)
				synctest.Wait()
				if got := m.file(v4); got != c.wants {
					t.Errorf("ip_forward is %q, want %q", got, c.wants)
				}
				if got := m.file(v6); got != "0\n" {
					t.Errorf("IPv6 forwarding is %q without an IPv6 Service", got)
				}
				if got := m.file(redirects); (got == "0\n") != (c.wants != c.before) {
					t.Errorf("send_redirects is %q", got)
				}
				script := m.file("/var/lib/gatewayctl/front.nft")
				if drops := strings.Contains(script, "meta nfproto ipv4 drop"); drops == c.isRouter {
					t.Errorf("the table drops what is forwarded: %t", drops)
				}
				if routes := started(t, m).routesNow(); routes != [2]bool{c.isRouter, false} {
					t.Errorf("another agent takes the machine for a router: %v", routes)
				}
			})
		})
	}
}

// A machine that learns its router from advertisements goes on to do so when it forwards.
func TestForwardingOfIPv6KeepsTheRouter(t *testing.T) {
	m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
	if err := started(t, m).startForwarding(t.Context(), 1, nil); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"all/forwarding": "1\n", "eth0/accept_ra": "2\n", "eth1/accept_ra": ""} {
		if got := m.file("/proc/sys/net/ipv6/conf/" + file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if needed := datagramFamilies(&desired.State{LoadBalancers: []desired.LoadBalancer{{Addresses: []netip.Addr{addr("2001:db8::10")},
		Frontends: []desired.Frontend{{Protocol: desired.SCTP}}}}}); needed != [2]bool{false, true} {
		t.Errorf("an IPv6 address with SCTP needs %v", needed)
	}
}

// What cannot be done is told and tried again, and nothing is taken for done.
func TestFlowsAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
		a := started(t, m)
		dead := tracked("198.51.100.7", "192.0.2.10", "10.0.2.1", 30053)
		m.tracked = []string{dead}
		broken := true
		m.verdict = func(command string) error {
			if broken && (strings.HasPrefix(command, "conntrack") || command == "nft --file -") {
				return &CommandError{Argv: strings.Fields(command), Err: errors.New("exit status 1")}
			}
			return nil
		}
		watching(t, a.followFlows)
		m.setServer("nodes", "worker-1", "DOWN")
		time.Sleep(3 * flowsEvery)
		synctest.Wait()
		if len(a.faults()) == 0 {
			t.Error("a table that was not loaded is no fault")
		}
		if len(m.flows()) != 1 {
			t.Error("conntrack has ended a flow although it failed")
		}
		m.meanwhile(func() { broken = false })
		if !a.repair(t.Context(), true) {
			t.Fatal("no repair")
		}
		time.Sleep(3 * flowsEvery)
		synctest.Wait()
		if m.slotsOf("10.0.2.1") != 0 || len(m.flows()) != 0 || len(a.faults()) != 0 {
			t.Errorf("after the repair: %d slots of the dead node, conntrack has %q, faults %v", m.slotsOf("10.0.2.1"), m.flows(), a.faults())
		}
	})
}

// Health that was learnt while our rules could not be rendered is not forgotten.
func TestHealthAfterAFailedRendering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
		a := started(t, m)
		watching(t, a.followFlows)
		time.Sleep(2 * flowsEvery)
		synctest.Wait()
		a.writing <- struct{}{}
		a.rules = nil
		a.release()
		broken := true
		m.verdict = func(command string) error {
			if broken && strings.HasPrefix(command, "xargs") {
				return &CommandError{Argv: strings.Fields(command), Err: errors.New("exit status 1")}
			}
			return nil
		}
		m.setServer("nodes", "worker-1", "DOWN")
		time.Sleep(3 * flowsEvery)
		synctest.Wait()
		if !a.broken() {
			t.Error("nobody comes back to it")
		}
		m.meanwhile(func() { broken = false })
		if !a.repair(t.Context(), true) || m.slotsOf("10.0.2.1") != 0 {
			t.Error("the dead node gets flows after the repair")
		}
	})
}
