package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const machineAddress = "192.0.2.1:22"

// machine is a gateway in this process: an SSH server of x/crypto in memory with a command for its sessions. Its fields
// are set before the first dial, or between calls.
type machine struct {
	hostKeys []ssh.Signer
	users    []ssh.PublicKey
	// accepted sees each connection before SSH does; true: it serves the connection itself.
	accepted func(*memoryConn) bool
	// command is what runs in a session; its result is the exit status, negative: the connection is cut.
	command func(session io.ReadWriter, stderr io.Writer) int

	mu    sync.Mutex
	conns []*memoryConn // the server's ends
}

func (m *machine) dial(context.Context, string, string) (net.Conn, error) {
	client, server := memoryPipe()
	m.mu.Lock()
	m.conns = append(m.conns, server)
	m.mu.Unlock()
	go m.serve(server)
	return client, nil
}

func (m *machine) dials() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

func (m *machine) last() *memoryConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conns[len(m.conns)-1]
}

func (m *machine) serve(conn *memoryConn) {
	defer conn.Close()
	if m.accepted != nil && m.accepted(conn) {
		return
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, user := range m.users {
			if bytes.Equal(user.Marshal(), key.Marshal()) {
				return nil, nil
			}
		}
		return nil, errors.New("unknown key")
	}}
	for _, key := range m.hostKeys {
		config.AddHostKey(key)
	}
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests) // answers keepalives
	for channel := range channels {
		session, asked, err := channel.Accept()
		if err != nil {
			return
		}
		go m.run(server, session, asked)
	}
}

func (m *machine) run(server *ssh.ServerConn, session ssh.Channel, asked <-chan *ssh.Request) {
	for request := range asked {
		if request.Type != "exec" {
			request.Reply(false, nil)
			continue
		}
		request.Reply(true, nil)
		go func() {
			status := m.command(session, session.Stderr())
			if status < 0 {
				server.Close()
				return
			}
			session.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
			session.Close()
		}()
	}
}

// agent answers requests as a real one does, until the session ends. Its replies can be replaced.
func agent(replace func(wire.Request, *wire.Reply)) func(io.ReadWriter, io.Writer) int {
	return func(session io.ReadWriter, stderr io.Writer) int {
		for {
			var request wire.Request
			if err := wire.ReadFrame(session, &request); err != nil {
				return 0
			}
			reply := answer(request)
			if replace != nil {
				replace(request, &reply)
			}
			if err := wire.WriteFrame(session, reply); err != nil {
				return 1
			}
		}
	}
}

func answer(request wire.Request) wire.Reply {
	reply := wire.Reply{Version: wire.Version}
	fence := desired.Fence{ClusterUID: "uid", Epoch: 3, Instance: "a", Sequence: 17}
	hello := wire.Hello{Gateway: "gw1", Agent: "test", Role: wire.RoleController, Schema: desired.Schema, Fence: &fence}
	switch request.Verb {
	case wire.VerbHello:
		reply.Hello = &hello
	case wire.VerbState:
		reply.Empty = true
	case wire.VerbApply, wire.VerbPlan:
		reply.Result = &wire.Result{Outcome: wire.Runtime, Digest: string(request.Apply.Signed.State)}
	case wire.VerbStatus:
		reply.Status = &wire.Status{Hello: hello, InSync: true}
	case wire.VerbDrain:
		reply.Drained = &wire.Drained{Changed: true, Drain: &wire.DrainStatus{Reason: request.Drain.Reason}}
	case wire.VerbUndrain:
		reply.Drained = &wire.Drained{Changed: true}
	case wire.VerbProbe:
		reply.Probed = &wire.Probed{}
		for _, target := range request.Probe.Targets {
			reply.Probed.Answers = append(reply.Probed.Answers, wire.ProbeAnswer{Address: target.Address, Asked: true})
		}
	}
	return reply
}

// newMachine makes a machine that works, and the configuration of a client that may use it.
func newMachine(t testing.TB) (*machine, Config) {
	t.Helper()
	host, user := ed25519Key(t), ed25519Key(t)
	m := &machine{hostKeys: []ssh.Signer{host}, users: []ssh.PublicKey{user.PublicKey()}, command: agent(nil)}
	return m, Config{
		Name: "gw1", Address: machineAddress, User: "gatewayctl", Signers: []ssh.Signer{user}, Dial: m.dial,
		KnownHosts: knownHosts(t, knownhosts.Line([]string{machineAddress}, host.PublicKey())),
	}
}

// newClient makes a client and has it closed at the end.
func newClient(t testing.TB, config Config) *Client {
	t.Helper()
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func knownHosts(t testing.TB, lines ...string) *KnownHosts {
	t.Helper()
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := LoadKnownHosts(file)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

func ed25519Key(t testing.TB) ssh.Signer {
	t.Helper()
	return signerOf(t, newEd25519(t), nil)
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecdsaKey(t testing.TB) ssh.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return signerOf(t, key, err)
}

func rsaKey(t testing.TB) ssh.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return signerOf(t, key, err)
}

func signerOf(t testing.TB, key any, err error) ssh.Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// hostCertificate has authority certify host for principal.
func hostCertificate(t testing.TB, authority, host ssh.Signer, principal string, until time.Time) ssh.Signer {
	t.Helper()
	certificate := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.HostCert, KeyId: "test",
		ValidPrincipals: []string{principal}, ValidBefore: uint64(until.Unix())}
	if err := certificate.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(certificate, host)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
