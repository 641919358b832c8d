package keepalived

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// pair is two running gateways, both alive and ready, with the VIPs where they belong.
type pair struct {
	a, b  *machine
	state *desired.State
}

func startPair(t *testing.T, s *desired.State) *pair {
	t.Helper()
	p := begunPair(t, s)
	p.settle(t)
	return p
}

func begunPair(t *testing.T, s *desired.State) *pair {
	t.Helper()
	machines := network(t, s.Gateways)
	p := &pair{a: machines["a"], b: machines["b"], state: s}
	for _, m := range machines {
		m.write(t, m.local().AliveFile, Alive)
		m.write(t, m.local().ReadyFile, Ready)
		m.configure(t, s)
		m.start(t)
	}
	return p
}

// holds says whether exactly these are held: by each its own, by nobody twice.
func (p *pair) holds(t *testing.T, a, b []string) bool {
	t.Helper()
	return same(p.a.held(t, p.state).VIPs, a) && same(p.b.held(t, p.state).VIPs, b)
}

func same(got []netip.Addr, want []string) bool {
	var addresses []netip.Addr
	for _, w := range want {
		addresses = append(addresses, netip.MustParseAddr(w))
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Equal(got, addresses)
}

// settle waits until instance 1 is on a and instance 2 on b.
func (p *pair) settle(t *testing.T) {
	t.Helper()
	var a, b []string
	for _, v := range p.state.VIPs {
		if v.RouterID == 1 {
			a = append(a, v.Address.String())
		} else {
			b = append(b, v.Address.String())
		}
	}
	eventually(t, "every VIP on its own gateway", func() bool {
		return p.holds(t, a, b) && slices.Equal(p.a.held(t, p.state).RouterIDs, []int{1}) &&
			slices.Equal(p.b.held(t, p.state).RouterIDs, []int{2})
	})
}

const (
	first  = "192.0.2.10"
	first6 = "2001:db8::10"
	second = "192.0.2.11"
	added  = "192.0.2.12"
)

func crossed(subnet string) *desired.State {
	return state(2, subnet, vipOn(first, "", 1), vipOn(first6, "", 1), vipOn(second, "", 2))
}

func TestPairTakesOverAndBack(t *testing.T) {
	for _, subnet := range []string{"10.0.0.0", "2001:db8:0:1::"} {
		t.Run(subnet, func(t *testing.T) {
			t.Parallel()
			p := startPair(t, crossed(subnet))
			all := []string{first, first6, second}

			ip(t, "-n", p.a.namespace, "link", "set", "eth0", "down")
			t.Logf("cut off: taken over after %v", eventually(t, "b holds all when a is cut off", func() bool {
				return same(p.b.held(t, p.state).VIPs, all)
			}))
			ip(t, "-n", p.a.namespace, "link", "set", "eth0", "up")
			if subnet != "10.0.0.0" { // a link that goes down loses its IPv6 addresses
				ip(t, "-n", p.a.namespace, "address", "add", "2001:db8:0:1::1/64", "dev", "eth0", "nodad")
			}
			p.settle(t)

			p.a.kill(t)
			t.Logf("killed: taken over after %v", eventually(t, "b holds all when a's keepalived is killed", func() bool {
				return same(p.b.held(t, p.state).VIPs, all)
			}))
			p.a.start(t)
			p.settle(t)
		})
	}
}

func TestPairFollowsTrackFiles(t *testing.T) {
	t.Parallel()
	p := startPair(t, crossed("10.0.0.0"))
	all := []string{first, first6, second}
	toB := func(how string) {
		t.Helper()
		t.Logf("%s: handed over after %v", how, eventually(t, "b holds all: "+how, func() bool { return p.holds(t, nil, all) }))
	}
	p.a.write(t, p.a.local().ReadyFile, Not)
	toB("a is stale")

	// A stale gateway takes over all the same when nobody else is alive.
	p.b.write(t, p.b.local().AliveFile, Not)
	eventually(t, "a holds all: stale, but alone alive", func() bool { return p.holds(t, all, nil) })
	p.b.write(t, p.b.local().AliveFile, Alive)
	toB("a is stale and b alive again")

	p.a.write(t, p.a.local().ReadyFile, Ready)
	p.settle(t)
	p.a.write(t, p.a.local().AliveFile, Not)
	toB("a is dead")
	p.a.write(t, p.a.local().AliveFile, Alive)
	p.settle(t)

	// No file counts as 0: /run is empty after a boot.
	if err := os.Remove(p.a.local().ReadyFile); err != nil {
		t.Fatal(err)
	}
	toB("a has no ready file")
	p.a.write(t, p.a.local().ReadyFile, Ready)
	p.settle(t)
}

// A drained gateway yields to one that serves, keeps what it has from a stale one, and serves when nobody else does.
func TestPairDrained(t *testing.T) {
	t.Parallel()
	p := startPair(t, crossed("10.0.0.0"))
	all := []string{first, first6, second}
	expect := func(what string, a, b []string) {
		t.Helper()
		t.Logf("%s after %v", what, eventually(t, what, func() bool { return p.holds(t, a, b) }))
	}
	stays := func(what string, a, b []string) { // a change takes three adverts of 0.2 s
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); <-tick.C {
			if !p.holds(t, a, b) {
				t.Fatalf("%s: not so", what)
			}
		}
	}
	p.a.write(t, p.a.local().ReadyFile, ReadyDrained)
	expect("a is drained: b has all", nil, all)
	p.b.write(t, p.b.local().ReadyFile, Not)
	expect("b is stale: the drained a has all", all, nil)
	p.b.write(t, p.b.local().AliveFile, Not)
	p.b.write(t, p.b.local().ReadyFile, Ready)
	stays("b is current and its HAProxy dead: a keeps all", all, nil)
	p.b.write(t, p.b.local().AliveFile, Alive)
	expect("b serves: it has all", nil, all)
	p.a.write(t, p.a.local().ReadyFile, NotDrained)
	p.b.write(t, p.b.local().ReadyFile, Not)
	stays("a is stale and drained, b stale: b keeps all", nil, all)
	p.b.write(t, p.b.local().ReadyFile, Ready)
	p.a.write(t, p.a.local().ReadyFile, Ready)
	p.settle(t)
}

