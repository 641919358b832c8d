package agent

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A program or daemon that hangs ends nothing half-way: once, the transaction goes back or goes on; for good, it says so, and
// when the hang is over the machine finds back by itself.
func TestProgramHangs(t *testing.T) {
	c := changes()[slices.IndexFunc(changes(), func(c change) bool { return c.name == "reload needed, service deleted" })]
	for _, program := range []string{"/haproxy reload", "/usr/sbin/haproxy -c", "/usr/sbin/keepalived --config-test", "/keepalived reload",
		"nft --file -", "nft --check", "nft --json list table", "ip -json address show"} {
		for _, forGood := range []bool{false, true} {
			t.Run(program+map[bool]string{false: " once", true: " for good"}[forGood], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := faults{c: c, before: holding(t, c.held), operation: program}
					f.old = f.before.moment()
					clean := f.before.clone()
					if got := run(t, started(t, clean), c.next); got.outcome != c.want {
						t.Fatalf("without a hang: %+v", got)
					}
					f.fresh = clean.moment()
					m := f.before.clone()
					a := started(t, m)
					hung := 0
					m.hangs = func(command string) bool {
						if !strings.HasPrefix(command, program) || hung > 0 && !forGood {
							return false
						}
						hung++
						return true
					}
					begun := time.Now()
					got := run(t, a, c.next)
					if hung == 0 {
						t.Fatal("it was not run: this test would show nothing")
					}
					if took := time.Since(begun); took > 2*transactionLimit {
						t.Errorf("it took %s", took)
					}
					switch {
					case got.refusal != nil, got.outcome == wire.RolledBack:
						f.expect(t, m, f.old, "it hung")
					case got.outcome == wire.Stuck && forGood:
					default:
						t.Errorf("told %+v", got)
					}
					m.hangs = nil
					a.recover(t.Context())
					f.expectWhole(t, m, "the hang is over")
					f.again(t, m, a)
				})
			})
		}
	}
}

// No loop waits for ever for a program that hangs: when that is over, or only one of them hung, it does its work.
func TestLoopsOutliveAProgramThatHangs(t *testing.T) {
	for name, test := range map[string]struct {
		hangs string
		loop  func(*Agent) func(context.Context)
		begin func(*testing.T, *Agent, *machine)
		works func(*Agent, *machine) bool
		limit time.Duration
	}{
		"ending connections": {"ss --no-header --tcp", func(a *Agent) func(context.Context) { return a.expelUnwelcome },
			func(t *testing.T, a *Agent, m *machine) {
				m.meanwhile(func() { m.connections = []string{ofWeb} })
				follows(t, a, outlivedBy(2, without("web")))
			},
			func(_ *Agent, m *machine) bool { return len(m.open()) == 0 }, transactionLimit + 4*time.Minute},
		"asking peers": {"ip -4 rule", func(a *Agent) func(context.Context) { return a.followPeers },
			func(*testing.T, *Agent, *machine) {},
			func(a *Agent, _ *machine) bool { return a.hop.readyFor() != nil }, time.Minute},
		"starting HAProxy": {"pidof", func(a *Agent) func(context.Context) { return a.watchDaemons },
			func(_ *testing.T, _ *Agent, m *machine) {
				time.Sleep(time.Minute)
				m.meanwhile(func() { m.stop("/run/haproxy.pid", 100); m.haproxy = nil })
			},
			func(_ *Agent, m *machine) (runs bool) {
				m.meanwhile(func() { runs = m.haproxy != nil })
				return runs
			}, lookLimit + 5*time.Second},
		"telling what is held": {"ip -json address", func(a *Agent) func(context.Context) { return a.followHeld },
			func(_ *testing.T, a *Agent, _ *machine) { a.lastHeld() },
			func(a *Agent, _ *machine) bool { return len(a.lastHeld()) == 2 }, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				west := &fakePeer{}
				west.says(wire.Hop{Addresses: westAt, Leaving: true, Moving: true})
				a, m := peered(t, outlivedBy(1), west)
				west.holds(t, outlivedBy(1))
				m.listening = strings.Repeat("LISTEN 0 511 127.0.0.1:7480 0.0.0.0:*\n", 2)
				hung := 0
				m.hangs = func(command string) bool {
					if hung > 0 || !strings.HasPrefix(command, test.hangs) {
						return false
					}
					hung++
					return true
				}
				watching(t, test.loop(a))
				test.begin(t, a, m)
				time.Sleep(test.limit)
				synctest.Wait()
				if hung == 0 {
					t.Fatal("it was not run: this test would show nothing")
				}
				if !test.works(a, m) {
					t.Errorf("%v after %q began to hang it does not work", test.limit, test.hangs)
				}
			})
		})
	}
}

