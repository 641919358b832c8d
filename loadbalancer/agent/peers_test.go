package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// fakePeer is another gateway: what it tells and hands over.
type fakePeer struct {
	mu     sync.Mutex
	tells  *desired.Fence
	signed *desired.Signed
	err    error
	heir   *wire.Heir
	hop    *wire.Hop
	held   []netip.Addr
	hangs  bool // says nothing until it is given up

	counts
}

// counts are how often something was done to a peer.
type counts struct{ dialed, closed, hellos, handed int }

func (p *fakePeer) count() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

func (p *fakePeer) do(change func(*fakePeer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// holds makes it a peer that holds s.
func (p *fakePeer) holds(t *testing.T, s *desired.State) {
	signed := sign(t, s)
	p.do(func(p *fakePeer) { p.tells, p.signed, p.err = &s.Fence, &signed, nil })
}

func (p *fakePeer) Hello(ctx context.Context) (*wire.Hello, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hellos++
	if p.hangs {
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return nil, ctx.Err()
	}
	return &wire.Hello{Fence: p.tells, Heir: p.heir, Hop: p.hop, Held: p.held}, p.err
}

func (p *fakePeer) State(context.Context) (*desired.Signed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed++
	return p.signed, p.err
}

func (p *fakePeer) Close() error { p.do(func(p *fakePeer) { p.closed++ }); return nil }

var errDown = errors.New("no route to host")

// peered is an agent of a machine that holds s and has just booted, with the peers west and, if there is one more, north.
func peered(t *testing.T, s *desired.State, others ...*fakePeer) (*Agent, *machine) {
	t.Helper()
	m := holding(t, s)
	delete(m.files, ready)
	delete(m.files, alive)
	a := started(t, m)
	a.config.Peers.Gateways = []PeerAddress{{"west", "west.example.net"}}
	a.peers.dial = func(to PeerAddress) (Peer, error) {
		for i, name := range []string{"west", "north"} {
			if to == (PeerAddress{name, name + ".example.net:22"}) && i < len(others) {
				others[i].do(func(p *fakePeer) { p.dialed++ })
				return others[i], nil
			}
		}
		return nil, fmt.Errorf("nobody is at %v", to)
	}
	return a, m
}

// north adds a third gateway to a State.
func north(s *desired.State) {
	s.Gateways = append(s.Gateways, desired.Gateway{Name: "north", SSHAddress: "north.example.net:22", VRRPAddress: addr("10.0.0.4"), Interface: "eth0"})
	s.Instances = []desired.Instance{
		{RouterID: 51, Gateways: []string{"east", "west", "north"}}, {RouterID: 52, Gateways: []string{"east", "north", "west"}},
		{RouterID: 53, Gateways: []string{"west", "east", "north"}}, {RouterID: 54, Gateways: []string{"west", "north", "east"}},
		{RouterID: 55, Gateways: []string{"north", "east", "west"}}, {RouterID: 56, Gateways: []string{"north", "west", "east"}},
	}
}

func epoch(number uint64) func(*desired.State) {
	return func(s *desired.State) { s.Fence.Epoch = number }
}

func instance(name string) func(*desired.State) {
	return func(s *desired.State) { s.Fence.Instance = name }
}

func noNodes(s *desired.State) { s.Nodes = nil }

func cluster(uid string) func(*desired.State) {
	return func(s *desired.State) { s.Fence.ClusterUID = uid }
}

var (
	web = service("web", "192.0.2.10", 51)
	db  = service("db", "192.0.2.11", 52)
)

// What a gateway does after a boot with what its peers tell: which State it holds then, and whether it is current.
func TestAfterABoot(t *testing.T) {
	mine := sample(5, web)
	newer := sample(6, web, db)
	stranger := sample(6, web, db, cluster("another"))
	for _, test := range []struct {
		name    string
		held    *desired.State
		west    func(*fakePeer)
		want    *desired.State
		current bool
		problem string // what status says of the peer
	}{
		{name: "the peer holds the same", held: mine, west: tells(t, mine), want: mine, current: true},
		{name: "an older sequence", held: mine, west: tells(t, sample(4, web)), want: mine, current: true},
		{name: "an older epoch", held: mine, west: tells(t, sample(9, web, epoch(2))), want: mine, current: true},
		{name: "no State", held: mine, west: func(*fakePeer) {}, want: mine, current: true},
		{name: "a newer sequence", held: mine, west: tells(t, newer), want: newer, current: true},
		{name: "a newer epoch of another controller", held: mine, west: tells(t, sample(1, web, epoch(4), instance("next"))),
			want: sample(1, web, epoch(4), instance("next")), current: true},
		{name: "a State, and we none", held: nil, west: tells(t, newer), want: newer, current: true},
		{name: "a State, and ours is from before the cluster", held: sample(1, controlPlane, noNodes, cluster(""), epoch(0), instance("")), west: tells(t, newer), want: newer, current: true},
		{name: "none, and neither have we", held: nil, west: func(*fakePeer) {}, want: nil},
		{name: "it does not answer", held: mine, west: func(p *fakePeer) { p.err = errDown }, want: mine, problem: "no route"},
		{name: "it hangs", held: mine, west: func(p *fakePeer) { p.hangs = true }, want: mine, problem: "deadline"},
		{name: "another cluster's", held: mine, west: tells(t, stranger), want: mine},
		{name: "the same epoch of another controller", held: mine, west: tells(t, sample(6, web, instance("other"))), want: mine},
		{name: "a newer one that nobody signed", held: mine, west: both(tells(t, newer), func(p *fakePeer) { p.signed.Signature = []byte("forged") }),
			want: mine, problem: "signature"},
		{name: "a newer one that it does not hand over", held: mine, west: both(tells(t, newer), func(p *fakePeer) { p.signed = nil }), want: mine, problem: "holds none"},
		{name: "a newer one, and it hands over an older", held: mine, west: func(p *fakePeer) {
			p.holds(t, sample(4, web))
			p.tells = &newer.Fence
		}, want: mine, problem: "sequence 4"},
		{name: "a newer one, and it hands over ours", held: mine, west: func(p *fakePeer) {
			p.holds(t, mine)
			p.tells = &newer.Fence
		}, want: mine, problem: "handed over epoch 3, sequence 5"},
		{name: "a newer one, and it hands over another cluster's", held: mine, west: func(p *fakePeer) {
			p.holds(t, stranger)
			p.tells = &newer.Fence
		}, want: mine, problem: "belongs to the cluster"},
		{name: "the farthest epoch", held: mine, west: tells(t, sample(1, web, epoch(3+maxEpochJump))), want: sample(1, web, epoch(3+maxEpochJump)), current: true},
		{name: "an absurd epoch", held: mine, west: tells(t, sample(1, web, epoch(4+maxEpochJump))), want: mine, problem: "no cluster claims more than"},
		{name: "the last epoch there is", held: nil, west: tells(t, sample(1, web, epoch(1<<64-1))), want: nil, problem: "no cluster claims more than"},
		{name: "a newer one outside our limits", held: mine, west: tells(t, sample(6, service("web", "203.0.113.1", 51))), want: mine, problem: "limits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := &fakePeer{}
				test.west(west)
				a, m := peered(t, test.held, west)
				watching(t, a.followPeers)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if got := a.held(); (got == nil) != (test.want == nil) || got != nil && got.state.Fence != test.want.Fence {
					t.Errorf("it holds %v, want %v", a.heldFence(), test.want)
				}
				if got := m.file(ready) == "50\n"; got != test.current {
					t.Errorf("current is %t", got)
				}
				status := a.peers.status(a.heldFence())
				if fence := status[0].Fence; fence != nil && fence.Epoch > 3+maxEpochJump {
					t.Errorf("it tells on the epoch %d", fence.Epoch)
				}
				if len(status) != 1 || (status[0].Problem != "") != (test.problem != "") || !strings.Contains(status[0].Problem, test.problem) {
					t.Errorf("status says %+v, want a problem with %q", status, test.problem)
				}
			})
		})
	}
}

