package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// change is one transaction of the fault tests.
type change struct {
	name string
	held *desired.State // nil: a machine without a State
	next *desired.State
	want wire.Outcome // when nothing fails
}

func changes() []change {
	web, db := service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51)
	own := func(servers ...string) func(*desired.State) {
		return func(s *desired.State) { db(s); local("db", servers...)(s) }
	}
	leastconn := func(s *desired.State) { s.LoadBalancers[0].Pool.Algorithm = desired.LeastConn }
	checked := func(s *desired.State) {
		s.LoadBalancers[0].Pool.Check = desired.Check{Kind: desired.CheckTCP, Port: 32000, IntervalMillis: 1000, Rise: 1, Fall: 1}
	}
	pooled, interval := func(*desired.LoadBalancer) {}, func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 1000 }
	return []change{
		{"first State", nil, sample(1, web), wire.Reloaded},
		{"service added", sample(1, web), sample(2, web, db), wire.Runtime},
		{"service deleted", sample(1, web, db), sample(2, web), wire.Runtime},
		{"one added, one deleted", sample(1, web), sample(2, db), wire.Runtime},
		{"nodes changed", sample(1, web), sample(2, web, node("worker-3", "10.0.2.3")), wire.Runtime},
		{"own servers changed", sample(1, own("10.0.2.1")), sample(2, own("10.0.2.2", "10.0.2.3")), wire.Runtime},
		{"reload needed", sample(1, web), sample(2, web, controlPlane), wire.Reloaded},
		{"reload needed, service deleted", sample(1, web, db), sample(2, web, controlPlane), wire.Reloaded},
		{"first State with certificates", nil, sample(1, web, controlPlane, verifies(ca)), wire.Reloaded},
		{"certificates renewed", sample(1, web, controlPlane, verifies(ca)), sample(2, web, controlPlane, verifies(renewedCA)), wire.Reloaded},
		{"certificates gone", sample(1, web, controlPlane, verifies(ca)), sample(2, db, controlPlane), wire.Reloaded},
		{"certificates stay", sample(1, web, controlPlane, verifies(ca)), sample(2, web, db, controlPlane, verifies(ca)), wire.Runtime},
		{"VIP moved", sample(1, web), sample(2, service("web", "192.0.2.10", 52)), wire.Runtime},
		{"only the fence", sample(1, web), sample(2, web), wire.Unchanged},
		{"moved by its algorithm", sample(1, own("10.0.2.1")), sample(2, own("10.0.2.1"), leastconn), wire.Runtime},
		{"moved by its check", sample(1, own("10.0.2.1")), sample(2, own("10.0.2.1"), checked), wire.Runtime},
		{"datagrams moved by their check", sample(1, dnsOn(pooled)), sample(2, dnsOn(interval)), wire.Runtime},
		{"datagrams moved by their algorithm", sample(1, dnsOn(pooled), db), sample(2, dnsOn(pooled), leastconn, db), wire.Runtime},
		{"datagrams to the shared pool", sample(1, dnsOn(pooled)), sample(2, dnsOn(nil)), wire.Runtime},
		{"datagrams from the shared pool", sample(1, dnsOn(nil)), sample(2, dnsOn(pooled)), wire.Runtime},
	}
}

// moment is everything that makes a machine wholly old or wholly new.
type moment struct {
	Files      map[string]string
	Generation string
	Backends   map[string][]string
	Maps       map[string]map[string]string
	Table      string
	Held       []string
	Keepalived bool
	HAProxy    bool
}

func (m *machine) moment() moment {
	now := moment{Files: map[string]string{}, Table: m.script, Held: m.held(), Keepalived: m.keepalived != nil, HAProxy: m.haproxy != nil,
		Backends: map[string][]string{}}
	for path, text := range m.files {
		// What a transaction may leave lying about, and what belongs to processes.
		if strings.HasSuffix(path, ".staged") || strings.HasPrefix(path, "/proc") || strings.HasSuffix(path, ".pid") ||
			strings.HasSuffix(path, "counters.json") || strings.HasSuffix(path, "server-state") ||
			strings.HasSuffix(path, "before.json") || strings.HasSuffix(path, ".before-gatewayctl") || strings.HasSuffix(path, "keepalived.loaded") || strings.HasPrefix(path, "/run/gatewayctl/track") {
			continue
		}
		if strings.HasSuffix(path, ".map") && text == "" && m.files["/etc/haproxy/haproxy.cfg"] == foreignConfig {
			continue // made for a check; no configuration names it
		}
		if strings.HasPrefix(path, "/etc/haproxy/control-plane-ca") && !strings.Contains(m.files["/etc/haproxy/haproxy.cfg"], path) {
			continue // made for a check, or its removal was cut; TestNoCertificatesAreLeft is about the others
		}
		now.Files[path] = text
	}
	now.Files[slotsJSON] = m.slots()
	if m.haproxy == nil {
		return now
	}
	now.Generation, now.Maps = m.haproxy.config.generation, cloneDeep(m.haproxy.maps)
	for name, servers := range m.haproxy.config.backends {
		for _, s := range slices.Sorted(maps.Keys(servers)) {
			now.Backends[name] = append(now.Backends[name], fmt.Sprintf("%s %s", s, servers[s].Addr))
		}
	}
	return now
}

