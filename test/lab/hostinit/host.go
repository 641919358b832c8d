package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// kept are the directories that a host owns and that survive a power cut: an overlay over the machine's. lost are empty at
// every boot. Everything else (programs, libraries) is the machine's, so that a host runs Debian's packages as installed.
var (
	kept = []string{"/etc", "/var", "/usr/local", "/root", "/home", "/srv", "/opt"}
	lost = []string{"/run", "/tmp"}
)

// syslogSockets are where daemons look for syslog: everybody, and HAProxy inside its chroot (as Debian's package asks
// rsyslog to listen there).
var syslogSockets = []string{"/dev/log", "/var/lib/haproxy/dev/log"}

// host is process 1. shared is a directory of the machine that is visible at the same path on every host.
func host(name, disk, shared string) error {
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := mountAll(disk, shared); err != nil {
		return err
	}
	for _, path := range syslogSockets {
		if err := receiveSyslog(path); err != nil {
			return err
		}
	}
	go reap()
	if err := ready(); err != nil {
		return err
	}
	awaitLab()
	return nil
}

func mountAll(disk, shared string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, dir := range kept {
		if err := overlay(dir, filepath.Join(disk, dir)); err != nil {
			return err
		}
	}
	// Keep a way to the shared directory: an empty /tmp is about to hide it.
	held, err := syscall.Open(shared, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", shared, err)
	}
	for _, dir := range lost {
		if err := syscall.Mount("lab", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mounting %s: %w", dir, err)
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	if err := os.MkdirAll(shared, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", held), shared, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s: %w", shared, err)
	}
	if err := syscall.Close(held); err != nil {
		return err
	}
	if err := mountDevices(); err != nil {
		return err
	}
	// The kernel's own views come last: they show this host's processes and network.
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	return nil
}

func overlay(dir, disk string) error {
	upper, work := disk+".upper", disk+".work"
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	err := syscall.Mount("lab", dir, "overlay", 0, options)
	// A host that was powered off a moment ago may still be letting go of its disk.
	for deadline := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		err = syscall.Mount("lab", dir, "overlay", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mounting an overlay over %s: %w", dir, err)
	}
	return nil
}

// mountDevices gives the host a /dev of its own: /dev/log must not be the machine's.
func mountDevices() error {
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	held := map[string]int{}
	for _, name := range devices {
		fd, err := syscall.Open("/dev/"+name, 0x200000 /* O_PATH */ |syscall.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening /dev/%s: %w", name, err)
		}
		held[name] = fd
	}
	if err := syscall.Mount("lab", "/dev", "tmpfs", syscall.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mounting /dev: %w", err)
	}
	for _, name := range devices {
		if err := os.WriteFile("/dev/"+name, nil, 0o666); err != nil {
			return err
		}
		if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", held[name]), "/dev/"+name, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding /dev/%s: %w", name, err)
		}
		if err := syscall.Close(held[name]); err != nil {
			return err
		}
	}
	for _, m := range []struct{ path, kind, options string }{
		{"/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"/dev/shm", "tmpfs", "mode=1777"},
	} {
		if err := os.Mkdir(m.path, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.kind, m.path, m.kind, syscall.MS_NOSUID, m.options); err != nil {
			return fmt.Errorf("mounting %s: %w", m.path, err)
		}
	}
	for link, target := range map[string]string{
		"/dev/ptmx": "pts/ptmx", "/dev/fd": "/proc/self/fd",
		"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

// receiveSyslog copies what arrives at a socket to file descriptor 4, the host's syslog file.
func receiveSyslog(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // left on the disk by the boot before
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listening for syslog: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	file := os.NewFile(4, "syslog")
	go func() {
		line := make([]byte, 64<<10)
		for {
			n, err := socket.Read(line[:len(line)-1])
			if err != nil {
				return
			}
			line[n] = '\n'
			stamp := time.Now().Format("15:04:05.000000 ")
			_, _ = file.WriteString(stamp + string(line[:n+1])) // nobody could be told
		}
	}()
	return nil
}

// reap waits for every process whose parent died: process 1 inherits them.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
