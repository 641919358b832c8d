package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

type fakeHAProxy struct {
	pid     int
	config  parsedConfig
	maps    map[string]map[string]string // file -> key -> value
	limited bool                         // the services' frontend has its maxconn
	socket  string                       // its file, as the configuration names it
}

// What lies at the stats socket's path: "" is the socket, else something that is none, or another HAProxy's.
const (
	directory      = "a directory"
	socketOfOthers = "another HAProxy's socket"
)

// parsedConfig is what a worker knows from its configuration file.
type parsedConfig struct {
	generation string
	backends   map[string]map[string]haproxy.RunningServer
}

// loadHAProxy makes a new worker from the files, as start and reload both do; the master stays at a reload.
func (m *machine) loadHAProxy(start bool) error {
	if !start && m.haproxy == nil {
		return errors.New("no process")
	}
	if !start && m.lostReloads > 0 {
		m.lostReloads--
		return nil
	}
	if start {
		m.begin("/run/haproxy.pid", "haproxy")
	}
	_, socket, _ := strings.Cut(m.files["/etc/haproxy/haproxy.cfg"], "stats socket ")
	socket, _, _ = strings.Cut(socket, " ")
	if start || socket != m.haproxy.socket { // else it is inherited
		if m.files["/run/haproxy/admin.sock"] == directory {
			return nil // HAProxy's master says that loading failed, and the old worker goes on
		}
		m.files["/run/haproxy/admin.sock"] = ""
	}
	if err := m.namesFiles(cmp.Or(m.loads, m.files["/etc/haproxy/haproxy.cfg"])); err != nil {
		return err
	}
	m.pids++
	worker := &fakeHAProxy{pid: m.pids, socket: socket,
		config: parseConfig(cmp.Or(m.loads, m.files["/etc/haproxy/haproxy.cfg"])), maps: map[string]map[string]string{}}
	if worker.config.generation != "" {
		for _, file := range []string{"/etc/haproxy/services.map", "/etc/haproxy/checks.map"} {
			text, ok := m.files[file]
			if !ok {
				return fmt.Errorf("HAProxy misses %s", file)
			}
			worker.maps[file] = parseMap(text)
		}
	}
	m.haproxy = worker
	master := strings.TrimSpace(m.files["/run/haproxy.pid"])
	children := "/proc/" + master + "/task/" + master + "/children"
	if !m.forks {
		m.files[children] = ""
	}
	m.files[children] += fmt.Sprintf("%d ", worker.pid)
	m.files[fmt.Sprintf("/proc/%d/stat", worker.pid)] = stat(worker.pid, "haproxy")
	m.files[fmt.Sprintf("/proc/%d/status", worker.pid)] = "Name:\thaproxy\nUid:\t104\t104\t104\t104\nGid:\t106\t106\t106\t106\n"
	return nil
}

// namesFiles refuses a configuration that verifies with certificates which are not there, as HAProxy does, or are others than
// their name says.
func (m *machine) namesFiles(config string) error {
	words := strings.Fields(config)
	for i, word := range words {
		if word != "ca-file" {
			continue
		}
		text, ok := m.files[words[i+1]]
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); !ok || !strings.Contains(words[i+1], sum[:16]) {
			return fmt.Errorf("unable to load CA file: %s", words[i+1])
		}
	}
	return nil
}

func parseMap(text string) map[string]string {
	entries := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		entries[key] = value
	}
	return entries
}

func parseConfig(text string) parsedConfig {
	c := parsedConfig{backends: map[string]map[string]haproxy.RunningServer{}}
	backend := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) < 2:
		case words[0] == "description":
			c.generation = strings.Join(words[1:], " ")
		case words[0] == "backend" && line[0] != ' ':
			backend = words[1]
			c.backends[backend] = map[string]haproxy.RunningServer{}
		case words[0] == "server" && strings.HasPrefix(line, "  server"):
			server := haproxy.RunningServer{Name: words[1], Weight: 1, State: "NOCHECK"}
			if to, err := netip.ParseAddrPort(words[2]); err == nil {
				server.Addr, server.Port = to.Addr(), to.Port()
			} else {
				server.Addr = netip.MustParseAddr(strings.Trim(words[2], "[]"))
			}
			if i := slices.Index(words, "check"); i > 0 {
				server.State, server.Checked, server.Checking = "UP", true, true
				if _, err := fmt.Sscan(words[i+2], &server.CheckPort); err != nil {
					panic(err)
				}
			}
			c.backends[backend][server.Name] = server
		}
	}
	return c
}

