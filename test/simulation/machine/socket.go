package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// HAProxy is the running HAProxy as a process reaches it: haproxy.Runtime over a stats socket that is in memory.
type HAProxy struct {
	*haproxy.Runtime
	p *Process
}

var _ agent.HAProxy = HAProxy{}

// HAProxy gives the client that a process has.
func (p *Process) HAProxy() HAProxy {
	return HAProxy{haproxy.NewRuntimeOver(func(context.Context) (net.Conn, error) {
		if err := p.Ping(); err != nil {
			return nil, err
		}
		return &statsConn{p: p}, nil
	}), p}
}

// Ping implements agent.HAProxy.
func (h HAProxy) Ping(context.Context) error { return h.p.Ping() }

// Ping says whether HAProxy answers.
func (p *Process) Ping() error {
	return p.do(false, func() error {
		if p.m.worker == nil {
			return errors.New("connect: connection refused")
		}
		return nil
	})
}

// statsConn is one connection to the stats socket: a command is done when it is written.
type statsConn struct {
	p      *Process
	answer bytes.Buffer
}

func (c *statsConn) Write(command []byte) (int, error) {
	text := strings.TrimSuffix(string(command), "\n")
	asks := strings.HasPrefix(text, "show ") || strings.HasPrefix(text, "prepare ")
	err := c.p.do(!asks, func() error {
		w := c.p.m.worker
		if w == nil {
			return io.ErrClosedPipe
		}
		if before, payload, found := strings.Cut(text, " <<\n"); found {
			c.answer.WriteString(w.fill(before, payload) + "\n")
			return nil
		}
		for line := range strings.SplitSeq(text, ";") {
			c.answer.WriteString(w.command(c.p.m, strings.TrimSpace(line)) + "\n")
		}
		return nil
	})
	return len(command), err
}

func (c *statsConn) Read(b []byte) (int, error)     { return c.answer.Read(b) }
func (c *statsConn) Close() error                   { return nil }
func (c *statsConn) LocalAddr() net.Addr            { return &net.UnixAddr{} }
func (c *statsConn) RemoteAddr() net.Addr           { return &net.UnixAddr{} }
func (*statsConn) SetDeadline(time.Time) error      { return nil }
func (*statsConn) SetReadDeadline(time.Time) error  { return nil }
func (*statsConn) SetWriteDeadline(time.Time) error { return nil }

// command does one command and gives the answer with its line's end, as the management guide says (section 9.3).
func (w *worker) command(m *Machine, line string) string {
	words := strings.Fields(line)
	switch {
	case line == "show info":
		return fmt.Sprintf("Version: 2.6.12-1\nPid: %d\nStart_time_sec: %d\nCurrConns: %d\nMaxconn: %d\ndescription: %s\n",
			w.pid, w.started.Unix(), len(m.sessions), maxConn, w.generation)
	case line == "show map":
		return w.showMaps()
	case line == "show servers state":
		return w.showServers()
	case line == "show stat":
		return w.showStat()
	case len(words) == 3 && words[0] == "show":
		return w.showMap(words[2])
	case words[0] == "set" && words[1] == "maxconn":
		w.limited = words[4]
		return ""
	case words[0] == "prepare":
		w.version++
		w.versions[w.version] = nil
		return fmt.Sprintf("New version created: %d\n", w.version)
	case words[1] == "map":
		return w.changeMap(words)
	case words[1] == "server" || words[1] == "health":
		return w.changeServer(words)
	}
	return "Unknown command: '" + line + "'\n"
}

func (w *worker) showMaps() string {
	var b strings.Builder
	b.WriteString("# id (file) description\n")
	for i, file := range []string{servicesMap, checksMap} {
		if _, loaded := w.maps[file]; loaded {
			fmt.Fprintf(&b, "%d (%s) pattern loaded from file '%s'\n", i, file, file)
		}
	}
	return b.String()
}

func (w *worker) showMap(file string) string {
	var b strings.Builder
	for _, e := range w.maps[file] {
		b.WriteString("0x1 " + e.key + " " + e.value + "\n")
	}
	return b.String()
}

func (w *worker) showServers() string {
	var b strings.Builder
	b.WriteString("1\n# be_name srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_fqdn srv_port srv_check_port\n")
	for _, backend := range w.order {
		for _, s := range backend.servers {
			up, admin, check := 2, 0, 0
			if s.maint || !s.enabled {
				admin |= 1
			}
			if s.drain {
				admin |= 8
			}
			if s.checked {
				check |= 2
			}
			if s.checking {
				check |= 4
			}
			if admin == 0 && !w.up(s) {
				up = 0
			}
			fmt.Fprintf(&b, "%s %s %s %d %d %d %d - %d %d\n", backend.name, s.name, s.addr, up, admin, s.weight, check, s.port, s.checkPort)
		}
	}
	return b.String()
}

