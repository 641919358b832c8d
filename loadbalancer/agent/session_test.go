package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// serving is an agent that serves on a socket of its own until the test ends.
func serving(t *testing.T, m *machine) (a *Agent, socket string) {
	t.Helper()
	a = started(t, m)
	a.config.Paths.Socket = filepath.Join(t.TempDir(), "agent.sock")
	a.config.Group = "a group that does not exist"
	listener, err := a.listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serving: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the agent still serves 10 s after it was told to end")
		}
	})
	return a, a.config.Paths.Socket
}

// client is one session.
type client struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, socket string, role wire.Role) client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := client{t, conn}
	c.send(wire.Preamble{Role: role})
	return c
}

func (c client) send(v any) {
	c.t.Helper()
	if err := wire.WriteFrame(c.conn, v); err != nil {
		c.t.Fatal(err)
	}
}

func (c client) receive() *wire.Reply {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	var reply wire.Reply
	if err := wire.ReadFrame(c.conn, &reply); err != nil {
		c.t.Fatal(err)
	}
	return &reply
}

func (c client) ask(request wire.Request) *wire.Reply {
	c.t.Helper()
	c.send(request)
	return c.receive()
}

func request(t *testing.T, verb wire.Verb, s *desired.State) wire.Request {
	r := wire.Request{Version: wire.Version, Verb: verb}
	if s != nil {
		r.Apply = &wire.Apply{Signed: sign(t, s)}
	}
	return r
}

func TestRoles(t *testing.T) {
	verbs := []wire.Verb{wire.VerbHello, wire.VerbState, wire.VerbApply, wire.VerbPlan, wire.VerbStatus, wire.VerbProbe,
		wire.VerbDrain, wire.VerbUndrain, wire.VerbAdopt}
	may := map[wire.Role]string{
		wire.RoleController: "hello state apply plan status probe drain undrain",
		wire.RoleOperator:   "hello state apply plan status probe drain undrain adopt",
		wire.RolePeer:       "hello state",
		"":                  "",
		"root":              "",
	}
	for role, listed := range may {
		for _, verb := range verbs {
			want := strings.Contains(" "+listed+" ", " "+string(verb)+" ")
			if got := allowed(role, verb); got != want {
				t.Errorf("role %q, verb %q: allowed is %t, want %t", role, verb, got, want)
			}
		}
	}
}

func TestAdmit(t *testing.T) {
	for _, test := range []struct {
		role wire.Role
		uid  uint32
		want bool
	}{
		{wire.RoleController, 999, true}, {wire.RolePeer, 999, true}, {wire.RoleController, 0, true},
		{wire.RoleOperator, 0, true}, {wire.RoleOperator, 999, false}, {"", 0, false}, {"root", 0, false},
	} {
		role, refusal := admit(test.role, test.uid)
		if (refusal == nil) != test.want || test.want && role != test.role {
			t.Errorf("role %q of uid %d: admitted as %q, %v", test.role, test.uid, role, refusal)
		}
	}
}

// A session of an unprivileged user that calls itself an operator is answered and ended.
func TestOperatorMustBeRoot(t *testing.T) {
	a := started(t, newMachine())
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		defer there.Close()
		reader := &frameReader{connection: there, buffered: bufio.NewReader(there)}
		if err := a.converse(t.Context(), 999, reader, there); err != nil {
			t.Error(err)
		}
	}()
	c := client{t, here}
	c.send(wire.Preamble{Role: wire.RoleOperator})
	if reply := c.receive(); reply.Refusal == nil || reply.Refusal.Code != wire.CodeRole {
		t.Errorf("got %+v, want a refusal of the role", reply)
	}
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the session goes on: %v", err)
	}
}

