package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// Worker is the real HAProxy: its present worker, behind the stats socket.
type Worker struct {
	*haproxy.Runtime
	socket string
}

// NewWorker makes a client of the stats socket.
func NewWorker(socket string) Worker { return Worker{haproxy.NewRuntime(socket), socket} }

// Ping asks the cheapest question there is. A connection alone proves nothing: the kernel makes it for a process that
// hangs, too.
func (w Worker) Ping(ctx context.Context) error {
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