// Ping, Read, Apply and ServersState are the worker's stats socket.
func (m *machine) Ping(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.haproxy == nil {
		return errors.New("connection refused")
	}
	return nil
}

func (m *machine) Read(ctx context.Context) (running *haproxy.Running, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = m.do("haproxy read", func() error {
		if err := m.unasked(); err != nil {
			return err
		}
		running = m.haproxy.running()
		if m.files["/run/haproxy/admin.sock"] == socketOfOthers {
			running.Generation, running.PID = "", 9999
		}
		if m.lingers != nil && m.lingers(m.haproxy.pid) {
			running.Generation, running.PID = "global:of-before", 1
		}
		m.addDeparted(running)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return running, nil
}

// unasked is why the stats socket cannot be asked. Ping finds HAProxy alive without it.
func (m *machine) unasked() error {
	file, there := m.files["/run/haproxy/admin.sock"]
	switch {
	case !there || m.haproxy == nil:
		return fmt.Errorf("connect: %w", fs.ErrNotExist)
	case file != "" && file != socketOfOthers:
		return fmt.Errorf("connect: %w", syscall.ECONNREFUSED)
	}
	return nil
}

func (h *fakeHAProxy) running() *haproxy.Running {
	r := &haproxy.Running{Generation: h.config.generation, PID: h.pid, MaxConn: 4000, ServicesMaxConn: 4000, Started: time.Unix(1e9, 0),
		Backends: map[string]*haproxy.RunningBackend{}, Maps: map[string][]haproxy.Entry{}}
	if h.limited {
		r.ServicesMaxConn = 3000
	}
	for name, servers := range h.config.backends {
		r.Backends[name] = &haproxy.RunningBackend{Servers: maps.Clone(servers)}
	}
	for file, entries := range h.maps {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			r.Maps[file] = append(r.Maps[file], haproxy.Entry{Key: key, Value: entries[key]})
		}
	}
	return r
}

// Apply models what a Diff leads to, not its commands: the agent swaps the files first, so they say what is wanted. The
// growing part adds what they have, the shrinking part removes what they have not.
func (m *machine) Apply(ctx context.Context, d haproxy.Diff) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Empty() {
		return nil // no command goes to HAProxy
	}
	if m.endDeparted(d) {
		return nil
	}
	grows, shrinks := !d.Grow().Empty(), !d.Shrink().Empty()
	return m.do(fmt.Sprintf("haproxy apply grow=%t shrink=%t", grows, shrinks), func() error {
		if err := m.unasked(); err != nil {
			return err
		}
		m.removeDeparted(d)
		want := parseConfig(m.files["/etc/haproxy/haproxy.cfg"])
		for _, file := range []string{"/etc/haproxy/services.map", "/etc/haproxy/checks.map"} {
			merge(m.haproxy.maps[file], parseMap(m.files[file]), grows, shrinks)
		}
		for name, servers := range m.haproxy.config.backends {
			merge(servers, want.backends[name], grows, shrinks)
		}
		m.haproxy.limited = m.haproxy.limited || grows
		return nil
	})
}

func merge[V any](has, want map[string]V, grows, shrinks bool) {
	if grows {
		maps.Copy(has, want)
	}
	if shrinks {
		maps.DeleteFunc(has, func(key string, _ V) bool { _, wanted := want[key]; return !wanted })
	}
}

func (m *machine) ServersState(context.Context) (state []byte, err error) {
	err = m.do("haproxy show servers state", func() error {
		if m.files["/run/haproxy/admin.sock"] == socketOfOthers {
			return errors.New("no servers")
		}
		state = m.serversState()
		return nil
	})
	return state, err
}
