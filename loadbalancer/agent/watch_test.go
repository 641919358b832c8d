package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const alive, ready = "/run/gatewayctl/track/alive", "/run/gatewayctl/track/ready"

// watching runs one of the agent's watchers in the bubble until the test ends.
func watching(t *testing.T, watch func(context.Context)) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); watch(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// noticed is how long a death of HAProxy takes at most to be told.
const noticed = lookEvery + (deadAfter-1)*lookAgain

// hungAfter is how long a silent HAProxy counts as alive.
const hungAfter = silenceLimit + secondTries*secondLimit

func TestAliveFollowsHAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.watchHAProxy)
		synctest.Wait()
		if m.file(alive) != "100\n" {
			t.Errorf("with HAProxy alive the track file says %q", m.file(alive))
		}
		worker := m.haproxy
		m.meanwhile(func() { m.haproxy = nil })
		time.Sleep(noticed)
		synctest.Wait()
		if m.file(alive) != "0\n" {
			t.Errorf("%s after HAProxy's death the track file says %q", noticed, m.file(alive))
		}
		m.meanwhile(func() { m.haproxy = worker })
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		if m.file(alive) != "100\n" {
			t.Errorf("after HAProxy's return the track file says %q", m.file(alive))
		}
	})
}

// A hung HAProxy accepts a question and never answers.
func TestHungHAProxyIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		a.haproxy = hung{m}
		m.files[alive] = "100\n"
		watching(t, a.watchHAProxy)
		time.Sleep(hungAfter)
		synctest.Wait()
		if m.file(alive) != "0\n" {
			t.Errorf("the track file says %q", m.file(alive))
		}
	})
}

type hung struct{ *machine }

func (hung) Ping(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// A gateway whose HAProxy is dead leaves at once when another one can take over, and is there again soon, in case that fails.
func TestLeavesToAnHeir(t *testing.T) {
	for _, test := range []struct {
		name string
		heir *wire.Heir
		hang bool
		told string
	}{
		{"dead", &wire.Heir{Fit: true}, false, "-254\n"},
		{"hangs", &wire.Heir{Fit: true}, true, "-254\n"},
		{"nobody can take over", &wire.Heir{Problem: "is drained itself"}, false, "0\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sample(1, service("web", "192.0.2.10", 51))
				m := holding(t, s)
				a := started(t, m)
				a.peers.all = []*peer{{answered: true, fence: &s.Fence, heir: test.heir}}
				m.files[alive] = "100\n"
				m.haproxy = nil
				if test.hang {
					a.haproxy = hung{m}
				}
				watching(t, a.watchHAProxy)
				after := noticed
				if test.hang {
					after = hungAfter
				}
				time.Sleep(after)
				synctest.Wait()
				if m.file(alive) != test.told {
					t.Errorf("the track file says %q, want %q", m.file(alive), test.told)
				}
				time.Sleep(leaveFor + after)
				synctest.Wait()
				if m.file(alive) != "0\n" {
					t.Errorf("%s later the track file says %q", leaveFor, m.file(alive))
				}
			})
		})
	}
}

// A silent HAProxy that waits for a processor has more time than one that hangs.
func TestBusyIsNotHung(t *testing.T) {
	for _, test := range []struct {
		state string
		works bool
		told  string
	}{{"R", false, "100\n"}, {"S", false, "0\n"}, {"S", true, "100\n"}, {"T", false, "0\n"}} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := started(t, m)
			a.haproxy = hung{m}
			if test.works {
				a.haproxy = starved{m}
			}
			pid := m.haproxy.pid
			m.files[alive] = "100\n"
			m.files["/run/haproxy.pid"] = fmt.Sprintln(pid)
			m.files[fmt.Sprintf("/proc/%d/stat", pid)] = stat(pid, "haproxy")
			m.files[fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)] = "7001 7002"
			m.files["/proc/7001/stat"] = stat(7001, "haproxy")
			m.files["/proc/7002/stat"] = strings.Replace(stat(7002, "haproxy"), ") S", ") "+test.state, 1)
			watching(t, a.watchHAProxy)
			time.Sleep(silenceLimit + (secondTries+busyTries-1)*secondLimit)
			synctest.Wait()
			if m.file(alive) != test.told {
				t.Errorf("in state %s, working %t, the track file says %q, want %q", test.state, test.works, m.file(alive), test.told)
			}
			time.Sleep(2 * secondLimit)
			synctest.Wait()
			if m.file(alive) != "0\n" {
				t.Errorf("in state %s for ever the track file says %q", test.state, m.file(alive))
			}
		})
	}
}

