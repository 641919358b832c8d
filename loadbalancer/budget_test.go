package loadbalancer_test

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// workers are that many nodes.
func workers(n int) (nodes []desired.Node) {
	for i := range n {
		nodes = append(nodes, desired.Node{Name: fmt.Sprintf("worker-%04d.example.net", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, byte(113 + i/250), byte(i%250 + 1)})}})
	}
	return nodes
}

// knob is web with a pool of all nodes, made at this hour.
func knob(name string, hour int) loadbalancer.Service {
	s := web(name, 80)
	s.LoadBalancer.Pool = &desired.Pool{Algorithm: desired.LeastConn, Check: sharedCheck, AllNodes: true}
	s.Created = time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)
	s.Facts = factsOf(s)
	s.Facts.Nodes.AllNodes = true
	return s
}

// Services that need more servers of their own than gateways have room for hurt themselves alone, the youngest first; those that are
// served stay so, also when nodes come, and room that gets free is used.
func TestServersHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		s.settings.Servers = 1000
		c := s.start()
		c.SetNodes(workers(100))
		for i := range 10 {
			s.ensure(c, knob(fmt.Sprintf("knob-%02d", i), i))
		}
		_, err := c.Ensure(t.Context(), knob("late", 5))
		if !isA[*loadbalancer.ServiceFaultError](err) || !strings.Contains(err.Error(), "room for 1000 servers of Services' own, 1000 are taken, and this form needs 100 more: choose fewer nodes") {
			t.Fatal(err)
		}
		s.ensure(c, web("plain", 80))
		changed := knob("knob-07", 7)
		changed.LoadBalancer.Pool.Algorithm = desired.Source
		s.ensure(c, changed) // costs what it cost
		if s.gateways[0].serves("late") != nil || s.gateways[1].serves("plain") == nil {
			t.Error("the wrong one is served")
		}
		c.SetNodes(workers(110))
		time.Sleep(time.Second)
		state, _ := s.gateways[1].snapshot()
		if len(state.Nodes) != 110 || len(state.LoadBalancers) != 11 {
			t.Errorf("%d nodes and %d load balancers", len(state.Nodes), len(state.LoadBalancers))
		}
		proxy := knob("knob-08", 8) // a slot for a port beside the Service's
		proxy.LoadBalancer.Frontends = append(proxy.LoadBalancer.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 443, NodePort: 30443})
		proxy.LoadBalancer.Frontends[0].ProxyProtocol = desired.ProxyV2
		proxy.Facts = factsOf(proxy)
		proxy.Facts.Nodes.AllNodes = true
		if _, err := c.Ensure(t.Context(), proxy); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Error(err)
		}
		if lb := s.gateways[0].serves("knob-08"); lb == nil || lb.Frontends[0].ProxyProtocol != desired.ProxyNone {
			t.Errorf("its last good form is not served, but %+v", lb)
		}
		for _, name := range []string{"knob-01", "knob-02"} {
			if err := c.Delete(t.Context(), key(name), false); err != nil {
				t.Fatal(err)
			}
		}
		s.ensure(c, knob("late", 5))
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// Of several that come at once the youngest are refused, and who is served at a start is none of them.
func TestTheYoungestAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.Servers = 4
		c := s.start()
		c.SetNodes(workers(2))
		s.ensure(c, knob("served", 23))
		_ = c.stop()
		var replays []loadbalancer.Replay
		for name, hour := range map[string]int{"served": 23, "old": 1, "young": 3, "younger": 4} {
			service := knob(name, hour)
			replays = append(replays, loadbalancer.Replay{Key: key(name), UID: service.LoadBalancer.UID, Service: &service, Created: service.Created})
		}
		c = s.start(replays...)
		defer c.stop()
		c.SetNodes(workers(2))
		time.Sleep(time.Second)
		for name, want := range map[string]bool{"served": true, "old": true, "young": false, "younger": false} {
			if got := s.gateways[0].serves(name) != nil; got != want {
				t.Errorf("%s is served: %t", name, got)
			}
		}
		_, _, notices := s.observer.seen()
		if len(notices) != 2 {
			t.Errorf("told %v", notices)
		}
	})
}

// So hurt themselves Services that say so much that the State would not fit in a message.
func TestStateHasABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1")
		s.settings.Bytes = 12_000
		c := s.start()
		defer c.stop()
		long := func(name string) loadbalancer.Service {
			service := web(name, 80)
			for i := range 100 {
				service.LoadBalancer.AllowSources = append(service.LoadBalancer.AllowSources, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(2 * i), 7}), 32))
			}
			return service
		}
		var refused error
		n := 0
		for ; refused == nil && n < 20; n++ {
			_, refused = c.Ensure(t.Context(), long(fmt.Sprintf("long-%02d", n)))
		}
		if !isA[*loadbalancer.ServiceFaultError](refused) || !strings.Contains(refused.Error(), "take fewer source ranges") || n < 3 {
			t.Fatalf("after %d Services: %v", n, refused)
		}
		s.ensure(c, web("plain", 80))
	})
}

// 250 Services with a knob and 1000 nodes are a State that fits in a message many times.
func TestAllNodesAreNamedOnce(t *testing.T) {
	s := newSite(t, "10.0.0.0/16", "gw1")
	state := desired.State{Schema: desired.Schema, Gateways: s.settings.Gateways, Nodes: workers(1000)}
	for i := range 250 {
		state.LoadBalancers = append(state.LoadBalancers, knob(fmt.Sprintf("knob-%03d", i), 0).LoadBalancer)
	}
	canonical, err := state.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteFrame(io.Discard, wire.Request{Verb: wire.VerbApply, Apply: &wire.Apply{Signed: desired.Signed{State: canonical}}}); err != nil || len(canonical) > wire.MaxFrame/50 {
		t.Errorf("%d bytes: %v", len(canonical), err)
	}
}
