package loadbalancer_test

import (
	"testing"
	"testing/synctest"
)

// How long connections to servers that left live is told to every gateway.
func TestDrainTimeStandsInState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		s.settings.DrainSeconds = 90
		c := s.start()
		defer c.stop()
		s.ensure(c, web("web", 80))
		for _, g := range s.gateways {
			g.mu.Lock()
			if g.state.DrainSeconds != 90 {
				t.Errorf("%s has %d s", g.name, g.state.DrainSeconds)
			}
			g.mu.Unlock()
		}
	})
}
