package loadbalancer_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

var newCheck = desired.Check{Kind: desired.CheckTCP, Port: 10250, IntervalMillis: 1000, Rise: 2, Fall: 3}

// rolledOut is a site on which a controller has served Service a and another one starts with other settings. Each gateway
// notes the checks that it was offered.
func rolledOut(t *testing.T, change func(*loadbalancer.Settings), judge func(gateway string, s *desired.State) (*wire.Result, error)) (
	s *site, c *controller, offered func(gateway string) int) {
	t.Helper()
	s = newSite(t, "10.0.0.0/24", "gw1", "gw2")
	c = s.start()
	s.ensure(c, web("a", 80))
	_ = c.stop()
	counts := map[string]int{}
	for _, g := range s.gateways {
		g.change(func(g *fakeGateway) {
			g.judge = func(state *desired.State) (*wire.Result, error) {
				if state.NodeCheck == newCheck {
					counts[g.name]++
				}
				return judge(g.name, state)
			}
		})
	}
	change(&s.settings)
	c = s.start(replay(web("a", 80)))
	return s, c, func(gateway string) int {
		s.gateway(gateway).mu.Lock()
		defer s.gateway(gateway).mu.Unlock()
		return counts[gateway]
	}
}

func withNewCheck(s *loadbalancer.Settings) { s.NodeCheck = newCheck }

func told(s *site) (stopped []*loadbalancer.RolloutError) {
	for _, err := range s.observer.toldOf() {
		if e := (*loadbalancer.RolloutError)(nil); errors.As(err, &e) {
			stopped = append(stopped, e)
		}
	}
	return stopped
}

// A change of settings that the first gateway rolls back reaches no other one; it is told once and tried again, more and more
// rarely, while Services are served on all gateways.
func TestRolloutStopsAtTheFirstGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mended := false
		s, c, offered := rolledOut(t, withNewCheck, func(_ string, s *desired.State) (*wire.Result, error) {
			if s.NodeCheck == newCheck && !mended {
				return &wire.Result{Outcome: wire.RolledBack, Faults: []wire.Fault{{Message: "haproxy: unknown keyword"}}}, nil
			}
			return nil, nil
		})
		defer c.stop()
		s.ensure(c, web("b", 80))
		first, other := "gw1", "gw2"
		if offered(first) == 0 {
			first, other = other, first
		}
		if offered(first) != 1 || offered(other) != 0 {
			t.Errorf("the change was offered %d times to %s and %d times to %s", offered(first), first, offered(other), other)
		}
		stopped := told(s)
		if len(stopped) != 1 || stopped[0].Gateway != first || fmt.Sprint(stopped[0].Settings, stopped[0].Problems) != "[nodes.healthCheck] [haproxy: unknown keyword]" {
			t.Errorf("told %v", stopped)
		}
		for _, g := range c.Gateways() {
			if g.Err != nil {
				t.Errorf("%s is left out: %v", g.Name, g.Err)
			}
		}
		s.equalGateways()
		time.Sleep(time.Hour)
		s.ensure(c, web("c", 80))
		if n := offered(first); n < 6 || n > 10 || offered(other) != 0 {
			t.Errorf("in an hour the change was offered %d times to %s and %d times to %s", n, first, offered(other), other)
		}
		if again := told(s); len(again) > 0 {
			t.Errorf("told again: %v", again)
		}
		s.gateways[0].mu.Lock()
		mended = true
		s.gateways[0].mu.Unlock()
		time.Sleep(12 * time.Minute)
		for _, g := range s.gateways {
			if state, _ := g.snapshot(); state.NodeCheck != newCheck || g.serves("c") == nil {
				t.Errorf("after it was mended %s has %+v", g.name, state.NodeCheck)
			}
		}
		s.equalGateways()
	})
}

// The next controller finds out by itself, and gives nobody a State that the first gateway refuses.
func TestRolloutStaysStoppedOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, offered := rolledOut(t, withNewCheck, func(_ string, s *desired.State) (*wire.Result, error) {
			if s.NodeCheck == newCheck {
				return nil, &wire.Refusal{Code: wire.CodeLimits, Message: "outside the limits", Faults: []wire.Fault{{Field: "nodeCheck.port", Message: "10250 is not allowed"}}}
			}
			return nil, nil
		})
		s.ensure(c, web("b", 80))
		_ = c.stop()
		before := offered("gw1") + offered("gw2")
		c = s.start(replay(web("a", 80)), replay(web("b", 80)))
		defer c.stop()
		s.ensure(c, web("c", 80))
		if n := offered("gw1") + offered("gw2"); n != before+1 || offered("gw1")*offered("gw2") != 0 {
			t.Errorf("offered to gw1 %d times, to gw2 %d times", offered("gw1"), offered("gw2"))
		}
		if stopped := told(s); len(stopped) != 2 || !strings.Contains(stopped[1].Error(), "nodeCheck.port: 10250 is not allowed") {
			t.Errorf("told %v", stopped)
		}
	})
}

