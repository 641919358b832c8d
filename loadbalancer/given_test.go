package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer"
)

// crowd are so many pending Services that one object of the API server (1 MiB) could not tell of all their addresses.
func crowd() (all []loadbalancer.Service) {
	for i := range 7000 {
		s := web(fmt.Sprintf("s%04d-%s", i, strings.Repeat("x", 57)), 80)
		s.LoadBalancer.Namespace = strings.Repeat("n", 63)
		all = append(all, s)
	}
	return all
}

// More Services come at once than the ledger has room for: they get their addresses one lot after the other, as the gateways confirm.
func TestLedgerHasNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		s.ledger.limit = 1 << 20
		var replays []loadbalancer.Replay
		for _, service := range crowd() {
			replays = append(replays, replayed(service))
		}
		c := s.start(replays...)
		defer c.stop()
		time.Sleep(time.Minute)
		s.equalGateways()
		if state, _ := s.gateways[0].snapshot(); len(state.LoadBalancers) != len(replays) {
			t.Errorf("%d of %d Services are served", len(state.LoadBalancers), len(replays))
		}
		if told := s.observer.toldOf(); len(told) > 0 {
			t.Errorf("told: %v", told)
		}
		if given := s.ledger.read().Given; len(given) > 0 {
			t.Errorf("the ledger tells of %d still", len(given))
		}
	})
}

// With a gateway away nobody confirms those that have found room: who has not is told why, until statuses tell of the others.
func TestLedgerHasNoRoomWhileAGatewayIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		s.ledger.limit = 1 << 20
		s.gateways[1].change(func(g *fakeGateway) { g.dead = true })
		var replays []loadbalancer.Replay
		all := crowd()
		for _, service := range all {
			replays = append(replays, replayed(service))
		}
		c := s.start(replays...)
		defer c.stop()
		served := func() int {
			time.Sleep(time.Minute)
			state, _ := s.gateways[0].snapshot()
			return len(state.LoadBalancers)
		}
		first := served()
		if first == 0 || first == len(all) {
			t.Fatalf("%d of %d Services are served; the test needs more", first, len(all))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var full *loadbalancer.LedgerError
		if _, err := c.Ensure(ctx, all[len(all)-1]); !errors.As(err, &full) || !strings.Contains(err.Error(), "a gateway that has to confirm those is away") {
			t.Errorf("the last one is told %v", err)
		}
		for i, before := 0, 0; i < 10 && before != len(all); i++ {
			state, _ := s.gateways[0].snapshot()
			for _, lb := range state.LoadBalancers {
				c.Published(lb.Key, lb.Addresses)
			}
			before = served()
		}
		if n := served(); n != len(all) {
			t.Errorf("%d of %d Services are served after their statuses were written", n, len(all))
		}
	})
}