// Leave hands over at once. The next heir need not miss adverts, and the gateway is there again when its file says so.
func TestPairLeavesAtOnce(t *testing.T) {
	t.Parallel()
	s := crossed("10.0.0.0")
	s.VRRP.AdvertIntervalMillis = 1000 // three missed adverts would be 3 s
	p := startPair(t, s)
	p.a.write(t, p.a.local().AliveFile, Leave)
	all := []string{first, first6, second}
	took := eventually(t, "b holds all", func() bool { return p.holds(t, nil, all) })
	t.Logf("handed over after %v", took)
	if took > 1500*time.Millisecond {
		t.Errorf("handing over took %v", took)
	}
	// Not, unlike Leave, leaves a gateway fit to be the last.
	p.a.write(t, p.a.local().AliveFile, Not)
	p.b.write(t, p.b.local().AliveFile, Leave)
	eventually(t, "a holds all: dead, but nobody else is there", func() bool { return p.holds(t, all, nil) })
	p.a.write(t, p.a.local().AliveFile, Alive)
	p.b.write(t, p.b.local().AliveFile, Alive)
	p.settle(t)
}

// A VIP is added and removed one gateway at a time: no instance changes hands, also while the two differ. Not parallel: three
// adverts missed for want of a processor would be a transition too.
func TestPairReloadsWithoutTransition(t *testing.T) {
	p := startPair(t, crossed("10.0.0.0"))
	before := p.a.transitions(t) + p.b.transitions(t)
	more := *p.state
	more.VIPs = append(slices.Clone(p.state.VIPs), vipOn(added, "", 1))
	less := p.state
	for round := range 5 {
		p.state = &more
		for _, m := range []*machine{p.b, p.a} {
			m.configure(t, &more)
			m.reload(t)
			eventually(t, "the VIP is where it should be, and nothing else moved", func() bool {
				if !same(p.b.held(t, less).VIPs, []string{second}) || !same(p.a.held(t, less).VIPs, []string{first, first6}) {
					t.Fatalf("round %d: a VIP left its holder during a reload", round)
				}
				return m == p.b || p.holds(t, []string{first, first6, added}, []string{second})
			})
		}
		for _, m := range []*machine{p.a, p.b} {
			m.configure(t, less)
			m.reload(t)
		}
		eventually(t, "the VIP is gone", func() bool { return p.holds(t, []string{first, first6}, []string{second}) })
	}
	if after := p.a.transitions(t) + p.b.transitions(t); after != before {
		t.Errorf("20 reloads made %d transitions", after-before)
	}
}

