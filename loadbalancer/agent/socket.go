package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// maxSessions bounds what an unprivileged user with the right key can make root hold open, and maxOfRole what those of
	// one role can: another gateway's key must not keep the controller out. The rest are sessions whose role is not told yet.
	maxSessions = 64
	maxOfRole   = 16
	// peerFrame bounds a peer's request, in bytes before decompression: it has nothing to hand over.
	peerFrame = 4 << 10
	// frameHeader is what wire puts before a frame.
	frameHeader = 4
	// idleLimit ends a session that asks nothing; a controller asks at least once a resync, and dials again otherwise.
	idleLimit = 10 * time.Minute
	// preambleLimit is the time to tell the role; the pipe does so at once.
	preambleLimit = 5 * time.Second
	// frameLimit is the time for one request or reply to cross the socket once it has begun.
	frameLimit = 30 * time.Second
)

// listen opens the agent's socket for root and the group of the forced command's user.
func (a *Agent) listen() (*net.UnixListener, error) {
	path := a.config.Paths.Socket
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of %s: %w", path, err)
	}
	// The agent's lock (see lockMachine) is held: whoever left a socket here is gone.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of an agent that is gone: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := a.restrict(path); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

func (a *Agent) restrict(path string) error {
	group, err := user.LookupGroup(a.config.Group)
	if err != nil {
		a.log.Warn("the group of the forced command's user is missing, so root alone can reach the agent", "group", a.config.Group, "error", err)
		return os.Chmod(path, 0o600)
	}
	id, err := strconv.Atoi(group.Gid)
	if err != nil {
		return fmt.Errorf("reading the number of group %s: %w", a.config.Group, err)
	}
	if err := os.Chown(path, 0, id); err != nil {
		return fmt.Errorf("giving %s to group %s: %w", path, a.config.Group, err)
	}
	return os.Chmod(path, 0o660)
}

// serve answers sessions until ctx ends, then waits for every one of them.
func (a *Agent) serve(ctx context.Context, listener *net.UnixListener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	places := make(chan struct{}, maxSessions)
	for {
		connection, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				connection.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting a session: %w", err)
		}
		select {
		case places <- struct{}{}:
		default:
			a.log.Warn("too many sessions at once, refusing one", "limit", maxSessions)
			connection.Close()
			continue
		}
		sessions.Go(func() {
			defer func() { <-places }()
			a.session(ctx, connection)
		})
	}
}

// session answers one connection's requests in their order. A transaction that it began is not tied to it.
func (a *Agent) session(ctx context.Context, connection *net.UnixConn) {
	defer connection.Close()
	// Closing for reading only: an answer that is being made still gets out.
	stop := context.AfterFunc(ctx, func() { connection.CloseRead() })
	defer stop()
	uid, err := peerUID(connection)
	if err != nil {
		a.log.Warn("refusing a session whose user is unknown", "error", err)
		return
	}
	reader := &frameReader{connection: connection, buffered: bufio.NewReader(connection)}
	err = a.converse(ctx, uid, reader, connection)
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		a.log.Info("session ended", "uid", uid, "error", err)
	}
}

// converse is the session without its socket: preamble, then requests.
func (a *Agent) converse(ctx context.Context, uid uint32, reader *frameReader, connection net.Conn) error {
	var preamble wire.Preamble
	if err := reader.read(preambleLimit, peerFrame, &preamble); err != nil {
		return fmt.Errorf("reading the preamble: %w", err)
	}
	role, refusal := admit(preamble.Role, uid)
	if refusal != nil {
		return a.answer(connection, &wire.Reply{Refusal: refusal})
	}
	place := a.places[role]
	select {
	case place <- struct{}{}:
		defer func() { <-place }()
	default:
		return a.answer(connection, &wire.Reply{Refusal: crowded(role)})
	}
	most := int64(wire.MaxFrame)
	if role == wire.RolePeer {
		most = peerFrame
	}
	log := a.log.With(slog.String("role", string(role)))
	for {
		var request wire.Request
		err := reader.read(idleLimit, most, &request)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if refusal := unreadable(err); refusal != nil {
			if err := a.answer(connection, &wire.Reply{Refusal: refusal}); err != nil {
				return fmt.Errorf("answering a request that cannot be read: %w", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := a.answer(connection, a.reply(ctx, log, role, &request)); err != nil {
			return fmt.Errorf("answering %s: %w", request.Verb, err)
		}
	}
}

func crowded(role wire.Role) *wire.Refusal {
	return &wire.Refusal{Code: wire.CodeInternal, Message: fmt.Sprintf("%d sessions of the role %s are open already", maxOfRole, role),
		Remedy: "close some: `ps -C gatewayctl -f` on the gateway shows them; one that asks nothing ends after " + idleLimit.String()}
}

// unreadable is the answer to a frame that was read to its end and is no request of ours; nil for other errors, after
// which the connection is of no use.
func unreadable(err error) *wire.Refusal {
	const remedy = "run the same release of controller and agent"
	if version := (*wire.VersionError)(nil); errors.As(err, &version) {
		return &wire.Refusal{Code: wire.CodeVersion, Message: version.Error(), Remedy: remedy}
	}
	if malformed := (*wire.MalformedError)(nil); errors.As(err, &malformed) {
		return &wire.Refusal{Code: wire.CodeMalformed, Message: malformed.Error(), Remedy: remedy}
	}
	return nil
}

func (a *Agent) answer(connection net.Conn, reply *wire.Reply) error {
	reply.Version = wire.Version
	if err := connection.SetWriteDeadline(time.Now().Add(frameLimit)); err != nil {
		return err
	}
	return wire.WriteFrame(connection, reply)
}

// frameReader waits long for a frame to begin and briefly for it to end.
type frameReader struct {
	connection net.Conn
	buffered   *bufio.Reader
}

// read takes a frame of at most most bytes; a longer one is cut, and the connection of no use then.
func (r *frameReader) read(patience time.Duration, most int64, v any) error {
	if err := r.connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := r.buffered.Peek(1); err != nil {
		return err
	}
	if err := r.connection.SetReadDeadline(time.Now().Add(frameLimit)); err != nil {
		return err
	}
	return wire.ReadFrame(io.LimitReader(r.buffered, frameHeader+most), v)
}

// peerUID is the user at the other end, as the kernel tells (unix(7), SO_PEERCRED).
func peerUID(connection *net.UnixConn) (uint32, error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("asking for the peer's user: %w", err)
	}
	var credentials *syscall.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		credentials, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, asked); err != nil {
		return 0, fmt.Errorf("asking for the peer's user: %w", err)
	}
	return credentials.Uid, nil
}
