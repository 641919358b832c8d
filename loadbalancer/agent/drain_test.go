package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const drainFile = "/var/lib/gatewayctl/drained.json"

// fit is a peer that can take over what a gateway with s holds.
func fit(t *testing.T, s *desired.State) *fakePeer {
	west := &fakePeer{heir: &wire.Heir{Fit: true}}
	west.holds(t, s)
	return west
}

// drainable is an agent that is current, whose peer was asked, and a keepalived that obeys the ready file when takers is true.
func drainable(t *testing.T, west *fakePeer, takers bool) (*Agent, *machine) {
	t.Helper()
	a, m := peered(t, sample(5, web, db), west)
	a.confirm("the test says so")
	m.strike = func(_ int, operation string) strike {
		if operation == "run "+strings.Join(keepalived.AddressArgv(), " ") {
			m.meanwhile(func() { m.masters[51] = !takers || m.files[ready] >= "50" }) // "-25", "0", "25", "50"
		}
		return passes
	}
	a.peers.meet(a.peerAddresses())
	a.peers.ask(t.Context(), time.Second)
	return a, m
}

// keepalived's numbers and the agent's are the same ones.
func TestReadinessIsKeepalivedsContent(t *testing.T) {
	for want, value := range map[string]int{keepalived.Ready: readiness(true, false), keepalived.Not: readiness(false, false),
		keepalived.ReadyDrained: readiness(true, true), keepalived.NotDrained: readiness(false, true)} {
		if got := fmt.Sprintf("%d\n", value); got != want {
			t.Errorf("readiness %q, want %q", got, want)
		}
	}
}

func TestDrainAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := drainable(t, fit(t, sample(5, web, db)), true)
		got, refusal := a.drain(t.Context(), wire.RoleOperator, &wire.Drain{Reason: "new kernel", Grace: time.Minute})
		if refusal != nil || !got.Changed || len(got.Held) != 0 {
			t.Fatalf("got %+v, %v", got, refusal)
		}
		if m.file(ready) != keepalived.ReadyDrained || m.file(drainFile) == "" {
			t.Errorf("ready is %q, the mark %q", m.file(ready), m.file(drainFile))
		}
		d := a.status(t.Context(), wire.RoleController).Drain
		if d == nil || d.By != wire.RoleOperator || d.Reason != "new kernel" || d.Until.Sub(d.Since) != time.Minute {
			t.Errorf("status says %+v", d)
		}
		time.Sleep(time.Second)
		if again, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{Reason: "another"}); refusal != nil || again.Changed ||
			again.Drain.Reason != "new kernel" || !again.Drain.Since.Equal(d.Since) {
			t.Errorf("a second drain: %+v, %v", again, refusal)
		}
		if back, refusal := a.undrain(t.Context()); refusal != nil || !back.Changed || back.Drain != nil {
			t.Errorf("undrain: %+v, %v", back, refusal)
		}
		if m.file(ready) != keepalived.Ready || m.file(drainFile) != "" || a.status(t.Context(), wire.RoleController).Drain != nil {
			t.Errorf("after undrain: ready is %q, the mark %q", m.file(ready), m.file(drainFile))
		}
		if back, refusal := a.undrain(t.Context()); refusal != nil || back.Changed {
			t.Errorf("a second undrain: %+v, %v", back, refusal)
		}
	})
}

