package agent

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// Host is everything the transaction does to the machine but talking to HAProxy. What one call does
// is done or not done; Run alone can leave something in between, and then what runs is read back.
type Host interface {
	// Run runs a program, without a shell, feeds it stdin and waits for it. A *CommandError when it fails.
	Run(ctx context.Context, argv []string, stdin []byte) (Output, error)
	// ReadFile gives fs.ErrNotExist when there is none.
	ReadFile(path string) ([]byte, error)
	// WriteFile replaces a file atomically and durably, and makes the directory above it when that is missing.
	WriteFile(path string, content []byte, mode fs.FileMode) error
	// Rename puts a file in the place of another one of the same directory, atomically and durably.
	Rename(from, to string) error
	// Remove removes a file; one that is not there is removed already.
	Remove(path string) error
}

// bounded is a Host none of whose programs runs for ever: who gives no limit of its own has the transaction's. A loop that waits
// for a program that hangs does none of its other work, until the agent is started anew.
type bounded struct{ Host }

func (b bounded) Run(ctx context.Context, argv []string, stdin []byte) (Output, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, transactionLimit)
		defer cancel()
	}
	return b.Host.Run(ctx, argv, stdin)
}

// Output is what a program wrote.
type Output struct{ Stdout, Stderr []byte }

// HAProxy is the running HAProxy, reached by its stats socket.
type HAProxy interface {
	// Ping fails unless HAProxy answers before ctx ends.
	Ping(ctx context.Context) error
	Read(ctx context.Context) (*haproxy.Running, error)
	Apply(ctx context.Context, diff haproxy.Diff) error
	// ServersState is what the next worker needs to know about the servers' health.
	ServersState(ctx context.Context) ([]byte, error)
}

// CommandError is a program that failed. It prints as something to paste into a shell, and what the program said.
type CommandError struct {
	Argv   []string
	Code   int // -1 when it did not exit by itself
	Output Output
	Err    error
}

func (e *CommandError) Error() string {
	said := strings.TrimSpace(string(e.Output.Stderr))
	if said == "" {
		said = strings.TrimSpace(string(e.Output.Stdout))
	}
	if said == "" {
		return fmt.Sprintf("%s: %v", strings.Join(e.Argv, " "), e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Argv, " "), e.Err, said)
}

func (e *CommandError) Unwrap() error { return e.Err }
