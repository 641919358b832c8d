package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// Worker is the real HAProxy: its present worker, behind the stats socket.
type Worker struct {
	*haproxy.Runtime
	socket string
	door   string
}

// NewWorker makes a client of the stats socket. servicesPort is HAProxy's for all Services, on loopback.
func NewWorker(socket string, servicesPort int) Worker {
	return Worker{haproxy.NewRuntime(socket), socket, net.JoinHostPort("127.0.0.1", strconv.Itoa(servicesPort))}
}

// Ping asks the cheapest question there is. When nobody is at the stats socket, HAProxy may serve all the same: somebody removed or
// replaced the socket's file, or loaded a configuration without it. To hand its VIPs over then would cut every connection for nothing, so it is
// asked where clients ask.
func (w Worker) Ping(ctx context.Context) error {
	err := w.question(ctx)
	if nobodyThere(err) {
		refused := w.knock(ctx)
		if refused == nil {
			return nil
		}
		err = errors.Join(err, refused)
	}
	return err
}

// knock connects to the Services' port, at an address that is no VIP, and waits until HAProxy has closed the connection, as its rules
// want. A connection alone proves nothing: the kernel makes it for a process that hangs, too.
func (w Worker) knock(ctx context.Context) error {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", w.door)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil // it was closed before we knew that it was made
	}
	if err != nil {
		return fmt.Errorf("connecting to HAProxy's port for Services: %w", err)
	}
	defer connection.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := connection.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for HAProxy to close a connection to its port for Services: %w", err)
	}
	return nil
}

// question is one at the stats socket.
func (w Worker) question(ctx context.Context) error {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", w.socket)
	if err != nil {
		return fmt.Errorf("connecting to HAProxy's stats socket: %w", err)
	}
	defer connection.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { connection.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := connection.Write([]byte("show version\n")); err != nil {
		return fmt.Errorf("asking HAProxy for a sign of life: %w", err)
	}
	if _, err := connection.Read(make([]byte, 64)); err != nil {
		return fmt.Errorf("waiting for HAProxy's sign of life: %w", err)
	}
	return nil
}
