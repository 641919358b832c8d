package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// blamed are the faults as "default/db field: message".
func blamed(result *wire.Result) (faults []string) {
	for _, f := range result.Faults {
		owner := "nobody"
		if f.LoadBalancer != nil {
			owner = f.LoadBalancer.String()
		}
		faults = append(faults, fmt.Sprintf("%s %s: %s", owner, f.Field, f.Message))
	}
	return faults
}

// shares adds a load balancer with another port at an address that one has already.
func shares(name, address string, port uint16) func(*desired.State) {
	return func(s *desired.State) {
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{Key: desired.Key{Namespace: "default", Name: name}, UID: "uid-" + name,
			Addresses: []netip.Addr{addr(address)}, Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: port, NodePort: 31000 + port}}})
	}
}

// What keepalived and nft say of a line is told as the fault of the load balancers behind it.
func TestDaemonsBlameLoadBalancers(t *testing.T) {
	web := service("web", "192.0.2.10", 51)
	next := sample(2, web, service("db", "192.0.2.11", 51), shares("cache", "192.0.2.11", 6379), func(s *desired.State) {
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{Key: desired.Key{Namespace: "default", Name: "flood"}, UID: "uid-flood",
			Addresses: []netip.Addr{addr("192.0.2.11")}, Frontends: []desired.Frontend{{Protocol: desired.UDP, Port: 6379, NodePort: 30379}}})
	})
	line := func(t *testing.T, a *Agent, m *machine, path, text string) int {
		r, err := a.render(t.Context(), decoded(t, next), m.haproxy.running())
		if err != nil {
			t.Fatal(err)
		}
		return 1 + slices.IndexFunc(strings.Split(string(r.content(path)), "\n"), func(l string) bool { return strings.Contains(l, text) })
	}
	for _, test := range []struct {
		name, program string
		says          func(*testing.T, *Agent, *machine) string
		want          []string
	}{
		{"keepalived, of a shared VIP", "/usr/sbin/keepalived", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("(/etc/keepalived/keepalived.conf.staged: Line %d) bad\n", line(t, a, m, a.config.Paths.Keepalived, "192.0.2.11/32"))
		}, []string{"default/cache keepalived.conf:LINE: bad", "default/db keepalived.conf:LINE: bad", "default/flood keepalived.conf:LINE: bad"}},
		{"keepalived, of an anchor", "/usr/sbin/keepalived", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("(/etc/keepalived/keepalived.conf.staged: Line %d) bad\n", line(t, a, m, a.config.Paths.Keepalived, "169.254.51.1"))
		}, []string{"nobody keepalived.conf:LINE: bad"}},
		{"nft, of a port", "nft --check", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("/dev/stdin:%d:4-37: Error: Could not process rule: File exists\n\t\t\t192.0.2.11\n",
				line(t, a, m, a.config.Paths.frontFile(), "192.0.2.11 . tcp . 6379"))
		}, []string{"default/cache front.nft:LINE: Could not process rule: File exists"}},
		{"nft, of an element of a map", "nft --check", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("/dev/stdin:%d:4-37: Error: bad\n", line(t, a, m, a.config.Paths.frontFile(), "192.0.2.11 . udp . 6379 : 30379"))
		}, []string{"default/flood front.nft:LINE: bad"}},
		{"nft, of a VIP", "nft --check", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("/dev/stdin:%d:4-37: Error: bad\n", line(t, a, m, a.config.Paths.frontFile(), "192.0.2.10,"))
		}, []string{"default/web front.nft:LINE: bad"}},
		{"nft, of a rule", "nft --check", func(t *testing.T, a *Agent, m *machine) string {
			return fmt.Sprintf("/dev/stdin:%d:4-37: Error: bad\n", line(t, a, m, a.config.Paths.frontFile(), "chain guard"))
		}, []string{"nobody front.nft:LINE: bad"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, sample(1, web))
			a := started(t, m)
			before := m.moment()
			said := test.says(t, a, m)
			m.verdict = func(command string) error {
				if !strings.HasPrefix(command, test.program) {
					return nil
				}
				return &CommandError{Argv: strings.Fields(command), Code: 1, Output: Output{Stderr: []byte(said)}, Err: errStruck}
			}
			result, refusal := a.apply(t.Context(), sign(t, next))
			if refusal != nil || result.Outcome != wire.Refused {
				t.Fatalf("got %+v, %v", result, refusal)
			}
			var got []string
			for _, fault := range blamed(result) {
				owner, rest, _ := strings.Cut(fault, ":")
				_, message, _ := strings.Cut(rest, ": ")
				got = append(got, owner+":LINE: "+message)
			}
			slices.Sort(got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, m.moment()); diff != "" {
				t.Errorf("a refused State changed the machine:\n%s", diff)
			}
		})
	}
}

