package loadbalancer_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// TestQuarantineIsProlonged by a person.
func TestQuarantineIsProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.9", "gw1")
		s.network.has("10.0.0.1", stranger)
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.network.has("10.0.0.1")
		time.Sleep(time.Second)
		s.ledger.edit(func(l *loadbalancer.Ledger) { l.Quarantined[0].Until = time.Now().Add(24 * time.Hour) })
		time.Sleep(time.Hour)
		if got := s.ledger.read().Quarantined; len(got) != 1 {
			t.Errorf("quarantined %v", got)
		}
		time.Sleep(24 * time.Hour)
		if got := s.ledger.read().Quarantined; len(got) != 0 {
			t.Errorf("quarantined %v", got)
		}
	})
}

// TestLedgerIsEdited: a person releases by removing, and reserves by adding.
func TestLedgerIsEdited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		first := s.ensure(c, web("a", 80)).Addresses[0]
		s.ensure(c, web("b", 80))
		for _, name := range []string{"a", "b"} {
			if err := c.Delete(t.Context(), key(name), true); err != nil {
				t.Fatal(err)
			}
		}
		s.ledger.edit(func(l *loadbalancer.Ledger) {
			l.Kept[0] = ipam.Reservation{Address: addresses("10.0.0.3")[0], Owner: ipam.Owner(key("vip"))}
		})
		time.Sleep(61 * time.Second)
		if got := s.ensure(c, web("c", 80)).Addresses[0]; got != first {
			t.Errorf("c has %s, want the released %s", got, first)
		}
		if _, err := c.Ensure(t.Context(), web("d", 80)); err == nil {
			t.Error("d got an address that is reserved")
		}
		if got := s.ensure(c, web("vip", 80)).Addresses[0].String(); got != "10.0.0.3" {
			t.Errorf("vip has %s", got)
		}
		// Removed as a whole it was not edited.
		s.ledger.remove()
		time.Sleep(61 * time.Second)
		if got := s.ledger.read().Kept; len(got) != 1 || got[0].Owner != ipam.Owner(key("b")) {
			t.Errorf("after the object was removed it says %v", got)
		}
		// Between two looks of ours: neither change is lost.
		s.ledger.edit(func(l *loadbalancer.Ledger) { l.Kept = nil })
		if err := c.Delete(t.Context(), key("vip"), true); err != nil {
			t.Fatal(err)
		}
		if got := s.ledger.read().Kept; len(got) != 1 || got[0].Owner != ipam.Owner(key("vip")) {
			t.Errorf("after both changed it says %v", got)
		}
	})
}

// TestLedgerThatSomebodySpoils is told once, and while it lasts no State is made of it.
func TestLedgerThatSomebodySpoils(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.ledger.fail(errors.New("addresses.yaml line 3: no address"))
		_, before := s.gateways[0].snapshot()
		for range 20 {
			if err := c.Delete(t.Context(), key("a"), true); err == nil {
				t.Error("Delete succeeded although nothing was written down")
			}
			time.Sleep(20 * time.Second)
		}
		_, after := s.gateways[0].snapshot()
		states := map[desired.Fence]bool{}
		for _, fence := range after[len(before):] {
			states[fence] = true
		}
		if len(states) > 3 {
			t.Errorf("%d States", len(states))
		}
		if told := s.observer.toldOf(); len(told) != 1 {
			t.Errorf("told %d times: %v", len(told), told)
		}
	})
}

