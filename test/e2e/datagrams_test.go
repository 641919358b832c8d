package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// patience is how long an answer to a datagram may take.
const patience = 500 * time.Millisecond

// datagram sends one from a new port of the client and tells who answered.
func (s *site) datagram(at string) (who string, err error) { return datagramFrom(s.client, at) }

func datagramFrom(h *lab.Host, at string) (who string, err error) {
	conn, err := h.Dial(context.Background(), "udp", at)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return exchange(conn)
}

// exchange sends a datagram and tells who answered.
func exchange(conn net.Conn) (who string, err error) {
	who, _, err = introduce(conn)
	return who, err
}

// introduce sends a datagram and tells who answered, and whom that one saw.
func introduce(conn net.Conn) (who, saw string, err error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", "", err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", "", err
	}
	answer := make([]byte, 2048)
	n, err := conn.Read(answer)
	if err != nil {
		return "", "", err
	}
	who, rest, _ := strings.Cut(string(answer[:n]), " ")
	saw, _, _ = strings.Cut(rest, " ")
	return who, saw, nil
}

// everyDatagram is the time between two of a client that keeps sending.
const everyDatagram = 20 * time.Millisecond

// datagrams are sent, one after the other, until stop is called.
type datagrams struct {
	end  context.CancelFunc
	done chan struct{}

	newest atomic.Pointer[answer]

	// When it is stopped:
	sent, lost int
	by         map[string]int
	longest    time.Duration // without an answer
	losses     []string      // when, and why; the first ten
}

// answer is who answered a datagram, and when.
type answer struct {
	who  string
	when time.Time
}

// sends keeps sending datagrams: all from one port of the client, which is one flow for everybody under way, or each from a port of
// its own.
func (s *site) sends(t *testing.T, at string, oneFlow bool) *datagrams {
	t.Helper()
	if oneFlow {
		return flowFrom(t, s.client, at)
	}
	return keepSending(t, func() (string, error) { return s.datagram(at) })
}

// flowFrom is one flow of a host.
func flowFrom(t *testing.T, h *lab.Host, at string) *datagrams {
	t.Helper()
	conn, err := h.Dial(t.Context(), "udp", at)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return keepSending(t, func() (string, error) { return exchange(conn) })
}

// flowBy is one flow of the client that this Pod answers: ports of the client are tried until there is one.
func (s *site) flowBy(t *testing.T, pod, at string) *datagrams {
	t.Helper()
	var flow net.Conn
	s.await(t, "a flow of UDP to be answered by "+pod, func(ctx context.Context) error {
		for range 20 {
			conn, err := s.client.Dial(ctx, "udp", at)
			if err != nil {
				return err
			}
			if who, err := exchange(conn); err != nil || who != pod {
				_ = conn.Close()
				continue
			}
			flow = conn
			return nil
		}
		return errors.New("none of 20 is")
	})
	t.Cleanup(func() { _ = flow.Close() })
	return keepSending(t, func() (string, error) { return exchange(flow) })
}

func keepSending(t *testing.T, ask func() (who string, err error)) *datagrams {
	ctx, cancel := context.WithCancel(context.Background())
	d := &datagrams{end: cancel, done: make(chan struct{}), by: map[string]int{}}
	t.Cleanup(func() { d.stop() })
	go func() {
		defer close(d.done)
		tick := time.NewTicker(everyDatagram)
		defer tick.Stop()
		for last := time.Now(); ctx.Err() == nil; <-tick.C {
			who, err := ask()
			d.sent++
			if err != nil {
				d.lost++
				if len(d.losses) < 10 {
					d.losses = append(d.losses, time.Now().Format("15:04:05.000 ")+err.Error())
				}
				continue
			}
			d.by[who]++
			d.longest = max(d.longest, time.Since(last))
			last = time.Now()
			d.newest.Store(&answer{who, last})
		}
	}()
	return d
}

// last is who answered the newest datagram that was answered.
func (d *datagrams) last() string {
	if newest := d.newest.Load(); newest != nil {
		return newest.who
	}
	return "nobody"
}

// lastAnswer is when that was; zero: never.
func (d *datagrams) lastAnswer() time.Time {
	if newest := d.newest.Load(); newest != nil {
		return newest.when
	}
	return time.Time{}
}

func (d *datagrams) stop() *datagrams {
	d.end()
	<-d.done
	return d
}

func (d *datagrams) String() string {
	line := fmt.Sprintf("%d datagrams, %d lost, by %v, longest gap %v", d.sent, d.lost, d.by, d.longest.Round(time.Millisecond))
	for _, loss := range d.losses {
		line += "\n  lost at " + loss
	}
	return line
}
