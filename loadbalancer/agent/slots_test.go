package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// An agent before this one knew one slot for each load balancer. It stays there, and ports get slots beside it.
func TestSlotsOfTheOlderForm(t *testing.T) {
	own := sample(1, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), local("web", "10.0.2.1"), local("db", "10.0.2.1"))
	m := holding(t, own)
	m.files["/var/lib/gatewayctl/slots.json"] = `{"default/db":"slot-tcp-roundrobin-1","default/web":"slot-tcp-roundrobin-2"}`
	a := started(t, m)
	own.Fence.Sequence = 2
	for i := range own.LoadBalancers {
		lb := &own.LoadBalancers[i]
		lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 443, NodePort: 30443, ProxyProtocol: desired.ProxyV2})
	}
	if result, refusal := a.apply(t.Context(), sign(t, own)); refusal != nil || len(result.Faults) > 0 {
		t.Fatal(result, refusal)
	}
	for file, lines := range map[string][]string{
		"/var/lib/gatewayctl/slots.json": {`"default/db none":"slot-tcp-roundrobin-1"`, `"default/db:443=v2 none":"slot-tcp-roundrobin-3"`,
			`"default/web none":"slot-tcp-roundrobin-2"`, `"default/web:443=v2 none":"slot-tcp-roundrobin-4"`},
		"/etc/haproxy/services.map": {"192.0.2.11:80 slot-tcp-roundrobin-1|30011|default/db|", "192.0.2.11:443 slot-tcp-roundrobin-3|0|default/db|",
			"192.0.2.10:80 slot-tcp-roundrobin-2|30010|default/web|", "192.0.2.10:443 slot-tcp-roundrobin-4|0|default/web|"},
	} {
		for _, line := range lines {
			if !strings.Contains(m.files[file], line) {
				t.Errorf("%s lacks %s:\n%s", file, line, m.files[file])
			}
		}
	}
}

const slotsJSON = "/var/lib/gatewayctl/slots.json"

// slots are those of the State that is committed, whatever lies beside them.
func (m *machine) slots() string {
	var signed desired.Signed
	var r *revision
	if json.Unmarshal([]byte(m.files["/var/lib/gatewayctl/state.json"]), &signed) == nil {
		r, _ = decode(signed)
	}
	found, err := decodeSlots([]byte(m.files[slotsJSON]))
	if err != nil {
		return m.files[slotsJSON]
	}
	return fmt.Sprint(found.of(r))
}

// What is saved for a reload is for that reload alone: whoever starts HAProxy otherwise finds nothing of another day.
func TestServersStateIsForOneReload(t *testing.T) {
	const state = "/var/lib/haproxy/server-state"
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	m.files[state] = "of the release before"
	a := started(t, m)
	if m.files[state] != "" {
		t.Error("an agent that starts leaves it")
	}
	inherited := ""
	m.strike = func(_ int, operation string) strike {
		if operation == "run /haproxy reload" {
			inherited = m.file(state)
		}
		return passes
	}
	if result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), controlPlane))); refusal != nil || result.Outcome != wire.Reloaded {
		t.Fatal(result, refusal)
	}
	if !strings.Contains(inherited, " nodes ") {
		t.Errorf("the new worker inherits %q", inherited)
	}
	if text, left := m.files[state]; left {
		t.Errorf("after the reload there is %q", text)
	}
}

// dnsOn is a Service of UDP 53 alone, whose servers the State's nodes are, in a slot of its own or in the shared pool.
func dnsOn(change func(*desired.LoadBalancer)) func(*desired.State) {
	return func(s *desired.State) {
		service("dns", "192.0.2.10", 51)(s)
		lb := &s.LoadBalancers[len(s.LoadBalancers)-1]
		lb.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 30053}}
		if change == nil {
			return
		}
		lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin,
			Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 3600_000, Rise: 2, Fall: 2}}
		for _, n := range s.Nodes {
			lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: n.Name, Address: n.Addresses[0], Weight: 1})
		}
		change(lb)
	}
}