func TestVerbs(t *testing.T) {
	_, socket := serving(t, newMachine())
	c := dial(t, socket, wire.RoleController)
	first, second := sample(1, service("web", "192.0.2.10", 51)), sample(2, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51))

	if reply := c.ask(request(t, wire.VerbState, nil)); !reply.Empty || reply.State != nil {
		t.Errorf("state of a machine that never had one: %+v", reply)
	}
	if hello := c.ask(request(t, wire.VerbHello, nil)).Hello; hello == nil || hello.Gateway != "east" || hello.HAProxy != "2.6.12" ||
		hello.Schema != desired.Schema || hello.Fence != nil || hello.Role != wire.RoleController {
		t.Errorf("hello: %+v", hello)
	}
	if result := c.ask(request(t, wire.VerbPlan, first)).Result; result == nil || result.Outcome != wire.Reloaded {
		t.Errorf("plan: %+v", result)
	}
	if reply := c.ask(request(t, wire.VerbState, nil)); !reply.Empty {
		t.Error("plan left a State behind")
	}
	if result := c.ask(request(t, wire.VerbApply, first)).Result; result == nil || result.Outcome != wire.Reloaded ||
		result.Fence != first.Fence || len(result.Held) != 1 || result.Held[0] != addr("192.0.2.10") {
		t.Errorf("apply: %+v", result)
	}
	if result := c.ask(request(t, wire.VerbApply, second)).Result; result == nil || result.Outcome != wire.Runtime || len(result.Held) != 2 {
		t.Errorf("second apply: %+v", result)
	}
	if refusal := c.ask(request(t, wire.VerbApply, first)).Refusal; refusal == nil || refusal.Code != wire.CodeSequence {
		t.Errorf("apply of an old State: %+v", refusal)
	}
	if reply := c.ask(request(t, wire.VerbState, nil)); reply.State == nil || string(reply.State.State) != string(sign(t, second).State) {
		t.Errorf("state: %+v", reply)
	}
	status := c.ask(request(t, wire.VerbStatus, nil)).Status
	if status == nil || !status.InSync || status.Rounds[wire.Runtime] != 1 || status.RuntimeUpdates != 1 ||
		status.Reloads["haproxy runs a configuration that is not ours"] != 1 || len(status.Held) != 2 || !status.KeepalivedUp ||
		status.HAProxyUp.IsZero() || len(status.Nodes) != 2 || status.Applied.IsZero() {
		t.Errorf("status: %+v", status)
	}
	old := request(t, wire.VerbStatus, nil)
	old.Version = 99
	if refusal := c.ask(old).Refusal; refusal == nil || refusal.Code != wire.CodeVersion {
		t.Errorf("a request of another version: %+v", refusal)
	}
	if refusal := c.ask(request(t, wire.VerbApply, nil)).Refusal; refusal == nil || refusal.Code != wire.CodeMalformed {
		t.Errorf("apply without a State: %+v", refusal)
	}
}

func TestPeerMayReadOnly(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	_, socket := serving(t, m)
	c := dial(t, socket, wire.RolePeer)
	before := m.moment()
	for _, verb := range []wire.Verb{wire.VerbApply, wire.VerbPlan, wire.VerbStatus} {
		if refusal := c.ask(request(t, verb, sample(2))).Refusal; refusal == nil || refusal.Code != wire.CodeRole {
			t.Errorf("%s as a peer: %+v", verb, refusal)
		}
	}
	if reply := c.ask(request(t, wire.VerbState, nil)); reply.State == nil {
		t.Errorf("state as a peer: %+v", reply)
	}
	if after := m.moment(); before.Generation != after.Generation || before.Table != after.Table {
		t.Error("a peer changed the machine")
	}
}

// Broken requests are answered or end their own session, and no other.
func TestBrokenRequests(t *testing.T) {
	_, socket := serving(t, newMachine())
	good := dial(t, socket, wire.RoleController)
	raw := func(bytes ...byte) client {
		c := dial(t, socket, wire.RoleController)
		if _, err := c.conn.Write(bytes); err != nil {
			t.Fatal(err)
		}
		return c
	}
	noJSON := raw(0, 0, 0, 3, 'a', 'b', 'c')
	if refusal := noJSON.receive().Refusal; refusal == nil || refusal.Code != wire.CodeMalformed {
		t.Errorf("a frame that is no gzip: %+v", refusal)
	}
	if noJSON.ask(request(t, wire.VerbHello, nil)).Hello == nil {
		t.Error("the session does not go on after a malformed request")
	}
	huge := raw(binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1)...)
	if n, err := huge.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after a frame that is too large the session gives %d bytes and %v, want its end", n, err)
	}
	unknown := dial(t, socket, wire.RoleController)
	unknown.send(map[string]any{"version": wire.Version, "verb": "hello", "sudo": true})
	if refusal := unknown.receive().Refusal; refusal == nil || refusal.Code != wire.CodeMalformed {
		t.Errorf("a request with an unknown field: %+v", refusal)
	}
	if good.ask(request(t, wire.VerbHello, nil)).Hello == nil {
		t.Error("another session was hurt")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	_, socket := serving(t, newMachine())
	for range maxSessions {
		silent, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	extra, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if _, err := extra.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one session too many gives %v, want its end", err)
	}
}

