package lab_test

import (
	"bufio"
	"net/netip"
	"strings"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

func TestHosts(t *testing.T) {
	l := lab.New(t, lab.Options{Bare: true})
	t.Run("each is a machine of its own", func(t *testing.T) {
		for _, h := range l.Hosts() {
			name, err := h.Run(t.Context(), "hostname")
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(name) != h.Name {
				t.Errorf("hostname of %s is %q", h.Name, name)
			}
			if err := h.WriteFile("/etc/gatewayctl/lab", []byte(h.Name), 0o600); err != nil {
				t.Error(err)
			}
		}
		for _, h := range l.Hosts() {
			got, err := h.ReadFile("/etc/gatewayctl/lab")
			if err != nil || string(got) != h.Name {
				t.Errorf("%s reads %q, %v", h.Name, got, err)
			}
		}
	})
	t.Run("they reach each other", func(t *testing.T) {
		server := l.Workers[0]
		for _, addr := range []netip.Addr{server.Addr4, server.Addr6} {
			listener, err := server.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = conn.Write([]byte(conn.RemoteAddr().String() + "\n"))
			}()
			conn, err := l.Client.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			peer := netip.MustParseAddrPort(strings.TrimSpace(line)).Addr()
			if peer != l.Client.Addr4 && peer != l.Client.Addr6 {
				t.Errorf("%s saw %s, want the client", server.Name, peer)
			}
		}
	})
}
