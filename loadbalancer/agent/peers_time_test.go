package agent

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A gateway that is current leaves a rollout to the controller: it helps itself later, and later still while one has a session.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		name    string
		visited bool
		least   time.Duration
	}{{"nobody is here", false, patience}, {"a controller is here", true, patienceVisited}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := &fakePeer{}
				a, _ := peered(t, sample(5, web), west)
				west.holds(t, sample(5, web))
				watching(t, a.followPeers)
				synctest.Wait() // current
				if test.visited {
					a.places[wire.RoleController] <- struct{}{}
				}
				// More comes all the time, as in a busy cluster: it must not put us off for ever.
				begun, sequence := time.Now(), uint64(5)
				for a.heldFence().Sequence == 5 && time.Since(begun) < time.Hour {
					sequence++
					west.holds(t, sample(sequence, web))
					time.Sleep(time.Second)
					synctest.Wait()
				}
				interval := time.Duration(a.config.Peers.Interval)
				if took := time.Since(begun); took < test.least || took > test.least+2*interval {
					t.Errorf("it helped itself after %v, want %v", took, test.least)
				}
			})
		})
	}
}

// After a silence there is no rollout to wait for: a gateway that was cut off, and ran on, helps itself at once.
func TestNoPatienceAfterASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{}
		a, _ := peered(t, sample(5, web), west)
		west.holds(t, sample(5, web))
		watching(t, a.followPeers)
		synctest.Wait() // current
		a.places[wire.RoleController] <- struct{}{}
		west.do(func(p *fakePeer) { p.err = errDown })
		time.Sleep(10 * time.Minute)
		west.holds(t, sample(55, web, db))
		time.Sleep(unreachedLast + time.Duration(a.config.Peers.Interval))
		synctest.Wait()
		if a.heldFence().Sequence != 55 {
			t.Errorf("it holds %v", a.heldFence())
		}
	})
}

// Found by test/simulation (seed 2548): an answer from before another peer's silence confirms nothing.
func TestOldAnswerConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west, silent := &fakePeer{}, &fakePeer{hangs: true}
		a, m := peered(t, sample(5, web, north), west, silent)
		west.holds(t, sample(5, web, north))
		watching(t, a.followPeers)
		time.Sleep(helloLimit / 2)
		west.holds(t, sample(6, web, db, north))
		time.Sleep(helloLimit/2 + time.Millisecond)
		synctest.Wait()
		if m.file(ready) == "50\n" && a.heldFence().Sequence == 5 {
			t.Error("it is current with an old State")
		}
		time.Sleep(2 * time.Duration(a.config.Peers.Interval))
		synctest.Wait()
		if m.file(ready) != "50\n" || a.heldFence().Sequence != 6 {
			t.Errorf("ready is %q, it holds %v", m.file(ready), a.heldFence())
		}
	})
}

// What cannot be taken is tried again, ever more seldom; what was only refused more often than what was rolled back.
func TestNewerStateIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(*machine)
		most  int // in an hour
		least int
	}{
		{"refused", func(m *machine) { m.files["/etc/gatewayctl/limits.yaml"] = "vipPrefixes: []\n" }, 65, 50},
		{"rolled back", func(m *machine) {
			m.strike = func(_ int, operation string) strike {
				if operation == "run /keepalived reload" {
					return failsBefore
				}
				return passes
			}
		}, 9, 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := &fakePeer{}
				a, m := peered(t, sample(5, web), west)
				west.holds(t, sample(6, web, db))
				limits := m.file("/etc/gatewayctl/limits.yaml")
				m.meanwhile(func() { test.fault(m) })
				watching(t, a.followPeers)
				time.Sleep(time.Hour)
				synctest.Wait()
				if west.count().handed > test.most || west.count().handed < test.least {
					t.Errorf("tried %d times in an hour", west.count().handed)
				}
				if m.file(ready) == "50\n" || a.heldFence().Sequence != 5 {
					t.Errorf("ready is %q, it holds %v", m.file(ready), a.heldFence())
				}
				if w := a.peerWarnings(); len(w) != 2 || w[0].Reason != "NotCurrent" || w[1].Reason != "NewerStateNotTaken" {
					t.Errorf("warnings %+v", w)
				}
				m.meanwhile(func() {
					m.files["/etc/gatewayctl/limits.yaml"] = limits
					m.strike = func(int, string) strike { return passes }
				})
				time.Sleep(failedLast + time.Minute)
				synctest.Wait()
				if m.file(ready) != "50\n" || a.heldFence().Sequence != 6 || len(a.peerWarnings()) != 0 {
					t.Errorf("after the repair ready is %q, it holds %v, it warns %v", m.file(ready), a.heldFence(), a.peerWarnings())
				}
			})
		})
	}
}

