package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// farthest is how far an epoch may lie above the one that is known.
const farthest = 1 << 20

// The epoch object was deleted while a gateway that only its peer reaches held a State of the epoch that was claimed next. What a peer
// says is not signed: an epoch that nobody can have claimed is told once, and believed by nobody.
func TestRivalHeardOfThroughAPeer(t *testing.T) {
	for told, want := range map[uint64]uint64{1: 2, 2: 3, 1 + farthest: 2 + farthest, 2 + farthest: 1, math.MaxUint64 - 1: 1, math.MaxUint64: 1} {
		t.Run(fmt.Sprint(told), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				c := s.start()
				defer c.stop()
				s.ensure(c, web("a", 80))
				s.gateway("east").change(func(g *fakeGateway) {
					g.peers = func(mine desired.Fence) []wire.PeerStatus {
						theirs := desired.Fence{ClusterUID: mine.ClusterUID, Epoch: told, Instance: "another", Sequence: 9}
						return []wire.PeerStatus{{Gateway: "west", Answers: true, Fence: &theirs}}
					}
				})
				time.Sleep(5 * time.Minute)
				if state, _ := s.gateway("east").snapshot(); state.Fence.Epoch != want {
					t.Errorf("the epoch is %d, want %d", state.Fence.Epoch, want)
				}
				wantAbsurd(t, s, want == 1, loadbalancer.EpochError{Gateway: "west", By: "east", Told: told, Known: 1})
			})
		})
	}
}

// wantAbsurd says whether an epoch was told as absurd, once.
func wantAbsurd(t *testing.T, s *site, absurd bool, want loadbalancer.EpochError) {
	t.Helper()
	var told []loadbalancer.EpochError
	for _, err := range s.observer.toldOf() {
		if e, ok := errors.AsType[*loadbalancer.EpochError](err); ok {
			told = append(told, *e)
		}
	}
	if absurd && !slices.Equal(told, []loadbalancer.EpochError{want}) || !absurd && told != nil {
		t.Errorf("told %+v; want %+v once: %t", told, want, absurd)
	}
}

// become has a gateway hold another State than it does, whoever made it.
func (s *site) become(gateway string, change func(*desired.State)) {
	s.t.Helper()
	g := s.gateway(gateway)
	state, _ := g.snapshot()
	other := state.Clone()
	change(other)
	other.Normalize()
	text, err := other.Canonical()
	if err != nil {
		s.t.Fatal(err)
	}
	signed, _ := fakeSigner{}.Sign(text)
	g.change(func(g *fakeGateway) { g.state, g.signed = other, &signed })
}

// A gateway holds a State of an epoch that nobody can have claimed, or says so when it is given one: it is left out, and the others go on.
func TestGatewayWithAnAbsurdEpoch(t *testing.T) {
	hold := func(s *site, epoch uint64) {
		s.become("west", func(state *desired.State) { state.Fence.Epoch, state.Fence.Instance = epoch, "another" })
	}
	for told, absurd := range map[uint64]bool{1 + farthest: false, 3 + farthest: true, math.MaxUint64 - 1: true, math.MaxUint64: true} {
		t.Run(fmt.Sprint(told), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				former := s.start()
				s.ensure(former, web("a", 80))
				_ = former.stop()
				hold(s, told)
				c := s.start(replay(web("a", 80)))
				defer c.stop()
				s.ensure(c, web("b", 80))
				time.Sleep(2 * time.Minute)
				if epoch, _ := s.epochs.now(); absurd && epoch != 2 || !absurd && epoch != told+1 {
					t.Errorf("epoch %d is claimed", epoch)
				}
				if s.gateway("east").serves("b") == nil {
					t.Error("a Service is not served by the gateway that is well")
				}
				if err := c.Gateways()[1].Err; isA[*loadbalancer.EpochError](err) != absurd {
					t.Errorf("west: %v", err)
				}
			})
		})
		t.Run(fmt.Sprint("told later ", told), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				c := s.start()
				defer c.stop()
				s.ensure(c, web("a", 80))
				hold(s, told)
				s.ensure(c, web("b", 80))
				time.Sleep(2 * time.Minute)
				if epoch, _ := s.epochs.now(); absurd && epoch != 1 || !absurd && epoch != told+1 {
					t.Errorf("epoch %d is claimed", epoch)
				}
				if s.gateway("east").serves("b") == nil {
					t.Error("a Service is not served by the gateway that is well")
				}
			})
		})
	}
}

// A gateway that refuses each State as not the newest, whatever it is told: the others do not wait for it.
func TestGatewayThatIsNeverSatisfied(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeSequence, wire.CodeUnread} {
		t.Run(string(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				c := s.start()
				defer c.stop()
				s.ensure(c, web("a", 80))
				s.gateway("east").change(func(g *fakeGateway) {
					g.judge = func(state *desired.State) (*wire.Result, error) {
						newer := state.Fence
						if newer.Sequence++; code == wire.CodeUnread {
							newer = desired.Fence{ClusterUID: newer.ClusterUID, Epoch: newer.Epoch - 1, Instance: "another"}
						}
						return nil, &wire.Refusal{Code: code, Message: "there is a newer one", Fence: &newer}
					}
				})
				s.ensure(c, web("b", 80))
				if s.gateway("west").serves("b") == nil {
					t.Error("the other gateway waits for it")
				}
			})
		})
	}
}

