package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
)

// Runtime is the client of a worker's stats socket (management guide section 9.3). It connects anew for each command, so
// a reload in between is no error, only another worker.
type Runtime struct {
	dial func(context.Context) (net.Conn, error)
}

// NewRuntime makes a client of the stats socket.
func NewRuntime(socket string) *Runtime {
	return NewRuntimeOver(func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	})
}

// NewRuntimeOver makes a client of a stats socket that dial connects to: one in memory, for a simulation.
func NewRuntimeOver(dial func(context.Context) (net.Conn, error)) *Runtime {
	return &Runtime{dial: dial}
}

// CommandError is an answer of HAProxy's that says that a command failed.
type CommandError struct {
	Command, Answer string
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("haproxy refused the runtime command %q: %s", shorten(e.Command), e.Answer)
}

func shorten(command string) string {
	const most = 300
	if len(command) <= most {
		return command
	}
	return fmt.Sprintf("%s ... (%d bytes)", command[:most], len(command))
}

// ask sends one line, with a payload when it ends in "<<\n", and gives all that HAProxy answers.
func (r *Runtime) ask(ctx context.Context, command string) (string, error) {
	conn, err := r.dial(ctx)
	if err != nil {
		return "", fmt.Errorf("connecting to haproxy's stats socket, is haproxy running: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", fmt.Errorf("sending %q to haproxy: %w", shorten(command), because(ctx, err))
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("reading haproxy's answer to %q: %w", shorten(command), because(ctx, err))
	}
	return string(answer), nil
}

// because prefers the context's end to the closed connection that it caused.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// success tells a line that says that a command worked from a complaint; most commands say it by silence.
func success(line string) bool {
	switch line {
	case "", "New server registered.", "Server deleted.":
		return true
	}
	return strings.HasPrefix(line, "IP changed from ") || strings.HasPrefix(line, "no need to change ")
}

// order sends commands of which none has anything to tell, and takes each other word for a failure.
func (r *Runtime) order(ctx context.Context, command string) error {
	answer, err := r.ask(ctx, command)
	if err != nil {
		return err
	}
	var complaints []string
	for line := range strings.Lines(answer) {
		if line = strings.TrimSpace(line); !success(line) {
			complaints = append(complaints, line)
		}
	}
	if complaints != nil {
		return &CommandError{command, strings.Join(complaints, "; ")}
	}
	return nil
}

// ServersState is the output of `show servers state`, to be written to Local.ServerState before a reload: without it
// the new worker takes every server for up until its first check.
func (r *Runtime) ServersState(ctx context.Context) ([]byte, error) {
	answer, err := r.ask(ctx, "show servers state")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(answer, "1\n#") {
		return nil, &CommandError{"show servers state", strings.TrimSpace(answer)}
	}
	return []byte(answer), nil
}
