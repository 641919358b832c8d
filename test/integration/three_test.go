package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// TestThreeGateways runs all tests of three gateways, which have a VRRP instance for each ordered pair of them.
func TestThreeGateways(t *testing.T) {
	s := &trio{pair: &pair{Lab: lab.New(t, lab.Options{Gateways: 3, NodePorts: nodePorts()}), epoch: 10}, services: many(24)}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *trio)
	}{
		{"spread", testSpread},
		{"drain", testDrainToTwo},
		{"holder", testHolderOfThreeDies},
		{"returned", testReturnsToThree},
		{"last", testLastOfThree},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

// trio is three gateways with a Service for each of many VIPs.
type trio struct {
	*pair
	services []desired.LoadBalancer
}

func (s *trio) targets() (targets []string) {
	for _, lb := range s.services {
		targets = append(targets, port(lb.Addresses[0], lb.Frontends[0].Port))
	}
	return targets
}

// order gives the gateways in the order in which they inherit an address, its home first.
func (s *trio) order(t *testing.T, address netip.Addr) (order []*lab.Host) {
	t.Helper()
	var gateways []desired.Gateway
	for _, g := range s.Gateways {
		gateways = append(gateways, desired.Gateway{Name: g.Name})
	}
	instances, err := desired.Instances(gateways, 200)
	must(t, err)
	routerID := desired.Spread(address, instances)
	for _, i := range instances {
		if i.RouterID != routerID {
			continue
		}
		for _, name := range i.Gateways {
			order = append(order, s.Host(name))
		}
	}
	return order
}

// have are the VIPs of a gateway, as its kernel says.
func (s *trio) have(t *testing.T, g *lab.Host) (vips []netip.Addr) {
	t.Helper()
	words := strings.Fields(mustRun(t, g, "ip", "-o", "-4", "address", "show", "dev", "eth0"))
	for _, lb := range s.services {
		if slices.Contains(words, lb.Addresses[0].String()+"/32") {
			vips = append(vips, lb.Addresses[0])
		}
	}
	return vips
}

// placed says which VIP is not at the first of its gateways that may have it, and there alone.
func (s *trio) placed(t *testing.T, may func(*lab.Host) bool) error {
	t.Helper()
	holders := map[netip.Addr][]*lab.Host{}
	for _, g := range s.Gateways {
		if g.PID() == 0 {
			continue
		}
		for _, vip := range s.have(t, g) {
			holders[vip] = append(holders[vip], g)
		}
	}
	for _, lb := range s.services {
		vip := lb.Addresses[0]
		order := s.order(t, vip)
		want := order[slices.IndexFunc(order, may)]
		if got := holders[vip]; len(got) != 1 || got[0] != want {
			return fmt.Errorf("%s is held by %q, want %s", vip, names(got), want.Name)
		}
	}
	return nil
}

func anybody(*lab.Host) bool { return true }

func but(others ...*lab.Host) func(*lab.Host) bool {
	return func(g *lab.Host) bool { return !slices.Contains(others, g) }
}

// inherit are how many VIPs of a gateway each other one is the first heir of. It is none of a test's business if one has none.
func (s *trio) inherit(t *testing.T, from *lab.Host) map[string]int {
	t.Helper()
	heirs := map[string]int{}
	for _, lb := range s.services {
		if order := s.order(t, lb.Addresses[0]); order[0] == from {
			heirs[order[1].Name]++
		}
	}
	if len(heirs) != 2 {
		t.Fatalf("the VIPs of %s have the heirs %v: this test would show nothing", from.Name, heirs)
	}
	return heirs
}

// testSpread: every gateway holds some of the VIPs, and every other one is the first heir of some of them.
func testSpread(t *testing.T, s *trio) {
	s.push(t, s.state(s.Workers, s.services...))
	eventually(t, "all VIPs are at home", func() error {
		if err := s.placed(t, anybody); err != nil {
			return err
		}
		return s.reaches(s.targets()...)
	})
	for _, g := range s.Gateways {
		t.Logf("%s holds %d of %d VIPs, whose first heirs are %v", g.Name, len(s.have(t, g)), len(s.services), s.inherit(t, g))
	}
	for name, status := range s.status(t) {
		if !status.InSync || !status.Current || len(status.Peers) != 2 {
			t.Errorf("%s: in sync %t %q, current %t, peers %+v", name, status.InSync, status.Drift, status.Current, status.Peers)
		}
	}
}

// testDrainToTwo: a gateway hands its VIPs over to both others, one after the other does so, and nobody notices: neither new
// connections nor those that are held.
func testDrainToTwo(t *testing.T, s *trio) {
	hold, err := s.Client.StartHold(t.Context(), traffic.Hold{Targets: s.targets(), Count: 2 * len(s.services), Timeout: 5 * time.Second})
	must(t, err)
	flow, err := s.Client.StartFlow(t.Context(), traffic.Flow{Targets: s.targets(), Rate: 200, Timeout: 5 * time.Second})
	must(t, err)
	for _, g := range s.Gateways {
		eventually(t, "the drain is granted", func() error { // the peers may not have told yet that they are fit
			_, err := s.tryDrain(t, g, "--grace", "1m")
			return err
		})
		eventually(t, "its VIPs are with their first heirs", func() error { return s.placed(t, but(g)) })
		s.undrain(t, g)
		eventually(t, "all VIPs are at home", func() error { return s.placed(t, anybody) })
	}
	report, held := stop(t, flow), stop(t, hold)
	t.Logf("each of three gateways drained and not: %v; of %d connections held, cut %d", report, held.Held, len(held.Cut))
	if report.Failed > 0 || report.LongestGap > 500*time.Millisecond {
		t.Errorf("%d of %d new connections failed, longest gap %v: %v", report.Failed, report.Opened, report.LongestGap, report.Failures)
	}
	if len(held.Cut) > 0 {
		t.Errorf("%d of %d connections were cut: %v", len(held.Cut), held.Held, held.Cut)
	}
}

// testHolderOfThreeDies: the VIPs of a gateway that loses its power spread over both others.
func testHolderOfThreeDies(t *testing.T, s *trio) {
	dead := s.Gateways[0]
	heirs := s.inherit(t, dead)
	before := map[string]int{}
	for name := range heirs {
		before[name] = len(s.have(t, s.Host(name)))
	}
	flow := s.flowTo(t, s.targets()...)
	begun := time.Now()
	must(t, dead.PowerOff())
	eventually(t, "both others have its VIPs", func() error { return s.placed(t, but(dead)) })
	t.Logf("%s died: its VIPs are with %v after %v", dead.Name, heirs, time.Since(begun).Round(10*time.Millisecond))
	must(t, s.reaches(s.targets()...))
	report := stop(t, flow)
	t.Logf("meanwhile: %v", report)
	for name, more := range heirs {
		if got := len(s.have(t, s.Host(name))); got != before[name]+more {
			t.Errorf("%s has %d VIPs, had %d and inherits %d", name, got, before[name], more)
		}
	}
}

// testReturnsToThree: what changed while a gateway was off it learns from its peers, with nobody else to tell it, before it takes its
// VIPs back.
func testReturnsToThree(t *testing.T, s *trio) {
	returns, knows := s.Gateways[0], s.Gateways[1:]
	if returns.PID() != 0 {
		t.Fatal("it is not off: the test before failed")
	}
	const moved = firstNodePort + 2 // the first Service goes to another NodePort: who goes by an older State would be found
	s.services[0].Frontends[0].NodePort = moved
	var flags []string
	for _, g := range knows {
		flags = append(flags, "--gateway", g.Name)
	}
	s.push(t, s.state(s.Workers[:1], s.services...), flags...)
	_, newest := held(t, knows[0])
	flow := s.flowTo(t, s.targets()...)
	begun := time.Now()
	must(t, returns.Boot(t.Context()))
	eventually(t, "its VIPs are back", func() error {
		if _, has := held(t, returns); has.Fence != newest.Fence && len(s.have(t, returns)) > 0 {
			t.Fatalf("%s took VIPs while it held %v; the newest is %v", returns.Name, has.Fence, newest.Fence)
		}
		return s.placed(t, anybody)
	})
	t.Logf("%s has its VIPs back %v after the power came", returns.Name, time.Since(begun).Round(10*time.Millisecond))
	must(t, s.holdAll(t, newest.Fence))
	must(t, s.allCurrent(t))
	report := stop(t, flow)
	t.Logf("meanwhile: %v", report)
	if len(report.By) != 1 || report.By[s.Workers[0].Name] == 0 {
		t.Errorf("answered by %v, want %s alone", report.By, s.Workers[0].Name)
	}
	if report.LongestGap > time.Second {
		t.Errorf("nobody answered for %v when the gateway returned", report.LongestGap)
	}
}

// testLastOfThree: when two die the third serves everything; back come both.
func testLastOfThree(t *testing.T, s *trio) {
	last, dead := s.Gateways[1], []*lab.Host{s.Gateways[0], s.Gateways[2]}
	for n, g := range dead {
		must(t, g.PowerOff())
		eventually(t, "the others have its VIPs", func() error { return s.placed(t, but(dead[:n+1]...)) })
		must(t, s.reaches(s.targets()...))
	}
	if got := len(s.have(t, last)); got != len(s.services) {
		t.Errorf("%s has %d of %d VIPs", last.Name, got, len(s.services))
	}
	must(t, each(dead, func(g *lab.Host) error { return g.Boot(t.Context()) }))
	eventually(t, "all VIPs are at home", func() error {
		if err := s.placed(t, anybody); err != nil {
			return err
		}
		return s.reaches(s.targets()...)
	})
	eventually(t, "all are current", func() error { return s.allCurrent(t) })
}
