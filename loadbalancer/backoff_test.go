package loadbalancer_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// TestFailingGatewaysAreNotHammered: both answer and neither can do what it is asked. A failed transaction may cost a
// reload each time.
func TestFailingGatewaysAreNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		offers := func() (n int) {
			for _, g := range s.gateways {
				_, applies := g.snapshot()
				n += len(applies)
			}
			return n
		}
		for name, judge := range map[string]func(*desired.State) (*wire.Result, error){
			"refuse": refuse(wire.CodeInternal),
			"crash":  func(*desired.State) (*wire.Result, error) { return nil, errors.New("the remote command ended") },
		} {
			for _, g := range s.gateways {
				g.change(func(g *fakeGateway) { g.judge = judge })
			}
			before := offers()
			_, _ = c.Ensure(t.Context(), web("b", 80))
			time.Sleep(time.Minute)
			if n := offers() - before; n < 6 || n > 40 {
				t.Errorf("gateways that %s were offered a State %d times within a minute", name, n)
			}
		}
	})
}

// TestGatewayThatHangsOverEachState answers hello and never an Apply, as one with a frozen disk does. It must not delay
// everybody every few seconds.
func TestGatewayThatHangsOverEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/16", "gw1", "gw2")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		gw1 := s.gateways[0]
		gw1.change(func(g *fakeGateway) { g.frozen, g.dead = true, true }) // its VIPs are held by the other
		var slow int
		for i := range 100 {
			started := time.Now()
			s.ensure(c, web(fmt.Sprintf("s%d", i), 80))
			if time.Since(started) > time.Second {
				slow++
			}
			time.Sleep(6 * time.Second)
		}
		if slow > 10 {
			t.Errorf("%d of 100 Services in ten minutes waited for it", slow)
		}
		gw1.change(func(g *fakeGateway) { g.frozen, g.dead = false, false })
		time.Sleep(3 * time.Minute)
		s.equalGateways()
	})
}
