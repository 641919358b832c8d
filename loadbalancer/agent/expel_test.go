package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// admitting opens a load balancer to these alone; prefixes with an exclamation mark are denied.
func admitting(name string, prefixes ...string) func(*desired.State) {
	return func(s *desired.State) {
		for i := range s.LoadBalancers {
			lb := &s.LoadBalancers[i]
			if lb.Name != name {
				continue
			}
			for _, text := range prefixes {
				if denied, ok := strings.CutPrefix(text, "!"); ok {
					lb.DenySources = append(lb.DenySources, netip.MustParsePrefix(denied))
				} else {
					lb.AllowSources = append(lb.AllowSources, netip.MustParsePrefix(text))
				}
			}
		}
	}
}

const (
	friend    = "192.0.2.10:80 198.51.100.7:40000"
	stranger  = "192.0.2.10:80 203.0.113.9:40000"
	enemy     = "192.0.2.10:80 198.51.100.66:40000"
	elsewhere = "192.0.2.11:80 203.0.113.9:40001"
	ownSSH    = "10.0.0.2:22 203.0.113.9:40002"
)

// Its drain time is web's own; other has the State's.
const (
	webDrains   = time.Minute
	otherDrains = 2 * time.Minute
)

func admits(sequence uint64, change ...func(*desired.State)) *desired.State {
	return sample(sequence, slices.Concat([]func(*desired.State){service("web", "192.0.2.10", 51), service("other", "192.0.2.11", 52),
		draining(int(otherDrains.Seconds())), drainsOf("web", int(webDrains.Seconds()))}, change)...)
}

// admission is an agent that watches, with two Services on a machine with all these connections.
func admission(t *testing.T) (*Agent, *machine) {
	t.Helper()
	m := holding(t, admits(1))
	m.connections = []string{friend, stranger, enemy, elsewhere, ownSSH}
	a := started(t, m)
	watching(t, a.expelUnwelcome)
	return a, m
}

// endConnections is ss --kill.
func (m *machine) endConnections(argv []string, output *Output) bool {
	if !slices.Equal(argv[:min(len(argv), 3)], []string{"ss", "--no-header", "--kill"}) {
		return false
	}
	if m.immortal {
		return true
	}
	filter := strings.Join(argv, " ")
	m.connections = slices.DeleteFunc(slices.Clone(m.connections), func(c string) bool { // clones of the machine share the list
		vip, client, _ := strings.Cut(c, " ")
		client, _, _ = strings.Cut(client, " ")
		ended := strings.Contains(filter, "( src "+vip+" and dst "+client+" )")
		if ended {
			output.Stdout = append(output.Stdout, c+"\n"...)
		}
		return ended
	})
	return true
}

func (m *machine) open() (connections []string) {
	m.meanwhile(func() { connections = slices.Clone(m.connections) })
	return connections
}

// ran is how many programs were run.
func (m *machine) ran() (programs int) {
	m.meanwhile(func() { programs = m.programs })
	return programs
}

func (m *machine) counted() (operations int) {
	m.meanwhile(func() { operations = m.operations })
	return operations
}

func applied(t *testing.T, a *Agent, sequence uint64, change ...func(*desired.State)) {
	t.Helper()
	if result, refusal := a.apply(t.Context(), sign(t, admits(sequence, change...))); refusal != nil || result.Outcome != wire.Runtime && result.Outcome != wire.Unchanged {
		t.Fatalf("%+v, %v", result, refusal)
	}
	synctest.Wait()
}

func expectOpen(t *testing.T, m *machine, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := m.open(); !slices.Equal(got, want) {
		t.Errorf("%s: open are %q, want %q", when, got, want)
	}
}

// A narrowed range ends the connections that it leaves out, these alone and its Service's drain time later.
func TestNarrowedRangeEndsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := admission(t)
		time.Sleep(time.Hour)
		expectOpen(t, m, "everybody may connect", friend, stranger, enemy, elsewhere, ownSSH)
		applied(t, a, 2, admitting("web", "198.51.100.0/24", "!198.51.100.66/32"), admitting("other", "198.51.100.0/24"))
		time.Sleep(webDrains - time.Second)
		expectOpen(t, m, "before web's drain time is over", friend, stranger, enemy, elsewhere, ownSSH)
		time.Sleep(2 * time.Second)
		expectOpen(t, m, "after it", friend, elsewhere, ownSSH)
		time.Sleep(otherDrains - webDrains - 2*time.Second)
		expectOpen(t, m, "before the State's drain time is over", friend, elsewhere, ownSSH)
		time.Sleep(2 * time.Second)
		expectOpen(t, m, "after it", friend, ownSSH)
		before := m.ran()
		time.Sleep(24 * time.Hour)
		if n := m.ran() - before; n > 2 {
			t.Errorf("%d commands in a day in which nothing happened", n)
		}
	})
}

