package lab_test

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

// trace is everything by which a lab could be noticed on the machine after its end.
type trace struct {
	dir        string
	namespaces map[string]bool // "net:[4026532221]", of every kind and host
}

// traceOf looks at a running lab from the machine. hosts are process ids.
func traceOf(t *testing.T, dir string, hosts []string) trace {
	t.Helper()
	tr := trace{dir: dir, namespaces: map[string]bool{}}
	for _, pid := range hosts {
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
			ns, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			own, err := os.Readlink("/proc/self/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			if ns == own {
				t.Errorf("process %s shares %s with the machine", pid, ns)
			}
			tr.namespaces[ns] = true
		}
	}
	return tr
}

// left says what of the lab is still there.
func (tr trace) left() []string {
	var found []string
	if _, err := os.Stat(tr.dir); err == nil {
		found = append(found, "directory "+tr.dir)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && strings.Contains(string(mounts), tr.dir) {
		found = append(found, "a mount under "+tr.dir)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/*") // processes come and go: what is gone is not left
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && tr.namespaces[ns] {
			found = append(found, link+" "+ns)
		}
	}
	return found
}

func (tr trace) expectNothing(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return len(tr.left()) == 0 })
}

func TestCloseLeavesNothing(t *testing.T) {
	lab.Require(t)
	l, err := lab.Start(t.Context(), lab.Options{Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, h := range l.Hosts() {
		pids = append(pids, fmt.Sprint(h.PID()))
		// A daemon that left its parent: it belongs to process 1 now.
		mustRun(t, h, "setsid", "--fork", "sleep", "4713")
	}
	tr := traceOf(t, l.Dir(), pids)
	if len(tr.left()) == 0 {
		t.Fatal("a running lab is not seen: this test would see nothing")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left := tr.left(); len(left) != 0 {
		t.Errorf("left after Close: %v", left)
	}
}

// TestTwoLabsThenDeath runs two labs of the command that `make lab` runs, side by side, and ends one by Ctrl-C and one by kill -9.
func TestTwoLabsThenDeath(t *testing.T) {
	lab.Require(t)
	program := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "cloud-provider-haproxy/test/lab/cmd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first, second := startCommand(t, program), startCommand(t, program)
	for _, c := range []*labCommand{first, second} {
		if len(c.pids) != 5 {
			t.Errorf("%d hosts are named, want 5: %v", len(c.pids), c.pids)
		}
		if out, err := exec.CommandContext(t.Context(), "nsenter", "-t", c.pids["gw1"], "-a", "ping", "-c1", "-W1", "worker1").CombinedOutput(); err != nil {
			t.Errorf("entering a host as the command tells: %v\n%s", err, out)
		}
	}
	first.end(t, syscall.SIGINT)
	if first.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("after Ctrl-C: %v", first.cmd.ProcessState)
	}
	first.trace.expectNothing(t)
	if len(second.trace.left()) == 0 {
		t.Error("the end of one lab ended the other")
	}
	second.end(t, syscall.SIGKILL)
	second.trace.expectNothing(t)
}

type labCommand struct {
	cmd   *exec.Cmd
	pids  map[string]string // by host
	trace trace
}

// startCommand returns when the command has printed all that it prints.
func startCommand(t *testing.T, program string) *labCommand {
	t.Helper()
	c := &labCommand{cmd: exec.Command(program, "-bare", "-workers", "1"), pids: map[string]string{}}
	c.cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	c.cmd.Stderr = t.Output()
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) > 4 && words[1] == "nsenter" {
			c.pids[words[0]] = words[3]
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			break
		}
	}
	dirs, err := filepath.Glob(c.cmd.Env[len(c.cmd.Env)-1][len("TMPDIR="):] + "/*")
	if err != nil || len(dirs) != 1 {
		t.Fatalf("directories of the lab: %v, %v", dirs, err)
	}
	c.trace = traceOf(t, dirs[0], slices.Collect(maps.Values(c.pids)))
	return c
}

func (c *labCommand) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // the caller looks at ProcessState
}
