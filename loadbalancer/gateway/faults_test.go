package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A fault at every stage of a call, each with the error that a caller decides on and the words that a person needs; then
// the fault is repaired, and the same client works again.
func TestFaultThenRepaired(t *testing.T) {
	tests := []struct {
		name  string
		fault func(t *testing.T, m *machine, config *Config)
		want  error    // type
		words []string // in the message
		after time.Duration
	}{
		{"connection refused", func(_ *testing.T, m *machine, config *Config) {
			refuse := true
			config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if refuse {
					refuse = false
					return nil, errors.New("connect: connection refused")
				}
				return m.dial(ctx, network, address)
			}
		}, &UnreachableError{}, []string{"connecting: connect: connection refused", "check that the machine is up"}, 0},

		{"nobody answers the dial", func(_ *testing.T, m *machine, config *Config) {
			hang := true
			config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if hang {
					hang = false
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return m.dial(ctx, network, address)
			}
		}, &UnreachableError{}, []string{"no answer within 5s", "no firewall"}, 5 * time.Second},

		{"sshd hangs", func(_ *testing.T, m *machine, _ *Config) {
			m.accepted = once(func(conn *memoryConn) { io.Copy(io.Discard, conn) })
		}, &UnreachableError{}, []string{"no answer within 5s"}, 5 * time.Second},

		{"sshd closes at once", func(_ *testing.T, m *machine, _ *Config) {
			m.accepted = once(func(*memoryConn) {})
		}, &UnreachableError{}, []string{"connecting: ssh: handshake failed: "}, 0},

		{"not an sshd", func(_ *testing.T, m *machine, _ *Config) {
			m.accepted = once(func(conn *memoryConn) { fmt.Fprint(conn, strings.Repeat("HTTP/1.1 400 Bad Request\r\n", 100)) })
		}, &UnreachableError{}, []string{"connecting: ssh: handshake failed"}, 0},

		{"forced command not found", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, func(_ io.ReadWriter, stderr io.Writer) int {
				fmt.Fprint(stderr, "sh: 1: /usr/local/sbin/gatewayctl: not found\n")
				return 127
			})
		}, &AgentMissingError{}, []string{"exit status 127", `"sh: 1: /usr/local/sbin/gatewayctl: not found"`,
			"systemctl status gatewayctl-agent", `restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=controller"`}, 0},

		{"login shell is nologin", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, func(session io.ReadWriter, _ io.Writer) int {
				fmt.Fprint(session, "This account is currently not available.\n")
				return 1
			})
		}, &AgentMissingError{}, []string{"exit status 1", `"This account is currently not available."`}, 0},

		{"something else talks", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, func(session io.ReadWriter, _ io.Writer) int {
				fmt.Fprint(session, "Welcome to gw1\n$ ")
				io.Copy(io.Discard, session)
				return 0
			})
		}, &AgentMissingError{}, []string{"something else talks there", `"Welcome to gw1`}, 2 * time.Second},

		{"hello hangs", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, func(session io.ReadWriter, _ io.Writer) int {
				io.Copy(io.Discard, session)
				return 0
			})
		}, &UnreachableError{}, []string{"waiting for the agent's hello: no answer within 1m0s", "journalctl"}, time.Minute},

		{"reply hangs", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, helloThen(func(session io.ReadWriter) int {
				io.Copy(io.Discard, session)
				return 0
			}))
		}, &UnreachableError{}, []string{"waiting for the reply to state: no answer within 1m0s"}, time.Minute},

		{"cut before the reply", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, helloThen(func(io.ReadWriter) int { return -1 }))
		}, &UnreachableError{}, []string{"waiting for the reply to state: the connection was lost"}, 0},

		{"cut in the middle of the reply", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, helloThen(func(session io.ReadWriter) int {
				session.Write(append(binary.BigEndian.AppendUint32(nil, 1000), "half"...))
				return -1
			}))
		}, &UnreachableError{}, []string{"the connection was lost"}, 0},

		{"agent stops in the middle of the reply", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, helloThen(func(session io.ReadWriter) int {
				session.Write(append(binary.BigEndian.AppendUint32(nil, 1000), "half"...))
				return 1
			}))
		}, &AgentMissingError{}, []string{"exit status 1"}, 0},

		{"older agent", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, agent(func(_ wire.Request, reply *wire.Reply) { reply.Version = wire.Version + 1 }))
		}, &VersionError{}, []string{"the agent speaks wire version 2, this build 1: upgrade this program"}, 0},

		{"refusal for another schema", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, agent(func(request wire.Request, reply *wire.Reply) {
				if request.Verb == wire.VerbHello {
					reply.Hello.Schema = desired.Schema - 1
					return
				}
				*reply = wire.Reply{Version: wire.Version, Refusal: &wire.Refusal{Code: wire.CodeVersion, Message: "no"}}
			}))
		}, &VersionError{}, []string{"the agent speaks State schema 0, this build 1: upgrade gatewayctl on the gateway"}, 0},

		{"another gateway answers", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, agent(func(_ wire.Request, reply *wire.Reply) { reply.Hello.Gateway = "gw2" }))
		}, &NameError{}, []string{"the agent there calls itself gw2", "sshAddress"}, 0},

		{"key refused", func(_ *testing.T, m *machine, config *Config) {
			users := m.users
			m.users = nil
			m.accepted = func() func(*memoryConn) bool {
				dials := 0
				return func(*memoryConn) bool {
					if dials++; dials > 1 {
						m.users = users
					}
					return false
				}
			}()
		}, &KeyRefusedError{}, []string{"for user gatewayctl", "ssh-ed25519 SHA256:", "authorized_keys"}, 0},

		{"refused by the agent", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, agent(func(request wire.Request, reply *wire.Reply) {
				if request.Verb == wire.VerbState {
					*reply = wire.Reply{Version: wire.Version, Refusal: &wire.Refusal{Code: wire.CodeRole, Message: "not for you", Remedy: "ask root"}}
				}
			}))
		}, &wire.Refusal{}, []string{"refused state", "not for you", "ask root"}, 0},

		{"reply to something else", func(_ *testing.T, m *machine, _ *Config) {
			m.command = onceThen(m.command, agent(func(request wire.Request, reply *wire.Reply) {
				if request.Verb == wire.VerbState {
					*reply = answer(wire.Request{Verb: wire.VerbStatus})
				}
			}))
		}, nil, []string{"answers something else"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, config := newMachine(t)
				test.fault(t, m, &config)
				c := newClient(t, config)
				began := time.Now()
				_, err := c.State(t.Context())
				if err == nil {
					t.Fatal("no error")
				}
				if took := time.Since(began); took != test.after {
					t.Errorf("told after %v, want %v", took, test.after)
				}
				if got, want := fmt.Sprintf("%T", typed(err)), fmt.Sprintf("%T", test.want); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				for _, words := range append(test.words, "gateway gw1") {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("error does not say %q:\n%v", words, err)
					}
				}
				if test.name == "refused by the agent" || test.name == "refusal for another schema" {
					c.drop() // a refusal is an answer: the session stays; get the repaired one
				}
				if _, err := c.State(t.Context()); err != nil {
					t.Errorf("after the repair: %v", err)
				}
			})
		})
	}
}