func TestDrainNeedsAnHeir(t *testing.T) {
	s := sample(5, web, db)
	for _, test := range []struct {
		name string
		west func(*fakePeer)
		want string // "": it is drained
	}{
		{"fit", func(*fakePeer) {}, ""},
		{"ahead", func(p *fakePeer) { p.tells = &sample(6).Fence }, ""},
		{"silent", func(p *fakePeer) { p.err = errDown }, "west does not answer: no route to host"},
		{"behind", func(p *fakePeer) { p.tells = &sample(4).Fence }, "west does not hold the State"},
		{"empty", func(p *fakePeer) { p.tells = nil }, "west does not hold the State"},
		{"another cluster's", func(p *fakePeer) { p.tells = &sample(9, cluster("another")).Fence }, "west does not hold the State"},
		{"unfit", func(p *fakePeer) { p.heir = &wire.Heir{Problem: "is drained itself"} }, "west is drained itself"},
		{"older", func(p *fakePeer) { p.heir = nil }, "west has an older agent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := fit(t, s)
				test.west(west)
				a, m := drainable(t, west, true)
				got, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{})
				if test.want == "" {
					if refusal != nil || !got.Changed {
						t.Errorf("got %+v, %v", got, refusal)
					}
					return
				}
				if refusal == nil || refusal.Code != wire.CodeNoHeir || !strings.Contains(refusal.Message, test.want) {
					t.Errorf("refused with %v, want %q", refusal, test.want)
				}
				if m.file(ready) != keepalived.Ready || m.file(drainFile) != "" || a.drainMark() != nil {
					t.Errorf("ready is %q, the mark %q", m.file(ready), m.file(drainFile))
				}
				if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{Force: true}); refusal != nil || m.file(ready) != keepalived.ReadyDrained {
					t.Errorf("forced: %v, ready is %q", refusal, m.file(ready))
				}
			})
		})
	}
	t.Run("not asked yet", func(t *testing.T) {
		a, _ := peered(t, s, fit(t, s))
		a.peers.meet(a.peerAddresses())
		if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{}); refusal == nil || !strings.Contains(refusal.Message, "was not asked yet") {
			t.Errorf("refused with %v", refusal)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		a, _ := peered(t, s)
		if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{}); refusal == nil || refusal.Code != wire.CodeNoHeir {
			t.Errorf("refused with %v", refusal)
		}
	})
}

// Who says that it could take over and does not is found out, and all is as before.
func TestDrainThatNobodyTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := drainable(t, fit(t, sample(5, web, db)), false)
		_, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{})
		if refusal == nil || refusal.Code != wire.CodeNoHeir || !strings.Contains(refusal.Message, "192.0.2.10") {
			t.Errorf("refused with %v", refusal)
		}
		if m.file(ready) != keepalived.Ready || m.file(drainFile) != "" || a.drainMark() != nil {
			t.Errorf("ready is %q, the mark %q", m.file(ready), m.file(drainFile))
		}
		got, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{Force: true})
		if refusal != nil || len(got.Held) != 1 || m.file(ready) != keepalived.ReadyDrained {
			t.Errorf("forced: %+v, %v", got, refusal)
		}
		if again, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{}); refusal != nil || again.Changed || m.file(drainFile) == "" {
			t.Errorf("what was forced and is asked for again: %+v, %v", again, refusal)
		}
	})
}

// A State that comes while the drain waits for the peers brings a VIP: that one has to leave too.
func TestDrainOfAVIPThatHasJustCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := fit(t, sample(5))
		west.hop = &wire.Hop{Addresses: []netip.Addr{addr("10.0.0.3")}} // and never ready
		a, m := peered(t, sample(5), west)
		a.confirm("the test says so")
		m.masters[51] = true
		a.peers.meet(a.peerAddresses())
		a.peers.ask(t.Context(), time.Second)
		time.AfterFunc(time.Second, func() {
			if result, refusal := a.apply(t.Context(), sign(t, sample(6, web))); refusal != nil || len(result.Held) != 1 {
				t.Errorf("the VIP did not come: %+v, %v", result, refusal)
			}
		})
		time.AfterFunc(6*time.Second, func() { m.meanwhile(func() { m.masters[51] = false }) }) // a second after the mark
		got, refusal := a.drain(t.Context(), wire.RoleOperator, &wire.Drain{})
		if refusal != nil || len(got.Held) != 0 {
			t.Errorf("got %+v, %v", got, refusal)
		}
	})
}

