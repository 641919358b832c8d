package loadbalancer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestServiceDoesNotWaitForADeadGateway: the machine is off, the connection to it looks alive.
func TestServiceDoesNotWaitForADeadGateway(t *testing.T) {
	for _, dies := range []string{"gw1", "gw2"} {
		for _, idle := range []time.Duration{10 * time.Millisecond, 900 * time.Millisecond, 20 * time.Second, 20 * time.Minute} {
			t.Run(fmt.Sprint(dies, idle), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
					c := s.start()
					defer c.stop()
					s.ensure(c, web("a", 80))
					time.Sleep(idle)
					s.gateway(dies).change(func(g *fakeGateway) { g.dead, g.hanging = true, true })
					for i, limit := range []time.Duration{2500 * time.Millisecond, 100 * time.Millisecond} {
						started := time.Now()
						s.ensure(c, web(fmt.Sprintf("b%d", i), 80))
						if took := time.Since(started); took > limit {
							t.Errorf("Service %d waited %v", i, took)
						}
					}
				})
			})
		}
	}
}
