package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// Whoever removes the stats socket makes one reload, by which it is back, and no more: not when nothing changes, nor at the start of
// the next agent, nor when the State changes. So it is another time.
func TestRemovedStatsSocketIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		watching(t, a.watchDrift)
		watching(t, a.watchDaemons)
		synctest.Wait()
		const socket, reload = "/run/haproxy/admin.sock", "run /haproxy reload"
		for round, named := range []string{"/run/haproxy/./admin.sock", "/run/haproxy/admin.sock", "/run/haproxy/./admin.sock"} {
			m.meanwhile(func() { delete(m.files, socket); m.log = nil })
			got := warning(a.status(t.Context(), wire.RoleController), "HAProxyUnasked")
			if !strings.Contains(got, socket) {
				t.Errorf("status warns %q", got)
			}
			time.Sleep(driftEvery + 10*time.Second)
			synctest.Wait()
			if _, there := m.files[socket]; !there || !strings.Contains(m.file("/etc/haproxy/haproxy.cfg"), "stats socket "+named+" ") {
				t.Fatalf("round %d: the socket is there: %t; want it named %s in\n%s", round, there, named, m.file("/etc/haproxy/haproxy.cfg"))
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
