package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// requested is the command that we ask sshd for. A forced command replaces it. It is no program, so that a key without
// a forced command gets "not found" from the login shell, and the fault is seen.
const requested = "cloud-provider-haproxy-agent"

// endGrace is how long an exit status may come after the output's end; OpenSSH sends both at once.
const endGrace = 2 * time.Second

// session is one SSH connection with one running command, and what became of it.
type session struct {
	client *ssh.Client
	stdin  io.Writer
	stdout io.Reader // what is read from it is kept in began, for the message when the beginning is no frame
	began  excerpt
	stderr excerpt
	// over is done when the command or the connection has ended; its cause is an *exitError or says how it was lost.
	over     context.Context
	end      context.CancelCauseFunc
	watchers sync.WaitGroup
	answered bool // at least one reply was read
	schema   int  // the agent's State schema, from its hello
}

// exitError says that the remote command has ended.
type exitError struct{ how string }

func (e *exitError) Error() string { return "the remote command ended (" + e.how + ")" }

// newSession starts the command and owns client from now on; on failure, client is closed.
func newSession(ctx context.Context, client *ssh.Client, keepAlive time.Duration) (*session, error) {
	stop := context.AfterFunc(ctx, func() { client.Close() })
	s, remote, err := start(client)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		client.Close()
		return nil, err
	}
	s.over, s.end = context.WithCancelCause(context.Background())
	s.watchers.Go(func() { s.watch(remote) })
	s.watchers.Go(func() { s.keepAlive(s.over.Done(), keepAlive, keepAlive) })
	return s, nil
}

func start(client *ssh.Client) (*session, *ssh.Session, error) {
	remote, err := client.NewSession()
	if err != nil {
		return nil, nil, err
	}
	s := &session{client: client}
	stdin, inErr := remote.StdinPipe()
	stdout, outErr := remote.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, nil, err
	}
	s.stdin, s.stdout = stdin, io.TeeReader(stdout, &s.began)
	remote.Stderr = &s.stderr
	return s, remote, remote.Start(requested)
}

// ask sends one request and reads its reply. After an error the session is of no use but to ask why.
func (s *session) ask(ctx context.Context, request wire.Request) (*wire.Reply, error) {
	request.Version = wire.Version
	replied := make(chan struct{})
	defer close(replied)
	s.watchers.Go(func() { s.keepAlive(replied, askPause, askPatience) })
	stop := context.AfterFunc(ctx, func() { s.client.Close() })
	defer func() {
		if !stop() {
			// The connection is going, also when the reply came first: the next call must not be sent on it.
			s.end(context.Cause(ctx))
		}
	}()
	if err := wire.WriteFrame(s.stdin, request); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	reply, err := wire.ReadReply(s.stdout)
	if err != nil {
		return nil, fmt.Errorf("reading the reply: %w", err)
	}
	if reply.Version != wire.Version { // one that this build could read all the same
		return nil, &wire.VersionError{Got: reply.Version, Want: wire.Version}
	}
	s.answered = true
	return reply, nil
}

// watch waits for the end of the command or of the connection.
func (s *session) watch(remote *ssh.Session) {
	err := remote.Wait()
	var exit *ssh.ExitError
	switch {
	case err == nil:
		s.end(&exitError{"exit status 0"})
	case errors.As(err, &exit) && exit.Signal() != "":
		s.end(&exitError{"signal " + exit.Signal()})
	case errors.As(err, &exit):
		s.end(&exitError{fmt.Sprintf("exit status %d", exit.ExitStatus())})
	default:
		s.end(errors.New("the connection was lost"))
	}
	s.client.Close()
}

// While a reply is awaited the peer is probed this often and given this long: sshd answers while the agent works, so a
// transaction that takes its time is told from a machine that is off, and the other gateways do not wait for that one.
const (
	askPause    = time.Second
	askPatience = 2 * time.Second
)

// keepAlive probes the peer until the session is over or until is closed. A peer that is cut off answers nothing, and
// without a probe TCP would notice only minutes after the next request (RFC 9293 section 3.8.3).
func (s *session) keepAlive(until <-chan struct{}, pause, patience time.Duration) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-s.over.Done():
			return
		case <-until:
			return
		case <-tick.C:
		}
		late := time.AfterFunc(patience, func() {
			s.end(fmt.Errorf("no answer to a keepalive within %s", patience))
			s.client.Close()
		})
		// Any answer will do; OpenSSH refuses the request, and that is one.
		_, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return // the connection is gone, and watch knows
		}
	}
}

// awaitEnd gives the other side a moment to say why it stopped talking.
func (s *session) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	select {
	case <-s.over.Done():
	case <-ctx.Done():
	}
}

// output ends the session and gives what the command wrote that was no reply, as far as it is text.
func (s *session) output() string {
	s.close()
	parts := []string{s.stderr.text()}
	if !s.answered {
		// What had arrived is still readable; only its first bytes were taken for a frame's length.
		_, _ = io.Copy(io.Discard, io.LimitReader(s.stdout, excerptSize))
		parts = append(parts, s.began.text())
	}
	return strings.TrimSpace(strings.Join(parts, "\n"))
}

// close ends the connection and waits for what runs on it.
func (s *session) close() {
	s.client.Close()
	s.watchers.Wait()
}

// excerpt keeps the first bytes written to it and forgets the rest.
type excerpt struct {
	mu   sync.Mutex
	kept []byte
}

const excerptSize = 2048

func (e *excerpt) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, p[:min(len(p), excerptSize-len(e.kept))]...)
	return len(p), nil
}

// text is what was written when that is readable text, else empty: half a frame is noise.
func (e *excerpt) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := strings.TrimSpace(string(e.kept))
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return ""
		}
	}
	return text
}
