package loadbalancer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestGatewayDownIsDegradedAndRepairedWithoutEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })

		ensured := s.ensure(c, web("b", 80))
		if !slices.ContainsFunc(ensured.Warnings, func(w wire.Warning) bool {
			return w.Reason == "GatewayAway" && strings.Contains(w.Message, "gateway gw2 is unreachable: "+errDialTimeout.Error())
		}) {
			t.Errorf("warnings: %v", ensured.Warnings)
		}
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(6 * time.Second)
		if gw2.serves("b") == nil {
			t.Error("the gateway that is back was not repaired by the probe")
		}
		s.equalGateways()
		if status := c.Gateways()[1]; status.Err != nil || status.Confirmed.Epoch == 0 {
			t.Errorf("status: %+v", status)
		}
	})
}

func TestHangingGatewayDelaysOthersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.ApplyTimeout = 3 * time.Second
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		for _, g := range s.gateways {
			// The other one holds every VIP.
			g.change(func(g *fakeGateway) { g.hanging, g.dead = g.name == "gw1", g.name == "gw1" })
		}
		for i, limit := range []time.Duration{4 * time.Second, time.Second} {
			started := time.Now()
			s.ensure(c, web([]string{"b", "c"}[i], 80))
			if took := time.Since(started); took > limit {
				t.Errorf("Ensure %d took %v", i, took)
			}
		}
	})
}

func TestNoGatewayKeepsTheAddressAndTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.cut = true })
		}
		_, err := c.Ensure(t.Context(), web("b", 80))
		var none *loadbalancer.GatewaysError
		if !errors.As(err, &none) || len(none.Gateways) != 2 || !errors.Is(err, errDialTimeout) {
			t.Fatalf("want *GatewaysError of two, got %v", err)
		}
		assigned, ok := c.Has(key("b"))
		if !ok || len(assigned) != 1 {
			t.Errorf("the address was lost: %v, %v", assigned, ok)
		}
		if err := c.Delete(t.Context(), key("a"), false); !errors.As(err, &none) {
			t.Errorf("Delete: %v", err)
		}
		if _, ok := c.Has(key("a")); !ok {
			t.Error("a is said to be gone, but no gateway confirmed it")
		}
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.cut = false })
		}
		time.Sleep(35 * time.Second) // the longest backoff
		for _, g := range s.gateways {
			if lb := g.serves("b"); lb == nil || lb.Addresses[0] != assigned[0] {
				t.Errorf("gateway %s serves b as %+v, want %v", g.name, lb, assigned)
			}
			if g.serves("a") != nil {
				t.Errorf("gateway %s still serves a", g.name)
			}
		}
		if _, ok := c.Has(key("a")); ok {
			t.Error("a is gone everywhere and still said to be there")
		}
	})
}

func TestReleasingUntilEveryGatewayConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		gw2 := s.gateway("gw2")
		gw2.change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatalf("Delete with one gateway away: %v", err)
		}
		if _, ok := c.Has(key("a")); ok {
			t.Error("every reachable gateway confirmed, yet a is said to be there")
		}
		// The next controller, too, knows that it is releasing.
		for range 2 {
			if _, err := c.Ensure(t.Context(), web("b", 80)); err == nil || !strings.Contains(err.Error(), "1 releasing") {
				t.Fatalf("the address that gw2 may hold was given away, or: %v", err)
			}
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			c = s.start()
			time.Sleep(time.Second)
		}
		defer func() { _ = c.stop() }()
		if state, _ := s.gateways[0].snapshot(); len(state.Releasing) != 1 || state.Releasing[0].Owner != key("a") {
			t.Errorf("releasing in the State: %+v", state.Releasing)
		}
		gw2.change(func(g *fakeGateway) { g.dead = false })
		time.Sleep(6 * time.Second)
		if _, freed, _ := s.observer.seen(); len(freed) != 1 {
			t.Errorf("freed: %v", freed)
		}
		s.ensure(c, web("b", 80))
	})
}

// TestRemovedGatewayHoldsNoAddressBack: the way out when a configured gateway never comes back.
func TestRemovedGatewayHoldsNoAddressBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		_ = c.Delete(t.Context(), key("a"), false)
		if pools := c.Pools(); pools[0].Releasing != 1 {
			t.Errorf("pools: %+v", pools)
		}
		_, err := c.Ensure(t.Context(), web("b", 80))
		if err == nil || !strings.Contains(err.Error(), "bring back the gateways that are away, or remove them from the configuration") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		_ = c.stop()
		s.gateways, s.settings.Gateways = s.gateways[:1], s.settings.Gateways[:1]
		c = s.start()
		defer c.stop()
		time.Sleep(time.Second)
		s.ensure(c, web("b", 80))
	})
}

func TestGatewaysAreToldByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw3", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		var names []string
		for _, status := range c.Gateways() {
			names = append(names, status.Name)
		}
		if !slices.Equal(names, []string{"gw1", "gw2", "gw3"}) {
			t.Errorf("gateways: %v", names)
		}
	})
}

func TestResyncRepairsDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		gw1 := s.gateways[0]
		gw1.change(func(g *fakeGateway) { g.drift = []string{"map entry missing"} })
		_, before := gw1.snapshot()
		time.Sleep(61 * time.Second)
		gw1.change(func(g *fakeGateway) {
			if g.drift != nil {
				t.Error("the drift was not repaired at the resync")
			}
		})
		_, after := gw1.snapshot()
		if len(after) != len(before)+1 || after[len(after)-1] != before[len(before)-1] {
			t.Errorf("the resync offered %v after %v, want the same State once", after[len(before):], before)
		}
	})
}

func TestFewestAffectedVIPsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		var order []string
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) {
				g.judge = func(*desired.State) (*wire.Result, error) {
					order = append(order, g.name)
					return nil, nil
				}
			})
		}
		// Which gateway holds a VIP is decided by its address: take one of either.
		seen := map[string]bool{}
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			address := s.ensure(c, web(name, 80)).Addresses[0]
			holder, other := "gw1", "gw2"
			if slices.Contains(c.Gateways()[1].Held, address) {
				holder, other = other, holder
			}
			seen[holder] = true
			order = nil
			service := web(name, 81)
			s.ensure(c, service)
			if !slices.Equal(order, []string{other, holder}) {
				t.Errorf("%s is held by %s; pushed in the order %v", address, holder, order)
			}
		}
		if len(seen) != 2 {
			t.Errorf("only %v held VIPs: nothing was compared", seen)
		}
	})
}

func TestForeignAndUnfitGateways(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(*desired.State) (*wire.Result, error)
		text   string
	}{
		{"other cluster", refuse(wire.CodeCluster), "cluster"},
		{"other schema", refuse(wire.CodeVersion), "version"},
		{"signer not known", refuse(wire.CodeSignature), "signature"},
		{"stuck", func(*desired.State) (*wire.Result, error) { return &wire.Result{Outcome: wire.Stuck}, nil }, "person is needed"},
		{"other contents", func(s *desired.State) (*wire.Result, error) {
			return &wire.Result{Outcome: wire.Runtime, Fence: s.Fence, Digest: "another"}, nil
		}, "says that it holds"},
		{"disk full", func(*desired.State) (*wire.Result, error) {
			return &wire.Result{Outcome: wire.RolledBack, Faults: []wire.Fault{{Message: "no space left on device"}}}, nil
		}, "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
				m := s.start()
				defer m.stop()
				s.ensure(m, web("a", 80))
				s.gateways[0].change(func(g *fakeGateway) { g.judge = c.answer })
				// Whether it is held depends on which gateway VRRP gives it to.
				_, _ = m.Ensure(t.Context(), web("b", 80))
				time.Sleep(5 * time.Second)
				if s.gateways[1].serves("b") == nil {
					t.Error("the fit gateway does not serve b")
				}
				status := m.Gateways()[0]
				if status.Err == nil || !strings.Contains(status.Err.Error(), c.text) {
					t.Errorf("gw1: %v", status.Err)
				}
				s.gateways[0].change(func(g *fakeGateway) { g.judge = nil })
				time.Sleep(61 * time.Second)
				s.equalGateways()
				if err := m.Gateways()[0].Err; err != nil {
					t.Errorf("gw1 after it was mended: %v", err)
				}
			})
		})
	}
}

func refuse(code wire.Code) func(*desired.State) (*wire.Result, error) {
	return func(*desired.State) (*wire.Result, error) {
		return nil, &wire.Refusal{Code: code, Message: "refused: " + string(code)}
	}
}

// When every gateway refuses for a reason of its own, rounds are tried again after their pause and not in a storm.
func TestRefusedByAllIsNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "192.0.2.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("first", 80))
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) {
				g.judge = func(*desired.State) (*wire.Result, error) {
					return nil, &wire.Refusal{Code: wire.CodeInternal, Message: "no space left on device"}
				}
			})
		}
		_, before := s.gateways[0].snapshot()
		if _, err := c.Ensure(t.Context(), web("second", 80)); err == nil {
			t.Fatal("served although no gateway confirmed")
		}
		time.Sleep(time.Minute)
		_, after := s.gateways[0].snapshot()
		if n := len(after) - len(before); n > 20 {
			t.Errorf("gw1 was offered %d States within a minute", n)
		}
	})
}

// TestReleasedAddressTakenBackAndNotServed: the State without it has to tell the next controller that gw2 may have it.
func TestReleasedAddressTakenBackAndNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1", "gw2")
		c := s.start()
		s.ensure(c, web("a", 80))
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead = true })
		if err := c.Delete(t.Context(), key("a"), false); err != nil {
			t.Fatal(err)
		}
		s.gateway("gw1").change(func(g *fakeGateway) { g.judge = naming })
		if _, err := c.Ensure(t.Context(), web("a", badPort)); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Fatalf("got %v", err)
		}
		_ = c.stop()
		c = s.start()
		defer c.stop()
		if _, err := c.Ensure(t.Context(), web("b", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("the address that gw2 may hold was given away, or: %v", err)
		}
	})
}
