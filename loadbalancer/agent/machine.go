package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Machine is the real Host: the machine that the process runs on.
type Machine struct{}

// Run implements Host.
func (Machine) Run(ctx context.Context, argv []string, stdin []byte) (Output, error) {
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if stdin != nil {
		input, err := memoryFile(stdin)
		if err != nil {
			return Output{}, fmt.Errorf("feeding %s: %w", argv[0], err)
		}
		defer input.Close()
		command.Stdin = input
	}
	command.Stdout, command.Stderr = &stdout, &stderr
	command.Env = environment()
	// A Ctrl-C meant for an agent in a terminal must not end the nft or the daemon that it has just started.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A daemon that was started keeps our pipes open if it does not close them; the command has ended all the same.
	command.WaitDelay = time.Second
	err := command.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	output := Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if err != nil {
		return output, &CommandError{Argv: argv, Code: command.ProcessState.ExitCode(), Output: output, Err: err}
	}
	return output, nil
}

// environment is what programs get: what they say is parsed, and what they would tell systemd is not about this service.
func environment() []string {
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	return append(inherited, "LC_ALL=C")
}

// memoryFile is a file without a name. A pipe would not do: nft --json reads its input twice (as JSON, then as a script).
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "stdin")
	_, err = file.Write(content)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("filling a file in memory: %w", err)
	}
	return file, nil
}

// ReadFile implements Host.
func (Machine) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

// WriteFile implements Host.
func (Machine) WriteFile(path string, content []byte, mode fs.FileMode) error {
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("making the directory of %s: %w", path, err)
	}
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(directory), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer file.Cleanup()
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return syncDirectory(directory)
}

// Rename implements Host.
func (Machine) Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(to))
}

// Remove implements Host.
func (Machine) Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes a rename survive a power loss: the file's own fsync does not reach its name.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	if err := directory.Sync(); err != nil {
		return fmt.Errorf("syncing the directory %s: %w", path, err)
	}
	return nil
}

// TryBind fails when no daemon could listen on the address now.
func TryBind(address netip.AddrPort) error {
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return err
	}
	return listener.Close()
}
