package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Host is one machine of the lab. Its methods may be called from any goroutine.
type Host struct {
	Name  string
	Addr4 netip.Addr // invalid in a lab of IPv6 alone
	Addr6 netip.Addr

	mac    string
	number int
	lab    *Lab
	// services start what the host runs, at every boot, in order.
	services []func(ctx context.Context) error

	mu     sync.Mutex
	holder *holder // nil: powered off
	cutOff bool
}

// OffError says that a host is powered off.
type OffError struct{ Host string }

func (e *OffError) Error() string {
	return fmt.Sprintf("host %s is powered off; boot it first", e.Host)
}

// Addr is where the host is reached: its IPv4 address, if it has one.
func (h *Host) Addr() netip.Addr { return h.Addresses()[0] }

// Addresses are the host's, IPv4 first.
func (h *Host) Addresses() []netip.Addr {
	if h.Addr4.IsValid() {
		return []netip.Addr{h.Addr4, h.Addr6}
	}
	return []netip.Addr{h.Addr6}
}

// PID is the machine's process id of the host's process 1: what nsenter -t wants. 0: powered off.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holder == nil {
		return 0
	}
	return h.holder.pid()
}

// AtBoot adds something that the host starts at every boot. It does not run it now.
func (h *Host) AtBoot(start func(ctx context.Context) error) { h.services = append(h.services, start) }

// Boot switches the host on: its disk as it was, its /run and /tmp empty, its link up, its services started.
func (h *Host) Boot(ctx context.Context) error {
	if h.PID() != 0 {
		return nil
	}
	holder, err := h.lab.hold(ctx, h.Name, h.lab.segment.pid(),
		syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWNET|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC,
		"host", h.Name, filepath.Join(h.lab.dir, "disks", h.Name), h.lab.Shared)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.holder = holder
	h.mu.Unlock()
	if err := h.plug(ctx); err != nil {
		return err
	}
	if err := h.WriteFile("/etc/hosts", []byte(h.lab.hostsFile()), 0o644); err != nil {
		return err
	}
	if err := h.WriteFile("/etc/hostname", []byte(h.Name+"\n"), 0o644); err != nil {
		return err
	}
	return h.startServices(ctx)
}

func (h *Host) startServices(ctx context.Context) error {
	for _, start := range h.services {
		if err := start(ctx); err != nil {
			return fmt.Errorf("booting %s: %w", h.Name, err)
		}
	}
	return nil
}

// PowerOff is a pulled plug: every process dies at once, the link goes down, /run and /tmp are lost, the disk stays.
func (h *Host) PowerOff() error {
	if h.PID() == 0 {
		return nil
	}
	// The link first: the kernel ends the processes one after the other, and a real machine that loses its power does not
	// answer for those that are dead already. With its peer gone, the next boot finds the port's name free.
	err := h.lab.onSegment(context.Background(), "", "ip", "link", "delete", h.Name)
	return errors.Join(err, h.kill())
}

func (h *Host) kill() error {
	h.mu.Lock()
	holder := h.holder
	h.holder = nil
	h.mu.Unlock()
	if holder == nil {
		return nil
	}
	return holder.kill()
}

// Command is a command that will run as root inside the host. Its directory is / whatever Dir says; its environment is that
// of a fresh login unless Env is set. Killing it kills the program; SIGTERM and SIGINT reach the program.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	pid := h.PID()
	cmd := h.lab.enter(ctx, pid, argv...)
	if pid == 0 {
		cmd.Err = &OffError{h.Name}
	}
	return cmd
}

func (l *Lab) enter(ctx context.Context, pid int, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.bin("hostinit"), append([]string{"enter", strconv.Itoa(pid)}, argv...)...)
	cmd.Env = environment()
	// Ctrl-C in a terminal is for the lab, which ends its hosts in its own time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 100 * time.Millisecond
	return cmd
}

// Run runs a command to its end and gives its standard output. The error of a command that failed tells host, argv and what
// it said on standard error.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	return run(h.Command(ctx, argv...), h.Name, argv, "")
}

// RunInput is Run with a standard input.
func (h *Host) RunInput(ctx context.Context, input string, argv ...string) (string, error) {
	return run(h.Command(ctx, argv...), h.Name, argv, input)
}

func run(cmd *exec.Cmd, host string, argv []string, input string) (string, error) {
	var out, diagnostics strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &diagnostics
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a daemon that it left behind has our pipes; the command itself is done
	}
	if err != nil {
		return out.String(), &CommandError{Host: host, Argv: argv, Stderr: diagnostics.String(), Err: err}
	}
	return out.String(), nil
}

// CommandError says which command failed where and what it said.
type CommandError struct {
	Host   string
	Argv   []string
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("on %s: %s: %v\n%s", e.Host, strings.Join(e.Argv, " "), e.Err, e.Stderr))
}

func (e *CommandError) Unwrap() error { return e.Err }

// Dial makes a connection from inside the host. The socket belongs to the host's network namespace for ever, so it may then
// be used from anywhere. address is an IP address and port (names would be resolved by other threads, outside), or with
// network unix a path.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !strings.HasPrefix(network, "unix") {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("dialing from %s: want an IP address and port: %w", h.Name, err)
		}
	}
	var conn net.Conn
	err := h.within(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the host; otherwise like Dial.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := h.within(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// within runs f on a thread in the host's network and mount namespace; the thread ends with f.
func (h *Host) within(f func() error) error {
	pid := h.PID()
	if pid == 0 {
		return &OffError{h.Name}
	}
	return inNamespaces(pid, f, "net", "mnt")
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) ([]byte, error) {
	var content []byte
	err := h.within(func() (err error) {
		content, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", h.Name, err)
	}
	return content, nil
}

// WriteFile writes a file of the host, whole or not at all, making its directories.
func (h *Host) WriteFile(path string, content []byte, mode os.FileMode) error {
	err := h.within(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		next := path + ".lab-new"
		if err := os.WriteFile(next, content, mode); err != nil {
			return err
		}
		if err := os.Chmod(next, mode); err != nil { // whatever the umask says
			return errors.Join(err, os.Remove(next))
		}
		return os.Rename(next, path)
	})
	if err != nil {
		return fmt.Errorf("on %s: %w", h.Name, err)
	}
	return nil
}

func (l *Lab) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, h := range l.Hosts() {
		for _, a := range h.Addresses() {
			fmt.Fprintf(&b, "%s %s\n", a, h.Name)
		}
	}
	return b.String()
}

// writeProc writes a file that cannot be renamed over.
func (h *Host) writeProc(path, content string) error {
	err := h.within(func() error { return os.WriteFile(path, []byte(content), 0) })
	if err != nil {
		return fmt.Errorf("on %s: %w", h.Name, err)
	}
	return nil
}