// The former leader brings a Service to one gateway between the second reading of the newer one and its first push, and that gateway
// does not answer in time when it is read once more: what it holds is not overwritten.
func TestUnreadStateThatIsReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		former := s.start()
		s.ensure(former, web("a", 80))
		s.settings.Existing = func(context.Context, []desired.Key) ([]loadbalancer.Replay, error) {
			return []loadbalancer.Replay{replay(web("o", 80))}, nil
		}
		_ = former.stop()
		had, late := addresses("192.0.2.18"), false
		newer := s.startPausing(func(string) {
			if late {
				return
			}
			late = true
			s.become("east", func(state *desired.State) {
				o := state.LoadBalancers[0].Clone()
				o.Key, o.UID, o.Addresses = key("o"), "uid-o", had
				state.LoadBalancers = append(state.LoadBalancers, o)
				state.VIPs = append(state.VIPs, desired.VIP{Address: had[0], RouterID: state.VIPs[0].RouterID})
				state.Fence.Sequence++
			})
			s.gateway("east").change(func(g *fakeGateway) { g.mute = 1 })
		}, replay(web("a", 80)), replay(web("n", 80)))
		defer newer.stop()
		s.ensure(newer, web("n", 80))
		time.Sleep(time.Minute)
		s.equalGateways()
		if lb := s.gateway("east").serves("o"); lb == nil || !slices.Equal(lb.Addresses, had) {
			t.Errorf("o had %v and is served as %+v", had, lb)
		}
	})
}

// While the gateway that holds an unread State does not answer, another one hands over a State of an epoch before what was read: nothing
// is learned from that.
func TestOlderStateIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		first := s.start()
		s.ensure(first, web("a", 80))
		_ = first.stop()
		former := s.start(replay(web("a", 80)))
		s.ensure(former, web("a", 81))
		_ = former.stop()
		served := replay(web("a", 81), "192.0.2.10")
		served.Service = nil // what is served stays
		var other string
		newer := s.startPausing(func(gateway string) {
			if other != "" {
				return
			}
			if other = "west"; gateway == "west" {
				other = "east"
			}
			s.become(gateway, func(state *desired.State) { state.Fence.Sequence++ })
			s.gateway(gateway).change(func(g *fakeGateway) { g.mute = 1 })
			s.become(other, func(state *desired.State) {
				state.Fence.Epoch, state.LoadBalancers[0].Frontends[0].Port = 1, 80
			})
		}, served)
		defer newer.stop()
		s.ensure(newer, web("n", 80))
		time.Sleep(time.Minute)
		s.equalGateways()
		if lb := s.gateway(other).serves("a"); lb == nil || lb.Frontends[0].Port != 81 {
			t.Errorf("the last good form is %+v", lb)
		}
	})
}

// Two controllers claimed one epoch, as its object was deleted in between, and each reached one gateway: what either serves stays, also
// when its newest form does not translate.
func TestTwoStatesOfOneEpoch(t *testing.T) {
	for _, more := range []string{"east", "west"} {
		t.Run(more+" has the higher sequence", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
				had := map[string]string{"east": "192.0.2.13", "west": "192.0.2.16"}
				var replays []loadbalancer.Replay
				for _, name := range []string{"east", "west"} {
					served := replay(web(name, 80), had[name])
					served.Service = nil
					replays = append(replays, served)
					for _, g := range s.gateways {
						g.change(func(g *fakeGateway) { g.cut = g.name != name })
					}
					s.epochs.become(0, "")
					c := s.start()
					s.ensure(c, requesting(web(name, 80), had[name]))
					if name == more {
						for range 5 {
							s.ensure(c, web("x", 80))
							_ = c.Delete(t.Context(), key("x"), false)
						}
					}
					_ = c.stop()
				}
				s.gateway("east").change(func(g *fakeGateway) { g.cut = false })
				c := s.start(replays...)
				defer c.stop()
				s.ensure(c, web("n", 80))
				time.Sleep(time.Minute)
				s.equalGateways()
				for name, address := range had {
					if lb := s.gateway("east").serves(name); lb == nil || !slices.Equal(lb.Addresses, addresses(address)) {
						t.Errorf("%s had %s and is served as %+v", name, address, lb)
					}
				}
			})
		})
	}
}

// Nobody waits for ever for an API server that has to say who leads.
func TestRivalWhileTheAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.10-192.0.2.19", "east", "west")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateway("east").change(func(g *fakeGateway) {
			g.peers = func(mine desired.Fence) []wire.PeerStatus {
				return []wire.PeerStatus{{Gateway: "west", Answers: true, Fence: &desired.Fence{ClusterUID: mine.ClusterUID, Epoch: 9, Instance: "another"}}}
			}
		})
		away := errors.New("no API server")
		s.epochs.fail(away)
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Ensure(ctx, web("b", 80)); !errors.Is(err, away) {
			t.Errorf("got %v", err)
		}
		s.epochs.fail(nil)
		time.Sleep(time.Minute)
		s.ensure(c, web("b", 80))
	})
}

// While a gateway is away each push asks who leads, but not again and again.
func TestWhoLeadsIsAskedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "east", "west")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateway("west").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, web("b", 80))
		time.Sleep(2 * time.Second)
		before, started := s.epochs.asked, time.Now()
		for i := range 20 {
			s.ensure(c, web(fmt.Sprintf("s%d", i), 80))
		}
		seconds := int(time.Since(started)/time.Second) + 1
		if asked := s.epochs.asked - before; asked < 1 || asked > seconds {
			t.Errorf("asked %d times in %s", asked, time.Since(started))
		}
	})
}
