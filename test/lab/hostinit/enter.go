package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// killProgram asks enter to kill argv and to see it gone, which killing enter cannot do. The lab knows the number.
const killProgram = syscall.Signal(40)

// enter runs argv in all namespaces of process pid and exits like it. nsenter would leave argv alive when it is killed
// itself; here the kernel kills argv with us, so that exec.CommandContext means what it says.
func enter(pid int, argv []string) error {
	// Namespaces belong to threads. Everything from here to the start of argv happens on this one, which also has to stay:
	// the parent-death signal is sent when the starting thread ends.
	runtime.LockOSThread()
	self, err := os.Executable() // asked of /proc, which in the host does not know us; the path leads to us there too
	if err != nil {
		return err
	}
	// A thread that shares its file system attributes with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unsharing file system attributes: %w", err)
	}
	kinds := []string{"ipc", "uts", "net", "pid", "mnt"}
	var fds []int
	for _, kind := range kinds {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the %s namespace of process %d: %w", kind, pid, err)
		}
		fds = append(fds, fd)
	}
	for i, fd := range fds {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("entering the %s namespace of process %d: %w", kinds[i], pid, err)
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, killProgram, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	process, err := os.StartProcess(self, append([]string{self, "become"}, argv...), &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	go func() {
		for s := range signals {
			if s == killProgram {
				s = syscall.SIGKILL
			}
			_ = process.Signal(s) // gone already: Wait tells
		}
	}()
	state, err := process.Wait()
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", argv[0], err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(state.ExitCode())
	return nil
}

// become is the other half of enter, inside the host: it asks the kernel to die with enter and turns into argv. Go's own
// SysProcAttr.Pdeathsig cannot do it: it compares getppid with the parent's PID, which across PID namespaces is 0, and
// kills the child for an orphan.
func become(argv []string) error {
	runtime.LockOSThread() // the thread that asks is the one that turns
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to die with the parent: %w", err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if err := syscall.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil
}