// typed finds the error that a caller would decide on.
func typed(err error) error {
	var unreachable *UnreachableError
	var missing *AgentMissingError
	var version *VersionError
	var name *NameError
	var key *KeyRefusedError
	var host *HostKeyError
	var refusal *wire.Refusal
	switch {
	case errors.As(err, &unreachable):
		return unreachable
	case errors.As(err, &missing):
		return missing
	case errors.As(err, &version):
		return version
	case errors.As(err, &name):
		return name
	case errors.As(err, &key):
		return key
	case errors.As(err, &host):
		return host
	case errors.As(err, &refusal):
		return refusal
	}
	return nil
}

// once serves the first connection itself.
func once(serve func(*memoryConn)) func(*memoryConn) bool {
	var served atomic.Bool
	return func(conn *memoryConn) bool {
		if served.Swap(true) {
			return false
		}
		serve(conn)
		return true
	}
}

// onceThen is first for the first session, then good.
func onceThen(good, first func(io.ReadWriter, io.Writer) int) func(io.ReadWriter, io.Writer) int {
	var ran atomic.Bool
	return func(session io.ReadWriter, stderr io.Writer) int {
		if ran.Swap(true) {
			return good(session, stderr)
		}
		return first(session, stderr)
	}
}

// helloThen answers the hello, reads one more request, and goes on as told.
func helloThen(then func(io.ReadWriter) int) func(io.ReadWriter, io.Writer) int {
	return func(session io.ReadWriter, _ io.Writer) int {
		var request wire.Request
		if wire.ReadFrame(session, &request) != nil || wire.WriteFrame(session, answer(request)) != nil ||
			wire.ReadFrame(session, &request) != nil {
			return 2
		}
		return then(session)
	}
}

// The connection breaks after every k-th byte that the gateway sends: each call ends with a typed error or a reply, at
// once, and the next one works.
func TestCutAtEveryByte(t *testing.T) {
	m, config := newMachine(t)
	var sent int
	for cut := 0; ; cut += 23 {
		finished := false
		synctest.Test(t, func(t *testing.T) {
			var cutOnce sync.Once
			m.accepted = func(conn *memoryConn) bool {
				cutOnce.Do(func() { conn.budget(cut) })
				return false
			}
			c := newClient(t, config)
			began := time.Now()
			_, err := c.State(t.Context())
			switch typed(err).(type) {
			case *UnreachableError:
			case nil:
				finished = err == nil
			default:
				t.Errorf("cut after %d bytes: %v", cut, err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("cut after %d bytes: told after %v", cut, took)
			}
			sent = cut
			if finished {
				return // the rest of the budget is less than another reply
			}
			if _, err := c.State(t.Context()); err != nil {
				t.Errorf("cut after %d bytes: the next call: %v", cut, err)
			}
		})
		if finished || t.Failed() {
			break
		}
	}
	if sent < 500 {
		t.Errorf("the whole exchange took only %d bytes: the fault was never in it", sent)
	}
}
