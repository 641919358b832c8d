package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// Pipe is the whole forced command: it tells the agent its role and copies bytes, as an unprivileged user. It ends when
// either side has closed, or with ctx. stdin is left open; the process that called Pipe ends with it.
func Pipe(ctx context.Context, socket string, role wire.Role, stdin io.Reader, stdout io.Writer) error {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reaching the agent: %w (is `gatewayctl agent run` running, and is this user in the socket's group?)", err)
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { connection.Close() })
	defer stop()
	if err := wire.WriteFrame(connection, wire.Preamble{Role: role}); err != nil {
		return fmt.Errorf("telling the agent the role: %w", err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := io.Copy(connection, stdin)
		// The last answer may still be on its way.
		err = errors.Join(err, connection.(*net.UnixConn).CloseWrite())
		asked <- err
	}()
	_, err = io.Copy(stdout, connection)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("copying the agent's answers: %w", err)
	}
	select {
	case err = <-asked:
		if err != nil {
			return fmt.Errorf("copying the requests: %w", err)
		}
	default: // the agent closed first, and stdin may block for ever
	}
	return nil
}
