package machine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// config is haproxy.cfg as far as a worker knows it.
type config struct {
	generation string
	order      []string // of the backends
	backends   map[string][]server
}

// Broken is the name of a server that this HAProxy's check refuses, naming its line.
const Broken = "broken"

func readConfig(text string) *config {
	c := &config{backends: map[string][]server{}}
	backend := ""
	for line := range strings.Lines(text) {
		if generation, ok := strings.CutPrefix(line, "  description "); ok {
			c.generation = strings.TrimSpace(generation)
			continue
		}
		if name, ok := strings.CutPrefix(line, "backend "); ok {
			backend = strings.Fields(name)[0] // its owner follows in a comment
			c.order = append(c.order, backend)
			c.backends[backend] = nil
			continue
		}
		if words, ok := strings.CutPrefix(line, "  server "); ok {
			s, err := newServer(strings.Fields(words))
			if err != nil {
				panic(fmt.Errorf("haproxy.cfg: %q: %w", line, err))
			}
			s.enabled = true
			c.backends[backend] = append(c.backends[backend], s)
		}
	}
	return c
}

// server is one member of a backend.
type server struct {
	name                  string
	addr                  netip.Addr
	port                  uint16
	weight                int
	checked, checking     bool
	checkPort             int
	enabled, maint, drain bool
	stopped               bool // as `set server health down` says of one that is not checked
	sessions, total       int
}

// newServer reads `NAME ADDRESS weight N [check port P ...]`.
func newServer(words []string) (s server, err error) {
	if len(words) < 4 || words[2] != "weight" {
		return s, fmt.Errorf("%q is no server", words)
	}
	s.name = words[0]
	if to, err := netip.ParseAddrPort(words[1]); err == nil {
		s.addr, s.port = to.Addr(), to.Port()
	} else if s.addr, err = netip.ParseAddr(strings.Trim(words[1], "[]")); err != nil {
		return s, err
	}
	if s.weight, err = strconv.Atoi(words[3]); err != nil {
		return s, err
	}
	if len(words) > 6 && words[4] == "check" {
		s.checked, s.checking = true, true
		s.checkPort, err = strconv.Atoi(words[6])
	}
	return s, err
}

type backend struct {
	name     string
	servers  []*server
	sessions int // those that have no server yet, too
	next     int // of the round robin
}

func (b *backend) server(name string) *server {
	for _, s := range b.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

// entry is one line of a map.
type entry struct{ key, value string }

// worker is HAProxy's present worker.
type worker struct {
	pid        int
	started    time.Time
	generation string
	order      []*backend
	backends   map[string]*backend
	maps       map[string][]entry
	versions   map[int][]entry // prepared and not committed
	version    int
	limited    string // maxconn of the Services' frontend
	healthy    func(netip.Addr) bool
}

// maxConn is HAProxy's own computation.
const maxConn = 4000

// loadHAProxy makes a new worker of what the disk says. Sessions of the old one live on.
func (m *Machine) loadHAProxy(start bool) error {
	if !start && m.master == 0 {
		return errors.New("haproxy.service is not active, cannot reload")
	}
	if start && m.master != 0 {
		return nil
	}
	c := m.texts.config(string(m.disk[haproxyFile]))
	w := &worker{started: time.Now(), generation: c.generation, backends: map[string]*backend{}, maps: map[string][]entry{},
		versions: map[int][]entry{}, limited: strconv.Itoa(maxConn), healthy: m.healthy}
	for _, name := range c.order {
		b := &backend{name: name}
		for _, s := range c.backends[name] {
			b.servers = append(b.servers, &s)
		}
		w.order = append(w.order, b)
		w.backends[name] = b
	}
	if c.generation != "" {
		for _, file := range []string{servicesMap, checksMap} {
			text, ok := m.disk[file]
			if !ok {
				return fmt.Errorf("haproxy: failed to open pattern file <%s>", file)
			}
			w.maps[file] = readMap(string(text))
		}
	}
	if start {
		m.master = m.begin(haproxyPID, "haproxy")
	} else {
		m.reloads = append(m.reloads, Reload{time.Now(), m.worker.generation, w.generation, len(m.worker.order), len(w.order)})
	}
	m.pids++
	w.pid = m.pids
	m.worker = w
	return nil
}

func (m *Machine) stopHAProxy() {
	if m.master == 0 {
		return
	}
	m.forget(haproxyPID, m.master)
	m.master, m.worker = 0, nil
	for s := range m.sessions {
		s.end()
	}
}

func readMap(text string) (entries []entry) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		entries = append(entries, entry{key, value})
	}
	return entries
}

// checkHAProxy is `haproxy -c`.
func (m *Machine) checkHAProxy(argv []string, output *agent.Output) error {
	path := argv[len(argv)-1]
	text, ok := m.disk[path]
	if !ok {
		return fails(argv, output, "[ALERT]    (1) : Could not open configuration file "+path)
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if strings.HasPrefix(line, "  server "+Broken+" ") {
			return fails(argv, output, fmt.Sprintf("[ALERT]    (1) : config : parsing [%s:%d] : 'server %s' is refused by the simulation\n", path, number, Broken))
		}
	}
	for _, file := range []string{servicesMap, checksMap} {
		if _, ok := m.disk[file]; !ok {
			return fails(argv, output, "[ALERT]    (1) : config : failed to open pattern file <"+file+">\n")
		}
	}
	return nil
}

func (w *worker) up(s *server) bool {
	switch {
	case !s.enabled || s.maint || s.drain:
		return false
	case s.checked && s.checking:
		return w.healthy(s.addr)
	}
	return !s.stopped
}

// route is the one lookup of a connection.
func (w *worker) route(to netip.AddrPort) (value []string, found bool) {
	key := to.String()
	for _, e := range w.maps[servicesMap] {
		if e.key == key {
			return strings.Split(e.value, "|"), true
		}
	}
	return nil, false
}

// choose is the round robin over the servers that are up; nil when there is none.
func (w *worker) choose(b *backend) *server {
	for range b.servers {
		s := b.servers[b.next%len(b.servers)]
		b.next++
		if w.up(s) {
			return s
		}
	}
	return nil
}

// owners are the Services that the map sends to a backend.
func (w *worker) owners(backend string) (owners []string) {
	for _, e := range w.maps[servicesMap] {
		fields := strings.Split(e.value, "|")
		if fields[0] == backend && !slices.Contains(owners, fields[2]) {
			owners = append(owners, fields[2])
		}
	}
	return owners
}
