package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

// A node that fails every few seconds is out after its second failure, but for the first moments; one that failed once is back at once.
func TestUnsteadyNodesAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
		a := started(t, m)
		watching(t, a.followFlows)
		look := func() { time.Sleep(2 * flowsEvery); synctest.Wait() }
		serves := func() bool { return m.slotsOf("10.0.2.1") > 0 }
		look()
		for n, want := range []bool{true, false, false, false} {
			m.setServer("nodes", "worker-1", "DOWN")
			look()
			if serves() {
				t.Fatalf("failure %d: it gets flows while it fails", n+1)
			}
			m.setServer("nodes", "worker-1", "UP")
			look()
			if serves() != want {
				t.Errorf("failure %d: back at once: %t", n+1, serves())
			}
		}
		// Failed four times: 8 s.
		time.Sleep(5 * time.Second)
		if synctest.Wait(); serves() {
			t.Error("it is back too soon")
		}
		time.Sleep(3 * time.Second)
		if synctest.Wait(); !serves() {
			t.Error("it is not back")
		}
		// Where nobody else serves, nobody is held back.
		m.setServer("nodes", "worker-1", "DOWN")
		look()
		m.setServer("nodes", "worker-1", "UP")
		m.setServer("nodes", "worker-2", "DOWN")
		look()
		if !serves() || m.slotsOf("10.0.2.2") > 0 {
			t.Error("the only node that passes gets no flows")
		}
		m.setServer("nodes", "worker-2", "UP")
		time.Sleep(calmAfter + settleLast)
		m.setServer("nodes", "worker-1", "DOWN")
		look()
		m.setServer("nodes", "worker-1", "UP")
		look()
		if !serves() {
			t.Error("what failed long ago still counts")
		}
	})
}

func TestSettlingIsBounded(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 0, 2: settleFirst, 3: 2 * settleFirst, 1000: settleLast} {
		if got := (&unrest{failures: failures}).wait(); got != want {
			t.Errorf("after %d failures it waits %s", failures, got)
		}
	}
}
