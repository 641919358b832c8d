package machine

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Serving is what a machine does now, read from its daemons and not from files.
type Serving struct {
	// HAProxy and Keepalived say whether they run.
	HAProxy, Keepalived bool
	Generation          string
	// Routes are the entries of the map: "192.0.2.10:80" -> backend, NodePort, namespace/name.
	Routes map[string][]string
	// Servers are the addresses of the servers of each backend that take connections, sorted.
	Servers map[string][]netip.Addr
	// Open and Allowed are the doors of the nftables table.
	Table         bool
	Open, Allowed []string
	Control       []string // the control plane's
	// Addresses are those of the instances that keepalived has read, by router ID, anchors among them.
	Addresses map[int][]netip.Addr
}

// Serving reads the daemons.
func (m *Machine) Serving() Serving {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Serving{HAProxy: m.worker != nil, Keepalived: m.keepalived != nil, Table: m.table != nil,
		Routes: map[string][]string{}, Servers: map[string][]netip.Addr{}, Addresses: map[int][]netip.Addr{}}
	if m.worker != nil {
		s.Generation = m.worker.generation
		for _, e := range m.worker.maps[servicesMap] {
			s.Routes[e.key] = strings.Split(e.value, "|")
		}
		for _, b := range m.worker.order {
			for _, server := range b.servers {
				if !server.maint && server.enabled {
					s.Servers[b.name] = append(s.Servers[b.name], server.addr)
				}
			}
			slices.SortFunc(s.Servers[b.name], netip.Addr.Compare)
		}
	}
	if m.table != nil {
		s.Open, s.Allowed, s.Control = m.table.sets["open4"], m.table.sets["allow4"], m.table.sets["control4"]
	}
	if m.keepalived != nil {
		for id, i := range m.keepalived.instances {
			s.Addresses[id] = i.addresses
		}
	}
	return s
}

// Routes are the map's entries; the slice is never changed.
func (m *Machine) Routes() []Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.worker == nil {
		return nil
	}
	entries := m.worker.maps[servicesMap]
	routes := make([]Route, len(entries))
	for i, e := range entries {
		fields := strings.SplitN(e.value, "|", 4)
		routes[i] = Route{To: e.key, Owner: fields[2]}
	}
	return routes
}

// Route says whose a port of a VIP is.
type Route struct{ To, Owner string }

// Commit is what state.json said from some time on, and the files that lay beside it then.
type Commit struct {
	At   time.Time
	Text []byte
	Files
}

// Files are what the agent makes of a State.
type Files struct{ Slots, HAProxy, Services, Checks, Keepalived, Front []byte }

func (m *Machine) rendered() Files {
	return Files{m.disk[slotsFile], m.disk[haproxyFile], m.disk[servicesMap], m.disk[checksMap], m.disk[keepalivedFile], m.disk[frontFile]}
}

// Commits are those since the last call, in their order.
func (m *Machine) Commits() []Commit {
	m.mu.Lock()
	defer m.mu.Unlock()
	commits := m.commits
	m.commits = nil
	return commits
}
