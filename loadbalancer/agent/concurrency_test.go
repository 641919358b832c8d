package agent

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// stall makes one operation wait, so that a test can look at the middle of a transaction.
type stall struct {
	reached, release chan struct{}
}

func stallAt(m *machine, operation string) stall {
	s := stall{make(chan struct{}), make(chan struct{})}
	var once sync.Once
	m.strike = func(_ int, now string) strike {
		if strings.HasPrefix(now, operation) {
			once.Do(func() { close(s.reached); <-s.release })
		}
		return passes
	}
	return s
}

// Two States at once are applied one after the other, and the older one does not come out on top.
func TestOneTransactionAtATime(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a, socket := serving(t, m)
	one, two := dial(t, socket, wire.RoleController), dial(t, socket, wire.RoleController)
	s := stallAt(m, "run nft --file")
	second, third := sample(2, service("db", "192.0.2.11", 51)), sample(3, service("mail", "192.0.2.12", 51))
	one.send(request(t, wire.VerbApply, second))
	<-s.reached
	if a.tryAcquire() {
		t.Error("a second transaction may begin before the first one has ended")
	}
	two.send(request(t, wire.VerbApply, third))
	// State and hello do not wait for the transaction.
	if reply := dial(t, socket, wire.RolePeer).ask(request(t, wire.VerbState, nil)); string(reply.State.State) != string(sign(t, sample(1, service("web", "192.0.2.10", 51))).State) {
		t.Error("state in the middle of a transaction is not the committed one")
	}
	close(s.release)
	if result := one.receive().Result; result == nil || result.Outcome != wire.Runtime || result.Fence.Sequence != 2 {
		t.Errorf("first: %+v", result)
	}
	if result := two.receive().Result; result == nil || result.Outcome != wire.Runtime || result.Fence.Sequence != 3 {
		t.Errorf("second: %+v", result)
	}
	for n, operation := range m.log {
		if strings.HasPrefix(operation, "run nft --file") && n+1 < len(m.log) && strings.HasPrefix(m.log[n+1], "run nft --file") {
			t.Error("two transactions loaded the table at once")
		}
	}
	if got := m.held(); len(got) != 2 || got[1] != "192.0.2.12" {
		t.Errorf("held are %v", got)
	}
}

// A session that is cut does not touch the transaction that it began.
func TestSessionCutInTheMiddle(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	_, socket := serving(t, m)
	c := dial(t, socket, wire.RoleController)
	s := stallAt(m, "run /keepalived reload")
	next := sample(2, service("db", "192.0.2.11", 51))
	c.send(request(t, wire.VerbApply, next))
	<-s.reached
	c.conn.Close()
	close(s.release)
	// The next transaction begins when the cut one has ended.
	if result := dial(t, socket, wire.RoleController).ask(request(t, wire.VerbApply, next)).Result; result == nil || result.Outcome != wire.Unchanged {
		t.Errorf("the cut session's State again: %+v, want Unchanged", result)
	}
}

// An agent that is told to end finishes its transaction and answers it.
func TestEndInTheMiddle(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	a.config.Paths.Socket = filepath.Join(t.TempDir(), "agent.sock")
	a.config.Group = "a group that does not exist"
	listener, err := a.listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.serve(ctx, listener) }()
	c := dial(t, a.config.Paths.Socket, wire.RoleController)
	idle := dial(t, a.config.Paths.Socket, wire.RoleController)
	idle.ask(request(t, wire.VerbHello, nil)) // the agent has read all that we sent: else its end would be a reset
	s := stallAt(m, "run /keepalived reload")
	c.send(request(t, wire.VerbApply, sample(2, service("db", "192.0.2.11", 51))))
	<-s.reached
	cancel()
	if _, err := idle.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle session ends with %v", err)
	}
	select {
	case <-served:
		t.Error("the agent ended in the middle of a transaction")
	default:
	}
	close(s.release)
	if result := c.receive().Result; result == nil || result.Outcome != wire.Runtime {
		t.Errorf("the transaction in which the agent was told to end: %+v", result)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