// holding gives a machine on which s is held.
func holding(t *testing.T, s *desired.State) *machine {
	m := newMachine()
	if s == nil {
		return m
	}
	result, refusal := started(t, m).apply(t.Context(), sign(t, s))
	if refusal != nil || result.Outcome != wire.Reloaded {
		t.Fatalf("applying the State to start from: %+v %v", result, refusal)
	}
	return m.clone()
}

// started is an agent that has done what it does at its start.
func started(t *testing.T, m *machine) *Agent {
	a := newAgent(t, m)
	if err := a.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.recover(t.Context())
	return a
}

// course is what became of one transaction.
type course struct {
	outcome wire.Outcome // "" when it was refused or the agent died
	refusal *wire.Refusal
	died    bool
}

// run applies next on m, whose agent may die.
func run(t *testing.T, a *Agent, next *desired.State) (c course) {
	defer func() {
		switch p := recover(); p.(type) {
		case nil:
		case struckDead:
			c.died = true
		default:
			panic(p)
		}
	}()
	result, refusal := a.apply(context.WithoutCancel(t.Context()), sign(t, next))
	c.refusal = refusal
	if result != nil {
		c.outcome = result.Outcome
		if c.outcome == wire.Stuck && len(result.Faults) < 2 {
			t.Errorf("Stuck without both faults: %+v", result.Faults)
		}
	}
	return c
}

// at strikes the k-th operation.
func at(k int, s strike) func(int, string) strike {
	return func(n int, _ string) strike {
		if n == k {
			return s
		}
		return passes
	}
}

// from strikes the k-th operation in the given way and lets all after it fail, until the test heals the machine.
func from(k int, s strike) func(int, string) strike {
	return func(n int, _ string) strike {
		switch {
		case n == k:
			return s
		case n > k:
			return failsBefore
		}
		return passes
	}
}

// TestFaultAtEveryOperation is invariant 3: a gateway ends wholly old, wholly new, or loudly stuck. Under the race detector it takes a sample of
// the operations, the same each time and another one for each change.
func TestFaultAtEveryOperation(t *testing.T) {
	total, struck := 0, 0
	for number, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := holding(t, c.held)
				if c.held != nil {
					started(t, before) // what is served by UDP has passed its checks
					before = before.clone()
				}
				old := before.moment()
				clean := before.clone()
				a := started(t, clean)
				clean.operations = 0
				if got := run(t, a, c.next); got.outcome != c.want {
					t.Fatalf("without a fault the outcome is %+v, want %s", got, c.want)
				}
				last, fresh := clean.operations, clean.moment()
				if cmp.Equal(old, fresh) {
					t.Fatal("the change changes nothing")
				}
				for k := 1 + number%strikeEvery; k <= last; k += strikeEvery {
					struck++
					f := faults{c: c, before: before, old: old, fresh: fresh, k: k, operation: clean.log[len(clean.log)-last+k-1]}
					f.once(t, failsBefore)
					f.once(t, failsAfter)
					f.fromThenOn(t, failsBefore)
					f.fromThenOn(t, failsAfter)
					f.death(t, diesBefore)
					f.death(t, diesAfter)
					f.powerLoss(t)
					f.disk(t, "full", func(operation string) bool { return strings.HasPrefix(operation, "write ") })
					f.disk(t, "read-only", func(operation string) bool {
						verb, _, _ := strings.Cut(operation, " ")
						return verb == "write" || verb == "rename" || verb == "remove"
					})
				}
				total += last
				t.Logf("%d operations, each struck in seven ways, and the disk taken away at each write", last)
			})
		})
	}
	t.Logf("k ran over %d operations of %d changes, and struck %d of them", total, len(changes()), struck)
}

// faults strikes the k-th operation of one change.
type faults struct {
	c          change
	before     *machine
	old, fresh moment
	k          int
	operation  string
}

// once: one failure is always survived, and what is told is what is true.
func (f faults) once(t *testing.T, s strike) {
	m := f.before.clone()
	a := started(t, m)
	m.operations, m.strike = 0, at(f.k, s)
	got := run(t, a, f.c.next)
	switch {
	case got.refusal != nil || got.outcome == wire.RolledBack || got.outcome == wire.Refused:
		f.expect(t, m, f.old, fmt.Sprintf("strike %d once, told %+v", s, got))
		f.again(t, m, a)
	case got.outcome == f.c.want:
		f.expect(t, m, f.fresh, fmt.Sprintf("strike %d once, told %+v", s, got))
	default:
		t.Errorf("k=%d (%s), strike %d once: told %+v, want %s, a refusal or RolledBack", f.k, f.operation, s, got, f.c.want)
	}
}

