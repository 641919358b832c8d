package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// The kernel of a machine at rest has no table of the second hop; one that is up has elements.
func (m *machine) hops() (up bool, before []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for line := range strings.Lines(m.hop) {
		if words := strings.Fields(line); len(words) == 3 && words[1] == ":" {
			before = append(before, words[0]+" "+strings.TrimSuffix(words[2], ","))
		}
	}
	return strings.Contains(m.hop, "meta mark set"), before
}

// removeRoute is `ip rule delete` and `ip route delete`.
func (m *machine) removeRoute(argv []string) error {
	prefix := strings.Join(argv[:3], " ") // ip -4 rule
	i := slices.IndexFunc(m.routes, func(command string) bool { return strings.HasPrefix(command, prefix) })
	if i < 0 {
		return &CommandError{Argv: argv, Code: 2, Err: errStruck}
	}
	m.routes = slices.Delete(slices.Clone(m.routes), i, i+1)
	return nil
}

// When no VIP moves any more nothing lets packets in by a mark: neither what this agent made nor what one before it left, for
// another interface, and not on a gateway that asks its peers no more.
func TestHopLeavesNothingBehind(t *testing.T) {
	const foreign = "ip -4 rule add iif bond0 fwmark 0x2000000/0x2000000 lookup 7480 pref 7480"
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		a, m := hopping(t, sample(5, web, db), west)
		left := func() (routes []string) {
			m.meanwhile(func() { routes = slices.Clone(m.routes) })
			return routes
		}
		m.meanwhile(func() { m.routes = []string{foreign} })
		west.says(wire.Hop{Addresses: westAt})
		a.hopRound(t)
		if got := left(); len(got) != 0 {
			t.Errorf("of the agent before there is %q", got)
		}
		west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
		a.hopRound(t)
		if got := left(); len(got) != 4 {
			t.Errorf("while VIPs move there is %q", got)
		}
		west.says(wire.Hop{Addresses: westAt})
		time.Sleep(2 * hopLinger)
		a.hopRound(t)
		if got := left(); len(got) != 0 {
			t.Errorf("afterwards there is %q", got)
		}
		before := m.counted()
		time.Sleep(2 * hopAgain)
		a.hopRound(t)
		if n := m.counted() - before; n != 0 {
			t.Errorf("%d programs were run although nothing changed", n)
		}

		alone := holding(t, sample(5, web, db))
		alone.hop, alone.routes = "meta mark set", []string{foreign}
		watching(t, started(t, alone).followPeers)
		synctest.Wait()
		if up, _ := alone.hops(); up || len(alone.routes) != 0 {
			t.Errorf("without peers the tables are up %t, and %q is there", up, alone.routes)
		}
	})
}

// round is what the loop that follows the peers does each time.
func (a *Agent) hopRound(t *testing.T) {
	t.Helper()
	a.peers.ask(t.Context(), time.Second)
	a.arrangeHop(t.Context())
}

// says makes a peer fit and have it tell this of hand-overs.
func (p *fakePeer) says(hop wire.Hop) {
	p.do(func(p *fakePeer) { p.heir, p.hop = &wire.Heir{Fit: true}, &hop })
}

func hopping(t *testing.T, s *desired.State, peers ...*fakePeer) (*Agent, *machine) {
	t.Helper()
	for _, p := range peers {
		p.holds(t, s)
	}
	a, m := peered(t, s, peers...)
	a.confirm("the test says so")
	a.peers.meet(a.peerAddresses())
	return a, m
}

var westAt = []netip.Addr{addr("10.0.0.3"), addr("2001:db8::3")}

// A gateway that gets VIPs from a peer hands on to it what it does not know, from when the peer says that they are about to
// leave until a while after.
func TestHopForAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		a, m := hopping(t, sample(5, web, db), west)
		m.hop = "left by the agent before: meta mark set"
		steps := []struct {
			name   string
			says   *wire.Hop // nil: it does not answer
			after  time.Duration
			up     bool
			before bool
		}{
			{"at rest", &wire.Hop{Addresses: westAt}, 0, false, false},
			{"an older release", &wire.Hop{}, 0, false, false},
			{"about to leave, address unknown", &wire.Hop{Leaving: true, Moving: true}, 0, false, false},
			{"leaving", &wire.Hop{Addresses: westAt, Leaving: true, Moving: true}, 0, true, true},
			{"does not answer for a moment", nil, hopLinger - time.Second, true, true},
			{"leaving still", &wire.Hop{Addresses: westAt, Leaving: true, Moving: true}, 20 * time.Second, true, true},
			{"the grace is over", &wire.Hop{Addresses: westAt, Moving: true}, hopLinger, true, true},
			{"drained", &wire.Hop{Addresses: westAt, Moving: true}, time.Second, true, false},
			{"drained anew", &wire.Hop{Addresses: westAt, Leaving: true, Moving: true}, time.Second, true, true},
			{"dead", nil, hopLinger + time.Second, false, false},
		}
		for _, step := range steps {
			time.Sleep(step.after)
			if west.do(func(p *fakePeer) { p.err = nil }); step.says == nil {
				west.do(func(p *fakePeer) { p.err = errDown })
			} else {
				west.says(*step.says)
			}
			a.peers.all[0].askAt = time.Time{}
			a.hopRound(t)
			up, before := m.hops()
			if up != step.up || (len(before) > 0) != step.before {
				t.Errorf("%s: the table is there: %t, before %q", step.name, up, before)
			}
			if step.before && !slices.Contains(before, "192.0.2.10 10.0.0.3") {
				t.Errorf("%s: before %q", step.name, before)
			}
			if told := a.hello(t.Context(), wire.RolePeer).Hop; slices.Equal(told.For, []string{"west"}) != step.before || told.Leaving || told.Moving {
				t.Errorf("%s: tells %+v", step.name, told)
			}
		}
	})
}