// A Service of UDP that moves to a slot, or to another one, is served all the while, and its flows stay where they are: what HAProxy said
// of its servers before counts until it speaks of them there. One that failed there fails still.
func TestDatagramsMoveOpen(t *testing.T) {
	plain := func(*desired.LoadBalancer) {}
	for name, move := range map[string]struct{ from, to func(*desired.LoadBalancer) }{
		"to a slot":         {nil, plain},
		"another interval":  {plain, func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 1000 }},
		"another algorithm": {plain, func(lb *desired.LoadBalancer) { lb.Pool.Algorithm = desired.LeastConn }},
		"timeouts":          {plain, func(lb *desired.LoadBalancer) { lb.Timeouts = &desired.Timeouts{IdleSeconds: 60} }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, dnsOn(move.from)))
				a := started(t, m)
				on1, on2 := tracked("198.51.100.7", "192.0.2.10", "10.0.2.1", 30053), tracked("198.51.100.7", "192.0.2.10", "10.0.2.2", 30053)
				m.tracked = []string{on1, on2}
				from := "nodes"
				if move.from != nil {
					from = slot1
				}
				m.setServer(from, "worker-1", "DOWN")
				watching(t, a.followFlows)
				time.Sleep(2 * flowsEvery)
				synctest.Wait()
				open := func(when string) {
					t.Helper()
					script := m.file("/var/lib/gatewayctl/front.nft")
					if one, two := strings.Count(script, " : 10.0.2.1"), strings.Count(script, " : 10.0.2.2"); one > 0 || two == 0 {
						t.Errorf("%s: worker-1 has %d slots, worker-2 %d", when, one, two)
					}
					if got := m.flows(); !slices.Equal(got, []string{on2}) {
						t.Errorf("%s: conntrack has %q", when, got)
					}
				}
				open("before")
				if result, refusal := a.apply(t.Context(), sign(t, sample(2, dnsOn(move.to)))); refusal != nil || len(result.Faults) > 0 {
					t.Fatal(result, refusal)
				}
				open("moved")
				to := a.rendered().slots.At(desired.Key{Namespace: "default", Name: "dns"}, 0)
				m.setServer(to, "worker-1", "DOWN") // as Compare leaves it there: TestCompare of package haproxy
				time.Sleep(4 * flowsEvery)
				synctest.Wait()
				open("afterwards")
			})
		})
	}
}

// Two States within half a second: HAProxy was not asked of the servers' new slot yet, nor is it when the machine is compared.
func TestDatagramsThatHaveJustMoved(t *testing.T) {
	m := holding(t, sample(1, dnsOn(func(*desired.LoadBalancer) {})))
	a := started(t, m)
	moved := dnsOn(func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 1000 })
	for sequence, s := range []*desired.State{sample(2, moved), sample(3, moved, node("worker-3", "10.0.2.3"))} {
		if result, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || len(result.Faults) > 0 {
			t.Fatal(result, refusal)
		}
		a.recover(t.Context())
		if script := m.file("/var/lib/gatewayctl/front.nft"); !strings.Contains(script, " : 10.0.2.1 . 30053") || !strings.Contains(script, " : 10.0.2.2 . 30053") {
			t.Errorf("after State %d servers that serve get no flows", sequence+2)
		}
	}
}

// An agent is killed when it has put the servers of a slot that a load balancer leaves into maintenance, where they wait for their last
// connections. On the way back what HAProxy says of them in the next slot counts.
func TestCutMoveLeavesServersInMaintenance(t *testing.T) {
	m := holding(t, sample(1, dnsOn(func(*desired.LoadBalancer) {})))
	a := started(t, m)
	m.strike = func(_ int, operation string) strike {
		if operation == "haproxy apply grow=false shrink=true" {
			return diesBefore
		}
		return passes
	}
	if got := run(t, a, sample(2, dnsOn(func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 1000 }))); !got.died {
		t.Fatalf("the agent lives: %+v", got)
	}
	m.strike = at(0, passes)
	m.setServer(slot1, "worker-1", "MAINT")
	m.setServer(slot1, "worker-2", "MAINT")
	m.setServer("slot-http-roundrobin-2", "worker-2", "DOWN")
	started(t, m)
	if script := m.file("/var/lib/gatewayctl/front.nft"); !strings.Contains(script, " : 10.0.2.1 . 30053") || strings.Contains(script, " : 10.0.2.2 . 30053") {
		t.Error("worker-1 was up and has to get flows, worker-2 was down and has not")
	}
}

// A move that takes a reload, cut at every operation: TestFaultAtEveryOperation has the moves that take none, since what a reload has made
// for a wish stays. The State that is held has its own slot, and its door is open, also after a boot.
func TestCutMoveByReload(t *testing.T) {
	before := holding(t, sample(1, dnsOn(func(*desired.LoadBalancer) {})))
	started(t, before)
	before = before.clone()
	next := sample(2, dnsOn(func(lb *desired.LoadBalancer) { lb.Timeouts = &desired.Timeouts{IdleSeconds: 60} }))
	for k, last := 1, 1; k <= last; k++ {
		for _, power := range []bool{false, true} {
			m := before.clone()
			a := started(t, m)
			m.operations, m.log, m.strike = 0, nil, at(k, diesAfter)
			if got := run(t, a, next); !got.died {
				break // it was the last operation
			}
			last = k + 1
			m.strike = at(0, passes)
			if power {
				m.powerOff()
				m.boot()
			}
			a = started(t, m)
			want := slot1
			if a.held().state.Fence.Sequence == 2 {
				want = "slot-http-roundrobin-idle60s-1"
			}
			if got := a.rendered().slots.At(desired.Key{Namespace: "default", Name: "dns"}, 0); got != want {
				t.Errorf("k=%d (%s), power lost %t: it is served by %s, want %s", k, m.log[k-1], power, got, want)
			}
			if script := m.file("/var/lib/gatewayctl/front.nft"); !strings.Contains(script, " : 10.0.2.1 . 30053") || !strings.Contains(script, " : 10.0.2.2 . 30053") {
				t.Errorf("k=%d (%s), power lost %t: its door is closed", k, m.log[k-1], power)
			}
		}
		if k > 200 {
			t.Fatal("no end")
		}
	}
}

