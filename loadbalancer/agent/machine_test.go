package agent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMachineRun(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789"), 100_000)
	output, err := Machine{}.Run(t.Context(), []string{"cat"}, input)
	if err != nil || !bytes.Equal(output.Stdout, input) {
		t.Errorf("cat gives %d bytes of %d, %v", len(output.Stdout), len(input), err)
	}
	// Programs may read their input twice, as nft --json does: it has to be a file, not a pipe.
	output, err = Machine{}.Run(t.Context(), []string{"cat", "/dev/stdin", "/dev/stdin"}, []byte("twice"))
	if err != nil || string(output.Stdout) != "twicetwice" {
		t.Errorf("cat /dev/stdin /dev/stdin gives %q, %v", output.Stdout, err)
	}
}

// What a program tells systemd is not about this service: haproxy -c does so too, and systemd complains of it.
func TestMachineRunTellsSystemdNothing(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	output, err := Machine{}.Run(t.Context(), []string{"env"}, nil)
	if err != nil || strings.Contains(string(output.Stdout), "NOTIFY_SOCKET") || !strings.Contains(string(output.Stdout), "LC_ALL=C\n") {
		t.Errorf("programs get the environment %q, %v", output.Stdout, err)
	}
}

func TestMachineRunFails(t *testing.T) {
	_, err := Machine{}.Run(t.Context(), []string{"ls", "/no/such/directory"}, nil)
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Code != 2 || !strings.HasPrefix(err.Error(), "ls /no/such/directory: exit status 2: ") ||
		!strings.Contains(err.Error(), "No such file or directory") {
		t.Errorf("got %v, want the command, its exit code and its words", err)
	}
	_, err = Machine{}.Run(t.Context(), []string{"/no/such/program"}, nil)
	if !errors.As(err, &failed) || failed.Code != -1 || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing program gives %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Machine{}.Run(ctx, []string{"sleep", "60"}, nil)
	if !errors.As(err, &failed) || failed.Code != -1 {
		t.Errorf("a program that hangs gives %v", err)
	}
}

// A daemon that keeps our end of its output open has been started all the same.
func TestMachineRunDaemon(t *testing.T) {
	output, err := Machine{}.Run(t.Context(), []string{"sh", "-c", "sleep 5 & echo $!"}, nil)
	if err != nil || strings.TrimSpace(string(output.Stdout)) == "" {
		t.Errorf("got %q, %v", output.Stdout, err)
	}
}

func TestMachineFiles(t *testing.T) {
	m, directory := Machine{}, filepath.Join(t.TempDir(), "not", "there", "yet")
	path := filepath.Join(directory, "file")
	for _, content := range []string{"one", "two"} {
		if err := m.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := m.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if state, err := os.Stat(path); err != nil || state.Mode() != 0o640 {
		t.Errorf("mode %v, %v", state.Mode(), err)
	}
	if err := m.WriteFile(path+".staged", []byte("three"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename(path+".staged", path); err != nil {
		t.Fatal(err)
	}
	if got, err := m.ReadFile(path); err != nil || string(got) != "three" {
		t.Errorf("got %q, %v", got, err)
	}
	if left, err := os.ReadDir(directory); err != nil || len(left) != 1 {
		t.Errorf("left lying about: %v, %v", left, err)
	}
	for range 2 { // what is not there is removed already
		if err := m.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a removed file gives %v", err)
	}
}

// A write that fails leaves the old content and no other file.
func TestMachineWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (Machine{}).WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left lying about: %v, %v", left, err)
	}
}

func TestTryBind(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := netip.MustParseAddrPort(listener.Addr().String())
	if err := TryBind(taken); err == nil {
		t.Error("a port that is taken could be had")
	}
	listener.Close()
	if err := TryBind(taken); err != nil {
		t.Errorf("a free port: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	name, start, dead := parseStat([]byte("42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n"))
	if name != "a) b (c" || start != "987654" || dead {
		t.Errorf("got %q, %q, %t", name, start, dead)
	}
	if _, _, dead := parseStat([]byte("42 (x) Z 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n")); !dead {
		t.Error("a zombie lives")
	}
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if name, start, dead := parseStat(own); dead || start == "" || !strings.HasPrefix(filepath.Base(os.Args[0]), name) {
		t.Errorf("of this process: %q, %q, %t", name, start, dead)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := notify(path, "READY=1"); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 64)
	n, err := socket.Read(text)
	if err != nil || string(text[:n]) != "READY=1" {
		t.Errorf("got %q, %v", text[:n], err)
	}
	if err := notify("", "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}

// An answer, not a connection, is a sign of life.
func TestWorkerPing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	w := NewWorker(path, 1) // nobody listens there
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return w.Ping(ctx)
	}
	if err := ask(); err == nil {
		t.Error("nobody is there, and lives")
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := ask(); err == nil {
		t.Error("a process that accepts nothing lives")
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// Both fail for those who gave up waiting. Who is not listened to could not ask.
			_, _ = conn.Read(make([]byte, 64))
			_, _ = conn.Write([]byte("2.6.12\n"))
			conn.Close()
		}
	}()
	// The connections that nobody accepted are answered first.
	if err := ask(); err != nil {
		t.Errorf("a process that answers is dead: %v", err)
	}
}

// Whoever takes questions and does not answer is late each time, also when the queue of questions is full: 10 wait at HAProxy's.
func TestSilentHAProxyIsLate(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 10)); err != nil {
		t.Fatal(err)
	}
	a := started(t, newMachine())
	a.haproxy = NewWorker(socket, 1)
	for n := range 20 {
		if answered, late := a.ping(t.Context(), 5*time.Millisecond); answered || !late {
			t.Errorf("question %d: answered %t, late %t", n+1, answered, late)
		}
	}
}

// An HAProxy whose stats socket is gone lives when it still closes what comes to the Services' port for no VIP; one that takes
// connections there and does nothing is silent, not dead.
func TestWorkerPingWithoutStatsSocket(t *testing.T) {
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "admin.sock")
	w := NewWorker(socket, door.Addr().(*net.TCPAddr).Port)
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return w.Ping(ctx)
	}
	if err := ask(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody closes the connection: %v", err)
	}
	go func() {
		for {
			connection, err := door.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
	}()
	if err := ask(); err != nil {
		t.Errorf("the socket's file is gone: %v", err)
	}
	left, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	if err := ask(); err != nil {
		t.Errorf("nobody listens at the socket: %v", err)
	}
	door.Close()
	if err := ask(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody is anywhere: %v", err)
	}
}
