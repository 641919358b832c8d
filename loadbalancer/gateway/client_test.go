package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestVerbsShareOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		c := newClient(t, config)
		ctx := t.Context()

		hello, err := c.Hello(ctx)
		if err != nil || hello.Fence.Epoch != 3 {
			t.Fatalf("hello: %+v, %v", hello, err)
		}
		state, err := c.State(ctx)
		if err != nil || state != nil {
			t.Fatalf("state of an empty gateway: %+v, %v", state, err)
		}
		for _, ask := range []func(context.Context, desired.Signed) (*wire.Result, error){c.Apply, c.Plan} {
			result, err := ask(ctx, desired.Signed{State: []byte("x")})
			if err != nil || result.Outcome != wire.Runtime || result.Digest != "x" {
				t.Fatalf("result: %+v, %v", result, err)
			}
		}
		status, err := c.Status(ctx)
		if err != nil || !status.InSync {
			t.Fatalf("status: %+v, %v", status, err)
		}
		targets := []wire.ProbeTarget{{Address: netip.MustParseAddr("192.0.2.70")}, {Address: netip.MustParseAddr("192.0.2.71"), Interface: "eth1"}}
		probed, err := c.Probe(ctx, targets)
		if err != nil || len(probed.Answers) != 2 || probed.Answers[1].Address != targets[1].Address || !probed.Answers[1].Asked {
			t.Fatalf("probe: %+v, %v", probed, err)
		}
		if probed, err := c.Probe(ctx, nil); err != nil || len(probed.Answers) != 0 {
			t.Fatalf("probe of nothing: %+v, %v", probed, err)
		}
		if drained, err := c.Drain(ctx, wire.Drain{Reason: "new kernel"}); err != nil || !drained.Changed || drained.Drain.Reason != "new kernel" {
			t.Fatalf("drain: %+v, %v", drained, err)
		}
		if drained, err := c.Undrain(ctx); err != nil || !drained.Changed {
			t.Fatalf("undrain: %+v, %v", drained, err)
		}
		if m.dials() != 1 {
			t.Errorf("9 calls made %d connections, want 1", m.dials())
		}
	})
}

// Answers that do not fit the question are nobody's: a free address must never be read off another one's answer.
// A gateway that was upgraded before this build tells more, at every depth; what is known of it is heard all the same.
func TestAgentOfTheNextRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		m.command = func(session io.ReadWriter, _ io.Writer) int {
			for {
				var request wire.Request
				if wire.ReadFrame(session, &request) != nil {
					return 0
				}
				text, err := json.Marshal(answer(request))
				var reply map[string]any
				if err == nil {
					err = json.Unmarshal(text, &reply)
				}
				tellMore(reply)
				if err != nil || wire.WriteFrame(session, reply) != nil {
					return 1
				}
			}
		}
		c := newClient(t, config)
		if hello, err := c.Hello(t.Context()); err != nil || hello.Fence.Sequence != 17 {
			t.Errorf("hello: %+v, %v", hello, err)
		}
		if status, err := c.Status(t.Context()); err != nil || !status.InSync {
			t.Errorf("status: %+v, %v", status, err)
		}
		if result, err := c.Apply(t.Context(), desired.Signed{State: []byte("x")}); err != nil || result.Outcome != wire.Runtime {
			t.Errorf("result: %+v, %v", result, err)
		}
	})
}

func tellMore(object map[string]any) {
	for _, value := range object {
		if inner, ok := value.(map[string]any); ok {
			tellMore(inner)
		}
	}
	object["later"] = map[string]any{"than": "this"}
}