func tells(t *testing.T, s *desired.State) func(*fakePeer) {
	return func(p *fakePeer) { p.holds(t, s) }
}

func both(first, then func(*fakePeer)) func(*fakePeer) {
	return func(p *fakePeer) { first(p); then(p) }
}

// Of three gateways: the newest State is taken; who is silent does not count; one that is ahead keeps us from being current.
func TestThreeGateways(t *testing.T) {
	mine, second, newest := sample(5, north, web), sample(6, north, web), sample(7, north, web, db)
	outside := sample(8, north, service("web", "203.0.113.1", 51))
	for _, test := range []struct {
		name        string
		west, north func(*fakePeer)
		want        *desired.State
		current     bool
	}{
		{"the newest of two", tells(t, second), tells(t, newest), newest, true},
		{"the newest is forged", tells(t, second), both(tells(t, newest), func(p *fakePeer) { p.signed.Signature = nil }), second, true},
		{"one is silent, one has ours", func(p *fakePeer) { p.err = errDown }, tells(t, mine), mine, true},
		{"one is silent, one has newer", tells(t, newest), func(p *fakePeer) { p.hangs = true }, newest, true},
		{"one has ours, one a newer that is refused here", tells(t, mine), tells(t, outside), mine, false},
		{"one has ours, one another cluster's", tells(t, mine), tells(t, sample(9, north, web, cluster("another"))), mine, true},
		{"both are silent", func(p *fakePeer) { p.err = errDown }, func(p *fakePeer) { p.hangs = true }, mine, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west, other := &fakePeer{}, &fakePeer{}
				test.west(west)
				test.north(other)
				a, m := peered(t, mine, west, other)
				watching(t, a.followPeers)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if got := a.heldFence(); *got != test.want.Fence {
					t.Errorf("it holds %v, want %v", got, test.want.Fence)
				}
				if got := m.file(ready) == "50\n"; got != test.current {
					t.Errorf("current is %t", got)
				}
			})
		})
	}
}