// A new server that is the machine itself, at any of its addresses, is refused as its load balancer's fault.
func TestServerOfTheMachine(t *testing.T) {
	served := func(address string, ofPort bool) func(*desired.State) {
		return func(s *desired.State) {
			pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone},
				Servers: []desired.Server{{Name: "one", Address: addr("10.0.2.4"), Port: 8080, Weight: 1}, {Name: "two", Address: addr(address), Port: 22, Weight: 1}}}
			if lb := &s.LoadBalancers[0]; ofPort {
				lb.Frontends[0].Pool = pool
			} else {
				pool.Servers[0].Port, pool.Servers[1].Port = 0, 0
				lb.Pool = pool
			}
		}
	}
	const message = " itself, on eth0, and sends no client to its own daemons; take it out of the Service's EndpointSlices"
	web, db := service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51)
	for _, test := range []struct {
		name    string
		held    *desired.State
		machine func(*machine)
		next    *desired.State
		want    []string
	}{
		{"where VRRP is", sample(1, web), nil, sample(2, web, served("10.0.0.2", true)),
			[]string{"default/web loadBalancers[0].frontends[0].pool.servers[1].address: the gateway east has 10.0.0.2" + message}},
		{"in the other family", sample(1, web), nil, sample(2, web, served("2001:db8::2", true)),
			[]string{"default/web loadBalancers[0].frontends[0].pool.servers[1].address: the gateway east has 2001:db8::2" + message}},
		{"of all ports", sample(1, web), nil, sample(2, web, served("192.0.2.2", false)),
			[]string{"default/web loadBalancers[0].pool.servers[1].address: the gateway east has 192.0.2.2" + message}},
		{"another machine's", sample(1, web), nil, sample(2, web, served("10.0.2.10", true)), nil},
		{"an address that the machine got later", sample(1, web, served("10.0.2.10", true)),
			func(m *machine) { m.added = append(m.added, "10.0.2.10") }, sample(2, web, served("10.0.2.10", true), db), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, test.held)
			if test.machine != nil {
				test.machine(m)
			}
			m.files["/etc/gatewayctl/limits.yaml"] = strings.Replace(openLimits, "10.0.0.0/8", `0.0.0.0/0, "::/0"`, 1)
			result, refusal := started(t, m).apply(t.Context(), sign(t, test.next))
			if refusal != nil {
				t.Fatal(refusal)
			}
			if diff := cmp.Diff(test.want, blamed(result)); diff != "" || (result.Outcome == wire.Refused) != (test.want != nil) {
				t.Errorf("outcome %s, faults (-want +got):\n%s", result.Outcome, diff)
			}
		})
	}
}

// A new VIP that the machine has already is refused as its load balancer's fault; one of the State that is held is not.
func TestAddressOfTheMachine(t *testing.T) {
	const own = "the gateway east has 192.0.2.2 itself, on eth0; exclude the address from the pool, or take it off there " +
		"(`ip address delete 192.0.2.2/24 dev eth0`) and remove it from the network configuration"
	for _, test := range []struct {
		name    string
		held    *desired.State
		machine func(*machine)
		next    *desired.State
		outcome wire.Outcome
		want    []string
	}{
		{"its own", sample(1, service("web", "192.0.2.10", 51)), func(*machine) {}, sample(2, service("web", "192.0.2.10", 51), service("db", "192.0.2.2", 51)),
			wire.Refused, []string{"default/db vips[0].address: " + own}},
		{"its own, in the first State", nil, func(*machine) {}, sample(1, service("db", "192.0.2.2", 51)), wire.Refused, []string{"default/db vips[0].address: " + own}},
		{"on another interface", sample(1), func(m *machine) { m.strays = []string{"192.0.2.10"} }, sample(2, service("web", "192.0.2.10", 51)),
			wire.Refused, []string{"default/web vips[0].address: the gateway east has 192.0.2.10 itself, on eth1; exclude the address from the pool, or take it off there " +
				"(`ip address delete 192.0.2.10/32 dev eth1`) and remove it from the network configuration"}},
		{"two load balancers", sample(1), func(m *machine) { m.strays = []string{"192.0.2.10"} },
			sample(2, service("web", "192.0.2.10", 51), shares("cache", "192.0.2.10", 6379)), wire.Refused, []string{"default/cache", "default/web"}},
		{"left by a keepalived before the first State", nil, func(m *machine) { m.added = []string{"192.0.2.10"} }, sample(1, service("web", "192.0.2.10", 51)),
			wire.Reloaded, nil},
		{"put elsewhere while it is held", sample(1, service("web", "192.0.2.10", 51)), func(m *machine) { m.strays = []string{"192.0.2.10"} },
			sample(2, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51)), wire.Runtime, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, test.held)
			test.machine(m)
			result, refusal := started(t, m).apply(t.Context(), sign(t, test.next))
			if refusal != nil || result.Outcome != test.outcome {
				t.Fatalf("got %+v, %v, want %s", result, refusal, test.outcome)
			}
			got := blamed(result)
			matches := slices.EqualFunc(got, test.want, func(got, want string) bool { return strings.HasPrefix(got, want) })
			if !matches {
				t.Errorf("faults %q, want %q", got, test.want)
			}
		})
	}
}

