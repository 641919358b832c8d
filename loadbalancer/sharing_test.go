package loadbalancer_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

func sharing(s loadbalancer.Service, key string) loadbalancer.Service {
	s.Request.Sharing.Key = key
	s.Request.Sharing.Ports = nil
	for _, f := range s.LoadBalancer.Frontends {
		s.Request.Sharing.Ports = append(s.Request.Sharing.Ports, ipam.Port{Protocol: string(f.Protocol), Number: f.Port})
	}
	return s
}

// TestSharedAddress: (address, protocol, port) has one owner, also while a gateway is away that may still serve the former.
func TestSharedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, sharing(web("http", 80), "k"))
		s.ensure(c, sharing(web("https", 443), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("also", 80), "k")); err == nil {
			t.Error("two Services have port 80")
		}
		if err := c.Delete(t.Context(), key("also"), false); err != nil {
			t.Fatal(err)
		}
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("http"), false); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := c.Ensure(t.Context(), sharing(web("next", 80), "k")); err == nil {
				t.Error("port 80 was given away while gw2 may still serve it for http")
			}
			s.ensure(c, sharing(web("ssh", 22), "k"))
			_ = c.stop()
			c = s.start(replayed(sharing(web("https", 443), "k"), "10.0.0.1"), replayed(sharing(web("ssh", 22), "k")))
			time.Sleep(time.Second)
		}
		defer func() { _ = c.stop() }()
		state, _ := s.gateways[0].snapshot()
		if len(state.Releasing) != 1 || len(state.Releasing[0].Ports) != 1 || state.Releasing[0].Ports[0].Port != 80 || len(state.VIPs) != 1 {
			t.Errorf("releasing %+v, VIPs %v", state.Releasing, state.VIPs)
		}
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.ensure(c, sharing(web("next", 80), "k"))
	})
}

// TestPortGivenUpOnASharedAddress: its former owner lives on at the same address.
func TestPortGivenUpOnASharedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, sharing(web("a", 80), "k"))
		s.ensure(c, sharing(web("b", 443), "k"))
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("a", 81), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("c", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw2 may still serve it for a")
		}
		s.ensure(c, sharing(web("a", 82), "k")) // 81 is on its way back too, later than 80
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.ensure(c, sharing(web("c", 80), "k"))
		s.ensure(c, sharing(web("d", 81), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("a", 443), "k")); !isA[*ipam.SharingError](err) {
			t.Errorf("a took the port of b, or: %v", err)
		}
		if lb := s.gateways[0].serves("a"); lb == nil || lb.Frontends[0].Port != 82 {
			t.Errorf("a is served as %+v", lb)
		}
	})
}

// TestPortsGivenUpOneAfterTheOther: who confirmed that the first is gone did not confirm that of the second.
func TestPortsGivenUpOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2", "gw3")
		c := s.start()
		defer c.stop()
		away := func(name string, dead bool) {
			s.gateway(name).change(func(g *fakeGateway) { g.dead = dead })
			time.Sleep(10 * time.Second)
		}
		s.ensure(c, sharing(web("a", 80), "k"))
		s.ensure(c, sharing(web("b", 443), "k"))
		away("gw3", true)
		s.ensure(c, sharing(web("a", 81), "k")) // gw2 confirms that 80 is gone, gw3 does not
		away("gw2", true)
		s.ensure(c, sharing(web("a", 82), "k"))
		away("gw3", false)
		if _, err := c.Ensure(t.Context(), sharing(web("c", 81), "k")); err == nil {
			t.Error("port 81 was given away while gw2 may still serve it for a")
		}
		away("gw2", false)
		s.ensure(c, sharing(web("c", 81), "k"))
	})
}

// TestSharerDeletedWhileGatewaysConfirmFormerPorts: that they are without the port it gave up says nothing of those it had
// until now.
func TestSharerDeletedWhileGatewaysConfirmFormerPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, sharing(web("a", 80), "k"))
		s.ensure(c, sharing(web("b", 443), "k"))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.took = time.Second })
		}
		var group sync.WaitGroup
		group.Go(func() { _, _ = c.Ensure(t.Context(), sharing(web("a", 81), "k")) }) // a State in which 80 is given up
		time.Sleep(1500 * time.Millisecond)
		group.Go(func() { _ = c.Delete(t.Context(), key("a"), false) })
		time.Sleep(time.Second) // both confirmed it, and have a with 81
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		if _, err := c.Ensure(t.Context(), sharing(web("c", 81), "k")); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("port 81 was given away while gw2 may serve it for a, or: %v", err)
		}
		group.Wait()
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(20 * time.Second)
		s.ensure(c, sharing(web("c", 81), "k"))
	})
}

// TestServiceBeginsToShare: who had the address alone lets others in when every gateway confirmed which ports it has.
func TestServiceBeginsToShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("a", 81), "k"))
		if _, err := c.Ensure(t.Context(), sharing(web("b", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw2 may serve it for a")
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(20 * time.Second)
		s.ensure(c, sharing(web("b", 80), "k"))
	})
}

// TestServiceBeginsToShareWithOtherPorts: a gateway that is away may still serve ports for it that it does not name any more.
func TestServiceBeginsToShareWithOtherPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 81))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("a", 80), "k"))
		for range 2 {
			if _, err := c.Ensure(t.Context(), sharing(web("b", 81), "k")); err == nil {
				t.Error("port 81 was given away while gw2 may still serve it for a")
			}
			if state, _ := s.gateways[0].snapshot(); len(state.Releasing) != 1 || state.Releasing[0].Owner != key("a") || len(state.LoadBalancers) != 1 {
				t.Errorf("State: %+v", state)
			}
			_ = c.stop()
			c = s.start(replayed(sharing(web("a", 80), "k"), "10.0.0.1"))
			time.Sleep(time.Second)
		}
		defer func() { _ = c.stop() }()
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(10 * time.Second)
		s.ensure(c, sharing(web("b", 81), "k"))
		if got := s.ensure(c, sharing(web("a", 80), "k")).Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("a has %s", got)
		}
	})
}
