package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// Whoever removes or replaces the stats socket makes one reload, by which it is back, and no more: not when nothing changes, nor at the
// start of the next agent, nor when the State changes. So it is another time.
func TestLostStatsSocketIsMadeAnew(t *testing.T) {
	const socket = "/run/haproxy/admin.sock"
	for name, lose := range map[string]func(*machine){
		"removed":   func(m *machine) { delete(m.files, socket) },
		"replaced":  func(m *machine) { m.files[socket] = "a plain file" },
		"of others": func(m *machine) { m.files[socket] = socketOfOthers },
	} {
		t.Run(name, func(t *testing.T) { testLostStatsSocket(t, socket, lose) })
	}
}

func testLostStatsSocket(t *testing.T, socket string, lose func(*machine)) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.watchDrift)
		watching(t, a.watchDaemons)
		synctest.Wait()
		const reload = "run /haproxy reload"
		for round, named := range []string{"/run/haproxy/./admin.sock", "/run/haproxy/admin.sock", "/run/haproxy/./admin.sock"} {
			m.meanwhile(func() { lose(m); m.log = nil })
			got := warning(a.status(t.Context(), wire.RoleController), "HAProxyUnasked")
			if !strings.Contains(got, socket) {
				t.Errorf("status warns %q", got)
			}
			time.Sleep(driftEvery + 10*time.Second)
			synctest.Wait()
			if file, there := m.files[socket]; !there || file != "" || !strings.Contains(m.file("/etc/haproxy/haproxy.cfg"), "stats socket "+named+" ") {
				t.Fatalf("round %d: at the socket's path is %q (%t); want it named %s in\n%s", round, file, there, named, m.file("/etc/haproxy/haproxy.cfg"))
			}
			time.Sleep(5 * driftEvery)
			restarted := started(t, m)
			restarted.recover(t.Context())
			next := sample(uint64(round+2), service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), node("worker-3", "10.0.2.3"))
			if result, refusal := a.apply(t.Context(), sign(t, next)); refusal != nil || len(result.Faults) > 0 {
				t.Fatalf("%+v, %v", result, refusal)
			}
			reloads := 0
			m.meanwhile(func() { reloads = strings.Count(strings.Join(m.log, "\n"), reload) })
			if reloads != 1 || len(a.faults()) > 0 {
				t.Errorf("round %d: %d reloads, want 1; faults %q", round, reloads, a.faults())
			}
			if got := warning(a.status(t.Context(), wire.RoleController), "HAProxyUnasked"); got != "" {
				t.Errorf("afterwards status warns %q", got)
			}
		}
	})
}

// What HAProxy does not replace costs two reloads, and two more each time that it is tried again.
func TestDirectoryAtTheStatsSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.watchDrift)
		watching(t, a.watchDaemons)
		synctest.Wait()
		m.meanwhile(func() { m.files["/run/haproxy/admin.sock"] = directory })
		reloads := func() (n int) {
			m.meanwhile(func() { n, m.log = strings.Count(strings.Join(m.log, "\n"), "run /haproxy reload"), nil })
			return n
		}
		time.Sleep(time.Hour)
		if n := reloads(); n < 5 || n > 36 {
			t.Errorf("%d reloads in the first hour, want some 30", n)
		}
		time.Sleep(time.Hour)
		if n := reloads(); n < 5 || n > 14 {
			t.Errorf("%d reloads in the second hour, want 2 each %s", n, retryCostly)
		}
		m.meanwhile(func() { delete(m.files, "/run/haproxy/admin.sock") })
		time.Sleep(retryCostly + time.Minute)
		synctest.Wait()
		if s := a.status(t.Context(), wire.RoleController); !s.InSync || warning(s, "HAProxyUnasked") != "" {
			t.Errorf("without the directory status says %+v", s)
		}
	})
}

// Where differences are only reported the reload waits as well, and status does not promise it.
func TestLostStatsSocketIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		a.config.Drift = driftReport
		watching(t, a.watchDrift)
		watching(t, a.watchDaemons)
		m.meanwhile(func() { delete(m.files, "/run/haproxy/admin.sock"); m.log = nil })
		time.Sleep(10 * driftEvery)
		synctest.Wait()
		if m.did("run /haproxy reload") {
			t.Error("HAProxy is reloaded")
		}
		if got := warning(a.status(t.Context(), wire.RoleController), "HAProxyUnasked"); !strings.Contains(got, "drift: report") {
			t.Errorf("status warns %q", got)
		}
		started(t, m)
		if !m.did("run /haproxy reload") {
			t.Error("an agent that starts does not reload HAProxy")
		}
	})
}