// Another gateway's key cannot keep the controller out, however many sessions it opens.
func TestPeersLeaveRoomForTheController(t *testing.T) {
	_, socket := serving(t, newMachine())
	hello := request(t, wire.VerbHello, nil)
	for range maxOfRole {
		if dial(t, socket, wire.RolePeer).ask(hello).Hello == nil {
			t.Fatal("a session within the bound is not served")
		}
	}
	for range maxSessions {
		if refusal := dial(t, socket, wire.RolePeer).receive().Refusal; refusal == nil || !strings.Contains(refusal.Message, "peer") {
			t.Fatalf("one session of the role too many: %+v", refusal)
		}
	}
	if dial(t, socket, wire.RoleController).ask(hello).Hello == nil {
		t.Error("the controller is not served")
	}
}

// A place that a session had is another one's when it has ended.
func TestSessionsGiveTheirPlaceBack(t *testing.T) {
	a, socket := serving(t, newMachine())
	for range 2 * maxOfRole {
		c := dial(t, socket, wire.RolePeer)
		if c.ask(request(t, wire.VerbHello, nil)).Hello == nil {
			t.Fatal("not served")
		}
		c.conn.Close()
		for deadline := time.Now().Add(10 * time.Second); len(a.places[wire.RolePeer]) > 0; {
			if time.Now().After(deadline) {
				t.Fatal("the place is not given back")
			}
			runtime.Gosched()
		}
	}
}

// A peer has short questions only, so it gets no memory for long ones.
func TestPeersAskBriefly(t *testing.T) {
	_, socket := serving(t, newMachine())
	peer := dial(t, socket, wire.RolePeer)
	peer.send(wire.Request{Version: wire.Version, Verb: wire.VerbApply,
		Apply: &wire.Apply{Signed: desired.Signed{State: noise(2 * peerFrame), Signature: []byte("x")}}})
	if n, err := peer.conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("after a long question of a peer the session gives %d bytes and %v, want its end", n, err)
	}
}

// noise does not get smaller when it is compressed.
func noise(bytes int) []byte {
	text := make([]byte, bytes)
	_, _ = rand.Read(text) // it never fails
	return []byte(`"` + base64.RawURLEncoding.EncodeToString(text) + `"`)
}

func TestPipe(t *testing.T) {
	_, socket := serving(t, newMachine())
	requests, stdin := net.Pipe()
	stdout, answers := net.Pipe()
	piped := make(chan error, 1)
	go func() { piped <- Pipe(t.Context(), socket, wire.RolePeer, requests, answers) }()
	if err := wire.WriteFrame(stdin, request(t, wire.VerbHello, nil)); err != nil {
		t.Fatal(err)
	}
	var reply wire.Reply
	if err := wire.ReadFrame(stdout, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Hello == nil || reply.Hello.Role != wire.RolePeer {
		t.Errorf("got %+v, want a hello to a peer", reply)
	}
	stdin.Close()
	if err := <-piped; err != nil {
		t.Errorf("the pipe ends with %v", err)
	}
}

func TestPipeWithoutAgent(t *testing.T) {
	err := Pipe(t.Context(), filepath.Join(t.TempDir(), "agent.sock"), wire.RolePeer, strings.NewReader(""), io.Discard)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "gatewayctl agent run") {
		t.Errorf("got %v, want a missing file and what to do", err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock.lock")
	unlock, err := lockMachine(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockMachine(path); err == nil || !strings.Contains(err.Error(), "another agent runs") {
		t.Errorf("a second agent gives %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = lockMachine(path)
	if err != nil {
		t.Fatalf("after the first one has ended: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}
