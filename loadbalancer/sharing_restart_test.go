package loadbalancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

// TestSharerDeletedWhileDown: what the next controller finds in the State alone is a port of a shared address.
func TestSharerDeletedWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, sharing(web("http", 80), "k"))
		s.ensure(c, sharing(web("https", 443), "k"))
		_ = c.stop()
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		c = s.start(replayed(sharing(web("https", 443), "k"), "10.0.0.1"))
		defer c.stop()
		if _, err := c.Ensure(t.Context(), sharing(web("next", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw2 may still serve it for http")
		}
		s.ensure(c, sharing(web("ssh", 22), "k"))
	})
}

// TestSharerChangesItsPortsWhileDown: what the gateways serve still is not free because the Service does not ask for it.
func TestSharerChangesItsPortsWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, translates := range []bool{true, false} {
			s := newSite(t, "10.0.0.1", "gw1", "gw2")
			c := s.start()
			s.ensure(c, sharing(web("a", 80), "k"))
			s.ensure(c, sharing(web("b", 443), "k"))
			_ = c.stop()
			s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
			a := replayed(sharing(web("a", 81), "k"), "10.0.0.1")
			if !translates {
				a.Service = nil // it is served with port 80 for ever
			}
			c = s.start(a, replayed(sharing(web("b", 443), "k"), "10.0.0.1"))
			if _, err := c.Ensure(t.Context(), sharing(web("c", 80), "k")); err == nil {
				t.Error("port 80 was given away while gw2 serves it for a")
			}
			s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
			time.Sleep(20 * time.Second)
			if _, err := c.Ensure(t.Context(), sharing(web("c", 80), "k")); (err == nil) != translates {
				t.Errorf("translated %v: c got %v", translates, err)
			}
			_ = c.stop()
		}
	})
}

// TestSharerDeletedWhileItsPartnerIsPublishedOnly: the newest State that answers knows only one of two who share.
func TestSharerDeletedWhileItsPartnerIsPublishedOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, sharing(web("a", 80), "k"))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("b", 443), "k"))
		_ = c.stop()
		s.gateway("gw1").change(func(g *fakeGateway) { g.dead = true })
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
		c = s.start(replayed(sharing(web("b", 443), "k"), "10.0.0.1"))
		defer c.stop()
		if _, err := c.Ensure(t.Context(), sharing(web("c", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw1 serves it for a")
		}
	})
}

// TestSharerThatAsksForAnothersPortWhileDown hurts itself alone: the other did nothing, and both keep what they have.
func TestSharerThatAsksForAnothersPortWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, change := range []func(loadbalancer.Service) loadbalancer.Service{
			func(loadbalancer.Service) loadbalancer.Service { return sharing(web("a", 443), "k") },
			func(a loadbalancer.Service) loadbalancer.Service { return sharing(a, "other") },
			func(loadbalancer.Service) loadbalancer.Service { return web("a", 80) },
		} {
			for _, published := range [][]string{nil, {"10.0.0.1"}} {
				s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
				c := s.start()
				for name, port := range map[string]uint16{"a": 80, "b": 443, "c": 22} {
					s.ensure(c, sharing(web(name, port), "k"))
				}
				_ = c.stop()
				a := change(sharing(web("a", 80), "k"))
				elder := replayed(a, published...)
				elder.Created = time.Now().Add(-time.Hour)
				b, third := replayed(sharing(web("b", 443), "k"), published...), replayed(sharing(web("c", 22), "k"), published...)
				b.Created, third.Created = time.Now(), time.Now()
				c = s.start(elder, b, third)
				if got := s.ensure(c, sharing(web("b", 443), "k")).Addresses[0].String(); got != "10.0.0.1" {
					t.Errorf("b was moved to %s", got)
				}
				if _, err := c.Ensure(t.Context(), a); !isA[*ipam.SharingError](err) {
					t.Errorf("a: %v", err)
				}
				if lb := s.gateways[0].serves("a"); lb == nil || lb.Addresses[0].String() != "10.0.0.1" || lb.Frontends[0].Port != 80 {
					t.Errorf("a is served as %+v, want as before", lb)
				}
				if _, _, notices := s.observer.seen(); notices[key("b")] != nil {
					t.Errorf("b was told %v", notices[key("b")])
				}
				_ = c.stop()
			}
		}
	})
}

// TestControllerDiesAfterAServiceBeganToShare: which ports it had alone the gateway that is away knows best.
func TestControllerDiesAfterAServiceBeganToShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		s.ensure(c, sharing(web("a", 81), "k"))
		_ = c.stop()
		c = s.start(replayed(sharing(web("a", 81), "k"), "10.0.0.1"))
		defer c.stop()
		if _, err := c.Ensure(t.Context(), sharing(web("b", 80), "k")); err == nil {
			t.Error("port 80 was given away while gw2 may serve it for a")
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(20 * time.Second)
		s.ensure(c, sharing(web("b", 80), "k"))
	})
}

// TestSharersOfTwoNamespacesStay: the pool lets no others join across namespaces any more, or never did: the Services come
// from another controller. Who is published keeps its address.
func TestSharersOfTwoNamespacesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		theirs := sharing(web("theirs", 443), "k")
		theirs.LoadBalancer.Key.Namespace = "other"
		c := s.start(replayed(sharing(web("ours", 80), "k"), "10.0.0.1"), replayed(theirs, "10.0.0.1"))
		defer c.stop()
		for _, service := range []loadbalancer.Service{sharing(web("ours", 80), "k"), theirs} {
			if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
		joins := sharing(web("joins", 22), "k")
		joins.LoadBalancer.Key.Namespace = "third"
		if got := s.ensure(c, joins).Addresses[0].String(); got == "10.0.0.1" {
			t.Error("a Service of a third namespace joined")
		}
	})
}
