package loadbalancer_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// pausing is a gateway as a controller reaches it whose process can be stopped (SIGSTOP) just before it sends a State.
type pausing struct {
	*fakeGateway
	before func(gateway string)
}

func (p pausing) ApplyAfter(ctx context.Context, signed desired.Signed, read desired.Fence) (*wire.Result, error) {
	p.before(p.name)
	// The deadlines of a stopped process pass while it stands still, but what it does first when it goes on is what it was about to do.
	return p.fakeGateway.ApplyAfter(context.WithoutCancel(ctx), signed, read)
}

// startPausing starts a controller that calls before each time before it sends a State.
func (s *site) startPausing(before func(gateway string), replays ...loadbalancer.Replay) *controller {
	s.t.Helper()
	var clients []loadbalancer.Gateway
	for _, g := range s.gateways {
		clients = append(clients, pausing{g, before})
	}
	m, err := loadbalancer.New(s.settings, clients, fakeSigner{}, s.epochs, &ledgerOf{fakeLedger: s.ledger}, s.observer, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	m.SetNodes([]desired.Node{workerNode})
	m.Replay(replays)
	ctx, cancel := context.WithCancel(s.t.Context())
	c := &controller{Manager: m, done: make(chan struct{})}
	go func() {
		err = m.Run(ctx)
		close(c.done)
	}()
	c.stop = func() error {
		cancel()
		<-c.done
		return err
	}
	return c
}

// wantLed says that these Services, and no other one of a to z, are served alike by all gateways, and that a controller that starts
// now can serve one more.
func (s *site) wantLed(when string, services ...string) {
	s.t.Helper()
	s.equalGateways()
	want := map[string]bool{}
	var replays []loadbalancer.Replay
	for _, name := range services {
		want[name] = true
		replays = append(replays, replay(web(name, 80)))
	}
	for _, g := range s.gateways {
		for name := 'a'; name <= 'z'; name++ {
			if served := g.serves(string(name)) != nil; served != want[string(name)] {
				s.t.Errorf("%s: gateway %s serves %c: %t", when, g.name, name, served)
			}
		}
	}
	c := s.start(replays...)
	s.ensure(c, web("z", 80))
	s.equalGateways()
	for _, name := range services {
		if s.gateways[0].serves(name) == nil {
			s.t.Errorf("%s: the next controller does not serve %s", when, name)
		}
	}
	if err := c.stop(); err != nil {
		s.t.Errorf("%s: the next controller ended with %v", when, err)
	}
}

// wantDeposed says that a controller ends by itself because of another one.
func wantDeposed(t *testing.T, which string, c *controller) {
	t.Helper()
	select {
	case <-c.done:
		if err := c.stop(); !isA[*loadbalancer.DeposedError](err) {
			t.Errorf("the %s one ended with %v", which, err)
		}
	case <-time.After(3 * time.Minute):
		t.Errorf("the %s one goes on", which)
		_ = c.stop()
	}
}

// Two controllers believe that they lead and change Services at the same time: the newer one goes on, the older one ends.
func TestBothBelieveThatTheyLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		older := s.start()
		s.ensure(older, web("a", 80))
		newer := s.start(replay(web("a", 80)))
		<-newer.Loaded()
		answers := make(chan error, 2)
		for c, name := range map[*controller]string{older: "o", newer: "n"} {
			go func() {
				_, err := c.Ensure(t.Context(), web(name, 80))
				answers <- err
			}()
		}
		<-answers
		<-answers
		wantDeposed(t, "older", older)
		time.Sleep(2 * time.Minute)
		if err := newer.stop(); err != nil {
			t.Errorf("the newer one ended with %v", err)
		}
		s.wantLed("in the end", "a", "n")
	})
}