// starved is an HAProxy that is given a processor now and then, too late for each question.
type starved struct{ *machine }

func (s starved) Ping(ctx context.Context) error {
	<-ctx.Done()
	s.meanwhile(func() { s.files["/proc/7002/schedstat"] += "." })
	return ctx.Err()
}

// One question that is refused, or late, is no death: a worker replaces another one, or we slept.
func TestOneMissIsNoDeath(t *testing.T) {
	for _, miss := range []error{errStruck, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := started(t, m)
			a.haproxy = &missing{machine: m, every: 2, miss: miss}
			m.files[alive] = "100\n"
			m.log = nil
			watching(t, a.watchHAProxy)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if m.did("write " + alive) {
				t.Errorf("%v: the track file was written", miss)
			}
		})
	}
}

// missing is an HAProxy that misses every second question.
type missing struct {
	*machine
	asked, every int
	miss         error
}

func (m *missing) Ping(ctx context.Context) error {
	if m.asked++; m.asked%m.every != 0 {
		return nil
	}
	if errors.Is(m.miss, context.DeadlineExceeded) {
		<-ctx.Done()
	}
	return m.miss
}

// A track file that could not be written is written when it can be.
func TestAliveIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.strike = from(0, failsBefore)
		watching(t, a.watchHAProxy)
		time.Sleep(time.Second)
		m.meanwhile(func() { m.strike = at(0, passes) })
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		if m.file(alive) != "100\n" {
			t.Errorf("the track file says %q", m.file(alive))
		}
	})
}

func TestReady(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51))
	boot := func(m *machine) { delete(m.files, alive); delete(m.files, ready) } // tmpfs
	t.Run("not at boot", func(t *testing.T) {
		m := holding(t, s)
		boot(m)
		started(t, m)
		if m.file(ready) != "0\n" || m.file(alive) != "0\n" {
			t.Errorf("track files after a boot: ready %q, alive %q", m.file(ready), m.file(alive))
		}
	})
	t.Run("at once when a controller applies", func(t *testing.T) {
		m := holding(t, s)
		boot(m)
		a := started(t, m)
		if result, _ := a.apply(t.Context(), sign(t, s)); result == nil || result.Outcome != wire.Unchanged {
			t.Fatalf("got %+v", result)
		}
		if m.file(ready) != "50\n" {
			t.Errorf("ready is %q", m.file(ready))
		}
	})
	t.Run("not when the newer State failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, s)
			boot(m)
			a := started(t, m)
			m.strike = func(_ int, operation string) strike {
				if operation == "run /keepalived reload" {
					return failsBefore
				}
				return passes
			}
			a.apply(t.Context(), sign(t, sample(2, service("db", "192.0.2.11", 51))))
			if m.file(ready) != "0\n" {
				t.Errorf("ready is %q", m.file(ready))
			}
		})
	})
	t.Run("not because time passes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, s)
			boot(m)
			a := started(t, m)
			watching(t, a.followPeers)
			time.Sleep(time.Hour)
			synctest.Wait()
			if m.file(ready) != "0\n" {
				t.Errorf("ready is %q", m.file(ready))
			}
		})
	})
	t.Run("an agent's restart keeps it", func(t *testing.T) {
		m := holding(t, s)
		m.files[ready] = "50\n"
		started(t, m)
		if m.file(ready) != "50\n" {
			t.Errorf("ready is %q", m.file(ready))
		}
	})
}

