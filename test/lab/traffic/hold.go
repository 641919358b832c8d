package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Hold keeps connections open and notices which are cut.
type Hold struct {
	// Targets are addresses with ports, taken in turn.
	Targets []string
	// Count is how many connections are held.
	Count int
	// Timeout bounds the opening of a connection, and each sign of life.
	Timeout time.Duration
	// Every is how often each connection says something and wants its echo; 0: never, until the end.
	Every time.Duration
}

// HoldReport says what became of held connections.
type HoldReport struct {
	Held int            `json:"held"`
	By   map[string]int `json:"by"`
	// Cut are the connections that ended before the client wanted, or that did not answer at the end.
	Cut []Cut `json:"cut,omitempty"`
}

// Cut is one connection that was lost.
type Cut struct {
	Number int    `json:"number"`
	Target string `json:"target"`
	Who    string `json:"who"` // the backend at the other end
	// After is when it was lost, since all were open.
	After time.Duration `json:"after"`
	Error string        `json:"error"`
}

// held is one connection; its reader waits for the echo of what it is sent.
type held struct {
	number int
	target string
	who    string
	conn   net.Conn
	reader *bufio.Reader
}

// Run opens all connections, calls opened, and holds them until ctx ends. Then each has to echo one more line. Connections that
// cannot be opened are an error.
func (h Hold) Run(ctx context.Context, opened func()) (HoldReport, error) {
	report := HoldReport{By: map[string]int{}}
	var all []*held
	defer func() {
		for _, c := range all {
			_ = c.conn.Close()
		}
	}()
	for n := range h.Count {
		c, err := h.open(n)
		if err != nil {
			return report, fmt.Errorf("opening connection %d of %d: %w", n+1, h.Count, err)
		}
		all = append(all, c)
		report.Held++
		report.By[c.who]++
	}
	opened()
	start := time.Now()
	var mu sync.Mutex
	var connections sync.WaitGroup
	for _, c := range all {
		connections.Go(func() {
			if err := c.watch(ctx, h); err != nil {
				mu.Lock()
				defer mu.Unlock()
				report.Cut = append(report.Cut, Cut{Number: c.number, Target: c.target, Who: c.who, After: time.Since(start), Error: kind(err)})
			}
		})
	}
	connections.Wait()
	return report, nil
}

func (h Hold) open(n int) (*held, error) {
	target := h.Targets[n%len(h.Targets)]
	conn, err := net.DialTimeout("tcp", target, h.Timeout)
	if err != nil {
		return nil, err
	}
	c := &held{number: n, target: target, conn: conn, reader: bufio.NewReader(conn)}
	if err := conn.SetDeadline(time.Now().Add(h.Timeout)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: lab\r\n\r\n"); err != nil {
		return nil, err
	}
	line, err := c.reader.ReadString('\n')
	if err != nil {
		return nil, err
	}
	c.who, _, _ = strings.Cut(line, " ")
	return c, conn.SetDeadline(time.Time{})
}

// watch returns when the connection is lost, or, with the verdict of a last echo, when ctx ends.
func (c *held) watch(ctx context.Context, h Hold) error {
	if h.Every > 0 {
		tick := time.NewTicker(h.Every)
		defer tick.Stop()
		for talking := true; talking; {
			select {
			case <-ctx.Done():
				talking = false
			case <-tick.C:
				if err := errors.Join(c.say(h.Timeout), c.hear()); err != nil {
					return err
				}
			}
		}
	}
	// While nothing is sent on it, the read tells of its end: that is what a held connection of a real client looks like.
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.say(h.Timeout) }) // the read tells
	defer stop()
	return c.hear()
}

func (c *held) say(timeout time.Duration) error {
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.conn, "still here %d\n", c.number)
	return err
}

func (c *held) hear() error {
	line, err := c.reader.ReadString('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("still here %d\n", c.number); line != want {
		return fmt.Errorf("echo %q, want %q", line, want)
	}
	return nil
}
