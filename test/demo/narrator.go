package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A step may be silent for heartbeat; one that goes on for long is told of every slowHeartbeat.
const (
	heartbeat     = 2 * time.Second
	slowHeartbeat = 10 * time.Second
)

// narrator tells what goes on and how long it takes. Its methods may be called at the same time.
type narrator struct {
	start time.Time

	mu  sync.Mutex
	out io.Writer
}

// step does one thing: its name before, a line every few seconds meanwhile, and its time after if it took long enough to
// wonder.
func (n *narrator) step(ctx context.Context, what string, do func(context.Context) error) error {
	n.line("%s", what)
	begun := time.Now()
	ended, silent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				passed := time.Since(begun).Round(time.Second)
				n.detail("... %v so far", passed)
				if passed >= slowHeartbeat {
					tick.Reset(slowHeartbeat)
				}
			}
		}
	}()
	err := do(ctx)
	close(ended)
	<-silent
	if err != nil {
		return fmt.Errorf("%s: %w", lowerFirst(what), err)
	}
	if took := time.Since(begun); took > heartbeat {
		n.detail("done in %.1f s", took.Seconds())
	}
	return nil
}

// line is a line with the time since the beginning.
func (n *narrator) line(format string, args ...any) {
	n.print(fmt.Sprintf("%6.1f s  ", time.Since(n.start).Seconds()), fmt.Sprintf(format, args...))
}

// detail is what belongs to the line before; what a program printed is told as it is, line by line.
func (n *narrator) detail(format string, args ...any) {
	n.print("          ", fmt.Sprintf(format, args...))
}

func (n *narrator) print(margin, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if i > 0 {
			margin = strings.Repeat(" ", len(margin))
		}
		_, _ = fmt.Fprintln(n.out, strings.TrimRight(margin+line, " ")) // nobody reads any more: the exit status tells
	}
}

// Write makes the narrator the output of a program.
func (n *narrator) Write(text []byte) (int, error) {
	n.detail("%s", text)
	return len(text), nil
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