// A peer that does not answer is dialed anew, not too often, and asked at every interval once it does.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := &fakePeer{err: errDown}
		a, m := peered(t, sample(5, web), west)
		watching(t, a.followPeers)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if west.count().hellos < 35 || west.count().hellos > 45 || west.count().dialed != west.count().hellos || west.count().closed != west.count().dialed {
			t.Errorf("asked %d times in ten minutes, dialed %d, closed %d", west.count().hellos, west.count().dialed, west.count().closed)
		}
		west.holds(t, sample(5, web))
		time.Sleep(unreachedLast + time.Duration(a.config.Peers.Interval))
		synctest.Wait()
		if m.file(ready) != "50\n" {
			t.Errorf("it answers, ready is %q", m.file(ready))
		}
		before := west.count().hellos
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked := west.count().hellos - before; asked != 30 || west.count().dialed != west.count().closed+1 || west.count().handed != 0 {
			t.Errorf("asked %d times in a minute, dialed %d, closed %d, State handed over %d times", asked, west.count().dialed, west.count().closed, west.count().handed)
		}
	})
}

// Nobody is left open: not who is gone from the State, nor anybody at the end.
func TestPeersAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west, other := &fakePeer{}, &fakePeer{}
		a, _ := peered(t, sample(5, north, web), west, other)
		west.holds(t, sample(6, web)) // without north
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.followPeers(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if other.count().dialed != 1 || other.count().closed != 1 || west.count().closed != 0 {
			t.Errorf("north dialed %d times, closed %d times; west closed %d times", other.count().dialed, other.count().closed, west.count().closed)
		}
		cancel()
		<-ended
		if west.count().closed != west.count().dialed {
			t.Errorf("west dialed %d times, closed %d times", west.count().dialed, west.count().closed)
		}
	})
}

// Without a key nobody is asked, and status says so once, whatever the number of peers.
func TestWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := peered(t, sample(5, north, web))
		watching(t, a.followPeers) // dial knows nobody
		time.Sleep(time.Minute)
		synctest.Wait()
		w := a.peerWarnings()
		if len(w) != 2 || w[0].Reason != "NotCurrent" || w[1].Reason != "NoSelfConfiguration" || !strings.Contains(w[1].Message, "nobody is at") {
			t.Errorf("warnings %+v", w)
		}
		if m.file(ready) != "0\n" {
			t.Errorf("ready is %q", m.file(ready))
		}
		if result, refusal := a.apply(t.Context(), sign(t, sample(5, north, web))); refusal != nil || result.Outcome != wire.Unchanged {
			t.Fatalf("apply: %+v %v", result, refusal)
		}
		if m.file(ready) != "50\n" {
			t.Errorf("after the controller ready is %q", m.file(ready))
		}
	})
}

// Status may be asked at any moment, and tells what each peer answered last.
func TestStatusOfPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west, other := &fakePeer{}, &fakePeer{err: errDown}
		a, _ := peered(t, sample(5, north, web), west, other)
		west.holds(t, sample(6, north, web, db))
		watching(t, a.followPeers)
		for range 5000 {
			a.peers.status(nil)
			a.peerWarnings()
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		fence := sample(6).Fence
		want := []wire.PeerStatus{
			{Gateway: "north", Problem: errDown.Error()},
			{Gateway: "west", Answers: true, Heard: time.Now().Add(-time.Second), Fence: &fence},
		}
		if diff := cmp.Diff(want, a.status(t.Context(), wire.RoleController).Peers); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !a.status(t.Context(), wire.RoleController).Current {
			t.Error("status says that it is not current")
		}
	})
}