func (w *worker) showStat() string {
	var b strings.Builder
	b.WriteString("# pxname,svname,qcur,scur,slim,stot\nservices,FRONTEND,,0,")
	b.WriteString(w.limited + ",0\n")
	for _, backend := range w.order {
		for _, s := range backend.servers {
			fmt.Fprintf(&b, "%s,%s,0,%d,,%d\n", backend.name, s.name, s.sessions, s.total)
		}
		b.WriteString(backend.name)
		b.WriteString(",BACKEND,0,")
		b.WriteString(strconv.Itoa(backend.sessions))
		b.WriteString(",0,0\n")
	}
	return b.String()
}

// fill is `add map @N FILE <<` with its payload.
func (w *worker) fill(command, payload string) string {
	words := strings.Fields(command)
	version, err := strconv.Atoi(strings.TrimPrefix(words[2], "@"))
	if err != nil {
		return "Bad version number\n"
	}
	w.versions[version] = append(w.versions[version], readMap(payload)...)
	return ""
}

// changeMap is `add|set|del map FILE KEY [VALUE]`, `commit map @N FILE` and `clear map @N FILE`.
func (w *worker) changeMap(words []string) string {
	if number, versioned := strings.CutPrefix(words[2], "@"); versioned {
		version, err := strconv.Atoi(number)
		if err != nil {
			return "Bad version number\n"
		}
		if words[0] == "commit" {
			w.maps[words[3]] = w.versions[version]
		}
		delete(w.versions, version)
		return ""
	}
	file, key := words[2], words[3]
	at := slices.IndexFunc(w.maps[file], func(e entry) bool { return e.key == key })
	switch {
	case words[0] == "add":
		w.maps[file] = append(w.maps[file], entry{key, words[4]})
	case at < 0:
		return "entry not found.\n"
	case words[0] == "set":
		w.maps[file] = slices.Clone(w.maps[file])
		w.maps[file][at].value = words[4]
	default:
		w.maps[file] = slices.DeleteFunc(slices.Clone(w.maps[file]), func(e entry) bool { return e.key == key })
	}
	return ""
}

// changeServer is `add|del|enable|set server BACKEND/NAME ...` and `enable health BACKEND/NAME`.
func (w *worker) changeServer(words []string) string {
	backendName, name, _ := strings.Cut(words[2], "/")
	b := w.backends[backendName]
	if b == nil {
		return "No such backend.\n"
	}
	s := b.server(name)
	if words[0] == "add" {
		return b.add(s, append([]string{name}, words[3:]...))
	}
	if s == nil {
		return "No such server.\n"
	}
	switch {
	case words[0] == "del" && s.enabled && !s.maint:
		return "Only servers in maintenance mode can be deleted.\n"
	case words[0] == "del" && s.sessions > 0:
		return "Server still has connections attached to it, cannot remove it.\n"
	case words[0] == "del":
		b.servers = slices.DeleteFunc(b.servers, func(o *server) bool { return o == s })
		return "Server deleted.\n"
	case words[0] == "enable" && words[1] == "health":
		s.checking = true
	case words[0] == "enable":
		s.enabled, s.maint = true, false
	case words[3] == "state":
		s.maint, s.drain = words[4] == "maint", words[4] == "drain"
		s.enabled = s.enabled || words[4] == "ready"
	case words[3] == "health":
		s.stopped = words[4] == "down"
	case words[3] == "addr":
		return s.move(words[4:])
	case words[3] == "check-port", words[3] == "weight":
		n, err := strconv.Atoi(words[4])
		if err != nil {
			return "Bad number.\n"
		}
		if words[3] == "weight" {
			s.weight = n
		} else {
			s.checkPort = n
		}
	default:
		return "Unknown command.\n"
	}
	return ""
}

func (b *backend) add(known *server, words []string) string {
	if known != nil {
		return "Already exists a server with the same name in backend.\n"
	}
	s, err := newServer(words)
	if err != nil {
		return err.Error() + "\n"
	}
	s.checking = false // `enable health` starts the check
	b.servers = append(b.servers, &s)
	return "New server registered.\n"
}

func (s *server) move(words []string) string {
	addr, err := netip.ParseAddr(words[0])
	if err != nil {
		return "Invalid address.\n"
	}
	s.addr = addr
	if len(words) == 3 {
		port, err := strconv.ParseUint(words[2], 10, 16)
		if err != nil {
			return "Invalid port.\n"
		}
		s.port = uint16(port)
	}
	return "IP changed from '-' to '" + addr.String() + "' by 'stats socket command'\n"
}
