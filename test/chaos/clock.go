package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// No namespace has a CLOCK_REALTIME of its own (time_namespaces(7): CLOCK_MONOTONIC and CLOCK_BOOTTIME only), the machine's is not
// ours to set, and a static program reads it without libc, where faketime would step in. So an agent is compiled with one more
// line in package time (go build -overlay): its wall clock is wrong by what a file says. The monotonic clock goes on, as it does when a real clock is
// set. HAProxy's and keepalived's clocks are not struck.
const (
	jumpingAgent = "gatewayctl-jumping"
	jumpFile     = "/run/clock-jump"
	// jumpBytes is the length of the number in jumpFile, in seconds.
	jumpBytes = 8
	jump      = 26 * time.Hour
)

const (
	wallClock    = "\tsec, nsec, mono := runtimeNow()\n"
	jumpingClock = wallClock + "\tsec += stepped()\n"
	// steppedFile joins package time. Its system calls are raw: timers ask for the time on the runtime's own stacks.
	steppedFile = `package time

import (
	"syscall"
	"unsafe"
)

var jumpFile = []byte("` + jumpFile + `\x00")

func stepped() (seconds int64) {
	const here = -100 // AT_FDCWD
	at := here
	file, _, err := syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&jumpFile[0])), syscall.O_RDONLY|syscall.O_CLOEXEC, 0, 0, 0)
	if err != 0 {
		return 0
	}
	var digits [8]byte
	n, _, err := syscall.RawSyscall(syscall.SYS_READ, file, uintptr(unsafe.Pointer(&digits[0])), uintptr(len(digits)))
	syscall.RawSyscall(syscall.SYS_CLOSE, file, 0, 0)
	if err != 0 || int(n) != len(digits) {
		return 0
	}
	for _, d := range digits {
		seconds = 10*seconds + int64(d-'0')
	}
	return seconds
}
`
)

// buildJumpingAgent compiles it, once for a lab.
func (p *pair) buildJumpingAgent(ctx context.Context) error {
	program := p.Program(jumpingAgent)
	if _, err := os.Stat(program); err == nil {
		return nil
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("asking for Go's directory: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), wallClock, jumpingClock, 1)
	if changed == string(text) {
		return errors.New("compiling an agent whose clock can jump: this Go's time.Now is another one than this code knows")
	}
	replaced := map[string]string{}
	for path, content := range map[string]string{original: changed, filepath.Join(filepath.Dir(original), "stepped.go"): steppedFile} {
		replaced[path] = filepath.Join(p.Dir(), filepath.Base(path))
		if err := os.WriteFile(replaced[path], []byte(content), 0o644); err != nil {
			return err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir(), "overlay.json")
	if err := os.WriteFile(file, overlay, 0o644); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", file, "-o", program, "cloud-provider-haproxy/cmd/gatewayctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling an agent whose clock can jump: %w\n%s", err, out)
	}
	return nil
}

// startJumpingAgent puts it in the place of the agent.
func startJumpingAgent(ctx context.Context, t *trial) error {
	if err := t.buildJumpingAgent(ctx); err != nil {
		return err
	}
	if err := kill("gatewayctl")(ctx, t); err != nil {
		return err
	}
	_, err := t.struck.Start(jumpingAgent, t.Program(jumpingAgent), "agent", "run")
	return err
}

// jumpClock sets it ahead, and back a moment later. Meanwhile a Service is added: what an agent does has to go on.
func jumpClock(ctx context.Context, t *trial) error {
	ahead := fmt.Sprintf("%0*d", jumpBytes, int(jump.Seconds()))
	if err := t.struck.WriteFile(jumpFile, []byte(ahead), 0o644); err != nil {
		return err
	}
	more := t.state()
	t.addLate(more, 0, 1)
	return t.push(ctx, more)
}

func setClockBack(ctx context.Context, t *trial) error {
	if err := run("rm", jumpFile)(ctx, t); err != nil {
		return err
	}
	if err := t.push(ctx, t.state()); err != nil {
		return err
	}
	if err := kill(jumpingAgent[:15])(ctx, t); err != nil {
		return err
	}
	return startAgent(ctx, t)
}
