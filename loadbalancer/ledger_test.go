package loadbalancer_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

// TestKeptAddressWaitsForItsService, over restarts and while gateways are away.
func TestKeptAddressWaitsForItsService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		address := s.ensure(c, web("a", 80)).Addresses[0]
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Fatal(err)
		}
		want := ipam.Reservation{Address: address, Owner: ipam.Owner(key("a"))}
		if got := s.ledger.read().Kept; len(got) != 1 || got[0] != want {
			t.Fatalf("Delete returned before the ledger said %v: %v", want, got)
		}
		for range 2 {
			if _, err := c.Ensure(t.Context(), web("b", 80)); err == nil || !strings.Contains(err.Error(), "reserved") {
				t.Errorf("b: %v", err)
			}
			if _, err := c.Ensure(t.Context(), requesting(web("b", 80), address.String())); !isA[*ipam.ReservedError](err) || !strings.Contains(err.Error(), "default/a") {
				t.Errorf("b asks for it: %v", err)
			}
			if state, _ := s.gateways[0].snapshot(); len(state.Reserved) != 1 || !state.Reserved[0].Kept {
				t.Errorf("State: %+v", state.Reserved)
			}
			_ = c.stop()
			c = s.start(replayed(web("b", 80)))
			time.Sleep(time.Second)
		}
		defer func() { _ = c.stop() }()
		if got := s.ensure(c, web("a", 80)).Addresses[0]; got != address {
			t.Errorf("a came back and has %s", got)
		}
		time.Sleep(time.Second)
		if got := s.ledger.read().Kept; len(got) != 0 {
			t.Errorf("a is there again, and the ledger still says %v", got)
		}
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, web("b", 80))
	})
}

// TestKeptWhenTheControllerDiesInBetween: the Service is being deleted when the next controller starts.
func TestKeptWhenTheControllerDiesInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1")
		c := s.start()
		address := s.ensure(c, web("a", 80)).Addresses[0]
		s.ledger.fail(errors.New("no API server"))
		err := c.Delete(t.Context(), key("a"), true)
		var ledger *loadbalancer.LedgerError
		if !errors.As(err, &ledger) {
			t.Fatalf("Delete succeeded although nothing was written down: %v", err)
		}
		_ = c.stop()
		s.ledger.fail(nil)
		c = s.start()
		defer c.stop()
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Fatal(err)
		}
		if got := s.ledger.read().Kept; len(got) != 1 || got[0].Address != address {
			t.Errorf("kept %v", got)
		}
		if _, err := c.Ensure(t.Context(), web("b", 80)); err == nil {
			t.Error("b got it")
		}
	})
}

// TestServiceIsThereUntilItsAddressIsKept: the library takes the finalizer off when it hears that nothing exists, also
// when its call to delete had failed.
func TestServiceIsThereUntilItsAddressIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.ledger.fail(errors.New("no API server"))
		if err := c.Delete(t.Context(), key("a"), true); err == nil {
			t.Fatal("Delete succeeded although nothing was written down")
		}
		if _, there := c.Has(key("a")); !there {
			t.Error("it is said to be gone before its address was kept")
		}
		s.ledger.fail(nil)
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Error(err)
		}
		if _, there := c.Has(key("a")); there {
			t.Error("it is said to be there after its address was kept")
		}
	})
}

// TestKeepIsTakenBack: the annotation is removed while its effect could not be written down.
func TestKeepIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		s.ledger.fail(errors.New("no API server"))
		_ = c.Delete(t.Context(), key("a"), true)
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Error(err)
		}
		if _, there := c.Has(key("a")); there {
			t.Error("it is said to be there")
		}
		s.ensure(c, web("b", 80))
		s.ledger.fail(nil)
		time.Sleep(time.Minute)
		if got := s.ledger.read().Kept; len(got) != 0 {
			t.Errorf("kept %v", got)
		}
	})
}

