package machine

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// Session is one connection of a client with HAProxy. It is in its worker's hands until it ends.
type Session struct {
	m       *Machine
	worker  *worker
	backend *backend
	server  *server // nil: none was found yet
	client  netip.AddrPort
	to      netip.AddrPort
	// Owner is the Service whose map entry let it in, as namespace/name; NodePort is where it goes.
	Owner    string
	NodePort uint16
	// Backend is HAProxy's.
	Backend string
	ended   bool
}

// Refusal says why a connection was not taken.
type Refusal string

const (
	Taken      Refusal = ""
	NotHeld    Refusal = "the machine does not have the address"
	Rejected   Refusal = "the guard rejects it"
	Unguarded  Refusal = "no rule of ours is there: a daemon of the machine may answer"
	NoHAProxy  Refusal = "HAProxy does not run"
	NotInMap   Refusal = "HAProxy does not know the address and port"
	NoNodePort Refusal = "the map has no NodePort"

	NotForwarded Refusal = "the kernel does not forward"
	NoServer     Refusal = "the table leads to no server"
)

// enter says whether a client's packet gets to who serves a door (Taken), and else what becomes of it.
func (m *Machine) enter(client netip.AddrPort, protocol string, to netip.AddrPort) Refusal {
	switch {
	case !m.on || !m.addresses[to.Addr()]:
		return NotHeld
	case m.table.admits(client.Addr(), protocol, to):
		return Taken
	case !m.table.guards(to.Addr()):
		return Unguarded
	}
	return Rejected
}

// Connect is what happens to a client's SYN that comes to this machine.
func (m *Machine) Connect(client netip.AddrPort, to netip.AddrPort) (*Session, Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if refusal := m.enter(client, "tcp", to); refusal != Taken {
		return nil, refusal
	}
	if m.worker == nil {
		return nil, NoHAProxy
	}
	route, found := m.worker.route(to)
	if !found {
		return nil, NotInMap
	}
	port, err := strconv.ParseUint(route[1], 10, 16)
	if err != nil || port == 0 {
		return nil, NoNodePort
	}
	name := route[0]
	b := m.worker.backends[name]
	if pooled := name == "nodes" || name == "nodes6"; pooled && m.worker.choose(b) == nil {
		name += "-open"
		b = m.worker.backends[name]
	}
	if b == nil {
		return nil, NotInMap
	}
	s := &Session{m: m, worker: m.worker, backend: b, client: client, to: to, Owner: route[2], NodePort: uint16(port), Backend: name}
	b.sessions++
	m.sessions[s] = true
	s.dispatch()
	return s, Taken
}

// Control is what happens to the SYN of a client of the API server.
func (m *Machine) Control(to netip.AddrPort) Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.on || !m.addresses[to.Addr()]:
		return NotHeld
	case m.table == nil || !slices.Contains(m.table.sets["control4"], doorOf("tcp", to)):
		return Rejected
	case m.worker == nil:
		return NoHAProxy
	}
	for _, name := range []string{"control-plane", "control-plane-open"} {
		if b := m.worker.backends[name]; b != nil && m.worker.choose(b) != nil {
			return Taken
		}
	}
	return NoServer
}

// dispatch gives the session a server.
func (s *Session) dispatch() {
	if s.server != nil {
		s.server.sessions--
	}
	if s.server = s.worker.choose(s.backend); s.server != nil {
		s.server.sessions++
		s.server.total++
	}
}

// Target is where HAProxy connects for the session; ok is false when it has no server. others are the Services other than
// Owner that the map of the session's worker sends to its slot.
func (s *Session) Target() (node netip.Addr, ok bool, others []string) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if strings.HasPrefix(s.Backend, "slot-") {
		others = slices.DeleteFunc(s.worker.owners(s.Backend), func(o string) bool { return o == s.Owner })
	}
	if s.ended || s.server == nil {
		return netip.Addr{}, false, others
	}
	return s.server.addr, true, others
}

// Retry is `option redispatch`: the server did not answer and HAProxy takes another one of the same backend.
func (s *Session) Retry() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.ended {
		s.dispatch()
	}
}

// Ended says whether the session is over.
func (s *Session) Ended() bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.ended
}

// End ends the session, as client or server do.
func (s *Session) End() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.end()
}

func (s *Session) end() {
	if s.ended {
		return
	}
	s.ended = true
	s.backend.sessions--
	if s.server != nil {
		s.server.sessions--
	}
	delete(s.m.sessions, s)
}

// listSessions is what ss(8) prints.
func (m *Machine) listSessions() []byte {
	var b strings.Builder
	for _, s := range m.sortedSessions() {
		fmt.Fprintf(&b, "ESTAB 0 0 %s %s\n", s.to, s.client)
	}
	return []byte(b.String())
}

func (m *Machine) sortedSessions() []*Session {
	all := make([]*Session, 0, len(m.sessions))
	for s := range m.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Session) int { return a.client.Compare(b.client) })
	return all
}

// killSessions is `ss --kill ... ( src VIP and dst CLIENT ) or ...`.
func (m *Machine) killSessions(argv []string, output *agent.Output) {
	for _, s := range m.sortedSessions() {
		for i, word := range argv {
			if word == "src" && argv[i+1] == s.to.String() && argv[i+4] == s.client.String() {
				output.Stdout = fmt.Appendf(output.Stdout, "ESTAB 0 0 %s %s\n", s.to, s.client)
				s.end()
			}
		}
	}
}
