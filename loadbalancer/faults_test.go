package loadbalancer_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// badPort is a port that the gateways of these tests cannot serve.
const badPort = 666

// has says whether a load balancer of the State opens badPort, and which one first.
func has(s *desired.State) *desired.Key {
	for _, lb := range s.LoadBalancers {
		if lb.Frontends[0].Port == badPort {
			return &lb.Key
		}
	}
	return nil
}

// naming refuses a State with a bad load balancer and names it; silent does not.
func naming(s *desired.State) (*wire.Result, error) {
	if k := has(s); k != nil {
		return nil, &wire.Refusal{Code: wire.CodeLimits, Message: "outside the limits",
			Faults: []wire.Fault{{LoadBalancer: k, Field: "frontends[0].port", Message: "666 is not allowed by limits.yaml"}}}
	}
	return nil, nil
}

func unnamed(s *desired.State) (*wire.Result, error) {
	if has(s) != nil {
		return &wire.Result{Outcome: wire.RolledBack, Faults: []wire.Fault{{Message: "haproxy: cannot bind"}}}, nil
	}
	return nil, nil
}

func TestOneBadServiceHurtsItselfAlone(t *testing.T) {
	for name, judge := range map[string]func(*desired.State) (*wire.Result, error){"named": naming, "bisected": unnamed} {
		for _, gateways := range [][]string{{"gw1"}, {"gw2"}, {"gw1", "gw2"}} {
			t.Run(fmt.Sprint(name, gateways), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
					for _, g := range gateways {
						s.gateway(g).judge = judge
					}
					c := s.start()
					defer c.stop()
					s.ensure(c, web("changed", 80))

					var all sync.WaitGroup
					ensureBad := func(service string) {
						all.Go(func() {
							time.Sleep(time.Duration(len(service)) * 10 * time.Millisecond)
							_, err := c.Ensure(t.Context(), web(service, badPort))
							if !isA[*loadbalancer.ServiceFaultError](err) {
								t.Errorf("%s: want *ServiceFaultError, got %v", service, err)
								return
							}
							kept := strings.Contains(err.Error(), "its last good form is still served")
							if kept != (service == "changed") {
								t.Errorf("%s: %v", service, err)
							}
						})
					}
					ensureBad("changed")
					ensureBad("new")
					for i := range 300 {
						all.Go(func() {
							// They keep coming while the fault is searched for.
							time.Sleep(time.Duration(i) * 3 * time.Millisecond)
							if _, err := c.Ensure(t.Context(), web(fmt.Sprintf("s%d", i), 80)); err != nil {
								t.Errorf("s%d: %v", i, err)
							}
						})
					}
					all.Wait()
					for _, g := range s.gateways {
						if lb := g.serves("changed"); lb == nil || lb.Frontends[0].Port != 80 {
							t.Errorf("gateway %s serves the changed one as %+v, want its last good form", g.name, lb)
						}
						if g.serves("new") != nil {
							t.Errorf("gateway %s serves the new one", g.name)
						}
					}
					s.equalGateways()
					rounds, _, _ := s.observer.seen()
					for _, r := range rounds {
						if r.Err != nil || r.Attempts > 50 {
							t.Errorf("round: %d attempts, %v", r.Attempts, r.Err)
						}
					}
					// Mended: it is served.
					s.ensure(c, web("changed", 81))
				})
			})
		}
	}
}

// TestFaultsAfterEveryGatewayWasLeftOut: both gateways were left out, and are fit again: who comes then does not wait for each of
// those that are refused to be found by a round of its own. Those were tried again as often as rounds were, so that no round had a State without any.
func TestFaultsAfterEveryGatewayWasLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		full := func(*desired.State) (*wire.Result, error) {
			return nil, &wire.Refusal{Code: wire.CodeInternal, Message: "no space left on device"}
		}
		s.gateway("gw1").judge, s.gateway("gw2").judge = full, full
		c := s.start()
		defer c.stop()
		for _, bad := range []string{"a", "b", "c"} {
			if _, err := c.Ensure(t.Context(), web(bad, badPort)); err == nil {
				t.Fatalf("%s is served by gateways whose disks are full", bad)
			}
		}
		for _, g := range []string{"gw1", "gw2"} {
			s.gateway(g).change(func(g *fakeGateway) { g.judge = naming })
		}
		s.ensure(c, web("good", 80))
	})
}