// A controller stands still for a minute between two gateways of a round while another one takes over. What it sends when it goes
// on is refused, or, by a gateway that the newer one did not reach, replaced as soon as it does.
func TestPausedInTheMiddleOfARound(t *testing.T) {
	for name, unreached := range map[string]bool{"the newer reached all gateways": false, "the newer did not reach the second": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
				var stops atomic.Bool
				sending, resumed := make(chan string, 2), make(chan struct{})
				older := s.startPausing(func(gateway string) {
					if !stops.Load() {
						return
					}
					if sending <- gateway; len(sending) == 2 {
						stops.Store(false)
						<-resumed
						s.gateway(gateway).change(func(g *fakeGateway) { g.cut = false })
					}
				})
				s.ensure(older, web("a", 80))
				stops.Store(true)
				go func() { _, _ = older.Ensure(t.Context(), web("o", 80)) }()
				time.Sleep(time.Second)
				if len(sending) != 2 {
					t.Fatal("it was not stopped in the middle of a round")
				}
				<-sending
				second := <-sending
				s.gateway(second).change(func(g *fakeGateway) { g.cut = unreached })
				newer := s.start(replay(web("a", 80)))
				_, _ = newer.Ensure(t.Context(), web("n", 80)) // not held yet when the gateway that would is not reached
				time.Sleep(time.Minute)
				close(resumed)
				wantDeposed(t, "older", older)
				time.Sleep(3 * time.Minute)
				if err := newer.stop(); err != nil {
					t.Errorf("the newer one ended with %v", err)
				}
				s.wantLed("in the end", "a", "n")
			})
		})
	}
}

// etcd is restored from an older backup under running controllers: one that leads goes on, the next one is above it, and of two
// one ends.
func TestEtcdRestoredUnderTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		first := s.start()
		s.ensure(first, web("a", 80))
		backupEpoch, backupHolder := s.epochs.now()
		second := s.start(replay(web("a", 80)))
		s.ensure(second, web("b", 80))
		s.epochs.become(backupEpoch, backupHolder) // it names first, which does not know yet that it was replaced
		s.ensure(second, web("c", 80))
		s.equalGateways()
		third := s.start(replay(web("a", 80)), replay(web("b", 80)), replay(web("c", 80)))
		s.ensure(third, web("d", 80))
		if state, _ := s.gateways[0].snapshot(); state.Fence.Epoch != 3 {
			t.Errorf("epoch %d, want above 2", state.Fence.Epoch)
		}
		wantDeposed(t, "first", first)
		wantDeposed(t, "second", second)
		if err := third.stop(); err != nil {
			t.Errorf("the third ended with %v", err)
		}
		s.wantLed("in the end", "a", "b", "c", "d")
	})
}

// The backup says that the older of two leads: one of them ends, and all gateways have the State of the other.
func TestEtcdRestoredBetweenTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		pause := make(chan struct{})
		var stops atomic.Bool
		older := s.startPausing(func(string) {
			if stops.Load() {
				<-pause
			}
		})
		s.ensure(older, web("a", 80))
		backupEpoch, backupHolder := s.epochs.now()
		stops.Store(true)
		go func() { _, _ = older.Ensure(t.Context(), web("o", 80)) }()
		time.Sleep(time.Second)
		newer := s.start(replay(web("a", 80)))
		s.ensure(newer, web("n", 80))
		s.epochs.become(backupEpoch, backupHolder)
		stops.Store(false)
		close(pause)
		time.Sleep(3 * time.Minute)
		s.equalGateways()
		ended := 0
		for _, c := range []*controller{older, newer} {
			select {
			case <-c.done:
				ended++
			default:
			}
		}
		state, _ := s.gateways[0].snapshot()
		if epoch, holder := s.epochs.now(); ended != 1 || state.Fence.Epoch != epoch || state.Fence.Instance != holder {
			t.Errorf("%d ended; the gateways have %s of %s, the object %d of %s", ended, state.Fence, state.Fence.Instance, epoch, holder)
		}
		_, _ = older.stop(), newer.stop()
	})
}

// The object is deleted: who leads goes on, the next one is above it, and an older one that lives on does not come to lead again.
func TestEpochObjectDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		older := s.start()
		s.ensure(older, web("a", 80))
		newer := s.start(replay(web("a", 80)))
		s.ensure(newer, web("n", 80))
		s.epochs.become(0, "")
		go func() { _, _ = older.Ensure(t.Context(), web("o", 80)) }()
		wantDeposed(t, "older", older)
		s.ensure(newer, web("m", 80))
		s.equalGateways()
		time.Sleep(2 * time.Minute)
		if err := newer.stop(); err != nil {
			t.Errorf("the newer one ended with %v", err)
		}
		s.wantLed("in the end", "a", "m", "n")
	})
}
