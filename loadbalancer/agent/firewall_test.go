package agent

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// told gives an agent firewall events that a test sends.
func told(a *Agent) chan<- struct{} {
	events := make(chan struct{})
	a.firewallEvents = func(context.Context) (<-chan struct{}, error) { return events, nil }
	return events
}

// A table that somebody took is back as soon as the events are over, and what is restored is the State that is held.
func TestFlushedTableIsRestoredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		want := m.script
		a := started(t, m)
		events := told(a)
		watching(t, a.watchFirewall)
		m.meanwhile(func() { m.script = "" })
		for range 3 { // a flush and what follows it
			events <- struct{}{}
		}
		time.Sleep(firewallQuiet)
		synctest.Wait()
		if m.script != want {
			t.Errorf("after %s the table is %q", firewallQuiet, m.script)
		}
	})
}

// Another program that restores its own idea of our table as we do ours gets a second between two tries, not a processor.
func TestFightOverTheTableHasPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		want := m.script
		a := started(t, m)
		events := told(a)
		watching(t, a.watchFirewall)
		begun, fights := time.Now(), 0
		for time.Since(begun) < time.Minute {
			m.meanwhile(func() { m.script = "" })
			events <- struct{}{}
			for back := false; !back; {
				time.Sleep(firewallQuiet)
				synctest.Wait()
				m.meanwhile(func() { back = m.script == want })
			}
			fights++
		}
		if most := 60 + firewallTries; fights > most || fights < 50 {
			t.Errorf("the table was restored %d times in a minute, want at most %d", fights, most)
		}
		time.Sleep(time.Minute)
		m.meanwhile(func() { m.script = "" })
		events <- struct{}{}
		time.Sleep(2 * firewallQuiet)
		synctest.Wait()
		if m.script != want {
			t.Error("a minute later a flush is not mended at once")
		}
	})
}

// Between a flush and the table's return a machine that forwards is an open router: nothing that HAProxy does or does not do comes
// first. It is told once.
func TestFlushedTableIsRestoredWithoutHAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		want := m.script
		a := started(t, m)
		events := told(a)
		watching(t, a.watchFirewall)
		m.hangs = func(command string) bool { return command == "/haproxy start" }
		m.meanwhile(func() {
			m.script = ""
			m.stop("/run/haproxy.pid", m.haproxy.pid)
			m.haproxy = nil
		})
		events <- struct{}{}
		time.Sleep(firewallQuiet)
		synctest.Wait()
		if m.script != want {
			t.Errorf("while HAProxy does not start the table is %q", m.script)
		}
		if told := a.foundDifferences(); len(told) != 1 || told[0].Left || len(told[0].Changes) != 1 {
			t.Errorf("told %+v", told)
		}
	})
}

// Nobody wants to look at a gateway without its table; what is changed in it stays where differences are only reported. So it is
// when nothing tells that the table changed.
func TestFlushedTableIsRestoredWhereDriftIsReported(t *testing.T) {
	for name, watch := range map[string]func(*Agent) func(context.Context){
		"by an event":   func(a *Agent) func(context.Context) { return a.watchFirewall },
		"by comparison": func(a *Agent) func(context.Context) { return a.watchDrift },
	} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			want := m.script
			a := started(t, m)
			a.config.Drift = driftReport
			events := told(a)
			watching(t, watch(a))
			happens := func(change func()) {
				m.meanwhile(change)
				select {
				case events <- struct{}{}:
				case <-time.After(driftEvery):
				}
				time.Sleep(firewallQuiet)
				synctest.Wait()
			}
			happens(func() { m.script = "" })
			if m.script != want {
				t.Errorf("%s: after a flush the table is %q", name, m.script)
			}
			edited := strings.Replace(want, "\t\t\t192.0.2.10 . tcp . 80,\n", "", 1)
			happens(func() { m.script = edited })
			if m.script != edited {
				t.Errorf("%s: what somebody edited is undone", name)
			}
			if told := a.foundDifferences(); len(told) != 2 || told[0].Left || !told[1].Left {
				t.Errorf("%s: told %+v, want one that was undone and one that is left", name, told)
			}
		})
	}
}

