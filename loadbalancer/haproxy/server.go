package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Server is one member of a backend. Its words are the same in the file and in `add server`, which inherits nothing from
// a default-server: so both make the same server.
type Server struct {
	Name string
	Addr netip.Addr
	// Port is 0 in pools whose map entries hold a NodePort: the server then takes the connection's destination port.
	Port uint16
	// Weight is the server's share, 1 to 256.
	Weight int
	// Backup servers get connections only while no other one of their backend is up.
	Backup bool
	Check  desired.Check
	// Proxy is the PROXY protocol's header that it gets before the client's first byte.
	Proxy desired.ProxyProtocol
	// CheckProxy: its check begins with such a header, of version 2 if Proxy is, else of version 1.
	CheckProxy bool
	// ID is HAProxy's number for the server, which a consistent hash places it by; 0 leaves it to HAProxy.
	ID uint32
	// CAFile has the certificates that a CheckHTTPS verifies with; empty: it verifies nothing.
	CAFile string
}

// String is the server as it follows the keyword server of a file and, with the backend in front, `add server`.
func (s Server) String() string { return s.Name + " " + s.address() + " " + s.words() }

// address is in brackets for IPv6: without them HAProxy takes what follows the last colon for a port.
func (s Server) address() string {
	if s.Port != 0 {
		return netip.AddrPortFrom(s.Addr, s.Port).String()
	}
	if s.Addr.Is6() {
		return "[" + s.Addr.String() + "]"
	}
	return s.Addr.String()
}

// words are what all servers of a pool have in common, when their weights are equal.
func (s Server) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "weight %d", s.Weight)
	if s.Backup {
		b.WriteString(" backup")
	}
	if s.ID != 0 {
		fmt.Fprintf(&b, " id %d", s.ID)
	}
	if s.Proxy != desired.ProxyNone {
		b.WriteString(" " + s.sendProxy())
	}
	if !s.checked() {
		return b.String()
	}
	fmt.Fprintf(&b, " check port %d inter %d rise %d fall %d", s.checkPort(), s.Check.IntervalMillis, s.Check.Rise, s.Check.Fall)
	if s.Check.DownIntervalMillis > 0 {
		fmt.Fprintf(&b, " downinter %d", s.Check.DownIntervalMillis)
	}
	if s.CheckProxy {
		// Beside the word port a check has no header without it (HAProxy manual section 5.2, check-send-proxy). One of version 1
		// says UNKNOWN, one of version 2 LOCAL.
		b.WriteString(" check-send-proxy")
	}
	switch {
	case s.Check.Kind == desired.CheckTLS:
		// Completing the handshake is the whole check, it sends nothing to a stranger. It decides whether an endpoint is
		// used, not whether it is trusted: clients verify the API server themselves.
		b.WriteString(" check-ssl verify none")
	case s.Check.Kind == desired.CheckHTTPS && s.CAFile != "":
		b.WriteString(" check-ssl verify required ca-file " + s.CAFile)
	case s.Check.Kind == desired.CheckHTTPS:
		b.WriteString(" check-ssl verify none")
	}
	return b.String()
}

// sendProxy is the word for version 1 or 2 of the header.
func (s Server) sendProxy() string {
	if s.Proxy == desired.ProxyV2 {
		return "send-proxy-v2"
	}
	return "send-proxy"
}

// checkPort is where its check asks; 0: nowhere.
func (s Server) checkPort() uint16 {
	if !s.checked() {
		return 0
	}
	return cmp.Or(s.Check.Port, s.Port)
}

func (s Server) checked() bool { return s.Check.Kind != desired.CheckNone }

// unchecked is the server's twin in the backend that fails open.
func (s Server) unchecked() Server {
	s.Check, s.CheckProxy, s.CAFile = desired.Check{Kind: desired.CheckNone}, false, ""
	return s
}