// An HAProxy that hangs for good is ended and started anew, with the agent's right or by the program that is configured; not one that
// computes, is silent for a while, or is somebody's to look at.
func TestHungHAProxyIsRestarted(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(*Agent, *machine)
		silent   time.Duration
		restarts bool
		warns    string
	}{
		{"hangs", func(*Agent, *machine) {}, 20 * time.Second, true, ""},
		{"without a program", func(a *Agent, _ *machine) { a.config.HAProxy.Kill = nil }, 20 * time.Second, true, ""},
		{"for a while", func(*Agent, *machine) {}, 12 * time.Second, false, ""},
		{"computes", func(_ *Agent, m *machine) {
			time.AfterFunc(10*time.Second, func() {
				m.meanwhile(func() { m.files["/proc/103/schedstat"] = "7" })
			})
		}, 20 * time.Second, false, "it computes"},
		{"has computed", func(_ *Agent, m *machine) {
			time.AfterFunc(5*time.Second, func() {
				m.meanwhile(func() { m.files["/proc/103/schedstat"] = "7" })
			})
		}, 30 * time.Second, true, ""},
		{"refuses", func(a *Agent, m *machine) { a.haproxy = refusingWorker{m} }, 20 * time.Second, false, ""},
		{"is asked by an agent that seldom runs", func(a *Agent, m *machine) { a.haproxy = sluggishWorker{m} }, time.Minute, false, ""},
		{"has a queue that is full", func(a *Agent, m *machine) { a.haproxy = silentWorker{m, m.haproxy, syscall.EAGAIN} }, 20 * time.Second, true, ""},
		{"differences are reported", func(a *Agent, _ *machine) { a.config.Drift = driftReport }, 20 * time.Second, false, "systemctl kill --signal=KILL haproxy"},
		{"cannot be ended", func(_ *Agent, m *machine) {
			m.hangs = func(command string) bool { return command == "/haproxy kill" }
		}, 40 * time.Second, false, "cannot be ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
				m.stop("/run/haproxy.pid", 100)
				m.files["/run/haproxy.pid"], m.files["/proc/101/stat"] = "101\n", stat(101, "haproxy")
				m.files["/proc/101/task/101/children"] = "102 103\n" // 102 has ended
				m.stop("", 102)
				m.files["/proc/103/stat"] = stat(103, "haproxy")
				m.haproxy.pid = 101
				a := started(t, m)
				worker := m.haproxy
				a.haproxy = silentWorker{m, worker, nil}
				test.change(a, m)
				watching(t, a.watchHAProxy)
				watching(t, a.watchDaemons)
				time.Sleep(test.silent)
				synctest.Wait()
				restarted := false
				m.meanwhile(func() { restarted = m.haproxy != nil && m.haproxy != worker })
				if restarted != test.restarts {
					t.Errorf("restarted %t, want %t", restarted, test.restarts)
				}
				if test.restarts && (m.file(alive) != "100\n" || len(a.faults()) > 0 || len(a.foundDifferences()) != 1) {
					t.Errorf("afterwards alive is %q, faults %q, told %+v", m.file(alive), a.faults(), a.foundDifferences())
				}
				warned := ""
				for _, w := range a.warnings(nil, nil) {
					warned += w.Reason + " " + w.Message
				}
				if (warned != "") != (test.warns != "") || !strings.Contains(warned, test.warns) {
					t.Errorf("warned %q, want %q", warned, test.warns)
				}
			})
		})
	}
}

