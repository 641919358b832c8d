package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answering is a stats socket that gives one answer to everything; "" never answers.
func answering(t *testing.T, answer string) *Runtime {
	t.Helper()
	return obeying(t, func(string) string { return answer })
}

// obeying is a stats socket that answers one line a connection; "" never answers.
func obeying(t *testing.T, answer func(line string) string) *Runtime {
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
			line, _ := bufio.NewReader(conn).ReadString('\n')
			text := answer(strings.TrimSpace(line))
			if text == "" {
				defer conn.Close()
				continue
			}
			conn.Write([]byte(text))
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

// A reload between the two questions puts a worker with other servers and maps behind the socket.
func TestReadTakesEverythingFromOneWorker(t *testing.T) {
	for name, test := range map[string]struct {
		pids []int // of the worker that answers each connection; the last one stays
		want int   // 0: Read gives up
	}{
		"no reload":              {[]int{7}, 7},
		"a reload":               {[]int{7, 8}, 8},
		"reloads without an end": {[]int{1, 2, 3, 4, 5, 6, 7}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			connections := 0
			r := obeying(t, func(line string) string {
				pid := test.pids[min(connections, len(test.pids)-1)]
				connections++
				info := fmt.Sprintf("Pid: %d\nCurrConns: 0\nMaxconn: 10\nStart_time_sec: 5\nVersion: 2.6.12-1\n\n", pid)
				if strings.HasSuffix(line, ";show map") {
					return info + "# id (file) description\n\n"
				}
				return info + "1\n# be_id\n\n" + "# pxname,svname,qcur,scur,slim,stot\n\n" + "No such table\n\n"
			})
			running, err := r.Read(t.Context())
			if test.want == 0 {
				if !errors.Is(err, errMoved) {
					t.Errorf("got %v, want %v", err, errMoved)
				}
				return
			}
			if err != nil || running.PID != test.want {
				t.Errorf("got %+v, %v, want worker %d", running, err, test.want)
			}
		})
	}
}

// Only connections that remain may keep a server; any other refusal is a failure.
func TestApplyForgivesConnectionsAlone(t *testing.T) {
	removal := Diff{remove: []command{{line: "del server nodes/a", patient: true}}}
	if err := answering(t, stillConnected+"\n\n").Apply(t.Context(), removal); err != nil {
		t.Errorf("a server with connections: %v", err)
	}
	var refused *CommandError
	if err := answering(t, "No such server.\n\n").Apply(t.Context(), removal); !errors.As(err, &refused) {
		t.Errorf("another refusal: got %v", err)
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
