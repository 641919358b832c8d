package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Flow opens new connections at a fixed rate, each with one request.
type Flow struct {
	// Targets are addresses with ports, taken in turn.
	Targets []string
	// Rate is connections a second.
	Rate int
	// Count ends the flow after so many connections; 0: only ctx does.
	Count int
	// Timeout bounds one connection from dial to the end of the answer.
	Timeout time.Duration
}

// Report says what became of a flow's connections.
type Report struct {
	Opened int `json:"opened"`
	Failed int `json:"failed"`
	// Unconnected are those of Failed that were never connections. The others were lost under way.
	Unconnected int `json:"unconnected,omitempty"`
	// By counts answers by who gave them; Errors failures by their kind: refused, unreachable, reset, timeout, closed, or the
	// text.
	By     map[string]int `json:"by"`
	Errors map[string]int `json:"errors,omitempty"`
	// Failures are the first hundred.
	Failures []Failure `json:"failures,omitempty"`
	// LongestGap is the longest time without an answer while connections were being opened. What comes after the last one
	// was begun (a lost SYN is repeated after a second) does not count: nobody asked meanwhile.
	LongestGap time.Duration `json:"longestGap"`
	P50        time.Duration `json:"p50"`
	P99        time.Duration `json:"p99"`
	Longest    time.Duration `json:"longest"`
}

// Failure is one connection that got no answer.
type Failure struct {
	Target string `json:"target"`
	// After is when the connection was begun, since the start of the flow.
	After time.Duration `json:"after"`
	Error string        `json:"error"`
}

// maxFailures bounds a report; the counts go on.
const maxFailures = 100

// Run opens connections until ctx ends or Count is reached, waits for the last ones and reports.
func (f Flow) Run(ctx context.Context) Report {
	tally := &tally{start: time.Now(), report: Report{By: map[string]int{}, Errors: map[string]int{}}}
	tick := time.NewTicker(time.Second / time.Duration(f.Rate))
	defer tick.Stop()
	var connections sync.WaitGroup
	for n := 0; f.Count == 0 || n < f.Count; n++ {
		select {
		case <-ctx.Done():
			return tally.finish(time.Now(), &connections)
		case <-tick.C:
		}
		target := f.Targets[n%len(f.Targets)]
		connections.Go(func() {
			begun := time.Now()
			who, err := Ask(target, f.Timeout)
			tally.add(target, begun, who, err)
		})
	}
	return tally.finish(time.Now(), &connections)
}

// Ask makes one connection with one request and gives the first word of the answer: who answered.
func Ask(target string, timeout time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp", target, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: lab\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	head, body, whole := strings.Cut(string(answer), "\r\n\r\n")
	if len(answer) == 0 {
		return "", errClosed
	}
	if !whole || !strings.Contains(head, " 200 ") {
		return "", fmt.Errorf("answer %q", head)
	}
	who, _, _ := strings.Cut(body, " ")
	return who, nil
}

var errClosed = errors.New("closed without an answer")

type tally struct {
	start time.Time

	mu      sync.Mutex
	report  Report
	times   []time.Duration
	answers []time.Time
}

func (t *tally) add(target string, begun time.Time, who string, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Opened++
	if err != nil {
		t.report.Failed++
		t.report.Errors[kind(err)]++
		if dialing(err) {
			t.report.Unconnected++
		}
		if len(t.report.Failures) < maxFailures {
			t.report.Failures = append(t.report.Failures, Failure{Target: target, After: begun.Sub(t.start), Error: err.Error()})
		}
		return
	}
	t.report.By[who]++
	t.times = append(t.times, now.Sub(begun))
	t.answers = append(t.answers, now)
}

// finish waits for the connections that are still open; end is when the last one was begun.
func (t *tally) finish(end time.Time, open *sync.WaitGroup) Report {
	open.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.report
	last := t.start
	for _, at := range append(t.answers, end) {
		if at.After(end) {
			at = end
		}
		r.LongestGap = max(r.LongestGap, at.Sub(last))
		last = at
	}
	if n := len(t.times); n != 0 {
		slices.Sort(t.times)
		r.P50, r.P99, r.Longest = t.times[n/2], t.times[n*99/100], t.times[n-1]
	}
	return r
}

// dialing tells an error of a connection that did not come about.
func dialing(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

// kind groups errors that differ by address or port only.
func kind(err error) string {
	var failed net.Error
	switch {
	case dialing(err) && errors.As(err, &failed) && failed.Timeout():
		return "unreachable"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, errClosed), errors.Is(err, io.EOF):
		return "closed"
	default:
		return err.Error()
	}
}

// String is the report on one line, for people.
func (r Report) String() string {
	line := fmt.Sprintf("%d opened, %d failed %v, by %v, longest gap %v, p50 %v, p99 %v, longest %v",
		r.Opened, r.Failed, r.Errors, r.By, r.LongestGap.Round(time.Millisecond), r.P50, r.P99, r.Longest)
	for _, f := range r.Failures[:min(len(r.Failures), 3)] {
		line += fmt.Sprintf("; after %v %s", f.After.Round(time.Millisecond), f.Error)
	}
	return line
}