// A program that changes its own table all the time does not keep ours away.
func TestFlushedTableIsRestoredWithoutQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		want := m.script
		a := started(t, m)
		events := told(a)
		watching(t, a.watchFirewall)
		m.meanwhile(func() { m.script = "" })
		for begun := time.Now(); time.Since(begun) < firewallPatience+2*firewallQuiet; {
			events <- struct{}{}
			time.Sleep(firewallQuiet / 2)
		}
		synctest.Wait()
		if m.script != want {
			t.Errorf("with an event every %s the table is %q after %s", firewallQuiet/2, m.script, firewallPatience)
		}
	})
}

// What others change is looked at, and our own table is left alone.
func TestOthersTablesAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		events := told(a)
		watching(t, a.watchFirewall)
		m.meanwhile(func() {
			m.log = nil
			m.ruleset = `{"nftables": [{"chain": {"family": "inet", "table": "site", "name": "input", "hook": "input", "policy": "drop"}}]}`
		})
		events <- struct{}{}
		time.Sleep(firewallQuiet)
		synctest.Wait()
		if m.did("run nft --file -") {
			t.Error("our table was loaded although nobody had touched it")
		}
		warnings := a.status(t.Context(), wire.RoleController).Warnings
		if len(warnings) == 0 || warnings[0].Reason != "ForeignFirewall" || !strings.Contains(warnings[0].Message, "inet site") {
			t.Errorf("the foreign chain is not told: %+v", warnings)
		}
	})
}

// When no more events can come the watcher says so and ends; it does not spin.
func TestFirewallEventsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := started(t, holding(t, sample(1, service("web", "192.0.2.10", 51))))
		events := told(a)
		close(events)
		a.watchFirewall(t.Context())
	})
}

// After a boot our table is there before keepalived, which waits for the agent, can hold a VIP; an agent that is
// restarted touches nothing.
func TestTableIsThereFromTheStart(t *testing.T) {
	const load = "run nft --file -"
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	want := m.script
	m.log = nil
	if err := newAgent(t, m).open(t.Context()); err != nil || m.did(load) {
		t.Errorf("a restart: %v, loaded %t", err, m.did(load))
	}
	m.script = ""
	if err := newAgent(t, m).open(t.Context()); err != nil || m.script != want {
		t.Errorf("a boot: %v, the table is %q", err, m.script)
	}
	first := newMachine()
	if err := newAgent(t, first).open(t.Context()); err != nil || first.did(load) {
		t.Errorf("before the first State: %v, loaded %t", err, first.did(load))
	}
}

// What the socket could not hold (ENOBUFS) is an event too, and not the last one.
func TestFirewallEventsOverflow(t *testing.T) {
	socket := make(overrun, 2)
	socket <- &os.PathError{Op: "read", Path: "nftables events", Err: unix.ENOBUFS}
	socket <- nil
	close(socket)
	events := make(chan struct{}, 3)
	announce(socket, events)
	count := 0
	for range events {
		count++
	}
	if count != 2 {
		t.Errorf("an overflow and a message are %d events, want 2", count)
	}
}

// overrun is a socket whose reads end so, until it is closed.
type overrun chan error

func (o overrun) Read([]byte) (int, error) {
	if err, open := <-o; open {
		return 0, err
	}
	return 0, os.ErrClosed
}

// The kernel's events come, and end with ctx.
func TestFirewallEvents(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test makes a network namespace and CI must run it as root")
		}
		t.Skip("this test makes a network namespace, which needs root")
	}
	runtime.LockOSThread() // and never unlocked: the thread, in its namespace, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, err := FirewallEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	nft := func(script string) {
		t.Helper()
		command := exec.Command("nft", "--file", "-")
		command.Stdin = strings.NewReader(script)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
	}
	come := func(what string) {
		t.Helper()
		select {
		case _, more := <-events:
			if !more {
				t.Fatalf("after %s the events have ended", what)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event after %s", what)
		}
		for quiet := false; !quiet; {
			select {
			case _, more := <-events:
				if !more {
					t.Fatalf("after %s the events have ended", what)
				}
			case <-time.After(firewallQuiet):
				quiet = true
			}
		}
	}
	nft("table inet x { set s { type ipv4_addr; }; }")
	come("a table")
	nft("delete table inet x")
	come("a deletion")
	cancel()
	for more := true; more; {
		select {
		case _, more = <-events:
		case <-time.After(10 * time.Second):
			t.Fatal("the events do not end with their context")
		}
	}
}
