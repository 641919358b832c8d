package haproxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answering is a stats socket that gives one answer to everything; "" never answers.
func answering(t *testing.T, answer string) *Runtime {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			bufio.NewReader(conn).ReadString('\n')
			if answer == "" {
				defer conn.Close()
				continue
			}
			conn.Write([]byte(answer))
			conn.Close()
		}
	}()
	return NewRuntime(socket)
}

func TestReadRefusesOddAnswers(t *testing.T) {
	const info = "Pid: 1\nCurrConns: 0\nMaxconn: 10\nStart_time_sec: 5\nVersion: 2.6.12-1\n\n"
	for name, test := range map[string]struct{ answer, want string }{
		"cut short":       {"Pid: 1\n", "0 answers for 2 questions"},
		"not permitted":   {"Permission denied\n\n\n", `reading haproxy's answer to "show info"`},
		"a missing value": {"Pid: 1\n\n\n", "reading haproxy's answer to"},
		"another format":  {info + "2\n# be\n\n" + "\n\n", `refused the runtime command "show servers state"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answering(t, test.answer).Read(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestReadKeepsItsDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := answering(t, "").Read(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline's end", err)
	}
}

func TestReadWithoutHAProxy(t *testing.T) {
	_, err := NewRuntime(filepath.Join(t.TempDir(), "none")).Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is haproxy running") {
		t.Errorf("got %v", err)
	}
}

func TestBatchesFitTheBuffer(t *testing.T) {
	var lines, got []string
	for i := range 1000 {
		lines = append(lines, strings.Repeat("x", 1+i%200))
	}
	err := batches(lines, "\n", func(batch string) error {
		if len(batch) > lineLimit {
			t.Errorf("a batch of %d bytes", len(batch))
		}
		got = append(got, strings.Split(batch, "\n")...)
		return nil
	})
	if err != nil || strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("%d lines became %d, error %v", len(lines), len(got), err)
	}
	stop := errors.New("stop")
	if err := batches(lines, "\n", func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the first failure", err)
	}
}