func nothingMore(*desired.State) {}

// At the upgrade from an agent whose HAProxy had no peers, and after another peersPort in agent.yaml, the port is tried although State and
// configuration are the same before and after. One that HAProxy has already is not.
func TestPeersPortIsTriedWhereItIsNew(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*Agent, *machine)
		bind   string
		want   wire.Outcome
	}{
		"of an agent without peers": {func(_ *Agent, m *machine) {
			file := m.files["/etc/haproxy/haproxy.cfg"]
			begin := strings.Index(file, "peers gateways")
			file = file[:begin] + file[begin+strings.Index(file[begin:], "\n\n")+2:]
			m.files["/etc/haproxy/haproxy.cfg"], m.haproxy.config.generation = file, haproxy.GenerationOf([]byte(file))
		}, "10.0.0.2:7482", wire.Refused},
		"another port": {func(a *Agent, _ *machine) { a.config.PeersPort = 7483 }, "10.0.0.2:7483", wire.Refused},
		"it has it":    {func(*Agent, *machine) {}, "10.0.0.2:7482", wire.Reloaded},
	} {
		t.Run(name, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := newAgent(t, m)
			test.before(a, m)
			if err := a.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.strike = func(_ int, operation string) strike {
				if operation == "bind "+test.bind {
					return failsBefore
				}
				return passes
			}
			a.recover(t.Context())
			if faults := strings.Join(a.faults(), "\n"); test.want == wire.Refused && !strings.Contains(faults, "peersPort") {
				t.Errorf("the start tells %q", faults)
			}
			m.log = nil
			result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane)))
			if refusal != nil || result.Outcome != test.want {
				t.Fatalf("got %+v, %v", result, refusal)
			}
			if test.want == wire.Refused && (m.did("run /haproxy reload") || result.Faults[0].Field != "peersPort") {
				t.Errorf("reloaded, or told %+v", result.Faults)
			}
		})
	}
}

// A port that somebody else has is told before anything is touched, with who has it.
func TestPortIsTaken(t *testing.T) {
	alone := func(s *desired.State) {
		s.Gateways, s.Instances = s.Gateways[:1], []desired.Instance{{RouterID: 51, Gateways: []string{"east"}}}
	}
	for _, test := range []struct {
		name, said string
		held, next func(*desired.State)
		bind       string
		field      string
		want       string
	}{
		{"known", `LISTEN 0 511 127.0.0.1:7481 0.0.0.0:* users:(("nginx",pid=36,fd=6),("nginx",pid=35,fd=6))` + "\n", nothingMore, controlPlane,
			"127.0.0.1:7481", "controlPlanePort", "stop nginx (process 35) and nginx (process 36), or give another controlPlanePort in agent.yaml"},
		{"not told", "LISTEN 0 511 127.0.0.1:7481 0.0.0.0:*\n", nothingMore, controlPlane, "127.0.0.1:7481", "controlPlanePort", "`ss -ltnp sport = :7481`, as root, tells which program that is"},
		{"for peers", "", alone, nothingMore, "10.0.0.2:7482", "peersPort", "or give another peersPort in agent.yaml"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51), test.held))
			m.listening = test.said
			a := started(t, m)
			before := m.moment()
			m.strike = func(_ int, operation string) strike {
				if operation == "bind "+test.bind {
					return failsBefore
				}
				return passes
			}
			result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), test.next)))
			if refusal != nil || result.Outcome != wire.Refused || len(result.Faults) != 1 {
				t.Fatalf("got %+v, %v", result, refusal)
			}
			if f := result.Faults[0]; f.Field != test.field || !strings.Contains(f.Message, test.want) {
				t.Errorf("told %+v, want %q", f, test.want)
			}
			if diff := cmp.Diff(before, m.moment()); diff != "" {
				t.Errorf("it was touched:\n%s", diff)
			}
		})
	}
}
