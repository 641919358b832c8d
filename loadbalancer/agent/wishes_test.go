package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestBucket(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b bucket
	granted := 0
	for range 24 * 60 { // somebody tries each minute of a day
		if at := b.next(now); !at.After(now) {
			b.take(now)
			granted++
		} else if at.Sub(now) > wishEvery {
			t.Fatalf("it waits %s", at.Sub(now))
		}
		now = now.Add(time.Minute)
	}
	if want := wishBurst + int(24*time.Hour/wishEvery); granted < want-1 || granted > want {
		t.Errorf("%d reloads in a day, want %d", granted, want)
	}
}

// idle gives a load balancer a slot with a timeout of its own, sticking a time of affinity.
func idle(name string, seconds int) func(*desired.State) {
	return func(s *desired.State) {
		local(name, "10.0.2.1")(s)
		s.LoadBalancers[0].Timeouts = &desired.Timeouts{IdleSeconds: seconds}
	}
}

func sticking(seconds int) func(*desired.State) {
	return func(s *desired.State) { s.LoadBalancers[0].AffinitySeconds = seconds }
}

func (m *machine) reloads() (n int) {
	m.meanwhile(func() {
		for _, operation := range m.log {
			if operation == "run /haproxy reload" {
				n++
			}
		}
	})
	return n
}

// Somebody changes a timeout, or a time of affinity, twenty times in a minute: HAProxy is reloaded wishBurst times, each other change of
// the States is in effect at once, and the last wish is fulfilled when its time has come, without anybody asking again. None of that is
// a difference that nobody asked for, also where differences are only reported.
func TestWishesWait(t *testing.T) {
	for _, drift := range []string{driftRepair, driftReport} {
		synctest.Test(t, func(t *testing.T) {
			web := service("web", "192.0.2.10", 51)
			m := holding(t, sample(1, web, local("web", "10.0.2.1")))
			a := started(t, m)
			a.config.Drift = drift
			watching(t, a.watchDaemons)
			watching(t, a.watchDrift)
			synctest.Wait()
			m.meanwhile(func() { m.log = nil })
			var result *wire.Result
			for n := range 20 {
				time.Sleep(3 * time.Second)
				s := sample(uint64(n+2), web, idle("web", 100+n), node(fmt.Sprintf("worker-%d", n+3), fmt.Sprintf("10.0.2.%d", n+3)))
				var refusal *wire.Refusal
				if result, refusal = a.apply(t.Context(), sign(t, s)); refusal != nil || len(result.Faults) > 0 {
					t.Fatal(result, refusal)
				}
				want := wire.Runtime
				if n < wishBurst {
					want = wire.Reloaded
				}
				if result.Outcome != want {
					t.Errorf("change %d: %s", n, result.Outcome)
				}
				m.meanwhile(func() {
					if _, there := m.haproxy.config.backends["nodes"][fmt.Sprintf("worker-%d", n+3)]; !there {
						t.Errorf("change %d: the new node is not there", n)
					}
				})
			}
			if got := m.reloads(); got != wishBurst {
				t.Errorf("%d reloads", got)
			}
			if got := m.file("/etc/haproxy/services.map"); !strings.Contains(got, "slot-tcp-roundrobin-idle104s-1|") {
				t.Errorf("it does not keep its former slot:\n%s", got)
			}
			until := a.rendered().waits.until
			told := warningOf(result.Warnings, "ReloadWaits")
			if !strings.Contains(told, "default/web: timeouts") || !strings.Contains(told, until.UTC().Format(time.RFC3339)) {
				t.Errorf("told %q", told)
			}
			if status := a.status(t.Context(), wire.RoleController); !status.InSync || warning(status, "ReloadWaits") != told {
				t.Errorf("status: %v, %+v", status.Drift, status.Warnings)
			}
			time.Sleep(time.Until(until) - daemonsEvery)
			synctest.Wait()
			if got := m.reloads(); got != wishBurst {
				t.Errorf("%d reloads before the time has come", got)
			}
			time.Sleep(3 * daemonsEvery)
			synctest.Wait()
			if got := m.reloads(); got != wishBurst+1 {
				t.Errorf("%d reloads when the time has come", got)
			}
			if got := m.file("/etc/haproxy/services.map"); !strings.Contains(got, "slot-tcp-roundrobin-idle119s-1|") {
				t.Errorf("the last wish is not fulfilled:\n%s", got)
			}
			status := a.status(t.Context(), wire.RoleController)
			if !status.InSync || warning(status, "ReloadWaits") != "" || len(status.Differences) > 0 {
				t.Errorf("status: %v, %+v, %+v", status.Drift, status.Warnings, status.Differences)
			}
		})
	}
}