// A worker that hangs beside older ones, which serve what they had before a reload, is replaced by a reload and ended alone; when that does
// not help, all are ended.
func TestHungWorkerIsReplaced(t *testing.T) {
	for _, test := range []struct {
		name     string
		helps    bool
		restarts bool
		stopped  bool // and somebody reloads before it has hung for long
		refuses  bool // before a reload gives another worker
	}{{"a reload helps", true, false, false, false}, {"a reload does not help", false, true, false, false},
		{"somebody reloads first", true, false, true, false}, {"questions are refused meanwhile", true, false, false, true}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
				m.stop("/run/haproxy.pid", 100)
				m.pids, m.forks, m.haproxy.pid = 200, true, 103
				m.files["/run/haproxy.pid"], m.files["/proc/101/stat"] = "101\n", stat(101, "haproxy")
				m.files["/proc/101/task/101/children"] = "102 103 "
				m.files["/proc/102/stat"], m.files["/proc/103/stat"] = stat(102, "haproxy"), stat(103, "haproxy")
				a := started(t, m)
				refusing := &atomic.Bool{}
				a.haproxy = deafWorker{silentWorker{m, m.haproxy, nil}, refusing}
				if test.stopped {
					m.files["/proc/103/stat"] = strings.Replace(stat(103, "haproxy"), " S ", " T ", 1)
				}
				if test.refuses {
					m.strike = func(_ int, operation string) strike {
						if operation == "run /haproxy reload" {
							refusing.Store(true)
							time.Sleep(time.Second)
							refusing.Store(false)
						}
						return passes
					}
				}
				if !test.helps {
					m.lostReloads = 100
				}
				m.log = nil
				watching(t, a.watchHAProxy)
				watching(t, a.watchDaemons)
				watching(t, a.watchDrift)
				for second := range 50 { // the old worker serves
					m.meanwhile(func() { m.files["/proc/102/schedstat"] = strings.Repeat(".", second) })
					if test.stopped && second == 5 {
						_, _ = m.Run(t.Context(), []string{"/haproxy", "reload"}, nil)
					}
					time.Sleep(time.Second)
					if warned := warning(&wire.Status{Warnings: a.warnings(nil, nil)}, "HAProxyHangs"); second == 18 && !test.stopped && !strings.Contains(warned, "worker 103") {
						t.Errorf("after %d s it warns %q", second, warned)
					}
				}
				if did := m.did("run kill -KILL 103"); did != test.helps {
					t.Errorf("the worker that hangs was ended: %t", did)
				}
				if !test.restarts && m.file("/proc/102/stat") == "" {
					t.Error("the older worker was ended too")
				}
				time.Sleep(2 * hangAgain)
				synctest.Wait()
				if did := m.did("run /haproxy kill"); did != test.restarts {
					t.Errorf("all of HAProxy was ended: %t", did)
				}
				s := a.status(t.Context(), wire.RoleController)
				if !s.InSync || warning(s, "HAProxyHangs") != "" || m.file(alive) != "100\n" {
					t.Errorf("afterwards alive is %q, status says %+v", m.file(alive), s)
				}
				if !test.stopped && (len(s.Differences) == 0 || !strings.HasPrefix(s.Differences[0].Changes[0], "reload HAProxy: ")) {
					t.Errorf("told %+v", s.Differences)
				}
			})
		})
	}
}

// deafWorker answers no other question either, and refuses some.
type deafWorker struct {
	silentWorker
	refusing *atomic.Bool
}

func (w deafWorker) Ping(ctx context.Context) error {
	if w.refusing.Load() {
		return syscall.ENOENT
	}
	return w.silentWorker.Ping(ctx)
}

func (w deafWorker) Read(ctx context.Context) (*haproxy.Running, error) {
	if err := w.Ping(ctx); err != nil {
		return nil, err
	}
	return w.machine.Read(ctx)
}

// silentWorker is an HAProxy of which one worker does not answer.
type silentWorker struct {
	*machine
	silent *fakeHAProxy
	at     error // nil: it takes the question
}

func (w silentWorker) Ping(ctx context.Context) error {
	hangs := false
	w.meanwhile(func() { hangs = w.machine.haproxy == w.silent })
	switch {
	case !hangs:
		return w.machine.Ping(ctx)
	case w.at != nil:
		return w.at
	}
	<-ctx.Done()
	return ctx.Err()
}

// sluggishWorker is an HAProxy whose answers come long after they were waited for.
type sluggishWorker struct{ *machine }

func (sluggishWorker) Ping(context.Context) error {
	time.Sleep(5 * time.Second)
	return os.ErrDeadlineExceeded
}

// refusingWorker is an HAProxy that serves and whose socket somebody has removed.
type refusingWorker struct{ *machine }

func (refusingWorker) Ping(context.Context) error { return syscall.ENOENT }