// What stands is told again now and then, and when the State has other VIPs, and not otherwise.
func TestHopIsLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
		a, m := hopping(t, sample(5, web, db), west)
		a.hopRound(t)
		m.meanwhile(func() { m.hop = "" }) // somebody flushed the ruleset
		for range 10 {
			time.Sleep(time.Second)
			a.hopRound(t)
		}
		if up, _ := m.hops(); up {
			t.Error("it is loaded again and again")
		}
		time.Sleep(hopAgain)
		a.hopRound(t)
		if up, _ := m.hops(); !up {
			t.Error("it is never loaded again")
		}
	})
}

// A VIP's packets go to the gateway that had it: the first in its instance's order that leaves.
func TestHopOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sample(5, web, db, north)
		west, far := &fakePeer{}, &fakePeer{}
		northAt := []netip.Addr{addr("10.0.0.4")}
		a, m := hopping(t, s, west, far)
		orders := map[int][]string{}
		for _, i := range s.Instances {
			orders[i.RouterID] = i.Gateways
		}
		expect := func(why string, from func(order []string) string) {
			t.Helper()
			a.hopRound(t)
			var want []string
			for _, vip := range s.VIPs {
				if at := from(orders[vip.RouterID]); at != "" && vip.Address.Is4() {
					want = append(want, vip.Address.String()+" "+at)
				}
			}
			_, before := m.hops()
			before = slices.DeleteFunc(before, func(pair string) bool { return strings.Contains(pair, "2001:") })
			if slices.Sort(want); !slices.Equal(before, want) {
				t.Errorf("%s: %q, want %q", why, before, want)
			}
		}
		west.says(wire.Hop{Addresses: westAt})
		far.says(wire.Hop{Addresses: northAt, Leaving: true, Moving: true})
		expect("north leaves", func([]string) string { return "10.0.0.4" })
		west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
		expect("both leave", func(order []string) string {
			if slices.Index(order, "west") < slices.Index(order, "north") {
				return "10.0.0.3"
			}
			return "10.0.0.4"
		})
	})
}

// What returns here is handed on to who told that it holds it, also when that one holds it no more; when nobody did, to the first
// in order.
func TestHopReturnsFromTheHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west, far := &fakePeer{}, &fakePeer{}
		a, m := hopping(t, sample(5, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), north), west, far)
		west.says(wire.Hop{Addresses: westAt})
		far.says(wire.Hop{Addresses: []netip.Addr{addr("10.0.0.4")}})
		far.do(func(p *fakePeer) { p.held = []netip.Addr{addr("192.0.2.10")} })
		a.hopRound(t)
		a.returnHop(t.Context(), &mark{Since: time.Now().Add(-time.Second), Until: time.Now().Add(time.Minute)})
		want := []string{"192.0.2.10 10.0.0.4", "192.0.2.11 10.0.0.3"}
		if _, before := m.hops(); !slices.Equal(before, want) {
			t.Errorf("at first: %q, want %q", before, want)
		}
		far.do(func(p *fakePeer) { p.held = nil })
		time.Sleep(5 * time.Second)
		a.hopRound(t)
		if _, before := m.hops(); !slices.Equal(before, want) {
			t.Errorf("when it is back: %q, want %q", before, want)
		}
	})
}

// A VIP on an interface of its own is left alone: nobody knows the peer's address there.
func TestHopOnTheGatewaysInterfaceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
		s := sample(5, web, db)
		a, _ := hopping(t, s, west)
		a.hopRound(t)
		s = s.Clone()
		s.VIPs[0].Interface, s.VIPs[1].Interface = "vlan7", "eth0"
		want, _, _ := a.wantHop(s, a.hop.tell(nil))
		if _, handed := want.Before[s.VIPs[0].Address]; handed || len(want.VIPs) != len(s.VIPs)-1 || len(want.Before) == 0 {
			t.Errorf("%s is in %+v", s.VIPs[0].Address, want)
		}
	})
}

