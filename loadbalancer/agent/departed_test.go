package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// addDeparted lets HAProxy tell of servers that were taken out.
func (m *machine) addDeparted(running *haproxy.Running) {
	for id, server := range m.departed {
		backend, name, _ := strings.Cut(id, "/")
		if running.Backends[backend] == nil {
			running.Backends[backend] = &haproxy.RunningBackend{Servers: map[string]haproxy.RunningServer{}}
		}
		running.Backends[backend].Servers[name] = server
	}
}

// endDeparted is `shutdown sessions server`; it says whether d asks for it.
func (m *machine) endDeparted(d haproxy.Diff) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := false
	for _, change := range d.Changes {
		if id, _, ok := strings.Cut(strings.TrimPrefix(change, "server "), ": "); ok && strings.HasSuffix(change, "connections ended") {
			asked = true
			if server, ok := m.departed[id]; ok && !m.immortal {
				server.Sessions = 0
				m.departed[id] = server
			}
		}
	}
	return asked
}

// leaves is a server that was taken out and has connections.
func (m *machine) leaves(id, address string) {
	m.meanwhile(func() {
		m.departed = maps.Clone(m.departed)
		if m.departed == nil {
			m.departed = map[string]haproxy.RunningServer{}
		}
		backend, name, _ := strings.Cut(id, "/")
		said := fmt.Sprintf("%s1 %s 1 %s %s 0 1 1 0 0 - 0\n", serversHead, backend, name, address)
		backends, err := haproxy.ParseServers([]byte(said))
		if err != nil {
			panic(err)
		}
		server := backends[backend].Servers[name]
		server.Sessions = 3
		m.departed[id] = server
	})
}

// removeDeparted is `del server`, and `set server state ready`.
func (m *machine) removeDeparted(d haproxy.Diff) {
	for _, change := range d.Changes {
		if id, _, ok := strings.Cut(strings.TrimPrefix(change, "server "), " put back from "); ok {
			delete(m.departed, id)
		}
		if id, ok := strings.CutSuffix(strings.TrimPrefix(change, "server "), " removed"); ok && m.departed[id].Sessions == 0 {
			delete(m.departed, id)
		}
	}
}

func expectDeparted(t *testing.T, m *machine, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	var got []string
	m.meanwhile(func() {
		for _, id := range slices.Sorted(maps.Keys(m.departed)) {
			if m.departed[id].Sessions > 0 {
				got = append(got, id)
			}
		}
	})
	if !slices.Equal(got, want) {
		t.Errorf("%s: servers with connections are %q, want %q", when, got, want)
	}
}

// ownPool gives a load balancer servers of its own.
func ownPool(servers ...desired.Server) func(*desired.State) {
	return func(s *desired.State) {
		s.LoadBalancers[0].Pool = &desired.Pool{Algorithm: desired.RoundRobin, Servers: servers,
			Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 1000, Rise: 1, Fall: 1}}
	}
}

func draining(seconds int) func(*desired.State) {
	return func(s *desired.State) { s.DrainSeconds = seconds }
}

const slot1 = "slot-http-roundrobin-1"

// Connections to a server that left live the drain time, 5 minutes unless the State says another; it is only then that HAProxy
// is asked often.
func TestDepartedEndAfterTheDrainTime(t *testing.T) {
	for drain, change := range map[time.Duration]func(*desired.State){5 * time.Minute: draining(0), time.Minute: draining(60)} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51), change))
			a := started(t, m)
			watching(t, a.endDeparted)
			time.Sleep(time.Hour)
			before := m.counted()
			time.Sleep(time.Hour)
			if n := m.counted() - before; n != 0 {
				t.Errorf("%d questions in an hour in which nothing left", n)
			}
			m.leaves("nodes/worker-9", "10.0.2.9")
			m.leaves("control-plane/10.0.1.9-6443", "10.0.1.9")
			a.setLeftover()
			time.Sleep(drain - time.Second)
			expectDeparted(t, m, "before the drain time is over", "control-plane/10.0.1.9-6443", "nodes/worker-9")
			time.Sleep(3 * time.Second)
			expectDeparted(t, m, "after it", "control-plane/10.0.1.9-6443")
		})
	}
}

// A load balancer may have a drain time of its own. A pod that is gone has none.
func TestDepartedOfALoadBalancer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := func(s *desired.State) { s.LoadBalancers[0].DrainSeconds = 20 }
		web, pool := service("web", "192.0.2.10", 51), ownPool(desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1})
		m := holding(t, sample(1, web, pool, draining(60), own))
		a := started(t, m)
		watching(t, a.endDeparted)
		time.Sleep(10 * time.Second)
		m.leaves(slot1+"/worker-9", "10.0.2.9")
		m.leaves("nodes/worker-9", "10.0.2.9")
		m.leaves(slot1+"/web-1_pod", "10.0.2.1") // where a server of the load balancer's is
		a.setLeftover()
		time.Sleep(3 * time.Second)
		expectDeparted(t, m, "at once", "nodes/worker-9", slot1+"/worker-9")
		time.Sleep(15 * time.Second)
		expectDeparted(t, m, "before its drain time is over", "nodes/worker-9", slot1+"/worker-9")
		time.Sleep(5 * time.Second)
		expectDeparted(t, m, "after it", "nodes/worker-9")
		time.Sleep(40 * time.Second)
		expectDeparted(t, m, "after the State's")
	})
}

