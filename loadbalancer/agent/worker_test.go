package agent

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Somebody removed the stats socket of a HAProxy that serves: it closes what comes to its port from nowhere, some of it by a reset that
// is here before the connection is known to be made. Each is a sign of life.
func TestPingAtTheServicesPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connection.(*net.TCPConn).SetLinger(0)
			connection.Close()
		}
	}()
	w := NewWorker(filepath.Join(t.TempDir(), "admin.sock"), listener.Addr().(*net.TCPAddr).Port)
	for range 3000 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := w.Ping(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	listener.Close()
	if err := w.Ping(t.Context()); err == nil {
		t.Error("nobody listens, and it is taken for alive")
	}
}