// Either State finds its own slots, whichever is held after a crash, also when the next one changes
// nothing but the fence, and who goes back to the one that is held writes nothing anew.
func TestSlotsOfTwoStates(t *testing.T) {
	slots := func(slot string) haproxy.Slots {
		return haproxy.Slots{{Key: desired.Key{Namespace: "default", Name: "web"}}: slot}
	}
	one := func(sequence uint64, digest string) *revision {
		return &revision{digest: digest, state: &desired.State{Fence: desired.Fence{Epoch: 1, Sequence: sequence}}}
	}
	held, offered, fence, last, again := one(1, "a"), one(2, "b"), one(3, "a"), one(4, "a"), one(5, "b")
	expect := func(when string, s assignment, r *revision, want string) {
		t.Helper()
		if got := s.of(r); !maps.Equal(got, slots(want)) {
			t.Errorf("%s: %s has %v, want %s", when, r.digest, got, want)
		}
	}
	s := assignment{}.next(nil, held, slots("one"))
	expect("the first State", s, held, "one")
	s = s.next(held, offered, slots("two"))
	expect("a move", s, held, "one")
	expect("a move", s, offered, "two")
	if same := s.next(held, held, slots("one")); !cmp.Equal(same, s) {
		t.Errorf("going back changes %v to %v", s, same)
	}
	back := s.next(held, fence, slots("one"))
	expect("another fence after it was cut", back, held, "one")
	expect("another fence after it was cut", back, fence, "one")
	s = s.next(offered, last, slots("three"))
	expect("another move after its commit", s, offered, "two")
	expect("another move after its commit", s, last, "three")
	if s := s.next(last, again, slots("two")); !maps.Equal(s.Slots, slots("two")) || !maps.Equal(s.of(last), slots("three")) {
		t.Errorf("with the content of the State before it became %v", s)
	}
	s = s.next(last, last, slots("four"))
	expect("a wish that was granted", s, last, "four")
}

// HAProxy was asked while a transaction was adding servers, and answered that they are in maintenance: nobody's flows end for that.
func TestHealthOfATransactionHalfDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, dnsOn(func(*desired.LoadBalancer) {})))
		a := started(t, m)
		watching(t, a.followFlows)
		time.Sleep(2 * flowsEvery)
		a.writing <- struct{}{}
		m.setServer(slot1, "worker-1", "MAINT")
		time.Sleep(flowsEvery + time.Millisecond)
		synctest.Wait()
		m.setServer(slot1, "worker-1", "UP")
		done := *a.rendered()
		a.hold(&done, nil)
		a.release()
		synctest.Wait()
		if !strings.Contains(m.file("/var/lib/gatewayctl/front.nft"), " : 10.0.2.1 . 30053") {
			t.Error("a server that serves gets no flows")
		}
	})
}

// A pool of all nodes is served by those of the State, and follows them without being named again; the State is kept as it was sent.
func TestSlotOfAllNodes(t *testing.T) {
	all := func(s *desired.State) {
		local("web", "10.0.2.9")(s)
		pool := s.LoadBalancers[0].Pool
		pool.AllNodes, pool.Local, pool.Servers = true, false, nil
	}
	own := sample(1, service("web", "192.0.2.10", 51), node("n1", "10.0.2.31"), all)
	m := newMachine()
	a := started(t, m)
	for i, names := range [][]string{{"n1"}, {"n1", "n2"}} {
		if own.Fence.Sequence = uint64(i + 1); i == 1 {
			node("n2", "10.0.2.32")(own)
		}
		signed := sign(t, own)
		if result, refusal := a.apply(t.Context(), signed); refusal != nil || len(result.Faults) > 0 {
			t.Fatal(result, refusal)
		}
		_, slots, _ := strings.Cut(m.files["/etc/haproxy/haproxy.cfg"], "backend slot-")
		for _, name := range names {
			if strings.Count(slots, "server "+name+" 10.0.2.3") != 1 {
				t.Errorf("%s is no server of the slot", name)
			}
		}
		if held := a.held(); string(held.signed.State) != string(signed.State) {
			t.Error("another State is held than was sent")
		}
	}
}