// Whose target is there all the same stays: a server that drains, and one whose load balancer went over to the shared pool. It
// counts from when that is over.
func TestDepartedThatStayTargets(t *testing.T) {
	// sample's nodes are worker-1 and worker-2.
	const worker1, other = "10.0.2.1", "10.0.2.9"
	drains := desired.Server{Name: "worker-1", Address: addr(worker1), Weight: 1, Drains: true}
	else1 := desired.Server{Name: "other", Address: addr(other), Weight: 1}
	for name, test := range map[string]struct {
		after func(*desired.State)
		stay  bool
	}{
		"drains":                      {ownPool(else1, drains), true},
		"a backup of the same node":   {ownPool(desired.Server{Name: "worker-1", Address: addr(worker1), Weight: 1, Backup: true}), true},
		"another server":              {ownPool(else1), false},
		"no server":                   {ownPool(), false},
		"shared pool":                 {func(*desired.State) {}, true},
		"shared pool without it":      {func(s *desired.State) { s.Nodes = s.Nodes[1:] }, false},
		"the load balancer is gone":   {func(s *desired.State) { s.LoadBalancers, s.VIPs = nil, nil }, false},
		"made anew under its name":    {func(s *desired.State) { s.LoadBalancers[0].UID = "another" }, false},
		"another one by another name": {func(s *desired.State) { s.LoadBalancers[0].Name = "another" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				web := service("web", "192.0.2.10", 51)
				m := holding(t, sample(1, web, ownPool(desired.Server{Name: "worker-1", Address: addr(worker1), Weight: 1}), draining(60)))
				a := started(t, m)
				watching(t, a.endDeparted)
				time.Sleep(10 * time.Second)
				result, refusal := a.apply(t.Context(), sign(t, sample(2, web, draining(60), test.after)))
				if refusal != nil || len(result.Faults) > 0 {
					t.Fatal(result, refusal)
				}
				m.leaves(slot1+"/worker-1", worker1)
				a.setLeftover()
				time.Sleep(time.Hour)
				if test.stay {
					expectDeparted(t, m, "an hour later", slot1+"/worker-1")
				} else {
					expectDeparted(t, m, "an hour later")
				}
			})
		})
	}
}

// An agent that starts finds what another one left, begins to count anew, and has the servers removed.
func TestRestartedAgentEndsDeparted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51), draining(60)))
		a := started(t, m)
		m.leaves("nodes-open/worker-9", "10.0.2.9")
		watching(t, a.endDeparted)
		time.Sleep(50 * time.Second)
		expectDeparted(t, m, "before the drain time is over", "nodes-open/worker-9")
		if !a.hasLeftover() {
			t.Error("nobody removes the server")
		}
		time.Sleep(20 * time.Second)
		expectDeparted(t, m, "after it")
	})
}

// A move left connections in the load balancer's former slot, and then the agent was restarted: nobody knows any more whose the slot was,
// but their node serves still. HAProxy is not asked each second because of them.
func TestRestartedAgentSparesTargetsOfAFormerSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := ownPool(desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1})
		m := holding(t, sample(1, service("web", "192.0.2.10", 51), own, draining(1)))
		a := started(t, m)
		m.leaves("slot-http-leastconn-1/worker-1", "10.0.2.1")
		m.leaves("slot-http-leastconn-1/worker-9", "10.0.2.9")
		watching(t, a.endDeparted)
		time.Sleep(time.Minute)
		before := m.counted()
		time.Sleep(time.Hour)
		expectDeparted(t, m, "an hour later", "slot-http-leastconn-1/worker-1")
		if n, most := m.counted()-before, int(time.Hour/leftoverEvery); n > most {
			t.Errorf("%d questions in an hour in which nothing left, want %d at most", n, most)
		}
	})
}

// What cannot be ended is tried again, a drain time later. A transaction that is under way is waited for.
func TestDepartedThatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51), draining(60)))
		a := started(t, m)
		m.immortal = true
		m.leaves("nodes/worker-9", "10.0.2.9")
		watching(t, a.endDeparted)
		time.Sleep(90 * time.Second)
		expectDeparted(t, m, "HAProxy ends nothing", "nodes/worker-9")
		if err := a.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.meanwhile(func() { m.immortal = false })
		time.Sleep(time.Hour)
		expectDeparted(t, m, "a transaction is under way", "nodes/worker-9")
		a.release()
		time.Sleep(5 * time.Second)
		expectDeparted(t, m, "afterwards")
	})
}

// Where differences are only reported, connections end and servers go all the same: neither is a difference. What somebody did
// stays as it is.
func TestDepartedEndWhereDriftIsReported(t *testing.T) {
	const services, entry = "/etc/haproxy/services.map", "192.0.2.10:80"
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51), draining(60)))
		a := started(t, m)
		a.config.Drift = driftReport
		watching(t, a.watchDaemons)
		watching(t, a.watchDrift)
		watching(t, a.endDeparted)
		synctest.Wait()
		m.meanwhile(func() { delete(m.haproxy.maps[services], entry) })
		m.leaves("nodes/worker-9", "10.0.2.9")
		a.setLeftover()
		time.Sleep(50 * time.Second)
		expectDeparted(t, m, "before the drain time is over", "nodes/worker-9")
		time.Sleep(30 * time.Second)
		expectDeparted(t, m, "after it")
		m.meanwhile(func() {
			if len(m.departed) > 0 {
				t.Errorf("%v waits although its last connection has ended", m.departed)
			}
			if m.haproxy.maps[services][entry] != "" {
				t.Error("the entry that somebody deleted is back")
			}
		})
		if a.hasLeftover() {
			t.Error("HAProxy is looked at although nobody waits")
		}
	})
}
