package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A worker that somebody else started has the ports, the checks and the limits of its files: it is compared within a second, a failed try
// again a second later. That of an own reload is no news, nor is one that does not answer yet, for long.
func TestWorkerOfSomebodyElseIsCompared(t *testing.T) {
	for _, drift := range []string{driftRepair, driftReport} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			m.forks = true
			m.haproxy = nil
			m.files["/run/haproxy.pid"] = ""
			a := started(t, m)
			a.config.Drift = drift
			watching(t, a.watchDaemons)
			time.Sleep(time.Minute)
			synctest.Wait()
			m.meanwhile(func() { m.log = nil })
			time.Sleep(time.Minute)
			if m.did("haproxy read") {
				t.Error("HAProxy is read although nobody did anything")
			}
			for _, start := range []bool{true, false} {
				old := m.haproxy.running()
				m.meanwhile(func() {
					if err := m.loadHAProxy(start); err != nil {
						t.Error(err)
					}
				})
				if !start {
					a.writing <- struct{}{}
					a.haproxy = elder{m, old} // the worker that was replaced answers still
					a.release()
					time.Sleep(daemonsEvery)
					synctest.Wait()
					a.writing <- struct{}{}
					a.haproxy = m
					a.release()
				}
				time.Sleep(retryFirst + daemonsEvery)
				synctest.Wait()
				m.meanwhile(func() {
					if !m.haproxy.limited {
						t.Errorf("drift %s, start %t: the worker has no limit", drift, start)
					}
					m.log = nil
				})
			}
			if result, refusal := a.apply(t.Context(), sign(t, sample(2, controlPlane))); refusal != nil || result.Outcome != wire.Reloaded {
				t.Fatal(result, refusal)
			}
			m.meanwhile(func() { m.log = nil })
			time.Sleep(10 * time.Second)
			if m.did("haproxy read") {
				t.Error("the worker of an own reload is taken for somebody else's")
			}
		})
	}
}

// elder is a machine whose former worker answers still.
type elder struct {
	*machine
	old *haproxy.Running
}

func (e elder) Read(context.Context) (*haproxy.Running, error) { return e.old, nil }
