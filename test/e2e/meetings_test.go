package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// meeting is one connection as the pod at its end sees it.
type meeting struct {
	pod string
	// node is where the gateway sent the connection.
	node string
	// words are the pod's answer.
	words []string
	took  time.Duration
}

// meet connects from a host and asks who is there.
func (s *site) meet(from *lab.Host, at string) (meeting, error) {
	begun := time.Now()
	conn, err := s.opens(from, at, "GET / HTTP/1.0\r\n\r\n")
	if err != nil {
		return meeting{}, err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err != nil {
		return meeting{}, err
	}
	_, body, whole := strings.Cut(string(answer), "\r\n\r\n")
	if !whole {
		return meeting{}, fmt.Errorf("%s answers %q", at, answer)
	}
	m, err := s.meetingOf(body)
	m.took = time.Since(begun)
	return m, err
}

// opens connects and says something; the connection has ten seconds.
func (s *site) opens(from *lab.Host, at, says string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := io.WriteString(conn, says); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (s *site) meetingOf(line string) (meeting, error) {
	words := strings.Fields(line)
	if len(words) < 3 {
		return meeting{}, fmt.Errorf("the answer is %q", line)
	}
	peer, err := netip.ParseAddrPort(words[1])
	return meeting{pod: words[0], node: s.nodeOf(peer.Addr().Unmap(), words[0]), words: words}, err
}

// nodeOf names the worker through which somebody came to a pod: the pod's client is this worker, by masquerading, unless it has
// the pod itself.
func (s *site) nodeOf(peer netip.Addr, pod string) string {
	for _, w := range s.Lab.Workers {
		if peer == w.Addr4 || peer == w.Addr6 {
			return w.Name
		}
	}
	for i, w := range s.Lab.Workers {
		if pod == w.Name || pod == fmt.Sprintf("%s-%d", app, i) {
			return w.Name
		}
	}
	return fmt.Sprintf("%s, which sees %s", pod, peer)
}

// meetings are so many from the client, one after the other; each has to come about.
func (s *site) meetings(at string, count int) (all []meeting, err error) {
	for range count {
		m, err := s.meet(s.client, at)
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
	return all, nil
}

// nodesOf counts by node.
func nodesOf(all []meeting) map[string]int {
	by := map[string]int{}
	for _, m := range all {
		by[m.node]++
	}
	return by
}

// reachesNodes is nil when new connections come by way of exactly these nodes.
func (u *turned) reachesNodes(nodes ...string) error {
	all, err := u.meetings(u.at, 5*len(nodes)+3)
	if err != nil {
		return err
	}
	by := nodesOf(all)
	for _, node := range nodes {
		if by[node] == 0 {
			return fmt.Errorf("they come by way of %v, want %v", by, nodes)
		}
	}
	if len(by) != len(nodes) {
		return fmt.Errorf("they come by way of %v, want %v", by, nodes)
	}
	return nil
}

// long is a connection that is held; each line that is sent comes back.
type long struct {
	meeting
	net.Conn
	reader *bufio.Reader
}

// keep opens a connection that lives until somebody ends it.
func (s *site) keep(at string) (*long, error) {
	conn, err := s.opens(s.client, at, "GET /echo HTTP/1.1\r\nHost: lab\r\n\r\n")
	if err != nil {
		return nil, err
	}
	l := &long{Conn: conn, reader: bufio.NewReader(conn)}
	line, err := l.reader.ReadString('\n')
	if err == nil {
		l.meeting, err = s.meetingOf(line)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return l, conn.SetDeadline(time.Time{})
}

// keepMany opens up to so many, and gives those that came about.
func (s *site) keepMany(at string, count int) (all longs, err error) {
	for range count {
		l, err := s.keep(at)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	return all, nil
}

type longs []*long

func (all longs) close() {
	for _, l := range all {
		_ = l.Close()
	}
}

// by are those by way of a node, and the others.
func (all longs) by(node string) (those, others longs) {
	for _, l := range all {
		if l.node == node {
			those = append(those, l)
		} else {
			others = append(others, l)
		}
	}
	return those, others
}

func (all longs) nodes() map[string]int {
	by := map[string]int{}
	for _, l := range all {
		by[l.node]++
	}
	return by
}

// says tells that the connection lives: what is said comes back.
func (l *long) says() error {
	if err := l.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(l, "still here\n"); err != nil {
		return err
	}
	if _, err := l.reader.ReadString('\n'); err != nil {
		return err
	}
	return l.SetDeadline(time.Time{})
}

// ends waits until somebody ends the connection, and fails when nobody has.
func (l *long) ends(within time.Duration) (after time.Duration, err error) {
	begun := time.Now()
	if err := l.SetDeadline(begun.Add(within)); err != nil {
		return 0, err
	}
	_, err = l.reader.ReadByte()
	var late net.Error
	switch {
	case err == nil:
		return 0, errors.New("somebody says something")
	case errors.As(err, &late) && late.Timeout():
		return 0, fmt.Errorf("it lives after %v", within)
	}
	return time.Since(begun), nil
}

// inTurn says whether all nodes are met in turn, again and again.
func inTurn(all []meeting, nodes int) bool {
	for i := range all {
		if i >= nodes && all[i].node != all[i-nodes].node {
			return false
		}
	}
	var first []string
	for _, m := range all[:nodes] {
		first = append(first, m.node)
	}
	slices.Sort(first)
	return len(slices.Compact(first)) == nodes
}