func TestDrainLasts(t *testing.T) {
	s := sample(5, web)
	for _, test := range []struct {
		name  string
		held  string // of the mark; "" for none
		ready string // as found; "" after a boot
		want  string // at once
		then  string // when the State is confirmed
	}{
		{"booted", `{"reason":"new kernel"}`, "", keepalived.NotDrained, keepalived.ReadyDrained},
		{"a new agent", `{}`, keepalived.ReadyDrained, keepalived.ReadyDrained, keepalived.ReadyDrained},
		{"a new agent, stale", `{}`, keepalived.NotDrained, keepalived.NotDrained, keepalived.ReadyDrained},
		{"died while draining", `{}`, keepalived.Ready, keepalived.ReadyDrained, keepalived.ReadyDrained},
		{"died while undraining", ``, keepalived.ReadyDrained, keepalived.Ready, keepalived.Ready},
		{"died while undraining, stale", ``, keepalived.NotDrained, keepalived.Not, keepalived.Ready},
		{"not drained", ``, "", keepalived.Not, keepalived.Ready},
		{"unreadable", `{`, keepalived.Ready, keepalived.ReadyDrained, keepalived.ReadyDrained},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, s)
			delete(m.files, ready)
			if test.ready != "" {
				m.files[ready] = test.ready
			}
			if test.held != "" {
				m.files[drainFile] = test.held
			}
			a := started(t, m)
			if got := m.file(ready); got != test.want {
				t.Errorf("at the start ready is %q, want %q", got, test.want)
			}
			a.confirm("the test says so")
			if got := m.file(ready); got != test.then {
				t.Errorf("when confirmed ready is %q, want %q", got, test.then)
			}
			if drained := a.status(t.Context(), wire.RoleOperator).Drain != nil; drained != (test.held != "") {
				t.Errorf("status says drained: %t", drained)
			}
		})
	}
}

// struckFrom fails the operations from k to last; what obey does goes on.
func struckFrom(k, last int, obey func(int, string) strike) func(int, string) strike {
	return func(n int, operation string) strike {
		obey(n, operation)
		if n >= k && n <= last {
			return failsBefore
		}
		return passes
	}
}

// agree says that disk, track file and memory tell the same.
func agree(t *testing.T, a *Agent, m *machine, when string) {
	t.Helper()
	drained := a.drainMark() != nil
	if want := fmt.Sprintf("%d\n", readiness(true, drained)); m.file(ready) != want || (m.file(drainFile) != "") != drained {
		t.Errorf("%s: drained is %t, ready %q, the mark %q", when, drained, m.file(ready), m.file(drainFile))
	}
}

// Whatever one operation does, a drain is done or not done; when all fail from there on, nothing is left by what comes after.
func TestDrainWithAFaultAtEveryOperation(t *testing.T) {
	const all = 1 << 30
	for _, test := range []struct {
		faults int
		repeat bool
	}{{1, false}, {1, true}, {all, false}, {all, true}} {
		synctest.Test(t, func(t *testing.T) {
			for k, reached := 1, true; reached; k++ {
				a, m := drainable(t, fit(t, sample(5, web, db)), true)
				obey, when := m.strike, fmt.Sprintf("operation %d, %+v", k, test)
				m.operations, m.strike = 0, struckFrom(k, k+test.faults-1, obey)
				_, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{})
				reached = m.operations >= k
				m.strike = obey
				if refusal == nil && a.drainMark() == nil {
					t.Errorf("%s: granted, and not drained", when)
				}
				if test.faults == 1 {
					agree(t, a, m, when)
				}
				if test.repeat {
					if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{}); refusal != nil || a.drainMark() == nil {
						t.Errorf("%s: once more: %v", when, refusal)
					}
					agree(t, a, m, when+", once more")
				}
				if _, refusal := a.undrain(t.Context()); refusal != nil || a.drainMark() != nil {
					t.Errorf("%s: undrain: %v", when, refusal)
				}
				agree(t, a, m, when+", undrained")
				if !reached {
					t.Logf("%d operations", k-1)
				}
			}
		})
	}
}