// TestLedgerWithNonsense: what no State can carry is no ledger. It is told, and stops no round.
func TestLedgerWithNonsense(t *testing.T) {
	some := ipam.Reservation{Address: addresses("10.0.0.2")[0], Owner: ipam.Owner(key("vip"))}
	for name, edit := range map[string]func(*loadbalancer.Ledger){
		"kept for no Service":  func(l *loadbalancer.Ledger) { l.Kept[0].Owner = ipam.Owner{Namespace: "Default", Name: "my web"} },
		"kept, but no address": func(l *loadbalancer.Ledger) { l.Kept[0].Address = addresses("224.0.0.18")[0] },
		"kept twice":           func(l *loadbalancer.Ledger) { l.Kept = append(l.Kept, some) },
		"quarantined, everybody": func(l *loadbalancer.Ledger) {
			l.Quarantined = []loadbalancer.Quarantine{{Address: addresses("0.0.0.0")[0]}}
		},
		"releasing, no Service": func(l *loadbalancer.Ledger) { l.Releasing = []desired.Releasing{{Address: addresses("10.0.0.3")[0]}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
				c := s.start()
				s.ensure(c, web("a", 80))
				time.Sleep(time.Second)
				spoil := func(l *loadbalancer.Ledger) {
					l.Kept = []ipam.Reservation{some}
					edit(l)
				}
				s.ledger.edit(spoil)
				time.Sleep(3 * time.Minute)
				s.ensure(c, web("b", 80))
				if told := s.observer.toldOf(); len(told) != 1 || !isA[*loadbalancer.LedgerError](told[0]) {
					t.Errorf("told %v", told)
				}
				_ = c.stop()
				c = s.start(replayed(web("a", 80)), replayed(web("b", 80)))
				defer c.stop()
				if _, err := c.Ensure(t.Context(), web("c", 80)); err == nil {
					t.Error("c got an address although nobody knows what is kept")
				}
				s.ledger.edit(func(l *loadbalancer.Ledger) { *l = loadbalancer.Ledger{} })
				time.Sleep(35 * time.Second)
				s.ensure(c, web("c", 80))
			})
		})
	}
}

// TestPublishedNonsense: an address that nobody can have is not the Service's, and hurts no other.
func TestPublishedNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		c := s.start(replayed(web("a", 80), "127.0.0.1"))
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("a has %s", got)
		}
		if _, _, notices := s.observer.seen(); notices[key("a")] == nil {
			t.Error("a was not told")
		}
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Error(err)
		}
		s.ensure(c, web("b", 80))
	})
}

// TestSharersAreKept: two Services that shared an address are deleted, and find it again together, also after a restart.
func TestSharersAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		services := []loadbalancer.Service{sharing(web("http", 80), "k"), sharing(web("https", 443), "k")}
		for _, service := range services {
			s.ensure(c, service)
		}
		for _, service := range services {
			if err := c.Delete(t.Context(), service.LoadBalancer.Key, true); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.ledger.read().Kept; len(got) != 2 || got[0].Address != got[1].Address {
			t.Errorf("kept %v", got)
		}
		_ = c.stop()
		c = s.start()
		defer func() { _ = c.stop() }()
		if got := s.ensure(c, web("thief", 80)).Addresses[0].String(); got == "10.0.0.1" {
			t.Error("another Service has the kept address")
		}
		for _, service := range services {
			if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.1" {
				t.Errorf("%s came back and has %s", service.LoadBalancer.Key, got)
			}
		}
		time.Sleep(time.Second)
		if got := s.ledger.read().Kept; len(got) != 0 {
			t.Errorf("both are there again, and the ledger says %v", got)
		}
	})
}

// TestEntryForAServiceThatExists keeps nothing, and whoever wrote it is told.
func TestEntryForAServiceThatExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1")
		c := s.start()
		defer c.stop()
		for _, kept := range []string{"10.0.0.5", "10.0.0.1"} { // another address, and its own
			s.ensure(c, web("a", 80))
			s.observer.forget()
			s.ledger.edit(func(l *loadbalancer.Ledger) {
				l.Kept = append(l.Kept, ipam.Reservation{Address: addresses(kept)[0], Owner: ipam.Owner(key("a"))})
			})
			time.Sleep(130 * time.Second)
			if got := s.ledger.read().Kept; len(got) != 0 {
				t.Errorf("kept: %v", got)
			}
			want := "the entry that keeps " + kept + " for Service default/a in ConfigMap kube-system/addresses is taken off: that Service " +
				"exists and has 10.0.0.1; to move it request the address for it (annotation load-balancer-ips), to keep what it has when it " +
				"is deleted annotate it with keep-ip"
			_, _, notices := s.observer.seen()
			if told := notices[key("a")]; told == nil || told.Error() != want {
				t.Errorf("a was told %v", told)
			}
			if told := s.observer.toldOf(); len(told) != 1 || told[0].Error() != want {
				t.Errorf("told %v", told)
			}
		}
	})
}
