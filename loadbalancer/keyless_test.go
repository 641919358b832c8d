package loadbalancer_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
)

// keyless is a Service of a controller that shares addresses without keys, whose annotations are read.
func keyless(s loadbalancer.Service) loadbalancer.Service {
	s.Request.Sharing.Keyless = true
	return s
}

// TestKubeVipsSharersKeepTheirAddress: it let Services share one address without a key, as long as their ports differ.
func TestKubeVipsSharersKeepTheirAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		named := func(name string, port uint16) loadbalancer.Service {
			return requesting(keyless(web(name, port)), "10.0.0.5")
		}
		a, b, unnamed, late := named("a", 80), named("b", 443), keyless(web("c", 22)), named("d", 80)
		replays := []loadbalancer.Replay{replayed(a, "10.0.0.5"), replayed(b, "10.0.0.5"), replayed(unnamed, "10.0.0.5"), replayed(late, "10.0.0.5")}
		for i := range replays {
			replays[i].Created = time.Now().Add(time.Duration(i) * time.Second)
		}
		b.Published = addresses("10.0.0.5")
		for range 3 { // after the first time the State tells who shares
			c := s.start(replays...)
			for _, service := range []loadbalancer.Service{a, b, unnamed} {
				if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.5" {
					t.Errorf("%s has %s", service.LoadBalancer.Key, got)
				}
			}
			_, _, told := s.observer.seen()
			const want = "address 10.0.0.5 is shared by Services default/a, default/b, default/c, which have no sharing key in common: "
			for _, name := range []string{"a", "b", "c"} {
				if err := told[key(name)]; !isA[*loadbalancer.KeylessError](err) || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%s was told %v", name, err)
				}
			}
			if err := told[key("d")]; err == nil || !strings.Contains(err.Error(), "the same sharing key (annotation allow-shared-ip)") &&
				!strings.Contains(err.Error(), "the same sharing key for both (annotation allow-shared-ip)") {
				t.Errorf("d was told %v", err)
			}
			const remedy = "or give both the same sharing key (annotation allow-shared-ip) and different ports"
			if _, err := c.Ensure(t.Context(), late); err == nil || !strings.Contains(err.Error(), remedy) {
				t.Errorf("d is refused with %v", err)
			}
			s.oneOwner()
			_ = c.stop()
		}
		// They get a key, one after the other, and go on as any sharers.
		c := s.start(replays...)
		defer c.stop()
		for _, service := range []loadbalancer.Service{a, b, unnamed, requesting(web("e", 25), "10.0.0.5")} {
			if got := s.ensure(c, sharing(service, "k")).Addresses[0].String(); got != "10.0.0.5" {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
	})
}

// TestPublishedTwiceByAnEdit: Services whose controller shares by key only, or not at all, are no sharers.
func TestPublishedTwiceByAnEdit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		c := s.start(replayed(web("a", 80), "10.0.0.5"), replayed(web("b", 443), "10.0.0.5"))
		defer c.stop()
		if got := s.ensure(c, web("b", 443)).Addresses[0].String(); got == "10.0.0.5" {
			t.Error("b shares the address of a")
		}
	})
}

// TestSharersLoseTheirKeyWhileDown: they stay, their next key is theirs, and nobody can write what lets him join meanwhile.
func TestSharersLoseTheirKeyWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		c := s.start()
		s.ensure(c, sharing(web("a", 80), "k"))
		s.ensure(c, sharing(web("b", 443), "k"))
		_ = c.stop()
		c = s.start(replayed(web("a", 80), "10.0.0.1"), replayed(web("b", 443), "10.0.0.1"))
		defer c.stop()
		s.ensure(c, web("a", 80))
		for _, other := range []string{"", "k", "their former key"} {
			d := requesting(web("d", 22), "10.0.0.1")
			if _, err := c.Ensure(t.Context(), sharing(d, other)); err == nil || strings.Contains(err.Error(), "former") && other != "their former key" {
				t.Errorf("d with key %q: %v", other, err)
			}
		}
		for _, service := range []loadbalancer.Service{web("a", 81), sharing(web("a", 81), "k"), sharing(web("b", 443), "k"), sharing(web("d", 22), "k")} {
			if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
	})
}