// An undrain that failed is told as such, and what stands is told as drained, until one has not failed.
func TestUndrainWithAFaultAtEveryOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for k, reached := 1, true; reached; k++ {
			a, m := drainable(t, fit(t, sample(5, web, db)), true)
			if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{}); refusal != nil {
				t.Fatal(refusal)
			}
			obey := m.strike
			m.operations, m.strike = 0, struckFrom(k, k, obey)
			_, refusal := a.undrain(t.Context())
			reached = m.operations >= k
			m.strike = obey
			if told, is := a.drainMark() != nil, m.file(ready) != keepalived.Ready; told != is || told && refusal == nil {
				t.Errorf("operation %d: refused with %v; drained is told %t, and keepalived %t", k, refusal, told, is)
			}
			if _, refusal := a.undrain(t.Context()); refusal != nil || a.drainMark() != nil {
				t.Errorf("operation %d: once more: %v", k, refusal)
			}
			agree(t, a, m, fmt.Sprintf("operation %d, once more", k))
		}
	})
}

// What is left is ended when the grace is over, not before, and nothing else; a new agent goes on with it.
func TestGraceOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := drainable(t, fit(t, sample(5, web, db)), true)
		m.connections = []string{friend, stranger, ownSSH}
		watching(t, a.endStranded)
		got, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{Grace: time.Minute})
		if refusal != nil || got.Drain.Connections != 2 {
			t.Fatalf("got %+v, %v", got, refusal)
		}
		time.Sleep(50 * time.Second)
		next := newAgent(t, m)
		if err := next.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		defer end()
		go next.endStranded(ctx)
		time.Sleep(9 * time.Second)
		if len(m.open()) != 3 {
			t.Errorf("ended early: %q are left", m.open())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !slices.Equal(m.open(), []string{ownSSH}) {
			t.Errorf("after the grace %q are left", m.open())
		}
		if d := a.status(t.Context(), wire.RoleController).Drain; d.Connections != 0 {
			t.Errorf("status says %+v", d)
		}
	})
}

// What goes through a VIP that nobody took is no leftover.
func TestGraceSparesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := drainable(t, fit(t, sample(5, web, db)), false)
		m.connections = []string{friend, elsewhere, ownSSH} // at a held VIP, at one of the peer's, at none
		watching(t, a.endStranded)
		if _, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{Force: true}); refusal != nil {
			t.Fatal(refusal)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(m.open(), []string{friend, ownSSH}) {
			t.Errorf("%q are left", m.open())
		}
	})
}

func TestHeir(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Agent, *machine)
		want   string
	}{
		{"fit", func(*Agent, *machine) {}, ""},
		{"HAProxy is dead", func(_ *Agent, m *machine) { m.files[alive] = "0\n" }, "has no HAProxy that answers"},
		{"keepalived is dead", func(_ *Agent, m *machine) { m.stop("/run/keepalived.pid", m.keepalived.pid) }, "runs no keepalived"},
		{"stale", func(a *Agent, _ *machine) { a.ready = false }, "has booted and is not confirmed current"},
		{"drained", func(a *Agent, _ *machine) { a.drained = &mark{} }, "is drained itself"},
		{"empty", func(a *Agent, _ *machine) { a.committed = nil }, "holds no State"},
	} {
		m := holding(t, sample(5, web))
		m.files[alive], m.files[ready] = keepalived.Alive, keepalived.Ready
		a := started(t, m)
		test.change(a, m)
		if got := a.hello(t.Context(), wire.RolePeer).Heir; got.Fit != (test.want == "") || got.Problem != test.want {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

func TestDrainRequestFaults(t *testing.T) {
	a, m := drainable(t, fit(t, sample(5, web, db)), true)
	for _, request := range []*wire.Drain{nil, {Grace: -1}, {Grace: wire.MaxGrace + 1}, {Reason: strings.Repeat("x", 201)}, {Reason: "a\x1b[2J"}} {
		if _, refusal := a.drain(t.Context(), wire.RoleController, request); refusal == nil || m.file(drainFile) != "" {
			t.Errorf("%+v is granted", request)
		}
	}
}