// TestDeletingWritesNothing when every gateway confirms at once: the object is for what lasts. A new address is
// written before it is served, and taken out again.
func TestDeletingWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.9", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		for range 5 {
			s.ensure(c, web("a", 80))
			if err := c.Delete(t.Context(), key("a"), false); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if s.ledger.writes > 10 {
			t.Errorf("%d writes of a ledger for 5 new addresses, which are confirmed and gone", s.ledger.writes)
		}
	})
}

// TestKeptAddressThatOnlyTheGatewaysKnow: the ledger could not be written, or somebody removed it while nobody looked.
func TestKeptAddressThatOnlyTheGatewaysKnow(t *testing.T) {
	for name, removed := range map[string]bool{"not written": false, "removed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.1-10.0.0.2", "gw1")
				c := s.start()
				address := s.ensure(c, web("a", 80)).Addresses[0]
				time.Sleep(time.Second)
				if !removed {
					s.ledger.edit(func(l *loadbalancer.Ledger) {})
					s.ledger.fail(errors.New("no API server"))
				}
				_ = c.Delete(t.Context(), key("a"), true)
				s.ensure(c, web("b", 80))
				_ = c.stop()
				s.ledger.fail(nil)
				replays := []loadbalancer.Replay{replayed(web("b", 80))}
				if removed {
					s.ledger.remove()
				} else {
					replays = append(replays, loadbalancer.Replay{Key: key("a")}) // it has its finalizer still
				}
				c = s.start(replays...)
				defer c.stop()
				if _, err := c.Ensure(t.Context(), web("c", 80)); !isA[*ipam.ExhaustedError](err) {
					t.Errorf("c got the kept address, or: %v", err)
				}
				if !removed {
					if err := c.Delete(t.Context(), key("a"), true); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Second)
				if got := s.ledger.read().Kept; len(got) != 1 || got[0].Address != address {
					t.Errorf("kept %v, want %s", got, address)
				}
			})
		})
	}
}

// TestLedgerThatCannotBeRead: what is kept would be given away, so nothing is given before.
func TestLedgerThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1")
		c := s.start()
		s.ensure(c, web("a", 80))
		_ = c.stop()
		unreadable := errors.New("addresses.yaml line 3: no address")
		s.ledger.fail(unreadable)
		c = s.start(replayed(web("a", 80), "10.0.0.1"))
		defer c.stop()
		if _, err := c.Ensure(t.Context(), web("b", 80)); !errors.Is(err, unreadable) {
			t.Errorf("Ensure: %v", err)
		}
		if s.gateways[0].serves("a") == nil {
			t.Error("a is not served any more")
		}
		s.ledger.fail(nil)
		time.Sleep(35 * time.Second)
		s.ensure(c, web("a", 443))
	})
}

// TestLedgerThatCannotBeWritten is told once, and written when it can be.
func TestLedgerThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.2", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		time.Sleep(time.Second)
		s.ledger.fail(errors.New("no API server"))
		s.gateway("gw2").change(func(g *fakeGateway) { g.cut = true })
		_ = c.Delete(t.Context(), key("a"), false)
		time.Sleep(5 * time.Minute)
		if told := s.observer.toldOf(); len(told) != 1 || !isA[*loadbalancer.LedgerError](told[0]) {
			t.Errorf("told %v", told)
		}
		s.ledger.fail(nil)
		time.Sleep(time.Minute)
		if got := s.ledger.read().Releasing; len(got) != 1 || got[0].Owner != key("a") {
			t.Errorf("releasing: %v", got)
		}
	})
}

// TestReleasingSurvivesNewGateways: every gateway that knew of it was made anew while one is away.
func TestReleasingSurvivesNewGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		_ = c.stop()
		s.gateway("gw1").change(func(g *fakeGateway) { g.state, g.signed = nil, nil })
		c = s.start()
		defer c.stop()
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("the address that gw2 may hold was given away, or: %v", err)
		}
	})
}
