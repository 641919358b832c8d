package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab/traffic"
)

// testHAProxyHangs: an HAProxy that is stopped and never goes on is ended and started anew; until then the other gateway serves.
func testHAProxyHangs(t *testing.T, p *pair) {
	p.begin(t)
	holder := p.home(t, web4)
	master := mustRun(t, holder, "cat", "/run/haproxy.pid")
	flow := p.flowTo(t, port(web4, 80))
	begun := time.Now()
	mustRun(t, holder, "pkill", "-STOP", "-x", "haproxy")
	eventually(t, "the other gateway has the address", func() error {
		if holders := p.holders(t, web4); len(holders) != 1 || holders[0] != p.other(holder) {
			return fmt.Errorf("%s is held by %q", web4, names(holders))
		}
		return nil
	})
	within(t, 40*time.Second, "HAProxy was started anew", func() error {
		pid, err := holder.Run(t.Context(), "cat", "/run/haproxy.pid")
		if err != nil || strings.TrimSpace(pid) == master {
			return fmt.Errorf("its master is process %s, %v", pid, err)
		}
		return nil
	})
	t.Logf("an HAProxy that hangs was started anew after %v", time.Since(begun).Round(100*time.Millisecond))
	eventually(t, "both are in sync and the addresses at home", func() error {
		if err := p.inSync(t); err != nil {
			return err
		}
		return p.atHome(t)
	})
	report := stop(t, flow)
	t.Logf("HAProxy hung on the holder of %s: %v", web4, report)
	if report.LongestGap > 3*time.Second {
		t.Errorf("nobody answered for %v", report.LongestGap)
	}
	s := p.status(t)[holder.Name]
	told := slices.ContainsFunc(s.Differences, func(d wire.Difference) bool {
		return len(d.Changes) > 0 && strings.HasPrefix(d.Changes[0], "restart HAProxy: ") && strings.Contains(d.Changes[0], "has not answered for 1")
	})
	if !told {
		t.Errorf("status tells %+v", s.Differences)
	}
	if w, found := warning(s, "HAProxyHangs"); found {
		t.Errorf("it still warns: %s", w.Message)
	}
}

// testHAProxyWorkerHangs: a worker that hangs beside an older one, which serves, is replaced by a reload and ended alone.
func testHAProxyWorkerHangs(t *testing.T, p *pair) {
	p.begin(t)
	holder := p.home(t, web4)
	hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: []string{port(web4, 80)}, Count: 10, Timeout: 5 * time.Second})
	must(t, err)
	master := strings.TrimSpace(mustRun(t, holder, "cat", "/run/haproxy.pid"))
	workers := func() []string {
		return strings.Fields(mustRun(t, holder, "cat", "/proc/"+master+"/task/"+master+"/children"))
	}
	mustRun(t, holder, "pkill", "-USR2", "-F", "/run/haproxy.pid")
	var before []string
	eventually(t, "an older worker serves beside a new one", func() error {
		if before = workers(); len(before) != 2 {
			return fmt.Errorf("the workers are %q", before)
		}
		return p.inSync(t)
	})
	begun := time.Now()
	mustRun(t, holder, "kill", "-STOP", before[1])
	within(t, 90*time.Second, "only the worker that hangs was replaced", func() error {
		if now := workers(); len(now) != 2 || now[0] != before[0] || now[1] == before[1] {
			return fmt.Errorf("the workers were %q and are %q", before, now)
		}
		return nil
	})
	t.Logf("a worker that hangs was replaced after %v", time.Since(begun).Round(100*time.Millisecond))
	eventually(t, "both are in sync and the addresses at home", func() error {
		if err := p.inSync(t); err != nil {
			return err
		}
		return p.atHome(t)
	})
	s := p.status(t)[holder.Name]
	if !slices.ContainsFunc(s.Differences, func(d wire.Difference) bool {
		// The minute's comparison may come first.
		return d.Found.After(begun) && slices.ContainsFunc(d.Changes, func(c string) bool { return strings.HasPrefix(c, "reload HAProxy: ") })
	}) {
		t.Errorf("status tells %+v", s.Differences)
	}
	held := stop(t, hold)
	t.Logf("a worker hung on the holder of %s: of %d connections held, cut %d", web4, held.Held, len(held.Cut))
	mustRun(t, holder, "kill", "-KILL", before[0])
	eventually(t, "one worker is left", func() error { return p.inSync(t) })
}

// testStatsSocketGone: who removes HAProxy's stats socket, or puts another file or socket there, leaves an HAProxy that serves. Nobody is cut, no
// address moves, status says what it is, and one reload makes the socket anew.
func testStatsSocketGone(t *testing.T, p *pair) {
	const socket = "/run/haproxy/admin.sock"
	p.begin(t)
	holder := p.home(t, web4)
	for _, test := range []struct {
		name string
		lose func()
	}{
		{"removed", func() { mustRun(t, holder, "rm", socket) }},
		{"replaced", func() {
			must(t, holder.WriteFile("/run/haproxy/left-behind", []byte("not a socket\n"), 0o600))
			mustRun(t, holder, "mv", "/run/haproxy/left-behind", socket)
		}},
		{"taken by another HAProxy", func() {
			const config = "/run/haproxy/other.cfg"
			must(t, holder.WriteFile(config, []byte("global\n  stats socket "+socket+" level admin\n"+
				"defaults\n  timeout client 1s\nfrontend other\n  mode http\n  bind 127.0.0.1:7999\n"), 0o600))
			other, err := holder.Start("other-haproxy", "haproxy", "-db", "-f", config)
			must(t, err)
			t.Cleanup(func() {
				if err := other.Kill(); err != nil {
					t.Error(err)
				}
			})
		}},
	} {
		hold, err := p.Client.StartHold(t.Context(), traffic.Hold{Targets: webTargets(), Count: 50, Timeout: 5 * time.Second})
		must(t, err)
		flow := p.flow(t)
		reloads := p.reloads(t)
		begun := time.Now()
		test.lose()
		eventually(t, "status says that HAProxy cannot be asked", func() error {
			s := p.status(t)[holder.Name]
			w, found := warning(s, "HAProxyUnasked")
			if !found || !strings.Contains(w.Message, socket) || s.InSync {
				return fmt.Errorf("in sync %t, it warns %v", s.InSync, s.Warnings)
			}
			t.Logf("status warns: %s", w.Message)
			return p.atHome(t)
		})
		within(t, 90*time.Second, "HAProxy can be asked", func() error {
			must(t, p.atHome(t))
			if w, found := warning(p.status(t)[holder.Name], "HAProxyUnasked"); found {
				return errors.New(w.Message)
			}
			return nil
		})
		mustRun(t, holder, "test", "-S", socket)
		t.Logf("the stats socket is back %v after it was %s", time.Since(begun).Round(100*time.Millisecond), test.name)
		eventually(t, "both are in sync", func() error { return p.inSync(t) })
		report, held := stop(t, flow), stop(t, hold)
		t.Logf("the stats socket %s on the holder of %s: %v; of %d connections held, cut %d", test.name, web4, report, held.Held, len(held.Cut))
		if report.Failed != 0 || len(held.Cut) != 0 {
			t.Errorf("%d of %d new connections failed, of %d held these were cut: %v", report.Failed, report.Opened, held.Held, held.Cut)
		}
		if got := p.reloads(t) - reloads; got != 1 {
			t.Errorf("HAProxy was reloaded %d times, want once", got)
		}
		must(t, p.atHome(t))
	}
}