// TestFaultOfAServiceWithPortsInAnyOrder: a State sorts the ports, and a refused form must be known as the wanted one.
func TestFaultOfAServiceWithPortsInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1")
		s.gateways[0].judge = naming
		c := s.start()
		defer c.stop()
		service := web("bad", 8080)
		service.LoadBalancer.Frontends = append(service.LoadBalancer.Frontends, web("", badPort).LoadBalancer.Frontends...)
		if _, err := c.Ensure(t.Context(), service); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Errorf("got %v", err)
		}
		s.ensure(c, web("good", 80))
	})
}

func TestFaultOfAReplayedServiceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1")
		s.gateways[0].judge = naming
		c := s.start(replay(web("bad", badPort)), replay(web("good", 80)))
		defer c.stop()
		s.ensure(c, web("good", 80))
		_, _, notices := s.observer.seen()
		if err := notices[key("bad")]; err == nil || !strings.Contains(err.Error(), "666 is not allowed by limits.yaml") {
			t.Errorf("notices: %v", notices)
		}
	})
}

// TestInvalidServiceNeverLeavesTheController: Validate finds what no gateway has to.
func TestInvalidServiceNeverLeavesTheController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1")
		c := s.start()
		defer c.stop()
		bad := web("bad", 80)
		bad.LoadBalancer.Frontends[0].Protocol = "ICMP"
		_, err := c.Ensure(t.Context(), bad)
		if !isA[*loadbalancer.ServiceFaultError](err) || !strings.Contains(err.Error(), "allowed are TCP, UDP and SCTP") {
			t.Errorf("got %v", err)
		}
		s.ensure(c, web("good", 80))
	})
}

// What the others serve well stays; the strict gateway is left out.
func TestStricterLimitsOfOneGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", badPort))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.dead = g.name == "gw1" })
		}
		s.ensure(c, web("b", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.dead, g.judge = false, naming })
		time.Sleep(70 * time.Second)
		if s.gateways[1].serves("a") == nil {
			t.Error("a was taken away from the gateway that serves it")
		}
		if err := c.Gateways()[0].Err; err == nil || !strings.Contains(err.Error(), "outside the limits") {
			t.Errorf("gw1: %v", err)
		}
		// All refuse it: it is left out, the rest goes on.
		s.gateways[1].change(func(g *fakeGateway) { g.judge = naming })
		time.Sleep(130 * time.Second)
		for _, g := range s.gateways {
			if g.serves("a") != nil || g.serves("b") == nil {
				t.Errorf("gateway %s: a %v, b %v", g.name, g.serves("a"), g.serves("b"))
			}
		}
		if addresses, ok := c.Has(key("a")); !ok || len(addresses) != 1 {
			t.Errorf("a lost its address: %v, %v", addresses, ok)
		}
	})
}

// TestSearchGoesOnOverRounds has more bad Services than one round can find.
func TestSearchGoesOnOverRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("first", 80))
		s.gateways[0].change(func(g *fakeGateway) { g.judge, g.took = unnamed, time.Millisecond })
		var all sync.WaitGroup
		const bad = 40
		for i := range 200 {
			port := uint16(80)
			if i%5 == 0 {
				port = badPort
			}
			all.Go(func() { _, _ = c.Ensure(t.Context(), web(fmt.Sprintf("s%03d", i), port)) })
		}
		all.Wait()
		time.Sleep(40 * time.Second)
		state, _ := s.gateways[0].snapshot()
		if got := len(state.LoadBalancers); got != 201-bad {
			t.Errorf("%d load balancers are served, want %d", got, 201-bad)
		}
		if slices.ContainsFunc(state.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.Frontends[0].Port == badPort }) {
			t.Error("a bad one is served")
		}
	})
}