func TestDaemonsAreStarted(t *testing.T) {
	for _, dies := range []string{"haproxy", "keepalived"} {
		t.Run(dies, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
				want := m.moment()
				a := started(t, m)
				watching(t, a.watchDaemons)
				m.meanwhile(func() {
					if dies == "haproxy" {
						m.stop("/run/haproxy.pid", m.haproxy.pid)
						m.haproxy = nil
					} else {
						m.stop("/run/keepalived.pid", m.keepalived.pid)
						m.keepalived = nil
					}
				})
				time.Sleep(daemonsEvery + time.Second)
				synctest.Wait()
				if got := m.moment(); got.HAProxy != want.HAProxy || got.Keepalived != want.Keepalived || got.Generation != want.Generation {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		})
	}
}

// A gateway that never had a State starts nothing and holds nothing.
func TestNothingIsStartedWithoutAState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		a := started(t, m)
		watching(t, a.watchDaemons)
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.keepalived != nil || m.script != "" || m.files["/etc/haproxy/haproxy.cfg"] != foreignConfig {
			t.Errorf("the machine was changed: %+v", m.moment())
		}
	})
}

// A repair that fails is tried again, less and less often, and succeeds when it can.
func TestRepairIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.stop("/run/keepalived.pid", m.keepalived.pid)
		m.keepalived = nil
		tries := 0
		m.strike = func(_ int, operation string) strike {
			if operation == "run /keepalived start" {
				tries++
				return failsBefore
			}
			return passes
		}
		watching(t, a.watchDaemons)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if tries < 15 || tries > 30 {
			t.Errorf("%d tries in 10 minutes, want some 20: at most one every %s", tries, retryLast)
		}
		if status := a.status(t.Context(), wire.RoleController); status.InSync || status.KeepalivedUp {
			t.Errorf("status: %+v", status)
		}
		m.meanwhile(func() { m.strike = at(0, passes) })
		time.Sleep(retryLast + 2*daemonsEvery)
		synctest.Wait()
		if m.keepalived == nil {
			t.Error("keepalived was not started when it could be")
		}
		if status := a.status(t.Context(), wire.RoleController); !status.InSync {
			t.Errorf("status: %+v", status)
		}
	})
}

// An nft that was upgraded under a running agent may spell our rules in another way: they are asked for anew, before
// everything that is applied is taken for wrong for ever.
func TestUpgradeUnderTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		m.spelling = "as in the next release"
		watching(t, a.watchDaemons)
		next := sign(t, sample(2, service("db", "192.0.2.11", 51)))
		if result, refusal := a.apply(t.Context(), next); refusal != nil || result.Outcome != wire.Stuck {
			t.Fatalf("got %+v, %v: this test would show nothing", result, refusal)
		}
		time.Sleep(retryFirst + 2*daemonsEvery)
		synctest.Wait()
		if result, refusal := a.apply(t.Context(), next); refusal != nil || result.Outcome != wire.Runtime {
			t.Errorf("after a repair got %+v, %v", result, refusal)
		}
	})
}

// Servers that were removed with connections on them are looked at again, until there are none.
func TestLeftoverIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.watchDaemons)
		time.Sleep(time.Minute)
		synctest.Wait()
		m.meanwhile(func() { m.log = nil })
		a.noteLeftover(&work{diff: haproxy.Diff{Deferred: []string{"nodes/worker-3"}}})
		time.Sleep(leftoverEvery + 2*daemonsEvery)
		synctest.Wait()
		if !m.did("haproxy read") || a.hasLeftover() {
			t.Error("HAProxy was not read again")
		}
		m.meanwhile(func() { m.log = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.did("haproxy read") {
			t.Error("HAProxy is read again and again although nothing is left")
		}
	})
}
