package gateway

import (
	"io"
	"net"
	"sync"
	"time"
)

// memoryPipe is a connection in memory that, unlike net.Pipe, buffers: both sides of SSH write first. Its waits are
// durably blocking for testing/synctest, so a test's clock jumps over them.
func memoryPipe() (a, b *memoryConn) {
	x, y := newStream(), newStream()
	return &memoryConn{in: x, out: y}, &memoryConn{in: y, out: x}
}

type memoryConn struct{ in, out *stream }

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memoryConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

// cutOff is a pulled cable: what is written arrives nowhere, and nobody is told.
func (c *memoryConn) cutOff() {
	c.in.lose()
	c.out.lose()
}

// budget lets n more bytes out, then the connection breaks.
func (c *memoryConn) budget(n int) { c.out.limit(n) }

func (c *memoryConn) LocalAddr() net.Addr              { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return memoryAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "192.0.2.1:22" }

// stream is one direction.
type stream struct {
	mu     sync.Mutex
	more   *sync.Cond
	bytes  []byte
	closed bool
	lost   bool
	left   int // bytes until it breaks; negative: never
}

func newStream() *stream {
	s := &stream{left: -1}
	s.more = sync.NewCond(&s.mu)
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.bytes) == 0 && !s.closed {
		s.more.Wait()
	}
	if len(s.bytes) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.bytes)
	s.bytes = s.bytes[n:]
	return n, nil
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if s.lost {
		return len(p), nil
	}
	n := len(p)
	if s.left >= 0 {
		n = min(n, s.left)
		s.left -= n
	}
	s.bytes = append(s.bytes, p[:n]...)
	s.closed = n < len(p)
	s.more.Broadcast()
	if s.closed {
		return n, net.ErrClosed
	}
	return n, nil
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.more.Broadcast()
}

func (s *stream) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost, s.bytes = true, nil
}

func (s *stream) limit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = n
}