// The machine's kernel may know no such rules: peers are not told that it does, and everything else goes on.
func TestHopThatTheKernelRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
		a, m := hopping(t, sample(5, web, db), west)
		m.strike = func(_ int, operation string) strike {
			if operation == "run nft --file -" {
				return failsBefore
			}
			return passes
		}
		a.hopRound(t)
		if told := a.hello(t.Context(), wire.RolePeer).Hop; len(told.For) > 0 {
			t.Errorf("tells %+v", told)
		}
		m.strike = func(int, string) strike { return passes }
		a.hopRound(t)
		if told := a.hello(t.Context(), wire.RolePeer).Hop; !slices.Equal(told.For, []string{"west"}) {
			t.Errorf("when it can, it tells %+v", told)
		}
	})
}

// A drain begins when every peer that can take over is ready; one that cannot, or does not follow, is not waited for.
func TestDrainWaitsForTheHop(t *testing.T) {
	const interval = 2 * time.Second
	for _, test := range []struct {
		name string
		west func(*fakePeer)
		took time.Duration
	}{
		{"an older release", func(p *fakePeer) { p.do(func(p *fakePeer) { p.heir = &wire.Heir{Fit: true} }) }, 0},
		{"ready at once", func(p *fakePeer) { p.says(wire.Hop{Addresses: westAt, For: []string{"east"}}) }, 0},
		{"never ready", func(p *fakePeer) { p.says(wire.Hop{Addresses: westAt}) }, 2*interval + time.Second},
		{"ready when it has asked", func(p *fakePeer) {
			p.says(wire.Hop{Addresses: westAt})
			go func() {
				time.Sleep(1500 * time.Millisecond)
				p.says(wire.Hop{Addresses: westAt, For: []string{"east"}})
			}()
		}, 1500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := fit(t, sample(5, web, db))
				test.west(west)
				a, m := drainable(t, west, true)
				a.config.Peers.Interval = Duration(interval)
				watching(t, a.followPeers)
				synctest.Wait()
				begun := time.Now()
				if _, refusal := a.drain(t.Context(), wire.RoleOperator, &wire.Drain{Grace: time.Minute}); refusal != nil {
					t.Fatal(refusal)
				}
				if took := time.Since(begun); took < test.took || took > test.took+300*time.Millisecond {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				told := a.hello(t.Context(), wire.RolePeer).Hop
				up, before := m.hops()
				var routes []string
				m.meanwhile(func() { routes = slices.Clone(m.routes) })
				if !told.Leaving || !told.Moving || !slices.Equal(told.Addresses, []netip.Addr{addr("10.0.0.2"), addr("2001:db8::2")}) || !up || len(before) > 0 || len(routes) == 0 {
					t.Errorf("drained it tells %+v, takes in: %t, hands on %q, routes %q", told, up, before, routes)
				}
				time.Sleep(time.Minute)
				if told := a.hello(t.Context(), wire.RolePeer).Hop; told.Leaving || !told.Moving {
					t.Errorf("after the grace it tells %+v", told)
				}
			})
		})
	}
}

// A gateway that is drained no more hands on to those who served meanwhile, as long as its own connections were given.
func TestUndrainHandsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := fit(t, sample(5, web, db))
		west.says(wire.Hop{Addresses: westAt, For: []string{"east"}})
		a, m := drainable(t, west, true)
		if _, refusal := a.drain(t.Context(), wire.RoleOperator, &wire.Drain{Grace: time.Minute}); refusal != nil {
			t.Fatal(refusal)
		}
		time.Sleep(2 * time.Second)
		a.peers.ask(t.Context(), time.Second)
		m.meanwhile(func() { m.log = nil })
		if _, refusal := a.undrain(t.Context()); refusal != nil {
			t.Fatal(refusal)
		}
		handsOn, returns := slices.Index(m.log, "run nft --file -"), slices.Index(m.log, "write "+ready)
		if handsOn < 0 || returns < handsOn {
			t.Errorf("the VIPs were asked back before it could hand on: %q", m.log)
		}
		for _, step := range []struct {
			after  time.Duration
			moving bool
		}{{0, true}, {50 * time.Second, true}, {11 * time.Second, false}} {
			time.Sleep(step.after)
			a.hopRound(t)
			told := a.hello(t.Context(), wire.RolePeer).Hop
			up, before := m.hops()
			if told.Leaving || told.Moving != step.moving || up != step.moving || slices.Contains(before, "192.0.2.10 10.0.0.3") != step.moving {
				t.Errorf("after %v: tells %+v, the table is there: %t, %q", step.after, told, up, before)
			}
		}
	})
}
