package loadbalancer_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// What a gateway warns everybody of, everybody is told who calls; what it warns single Services of is told to these, who need not
// call, and to nobody else.
func TestWarningsOfGatewaysReachTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		all := wire.Warning{Reason: "AllNodesDown", Message: "all nodes fail the check"}
		warning := func(warnings ...wire.Warning) {
			s.gateway("gw1").change(func(g *fakeGateway) { g.warnings = warnings })
		}
		warning(all)
		c := s.start()
		defer c.stop()
		wantTold := func(when, name string, want ...string) {
			t.Helper()
			var got []string
			for _, w := range s.ensure(c, web(name, 80)).Warnings {
				got = append(got, w.Reason+": "+w.Message)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s is told %q, want %q", when, name, got, want)
			}
		}
		wantNotices := func(when string, want ...string) {
			t.Helper()
			time.Sleep(2 * censuses)
			_, _, notices := s.observer.seen()
			var got []string
			for key, err := range notices {
				got = append(got, key.Name+": "+err.Error())
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: noticed %q, want %q", when, got, want)
			}
			s.observer.forget()
		}
		const general = "AllNodesDown: gateway gw1: all nodes fail the check"
		wantTold("at first", "concerned", general)
		wantTold("at first", "other", general)
		wantNotices("at first")
		s.observer.toldOf()

		silent := wire.Warning{Reason: "NoReturnPath", Message: "node a is silent", LoadBalancers: []desired.Key{key("concerned"), key("gone")}}
		warning(all, silent)
		wantNotices("nobody calls", "concerned: gateway gw1: node a is silent", "gone: gateway gw1: node a is silent")
		if told := s.observer.toldOf(); len(told) > 0 {
			t.Errorf("everybody is told %v", told)
		}
		wantTold("of another one", "other", general)
		wantTold("of itself", "concerned", general)
		s.gateway("gw1").change(func(g *fakeGateway) { g.cut = true })
		wantNotices("it does not answer")
		s.gateway("gw1").change(func(g *fakeGateway) { g.cut = false })
		time.Sleep(2 * time.Hour)
		wantNotices("once is enough")

		warning(all)
		wantNotices("when it is over")
		warning(all, silent)
		s.ensure(c, web("third", 80))
		if _, _, notices := s.observer.seen(); len(notices) != 2 {
			t.Errorf("it came again and is not told after the round: %v", notices)
		}
	})
}
