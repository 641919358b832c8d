package loadbalancer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// Who drains a gateway does so on the gateway; the controller tells of it once, and shows it as long as it lasts.
func TestDrainIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		c := s.start()
		defer func() { _ = c.stop() }()
		s.ensure(c, web("a", 80))
		drain := func(d *wire.DrainStatus) { s.gateway("gw1").change(func(g *fakeGateway) { g.drain = d }) }
		want := func(when, text string, drained bool) {
			t.Helper()
			time.Sleep(2 * time.Minute)
			if told := fmt.Sprint(s.observer.toldOf()); told != text {
				t.Errorf("%s told %s, want %s", when, told, text)
			}
			rounds, _, _ := s.observer.seen()
			last := rounds[len(rounds)-1].Gateways
			if len(last) != 2 || (last[0].Drain != nil) != drained || last[1].Drain != nil {
				t.Errorf("%s the round says %+v", when, last)
			}
		}
		want("at first", "[]", false)
		noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		drain(&wire.DrainStatus{Since: noon, By: wire.RoleOperator, Reason: "new kernel", Connections: 7})
		const drained = "gateway gw1 has been drained since 2026-03-01T12:00:00Z by operator (new kernel): the others have its addresses until `gatewayctl undrain`"
		want("drained", "["+drained+"]", true)
		drain(&wire.DrainStatus{Since: noon, By: wire.RoleOperator, Reason: "new kernel"})
		want("with fewer connections", "[]", true)
		_ = c.stop()
		c = s.start()
		want("to the next controller", "["+drained+"]", true)
		drain(&wire.DrainStatus{Since: noon.Add(time.Hour)})
		want("drained anew", "[gateway gw1 has been drained since 2026-03-01T13:00:00Z by nobody known: the others have its addresses until `gatewayctl undrain`]", true)
		drain(nil)
		want("undrained", "[gateway gw1 is drained no more and takes its addresses back]", false)
	})
}