// With nothing granted any more: who wishes for the first time has what is usual meanwhile, and who changes more than the wish has that.
func TestWhatIsHadMeanwhile(t *testing.T) {
	web := service("web", "192.0.2.10", 51)
	leastconn := func(s *desired.State) { s.LoadBalancers[0].Pool.Algorithm = desired.LeastConn }
	for name, test := range map[string]struct {
		before, next []func(*desired.State)
		has          string
		want         wire.Outcome
	}{
		"timeouts of a new one":       {nil, []func(*desired.State){web, idle("web", 60)}, "192.0.2.10:80 slot-tcp-roundrobin-1|30010|default/web|0|", wire.Runtime},
		"and another algorithm":       {[]func(*desired.State){web, idle("web", 60)}, []func(*desired.State){web, idle("web", 90), leastconn}, " slot-tcp-leastconn-1|", wire.Runtime},
		"a first time of affinity":    {[]func(*desired.State){web}, []func(*desired.State){web, sticking(60)}, " nodes|30010|default/web|10800|", wire.Runtime},
		"another time of affinity":    {[]func(*desired.State){web, sticking(60)}, []func(*desired.State){web, sticking(600)}, " nodes|30010|default/web|60|", wire.Unchanged},
		"the usual one":               {[]func(*desired.State){web}, []func(*desired.State){web, sticking(10800)}, " nodes|30010|default/web|10800|", wire.Runtime},
		"it is reloaded all the same": {[]func(*desired.State){web}, []func(*desired.State){web, idle("web", 60), controlPlane}, " slot-tcp-roundrobin-idle60s-1|", wire.Reloaded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := started(t, holding(t, sample(1, test.before...)))
				for range wishBurst {
					a.granted.take(time.Now())
				}
				m := machineOf(a)
				s := sample(2, test.next...)
				result, refusal := a.apply(t.Context(), sign(t, s))
				if refusal != nil || result.Outcome != test.want {
					t.Fatal(result, refusal)
				}
				if got := m.file("/etc/haproxy/services.map"); !strings.Contains(got, test.has) {
					t.Errorf("the map is %q, want %q", got, test.has)
				}
				waits := test.want != wire.Reloaded && name != "the usual one"
				if told := warningOf(result.Warnings, "ReloadWaits"); (told != "") != waits {
					t.Errorf("told %q", told)
				}
				if again, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || again.Outcome != wire.Unchanged {
					t.Errorf("once more: %+v, %v", again, refusal)
				}
			})
		})
	}
}

// Each owner is told his own wish; of too many the rest is told one text, which stays while their number changes.
func TestWishesAreToldToTheirOwners(t *testing.T) {
	waits := wishes{until: time.Unix(1e9, 0)}
	for n := range mostTold + 3 {
		waits.told = append(waits.told, wish{desired.Key{Namespace: "default", Name: fmt.Sprintf("web-%02d", n)}, "timeouts"})
	}
	waits.told = append(waits.told, wish{waits.told[len(waits.told)-1].Key, "x"})
	warnings := (&rendering{waits: waits}).warnings()
	if len(warnings) != mostTold+1 {
		t.Fatalf("told %v", warnings)
	}
	for n, w := range warnings[:mostTold] {
		if !slices.Equal(w.LoadBalancers, []desired.Key{waits.told[n].Key}) || !strings.Contains(w.Message, "for "+waits.told[n].Key.String()+": timeouts;") ||
			strings.Count(w.Message, "web-") != 1 {
			t.Errorf("%d: told %+v", n, w)
		}
	}
	rest := warnings[mostTold]
	if len(rest.LoadBalancers) != 3 || rest.LoadBalancers[2] != waits.told[mostTold+2].Key {
		t.Errorf("the rest: %+v", rest)
	}
	waits.told = waits.told[:mostTold+1]
	if fewer := (&rendering{waits: waits}).warnings()[mostTold]; fewer.Message != rest.Message {
		t.Errorf("told anew: %q, before %q", fewer.Message, rest.Message)
	}
}

func warningOf(warnings []wire.Warning, reason string) string {
	return warning(&wire.Status{Warnings: warnings}, reason)
}