func TestProbeAnswersMustFit(t *testing.T) {
	targets := []wire.ProbeTarget{{Address: netip.MustParseAddr("192.0.2.70")}, {Address: netip.MustParseAddr("192.0.2.71")}}
	for name, misfit := range map[string]func(*wire.Reply){
		"too few":       func(r *wire.Reply) { r.Probed.Answers = r.Probed.Answers[:1] },
		"another order": func(r *wire.Reply) { slices.Reverse(r.Probed.Answers) },
		"none":          func(r *wire.Reply) { r.Probed = nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			m, config := newMachine(t)
			m.command = onceThen(m.command, agent(func(request wire.Request, reply *wire.Reply) {
				if request.Verb == wire.VerbProbe {
					misfit(reply)
				}
			}))
			c := newClient(t, config)
			if probed, err := c.Probe(t.Context(), targets); err == nil || !strings.Contains(err.Error(), "the reply to probe answers something else") {
				t.Errorf("%s: got %+v, %v", name, probed, err)
			}
			if probed, err := c.Probe(t.Context(), targets); err != nil || len(probed.Answers) != 2 || m.dials() != 2 {
				t.Errorf("%s: the next call: %+v, %v, %d connections", name, probed, err, m.dials())
			}
		})
	}
}

// Nobody restarts a gateway because of an answer that does not say that it is drained.
func TestDrainAnswerMustSayDrained(t *testing.T) {
	for _, test := range []struct {
		name string
		ask  func(context.Context, *Client) (*wire.Drained, error)
		says wire.Reply
	}{
		{"drain: no mark", func(ctx context.Context, c *Client) (*wire.Drained, error) { return c.Drain(ctx, wire.Drain{}) }, wire.Reply{Drained: &wire.Drained{}}},
		{"drain: a status", func(ctx context.Context, c *Client) (*wire.Drained, error) { return c.Drain(ctx, wire.Drain{}) }, wire.Reply{Status: &wire.Status{}}},
		{"undrain: a mark", func(ctx context.Context, c *Client) (*wire.Drained, error) { return c.Undrain(ctx) },
			wire.Reply{Drained: &wire.Drained{Drain: &wire.DrainStatus{}}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, config := newMachine(t)
			m.command = agent(func(request wire.Request, reply *wire.Reply) {
				if request.Verb != wire.VerbHello {
					*reply = test.says
					reply.Version = wire.Version
				}
			})
			if drained, err := test.ask(t.Context(), newClient(t, config)); err == nil || !strings.Contains(err.Error(), "answers something else") {
				t.Errorf("%s: got %+v, %v", test.name, drained, err)
			}
		})
	}
}

func TestPeerThatVanishesIsNoticedBetweenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		c := newClient(t, config)
		if _, err := c.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // of the bubble's clock: 1200 keepalives are answered
		if m.last().cutOff(); c.session.over.Err() != nil {
			t.Fatal("the session ended although every keepalive was answered")
		}
		time.Sleep(6*time.Second + time.Millisecond)
		if cause := context.Cause(c.session.over); cause == nil || !strings.Contains(cause.Error(), "keepalive") {
			t.Errorf("6 s after the cable was pulled: %v", cause)
		}
		if _, err := c.State(t.Context()); err != nil || m.dials() != 2 {
			t.Errorf("the next call: %v, %d connections", err, m.dials())
		}
	})
}

func TestPeerThatVanishesDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		m.command = helloThen(func(session io.ReadWriter) int {
			m.last().cutOff()
			io.Copy(io.Discard, session)
			return 0
		})
		c := newClient(t, config)
		began := time.Now()
		_, err := c.State(t.Context())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || !strings.Contains(err.Error(), "no answer to a keepalive within 2s") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("told after %v, want 3s: long before the call's own minute", took)
		}
		m.last().Close()
	})
}

// The agent restarts between two calls: the next call must not fail.
func TestAgentRestartedBetweenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		restart := make(chan struct{})
		serve := m.command
		m.command = onceThen(serve, func(session io.ReadWriter, stderr io.Writer) int {
			go serve(session, stderr)
			<-restart
			return 1
		})
		c := newClient(t, config)
		if _, err := c.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(restart)
		synctest.Wait()
		if _, err := c.State(t.Context()); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		if m.dials() != 2 {
			t.Errorf("%d connections, want 2", m.dials())
		}
	})
}

func TestCancelledCallClosesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		m.command = onceThen(m.command, helloThen(func(session io.ReadWriter) int {
			time.Sleep(20 * time.Second) // the reply comes after its asker has gone
			wire.WriteFrame(session, wire.Reply{Version: wire.Version, Result: &wire.Result{Outcome: wire.Stuck}})
			return 0
		}))
		c := newClient(t, config)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the Lease was lost")
		time.AfterFunc(5*time.Second, func() { cancel(why) })
		began := time.Now()
		_, err := c.Apply(ctx, desired.Signed{})
		if !errors.Is(err, why) || typed(err) != nil {
			t.Errorf("got %v, want the caller's own reason, and no fault of the gateway", err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("ended after %v, want 5s", took)
		}
		result, err := c.Apply(t.Context(), desired.Signed{})
		if err != nil || result.Outcome != wire.Runtime || m.dials() != 2 {
			t.Errorf("the next call: %+v, %v, %d connections; a late reply must not answer it", result, err, m.dials())
		}
		time.Sleep(time.Minute)
	})
}

// slowToClose gives up its connection a second late.
type slowToClose struct{ net.Conn }

func (c slowToClose) Close() error {
	time.Sleep(time.Second)
	return c.Conn.Close()
}

// The reply comes in the moment in which its asker's context ends: the connection is going, and the next call must not
// be sent on it.
func TestReplyInTheMomentOfCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := m.dial(ctx, network, address)
			return slowToClose{conn}, err
		}
		ctx, cancel := context.WithCancel(t.Context())
		m.command = agent(func(request wire.Request, _ *wire.Reply) {
			switch request.Verb {
			case wire.VerbStatus:
				cancel()
			case wire.VerbState:
				time.Sleep(2 * time.Second)
			}
		})
		c := newClient(t, config)
		if _, err := c.Status(ctx); err != nil {
			t.Fatalf("the reply was there: %v", err)
		}
		if _, err := c.State(t.Context()); err != nil {
			t.Errorf("the next call: %v", err)
		}
	})
}

// Ten callers of one gateway take turns, and each gets its own reply; a caller whose time is up leaves the queue.
func TestCallsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		var inside, most atomic.Int32
		m.command = agent(func(request wire.Request, _ *wire.Reply) {
			if request.Verb == wire.VerbApply {
				most.Store(max(most.Load(), inside.Add(1)))
				time.Sleep(time.Second)
				inside.Add(-1)
			}
		})
		c := newClient(t, config)
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() {
				digest := fmt.Sprint(i)
				result, err := c.Apply(t.Context(), desired.Signed{State: []byte(digest)})
				if err != nil || result.Digest != digest {
					t.Errorf("caller %d: %+v, %v", i, result, err)
				}
			})
		}
		time.Sleep(time.Second / 2)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		if _, err := c.State(hurried); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "an earlier call") {
			t.Errorf("a hurried caller got %v", err)
		}
		callers.Wait()
		if most.Load() != 1 || m.dials() != 1 {
			t.Errorf("%d requests at once over %d connections, want 1 and 1", most.Load(), m.dials())
		}
	})
}

// One gateway that hangs does not hold up another.
func TestGatewaysAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, hungConfig := newMachine(t)
		hung.accepted = once(func(conn *memoryConn) { io.Copy(io.Discard, conn) })
		_, config := newMachine(t)
		one, other := newClient(t, hungConfig), newClient(t, config)
		var stuck sync.WaitGroup
		stuck.Go(func() {
			if _, err := one.State(t.Context()); err == nil {
				t.Error("a hung gateway answered")
			}
		})
		began := time.Now()
		if _, err := other.State(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("the other: %v after %v", err, time.Since(began))
		}
		stuck.Wait()
	})
}

func TestCloseEndsARunningCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, config := newMachine(t)
		m.command = helloThen(func(session io.ReadWriter) int {
			io.Copy(io.Discard, session)
			return 0
		})
		c := newClient(t, config)
		var call sync.WaitGroup
		call.Go(func() {
			if _, err := c.State(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("the running call: %v", err)
			}
		})
		synctest.Wait()
		c.Close()
		call.Wait()
		if _, err := c.State(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("a later call: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	})
}

func TestNewTellsEveryFault(t *testing.T) {
	_, err := New(Config{Address: "gw1"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, words := range []string{"name is empty", `"gw1" is not host:port`, "user is empty", "no private key", "host keys are always checked"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("not told: %s\n%v", words, err)
		}
	}
}
