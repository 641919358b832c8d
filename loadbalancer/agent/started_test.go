package agent

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
)

// testConfig is Debian's but for the daemons, which the fake machine drives.
func testConfig() Config {
	c := defaults()
	c.Gateway = "east"
	drive := func(d *Daemon, name string) {
		d.Start, d.Reload, d.Stop = []string{"/" + name, "start"}, []string{"/" + name, "reload"}, []string{"/" + name, "stop"}
	}
	drive(&c.HAProxy, "haproxy")
	c.HAProxy.Kill = []string{"/haproxy", "kill"}
	drive(&c.Keepalived, "keepalived")
	return c
}

// machineOf is the machine that an agent works on.
func machineOf(a *Agent) *machine { return a.host.(bounded).Host.(*machine) }

// newAgent starts an agent on the machine, as far as Run does before it serves.
func newAgent(t *testing.T, m *machine) *Agent {
	t.Helper()
	a, err := New(Parts{Config: testConfig(), Version: "test", Host: m, HAProxy: m, TryBind: m.tryBind, Verifier: believe{},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	unlocked := func(doing string) {
		for range 100_000 { // others hold it for a moment
			if a.mu.TryLock() {
				a.mu.Unlock()
				return
			}
			runtime.Gosched()
		}
		t.Errorf("%q with the agent's lock held: who waits for it waits for the disk, or for the journal", doing)
	}
	m.meanwhile(func() { m.unlocked = unlocked })
	a.log = slog.New(unlockedLog{a.log.Handler(), unlocked})
	return a
}

// unlockedLog is a log that takes no words from who holds a lock.
type unlockedLog struct {
	slog.Handler
	unlocked func(doing string)
}

func (l unlockedLog) Handle(ctx context.Context, r slog.Record) error {
	l.unlocked("log " + r.Message)
	return l.Handler.Handle(ctx, r)
}
