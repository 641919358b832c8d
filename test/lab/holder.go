package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// holder is a hostinit process on which namespaces hang.
type holder struct {
	cmd  *exec.Cmd
	name string
	done chan struct{} // closed when the process is gone
}

// hold starts hostinit with args in new namespaces (flags) of the kinds' parents: from is the process whose mount namespace
// it copies, 0 for our own. It returns when the holder said that it is ready.
func (l *Lab) hold(ctx context.Context, name string, from int, flags uintptr, args ...string) (*holder, error) {
	logs, err := l.logFile(name, "hostinit")
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	syslog, err := l.logFile(name, "syslog")
	if err != nil {
		return nil, err
	}
	defer syslog.Close()
	said, says, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer said.Close()

	cmd := exec.Command(l.bin("hostinit"), args...)
	cmd.Stdout, cmd.Stderr = says, logs
	cmd.ExtraFiles = []*os.File{l.read, syslog}
	cmd.Env = environment()
	// A session of its own: Ctrl-C goes to a terminal's whole process group, and only the lab decides what it means.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: flags}
	start := cmd.Start
	if from != 0 {
		start = func() error { return inNamespaces(from, cmd.Start, "mnt") }
	}
	err = start()
	_ = says.Close()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	h := &holder{cmd: cmd, name: name, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(h.done)
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		_ = cmd.Process.Kill()
		<-h.done
		text, _ := os.ReadFile(logs.Name())
		return nil, fmt.Errorf("starting %s: it ended before it was ready: %s%w", name, text, err)
	} else if line != "ready\n" {
		return nil, fmt.Errorf("starting %s: it said %q", name, line)
	}
	return h, nil
}

func (h *holder) pid() int { return h.cmd.Process.Pid }

// kill ends the holder, and with it, when it is process 1 of a host, everything in it.
func (h *holder) kill() error {
	select {
	case <-h.done:
		return nil
	default:
	}
	if err := h.cmd.Process.Kill(); err != nil && err != os.ErrProcessDone {
		return fmt.Errorf("ending %s: %w", h.name, err)
	}
	return h.wait()
}

func (h *holder) wait() error {
	<-h.done
	return nil
}

// inNamespaces runs f on a thread that is in the given namespaces (net, mnt) of process pid. The thread is never handed back
// to Go's scheduler: it ends with f. f must not start goroutines that rely on the namespaces.
func inNamespaces(pid int, f func() error, kinds ...string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoilt
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread does not end, and would stay in the host. While it is held here another one is taken.
			defer runtime.UnlockOSThread()
			result <- inNamespaces(pid, f, kinds...)
			return
		}
		result <- func() error {
			for _, kind := range kinds {
				if kind == "mnt" {
					// A thread that shares its file system attributes may not change its mount namespace.
					if err := unix.Unshare(unix.CLONE_FS); err != nil {
						return fmt.Errorf("unsharing file system attributes: %w", err)
					}
				}
				fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return fmt.Errorf("opening the %s namespace of process %d: %w", kind, pid, err)
				}
				err = unix.Setns(fd, 0)
				_ = unix.Close(fd)
				if err != nil {
					return fmt.Errorf("entering the %s namespace of process %d: %w", kind, pid, err)
				}
			}
			return f()
		}()
	}()
	return <-result
}

// environment is what programs of a host find: nothing of who started the lab.
func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb"}
}