// What else is at fault stops no change of settings: a Service, which is found, or a gateway that refuses whatever it is given.
func TestRolloutGoesOnWhenSomethingElseIsAtFault(t *testing.T) {
	for name, judge := range map[string]func(string, *desired.State) (*wire.Result, error){
		"a Service": func(_ string, s *desired.State) (*wire.Result, error) { return unnamed(s) },
		"a full disk": func(gateway string, s *desired.State) (*wire.Result, error) {
			if gateway == "gw1" {
				return &wire.Result{Outcome: wire.RolledBack, Faults: []wire.Fault{{Message: "no space left on device"}}}, nil
			}
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c, _ := rolledOut(t, withNewCheck, judge)
				defer c.stop()
				_, _ = c.Ensure(t.Context(), web("bad", badPort))
				_, _ = c.Ensure(t.Context(), web("b", 80))
				time.Sleep(10 * time.Second)
				if state, _ := s.gateway("gw2").snapshot(); state.NodeCheck != newCheck || s.gateway("gw2").serves("b") == nil {
					t.Errorf("gw2 has %+v", state.NodeCheck)
				}
				if stopped := told(s); len(stopped) > 0 {
					t.Errorf("told %v", stopped)
				}
			})
		})
	}
}

// API servers that Nodes name are such a change; other ones are tried at once.
func TestRolloutOfEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := netip.MustParseAddrPort("198.18.0.9:6443"), netip.MustParseAddrPort("203.0.113.8:6443")
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.EndpointsFromNodes = true
		s.settings.ControlPlane = &desired.ControlPlane{Address: netip.MustParseAddr("10.0.0.1"), Port: 6443,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:6443")}, Check: desired.Check{Kind: desired.CheckNone}}
		for _, g := range s.gateways {
			g.judge = func(s *desired.State) (*wire.Result, error) {
				if i := slices.Index(s.ControlPlane.Endpoints, bad); i >= 0 {
					return nil, &wire.Refusal{Code: wire.CodeLimits, Faults: []wire.Fault{{Field: fmt.Sprintf("controlPlane.endpoints[%d]", i), Message: "outside"}}}
				}
				return nil, nil
			}
		}
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		c.SetEndpoints([]netip.AddrPort{bad})
		s.ensure(c, web("b", 80))
		s.equalGateways()
		if stopped := told(s); len(stopped) != 1 || !slices.Equal(stopped[0].Settings, []string{"controlPlane"}) {
			t.Errorf("told %v", stopped)
		}
		c.SetEndpoints([]netip.AddrPort{good})
		if got, want := s.apiServers(), "[203.0.113.7:6443 203.0.113.8:6443]"; got != want {
			t.Errorf("the State has %s, want %s", got, want)
		}
		s.equalGateways()
	})
}

// So is a node that a gateway's owner does not allow: it costs the others, and all Services, nothing.
func TestRolloutOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stray := desired.Node{Name: "stray", Addresses: []netip.Addr{netip.MustParseAddr("198.18.0.9")}}
		second := desired.Node{Name: "n2", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.2")}}
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		for _, g := range s.gateways {
			g.judge = func(s *desired.State) (*wire.Result, error) {
				if slices.ContainsFunc(s.Nodes, func(n desired.Node) bool { return n.Name == "stray" }) {
					return nil, &wire.Refusal{Code: wire.CodeLimits, Faults: []wire.Fault{{Field: "nodes[1].addresses[0]", Message: "outside"}}}
				}
				return nil, nil
			}
		}
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		c.SetNodes([]desired.Node{workerNode, stray})
		s.ensure(c, web("b", 80))
		s.equalGateways()
		if state, _ := s.gateways[0].snapshot(); len(state.Nodes) != 1 || s.gateways[0].serves("b") == nil {
			t.Errorf("nodes %v", state.Nodes)
		}
		if stopped := told(s); len(stopped) != 1 || !slices.Equal(stopped[0].Settings, []string{"the nodes"}) {
			t.Errorf("told %v", stopped)
		}
		c.SetNodes([]desired.Node{workerNode, second})
		time.Sleep(time.Second)
		s.equalGateways()
		if state, _ := s.gateways[0].snapshot(); len(state.Nodes) != 2 {
			t.Errorf("nodes %v", state.Nodes)
		}
	})
}
