package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a program that Start started in a host.
type Process struct {
	Name string
	// Log is the file on the machine with its standard output and error.
	Log string

	cmd  *exec.Cmd
	from int64 // where the log of this run begins
	done chan struct{}
	err  error // set before done is closed
}

// Start starts a program that outlives the call. Its standard output and error go to a log file under its name.
func (h *Host) Start(name string, argv ...string) (*Process, error) {
	log, err := h.lab.logFile(h.Name, name+".log")
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has its own
	before, err := log.Stat()
	if err != nil {
		return nil, err
	}
	cmd := h.Command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", name, h.Name, err)
	}
	p := &Process{Name: name, Log: log.Name(), from: before.Size(), cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Wait returns when the program ended; the error is that of exec.Cmd.Wait.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Output is what the program has printed so far, standard output and error.
func (p *Process) Output() ([]byte, error) {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return nil, err
	}
	return text[p.from:], nil
}

// AwaitLine returns when the program has printed the line. A program that ends first, or ctx, is an error that tells what it
// printed.
func (p *Process) AwaitLine(ctx context.Context, line string) error {
	said := func() ([]byte, bool) {
		text, _ := p.Output()
		return text, bytes.Contains(append([]byte("\n"), text...), []byte("\n"+line+"\n"))
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, found := said(); found {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			if text, found := said(); !found {
				return fmt.Errorf("%s ended before it said %q: %w\n%s", p.Name, line, p.err, text)
			}
			return nil
		case <-ctx.Done():
			text, _ := said()
			return fmt.Errorf("waiting for %s to say %q: %w\n%s", p.Name, line, ctx.Err(), text)
		}
	}
}

// Done is closed when the program ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// grace is how long Stop waits for a program that was asked to end.
const grace = 10 * time.Second

// Stop asks the program to end (SIGTERM) and waits; one that does not end within ten seconds is killed, and that is an error.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("%s did not end within %v of SIGTERM and was killed: %w", p.Name, grace, p.Kill())
	}
}

// killProgram is what command hostinit understands as: kill the program and see it gone.
const killProgram = syscall.Signal(40)

// Kill ends the program at once (SIGKILL) and returns when nothing is left of it.
func (p *Process) Kill() error {
	if err := p.Signal(killProgram); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Signal sends one of INT, TERM, HUP, QUIT, USR1, USR2. To a program that ended: nothing.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && err != os.ErrProcessDone {
		return fmt.Errorf("signalling %s: %w", p.Name, err)
	}
	return nil
}

// logFile opens a log of a host for appending: a host that boots again continues its logs.
func (l *Lab) logFile(host, name string) (*os.File, error) {
	path := filepath.Join(l.logs, host, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}
