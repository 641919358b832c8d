package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// The ports of workers that answer checks as they are told.
const (
	checkedPort = 9080
	otherPort   = 9081
)

// check is one that a gateway made.
type check struct {
	when    time.Time
	gateway netip.Addr
	port    int
	how     string // http or https
	path    string
	status  int
}

func (c check) String() string {
	if c.when.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%s %s at port %d of %s, answered %d", c.how, c.path, c.port, c.gateway, c.status)
}

// checkedWorker answers checks of its ports, and remembers them.
type checkedWorker struct {
	*lab.Host
	certificate tls.Certificate

	mu   sync.Mutex
	seen []check
	// answer gives the status for a path, after so long a time.
	answer func(path string) (status int, after time.Duration)
}

// checkedWorkers has all workers answer checks until the test ends, at first with 200.
func checkedWorkers(t *testing.T, s *site) (all []*checkedWorker) {
	t.Helper()
	certificate := selfSigned(t)
	for _, host := range s.Lab.Workers {
		w := &checkedWorker{Host: host, certificate: certificate}
		w.answers(nil)
		for _, port := range []int{checkedPort, otherPort} {
			listener, err := host.Listen(t.Context(), "tcp", fmt.Sprintf("0.0.0.0:%d", port))
			must(t, err)
			serve(t, listener, func(conn net.Conn) { w.check(conn, port) })
		}
		all = append(all, w)
	}
	return all
}

// serve hands each connection to a goroutine until the test ends.
func serve(t *testing.T, listener net.Listener, one func(net.Conn)) {
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			running.Go(func() {
				defer conn.Close()
				if conn.SetDeadline(time.Now().Add(5*time.Second)) == nil {
					one(conn)
				}
			})
		}
	})
}

// answers sets what the worker says to checks over HTTP; nil: 200 at once.
func (w *checkedWorker) answers(answer func(path string) (status int, after time.Duration)) {
	if answer == nil {
		answer = func(string) (int, time.Duration) { return http.StatusOK, 0 }
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *checkedWorker) check(conn net.Conn, port int) {
	c := check{when: time.Now(), port: port, how: "http"}
	if peer, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		c.gateway = peer.Addr().Unmap()
	}
	buffered := &peeked{conn, bufio.NewReader(conn)}
	first, err := buffered.reader.Peek(1)
	var stream net.Conn = buffered
	switch {
	case err != nil:
		return
	case first[0] == 22: // a TLS record of a handshake (RFC 8446 section 5.1)
		c.how = "https"
		stream = tls.Server(buffered, &tls.Config{Certificates: []tls.Certificate{w.certificate}})
	}
	request, err := http.ReadRequest(bufio.NewReader(stream))
	if err != nil {
		return // no check that we know
	}
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	status, after := answer(request.URL.RequestURI())
	c.path, c.status = request.URL.RequestURI(), status
	w.note(c)
	<-time.After(after)
	_, _ = fmt.Fprintf(stream, "HTTP/1.0 %d %s\r\n\r\n", status, http.StatusText(status))
	_ = stream.Close() // which tells the end of TLS too
}

func (w *checkedWorker) note(c check) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, c)
}

// since are the checks after a time, oldest first.
func (w *checkedWorker) since(when time.Time) []check {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.seen), func(c check) bool { return !c.when.After(when) })
}

// peeked is a connection of which something was read already.
type peeked struct {
	net.Conn
	reader *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.reader.Read(b) }

// selfSigned makes a certificate that nobody knows: checks verify none.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
}

// awaitChecks waits until the newest checks of every worker, of each gateway, are as they should be.
func (s *site) awaitChecks(t *testing.T, all []*checkedWorker, what string, is func(check) bool) {
	t.Helper()
	from := time.Now()
	s.await(t, "checks "+what, func(context.Context) error {
		for _, w := range all {
			latest := map[netip.Addr]check{}
			for _, c := range w.since(from) {
				latest[c.gateway] = c
			}
			for _, g := range s.Lab.Gateways {
				if !is(latest[g.Addr4]) {
					return fmt.Errorf("the newest of %s at %s is %v", g.Name, w.Name, latest[g.Addr4])
				}
			}
		}
		return nil
	})
}
