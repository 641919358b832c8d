package loadbalancer_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// censuses is long enough for one more census, with its second look.
const censuses = 66 * time.Second

// A VIP that two gateways hold, or none, is told once, with who; when it is over and comes again, again.
func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		vip := s.ensure(c, web("a", 80)).Addresses[0]
		time.Sleep(2 * censuses)
		if told := s.observer.toldOf(); len(told) > 0 {
			t.Fatalf("told although all is well: %v", told)
		}
		for _, test := range []struct {
			name, says    string
			claim         func(*fakeGateway) []netip.Addr
			twice, nobody int
		}{
			{"twice", "gateways gw1 and gw2 all hold " + vip.String(), func(*fakeGateway) []netip.Addr { return []netip.Addr{vip} }, 1, 0},
			{"nobody", "no gateway holds " + vip.String(), func(*fakeGateway) []netip.Addr { return []netip.Addr{} }, 0, 1},
		} {
			for range 2 {
				for _, g := range s.gateways {
					g.change(func(g *fakeGateway) { g.claims = test.claim(g) })
				}
				time.Sleep(3 * censuses)
				told := s.observer.toldOf()
				var holders *loadbalancer.HoldersError
				if len(told) != 1 || !errors.As(told[0], &holders) || !strings.Contains(told[0].Error(), test.says) {
					t.Fatalf("%s: told %v, want once %q", test.name, told, test.says)
				}
				rounds, _, _ := s.observer.seen()
				if last := rounds[len(rounds)-1]; last.HeldTwice != test.twice || last.HeldByNobody != test.nobody {
					t.Errorf("%s: the round counts %d twice and %d by nobody", test.name, last.HeldTwice, last.HeldByNobody)
				}
				for _, g := range s.gateways {
					g.change(func(g *fakeGateway) { g.claims = nil })
				}
				time.Sleep(2 * censuses)
				if told := s.observer.toldOf(); len(told) > 0 {
					t.Errorf("%s: told when it was over: %v", test.name, told)
				}
			}
		}
	})
}

// What is so for a moment, or cannot be known, is not told: a VIP on its way, and one that a silent gateway may hold.
func TestCensusDoesNotCryWolf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		vip := s.ensure(c, web("a", 80)).Addresses[0]
		for range 60 { // over many censuses, whenever they look
			for _, claims := range [][]netip.Addr{{vip}, nil, {}, nil} { // both for 3 s, one for 4 s, none for 3 s, one for 4 s
				for _, g := range s.gateways {
					g.change(func(g *fakeGateway) { g.claims = claims })
				}
				if time.Sleep(3 * time.Second); claims == nil {
					time.Sleep(time.Second)
				}
			}
		}
		time.Sleep(2 * censuses)
		told := s.observer.toldOf()
		for _, g := range s.gateways {
			holder := len(g.serves("a").Addresses) > 0 && s.holder(g.state, g.state.VIPs[0]) == g.name
			if holder {
				g.change(func(g *fakeGateway) { g.cut = true }) // it holds on, and nobody can ask it
			}
		}
		time.Sleep(3 * censuses)
		for _, err := range append(told, s.observer.toldOf()...) {
			if holders := (*loadbalancer.HoldersError)(nil); errors.As(err, &holders) {
				t.Errorf("told %v", err)
			}
		}
	})
}

// What an agent found, and what it warns of, is told once, also when it was found while there was no controller.
func TestFindingsAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		gw1 := s.gateway("gw1")
		difference := func(what string) wire.Difference {
			return wire.Difference{Found: time.Now(), Changes: []string{what}}
		}
		gw1.differences = []wire.Difference{difference("while nobody led")}
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		want := func(says ...string) {
			t.Helper()
			time.Sleep(2 * censuses)
			told := fmt.Sprint(s.observer.toldOf())
			for _, text := range says {
				if strings.Count(told, text) != 1 {
					t.Errorf("told %s, want %q once", told, text)
				}
			}
			if len(says) == 0 && told != "[]" {
				t.Errorf("told %s", told)
			}
		}
		want("gateway gw1 was found", "while nobody led")
		want()
		gw1.change(func(g *fakeGateway) {
			g.differences = append(g.differences, difference("second"))
			g.warnings = []wire.Warning{{Reason: "StrangeVRRP", Message: "203.0.113.9 sends adverts"}}
		})
		want("second", "gateway gw1: 203.0.113.9 sends adverts")
		gw1.change(func(g *fakeGateway) { g.warnings = nil })
		want()
		gw1.change(func(g *fakeGateway) {
			g.warnings = []wire.Warning{{Reason: "StrangeVRRP", Message: "203.0.113.9 sends adverts"}}
		})
		want("203.0.113.9")
	})
}