// Of two that are newer the newest alone is asked for its State: each one costs a transaction.
func TestTheNewestIsTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west, other := &fakePeer{}, &fakePeer{}
		a, _ := peered(t, sample(5, north, web), west, other)
		west.holds(t, sample(7, north, web, db))
		other.holds(t, sample(6, north, web)) // comes first in the alphabet
		watching(t, a.followPeers)
		time.Sleep(time.Second)
		synctest.Wait()
		if west.count().handed != 1 || other.count().handed != 0 {
			t.Errorf("west was asked for its State %d times, north %d times", west.count().handed, other.count().handed)
		}
	})
}

// It is current only when nobody is newer, not when something newer was taken: the second may be newer still.
func TestNotCurrentBetweenTwoNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		a, m := peered(t, sample(5, web), west)
		west.holds(t, sample(6, web))
		handedThen := 0 // when ready was written
		m.strike = func(_ int, operation string) strike {
			if operation == "write "+a.config.Paths.stateFile() {
				west.holds(t, sample(7, web, db)) // meanwhile the controller has told the peer more
			}
			if operation == "write "+ready {
				west.do(func(p *fakePeer) { handedThen = p.handed })
			}
			return passes
		}
		watching(t, a.followPeers)
		time.Sleep(time.Second)
		synctest.Wait()
		if a.heldFence().Sequence != 7 || m.file(ready) != "50\n" || handedThen != 2 {
			t.Errorf("it holds %v, ready is %q, written after it was handed %d States", a.heldFence(), m.file(ready), handedThen)
		}
	})
}

// Two gateways boot after a power failure, with no controller: each asks the other.
func TestBothBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, newer := sample(5, web), sample(6, web, db)
		atWest, atEast := &fakePeer{}, &fakePeer{}
		east, eastMachine := peered(t, old, atWest)
		west, westMachine := peered(t, newer, atEast)
		west.config.Gateway = "west"
		west.peers.dial = func(PeerAddress) (Peer, error) { return atEast, nil }
		tell := func() { // what each holds is what the other is told
			for a, p := range map[*Agent]*fakePeer{east: atEast, west: atWest} {
				held := a.held()
				p.do(func(p *fakePeer) { p.tells, p.signed = &held.state.Fence, &held.signed })
			}
		}
		tell()
		watching(t, east.followPeers)
		watching(t, west.followPeers)
		time.Sleep(time.Second)
		synctest.Wait()
		tell()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, a := range []*Agent{east, west} {
			if *a.heldFence() != newer.Fence || !a.isCurrent() {
				t.Errorf("%s holds %v, current %t", a.config.Gateway, a.heldFence(), a.isCurrent())
			}
		}
		if eastMachine.file(ready) != "50\n" || westMachine.file(ready) != "50\n" {
			t.Errorf("ready is %q and %q", eastMachine.file(ready), westMachine.file(ready))
		}
	})
}

// A peer asks every two seconds: answering runs one program, for the VIPs that are held, and tells no more than it needs.
func TestHelloToAPeerIsCheap(t *testing.T) {
	m := holding(t, sample(5, web))
	a := started(t, m)
	m.log = nil
	hello := a.hello(t.Context(), wire.RolePeer)
	if slices.ContainsFunc(m.log, func(operation string) bool { return !strings.HasPrefix(operation, "read ") }) || len(hello.Links) != 0 {
		t.Errorf("operations on the machine: %q, links %v", m.log, hello.Links)
	}
	if hello.Fence == nil || *hello.Fence != sample(5).Fence {
		t.Errorf("fence %v", hello.Fence)
	}
}