// Who shortens the drain time while it runs does not wait for the end of the old one; who lengthens it gives those time that are
// still there. It was taken away when it was: nothing counts anew.
func TestDrainTimeOfANarrowedRangeChanges(t *testing.T) {
	for seconds, ends := range map[int]time.Duration{30: 30 * time.Second, 5: 20 * time.Second, 600: 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			a, m := admission(t)
			narrow := admitting("web", "198.51.100.0/24")
			applied(t, a, 2, narrow)
			time.Sleep(20 * time.Second)
			applied(t, a, 3, narrow, drainsOf("web", seconds))
			if left := ends - 21*time.Second; left > 0 {
				time.Sleep(left)
				expectOpen(t, m, fmt.Sprint("before ", ends), friend, stranger, enemy, elsewhere, ownSSH)
			}
			time.Sleep(2 * time.Second)
			expectOpen(t, m, fmt.Sprint("after ", ends), friend, enemy, elsewhere, ownSSH)
		})
	}
}

// Who was let in again in time stays, and counts anew when it is left out another time. Two narrowings do not hurry or delay
// each other.
func TestReadmittedConnectionsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := admission(t)
		applied(t, a, 2, admitting("web", "198.51.100.0/24"))
		time.Sleep(webDrains / 2)
		applied(t, a, 3, admitting("web", "0.0.0.0/0", "!198.51.100.66/32"))
		time.Sleep(webDrains / 4)
		applied(t, a, 4, admitting("web", "198.51.100.0/24", "!198.51.100.66/32"))
		time.Sleep(webDrains / 2)
		expectOpen(t, m, "drain time after the first narrowing", friend, stranger, enemy, elsewhere, ownSSH)
		time.Sleep(webDrains/4 + time.Second)
		expectOpen(t, m, "drain time after the second", friend, stranger, elsewhere, ownSSH)
		time.Sleep(webDrains / 4)
		expectOpen(t, m, "drain time after the third", friend, elsewhere, ownSSH)
	})
}

// An agent that starts finds those that the one before it did not come to.
func TestRestartedAgentEndsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := admission(t)
		applied(t, a, 2, admitting("web", "198.51.100.0/24"))
		time.Sleep(webDrains / 2)
		next := m.clone()
		watching(t, started(t, next).expelUnwelcome)
		time.Sleep(webDrains - time.Second)
		expectOpen(t, next, "counted from the start", friend, stranger, enemy, elsewhere, ownSSH)
		time.Sleep(2 * time.Second)
		expectOpen(t, next, "drain time after the start", friend, enemy, elsewhere, ownSSH)
	})
}

// A kernel that ends no connection is told, and tried again without haste.
func TestConnectionsThatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := admission(t)
		m.meanwhile(func() { m.immortal = true })
		applied(t, a, 2, admitting("web", "198.51.100.0/24"), drainsOf("web", 1))
		time.Sleep(5 * time.Second)
		before := m.ran()
		time.Sleep(10 * expelRetry)
		if n := m.ran() - before; n > 3*10+3 {
			t.Errorf("%d commands in ten times", n)
		}
		m.meanwhile(func() { m.immortal = false })
		time.Sleep(expelRetry + 2*time.Second)
		expectOpen(t, m, "when the kernel can", friend, enemy, elsewhere, ownSSH)
	})
}

func TestParseConnection(t *testing.T) {
	for line, want := range map[string]string{
		"ESTAB      0      0          192.0.2.10:80     198.51.100.7:40000 ": "192.0.2.10:80 198.51.100.7:40000",
		"CLOSE-WAIT 1      0      [2001:db8::10]:443  [2001:db8::9]:42586\n": "[2001:db8::10]:443 [2001:db8::9]:42586",
		"ESTAB 0 0 192.0.2.10%eth0:80 198.51.100.7:1":                        "192.0.2.10:80 198.51.100.7:1",
		"ESTAB 0 0 [fe80::1]%eth0:80 [fe80::2%eth0]:1":                       "[fe80::1]:80 [fe80::2]:1",
		"ESTAB 0 0 [::ffff:192.0.2.10]:80 [::ffff:198.51.100.7]:1":           "192.0.2.10:80 198.51.100.7:1",
	} {
		c, err := parseConnection(line)
		if got := c.vip.String() + " " + c.client.String(); err != nil || got != want {
			t.Errorf("%q is read as %q, %v; want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"", "ESTAB 0 0 192.0.2.10:80", "ESTAB 0 0 *:80 192.0.2.10:80", "ESTAB 0 0 192.0.2.10:80 192.0.2.10"} {
		if c, err := parseConnection(line); err == nil {
			t.Errorf("%q is read as %v", line, c)
		}
	}
}