// again: after a way back, the same change works.
func (f faults) again(t *testing.T, m *machine, a *Agent) {
	want := f.c.want
	if cmp.Equal(f.fresh, m.moment()) {
		want = wire.Unchanged
	}
	if got := run(t, a, f.c.next); got.outcome != want {
		t.Errorf("k=%d (%s): after the way back the change gives %+v, want %s", f.k, f.operation, got, want)
	}
	f.expect(t, m, f.fresh, "applied again after the way back")
}

// fromThenOn: when nothing works any more the agent says Stuck, or that it changed nothing; and when the machine works
// again it finds back by itself.
func (f faults) fromThenOn(t *testing.T, s strike) {
	f.forGood(t, from(f.k, s), "struck from k on")
}

// disk: what cannot be written any more leaves the daemons running, which the agent still drives. What lies in /run is no file
// of that disk.
func (f faults) disk(t *testing.T, how string, concerned func(operation string) bool) {
	if !concerned(f.operation) {
		return // the same as from the next operation on that is concerned
	}
	f.forGood(t, func(n int, operation string) strike {
		if n >= f.k && concerned(operation) && !strings.Contains(operation, " /run/") {
			return failsBefore
		}
		return passes
	}, "the disk is "+how+" from k on")
}

func (f faults) forGood(t *testing.T, judge func(int, string) strike, when string) {
	m := f.before.clone()
	a := started(t, m)
	m.operations, m.strike = 0, judge
	got := run(t, a, f.c.next)
	switch {
	case got.outcome == wire.Stuck:
		if !a.broken() {
			t.Errorf("k=%d (%s): stuck, and the watcher would not try to repair it", f.k, f.operation)
		}
	case got.outcome == wire.RolledBack, got.refusal != nil:
		f.expect(t, m, f.old, when)
	case got.outcome == f.c.want:
		f.expect(t, m, f.fresh, when)
	default:
		t.Errorf("k=%d (%s), %s: told %+v", f.k, f.operation, when, got)
	}
	m.strike = at(0, passes)
	a.recover(t.Context())
	f.expectWhole(t, m, "healed after "+when)
}

// powerLoss: what was not written is gone, and so is everything that ran. Right before the next operation is the same moment.
func (f faults) powerLoss(t *testing.T) {
	m := f.before.clone()
	a := started(t, m)
	m.operations, m.strike = 0, at(f.k, diesAfter)
	if got := run(t, a, f.c.next); !got.died {
		t.Fatalf("k=%d (%s): the agent lives: %+v", f.k, f.operation, got)
	}
	m.strike = at(0, passes)
	m.powerOff()
	m.boot()
	started(t, m)
	f.expectWhole(t, m, "the power is lost, booted")
}

// death: an agent that is killed at any instant is wholly old or wholly new when it runs again.
func (f faults) death(t *testing.T, s strike) {
	m := f.before.clone()
	a := started(t, m)
	m.operations, m.strike = 0, at(f.k, s)
	if got := run(t, a, f.c.next); !got.died {
		t.Fatalf("k=%d (%s): the agent lives: %+v", f.k, f.operation, got)
	}
	m.strike = at(0, passes)
	a = started(t, m)
	f.expectWhole(t, m, fmt.Sprintf("strike %d, started again", s))
	f.again(t, m, a)
}

// expectWhole wants the machine to be what its own committed State says.
func (f faults) expectWhole(t *testing.T, m *machine, when string) {
	t.Helper()
	var signed desired.Signed
	if text, ok := m.files["/var/lib/gatewayctl/state.json"]; ok {
		if err := json.Unmarshal([]byte(text), &signed); err != nil {
			t.Fatal(err)
		}
	}
	want := f.old
	if string(signed.State) == string(sign(t, f.c.next).State) {
		want = f.fresh
	}
	f.expect(t, m, want, when)
}

func (f faults) expect(t *testing.T, m *machine, want moment, when string) {
	t.Helper()
	if diff := cmp.Diff(want, m.moment()); diff != "" {
		t.Errorf("k=%d (%s), %s: the machine is neither old nor new as told (-want +got):\n%s\noperations: %s",
			f.k, f.operation, when, diff, strings.Join(m.log, "\n  "))
	}
}

// A State that changes nothing but its fence, as a new controller's first one, meets a full disk: what runs and what is held stays,
// and nobody has to come for that.
func TestFullDiskUnderAFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := sample(1, service("web", "192.0.2.10", 51))
		m := holding(t, held)
		a := started(t, m)
		old := m.moment()
		m.strike = func(_ int, operation string) strike {
			if strings.HasPrefix(operation, "write ") && !strings.Contains(operation, " /run/") {
				return failsBefore
			}
			return passes
		}
		next := sample(2, service("web", "192.0.2.10", 51))
		if got := run(t, a, next); got.outcome != wire.RolledBack {
			t.Errorf("told %+v", got)
		}
		if fresh := m.moment(); !cmp.Equal(old, fresh) {
			t.Errorf("what is true changed: %s", cmp.Diff(old, fresh))
		}
		m.strike = at(0, passes)
		if got := run(t, a, next); got.outcome != wire.Unchanged {
			t.Errorf("on an empty disk: %+v", got)
		}
	})
}