func TestSingleGatewayHoldsAll(t *testing.T) {
	for _, subnet := range []string{"10.0.0.0", "2001:db8:0:1::"} {
		t.Run(subnet, func(t *testing.T) {
			t.Parallel()
			s := state(1, subnet, vipOn(first, "", 1), vipOn(first6, "", 1))
			m := network(t, s.Gateways)["a"]
			m.configure(t, s) // no track files at all
			m.start(t)
			eventually(t, "the only gateway holds all", func() bool {
				h := m.held(t, s)
				return same(h.VIPs, []string{first, first6}) && slices.Equal(h.RouterIDs, []int{1})
			})
		})
	}
}

// An IPv6 VIP must be deprecated, or the kernel makes it the source of HAProxy's own connections (RFC 6724 rule 3).
// The anchor must not become a source either, not even on a route that names none.
func TestSourceAddressStaysTheGateways(t *testing.T) {
	t.Parallel()
	p := startPair(t, crossed("10.0.0.0"))
	out := string(p.a.addresses(t))
	if want := `"local":"2001:db8::10","prefixlen":128,"scope":"global","nodad":true,"deprecated":true`; !contains(out, want) {
		t.Errorf("%s is not in %s", want, out)
	}
	ip(t, "-n", p.a.namespace, "route", "add", "10.9.0.0/24", "dev", "eth0")
	if got := source(t, p.a, "10.9.0.1"); got != "10.0.0.1" {
		t.Errorf("the source of a connection is %s, not the gateway's own 10.0.0.1", got)
	}
}

// With 1000 VIPs, every processor busy and the default advert_int, a hundred reloads that each add or remove a VIP move nothing:
// a keepalived that reads a long configuration must not be late with its adverts. Not parallel, like the test above.
func TestPairReloadsUnderLoad(t *testing.T) {
	const vips, reloads = 1000, 100
	s := state(2, "10.0.0.0")
	s.VRRP.AdvertIntervalMillis = 100
	address := netip.MustParseAddr("198.18.0.0") // RFC 2544: room for 1000
	for n := range vips {
		address = address.Next()
		s.VIPs = append(s.VIPs, vipOn(address.String(), "", 1+n%2))
	}
	p := begunPair(t, s)
	const pause = 100 * time.Millisecond
	half := func(m *machine, s *desired.State) bool { return len(m.held(t, s).VIPs) == vips/2 }
	eventuallyEvery(t, pause, "every VIP on its own gateway", func() bool { return half(p.a, s) && half(p.b, s) })
	var done atomic.Bool
	var busy sync.WaitGroup
	for range runtime.NumCPU() {
		busy.Go(func() {
			for !done.Load() {
			}
		})
	}
	defer func() { done.Store(true); busy.Wait() }()
	before := p.a.transitions(t) + p.b.transitions(t)
	more := *s
	more.VIPs = append(slices.Clone(s.VIPs), vipOn(added, "", 1))
	begun, longest := time.Now(), time.Duration(0)
	for n := range reloads / 2 {
		wanted := s
		if n%2 == 0 {
			wanted = &more
		}
		for _, m := range []*machine{p.b, p.a} {
			m.install(t, wanted)
			m.reload(t)
		}
		took := eventuallyEvery(t, pause, "the VIP is where it should be", func() bool {
			return slices.Contains(p.a.held(t, &more).VIPs, netip.MustParseAddr(added)) == (wanted == &more)
		})
		longest = max(longest, took)
	}
	if !half(p.a, s) || !half(p.b, s) {
		t.Error("not every VIP is on its own gateway")
	}
	transitions := p.a.transitions(t) + p.b.transitions(t) - before
	t.Logf("%d reloads with %d VIPs in %v, all %d processors busy: %d transitions, a VIP came or went after %v at most",
		reloads, vips, time.Since(begun).Round(time.Millisecond), runtime.NumCPU(), transitions, longest.Round(time.Millisecond))
	if transitions != 0 {
		t.Errorf("%d reloads made %d transitions", reloads, transitions)
	}
}
