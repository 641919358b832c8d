package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Departed is a server that was taken out of a backend of Services and still has connections.
type Departed struct {
	// Backend is a slot, or one that all Services share.
	Backend, Server string
	Addr            netip.Addr
	// Sessions are its connections now.
	Sessions int
	// PodGone says that it is a pod which State does not name any more.
	PodGone bool
}

// Shared says whether the backend is one of all Services.
func (d Departed) Shared() bool { return !strings.HasPrefix(d.Backend, slotPrefix) }

// String is the server as runtime commands name it.
func (d Departed) String() string { return d.Backend + "/" + d.Server }

// Departed gives the servers that want does not have, sorted. Those of the control plane are none: its connections are
// nobody's to end.
func (r *Running) Departed(want *Config) []Departed {
	var all []Departed
	shared := []string{nodesBackend, nodesOpenBackend, nodes6Backend, nodes6OpenBackend}
	for _, name := range sortedKeys(r.Backends) {
		if !strings.HasPrefix(name, slotPrefix) && !slices.Contains(shared, name) {
			continue
		}
		servers := r.Backends[name].Servers
		for _, server := range sortedKeys(servers) {
			has := servers[server]
			wanted := slices.ContainsFunc(want.Servers[name], func(s Server) bool { return s.Name == server })
			if !wanted && has.State == "MAINT" && has.Sessions > 0 {
				gone := membership{pods: want.pods}.gone(has)
				all = append(all, Departed{Backend: name, Server: server, Addr: has.Addr, Sessions: has.Sessions, PodGone: gone})
			}
		}
	}
	return all
}

// End closes all connections of these servers, and those of the clients behind them (management guide section 9.3, shutdown
// sessions server). It is a Diff because it leads, as each does, to what is wanted: servers that nobody wants can be removed.
func End(departed ...Departed) Diff {
	var d Diff
	for _, server := range departed {
		d.remove = append(d.remove, command{line: "shutdown sessions server " + server.String()})
		d.Changes = append(d.Changes, fmt.Sprintf("server %s: %d connections ended", server, server.Sessions))
	}
	return d
}
