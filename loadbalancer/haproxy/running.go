package haproxy

import (
	"net/netip"
	"strings"
	"time"
)

// Running is what one worker of HAProxy says of itself, read at one moment.
type Running struct {
	// Generation is that of the Config that the worker loaded; empty when it runs somebody else's.
	Generation string
	Version    string
	PID        int
	// Started is when the worker started, in whole seconds.
	Started time.Time
	// Connections are established with clients now; MaxConn is the most that HAProxy accepts.
	Connections, MaxConn int
	// ServicesMaxConn is the most that the Services' frontend accepts.
	ServicesMaxConn int
	Backends        map[string]*RunningBackend
	// Limited are the Services' ports that lately refused connections because of a limit or a rate, sorted.
	Limited []Limited
	// Maps are the entries of each map by the path of its file, in the order of HAProxy.
	Maps map[string][]Entry
}

// RunningBackend is a backend that takes connections.
type RunningBackend struct {
	// Sessions and Queued are connections now.
	Sessions, Queued int
	Servers          map[string]RunningServer
}

// RunningServer is a server as it runs.
type RunningServer struct {
	Name string
	// Addr is the zero Addr when the server has none, for instance because its name was taken for a host's.
	Addr      netip.Addr
	Port      uint16
	CheckPort uint16
	Weight    int
	// State is UP, DOWN, MAINT, DRAIN or NOCHECK.
	State string
	// Sessions are connections now, Total since the worker started.
	Sessions int
	Total    uint64

	// LastCheck is what the last check found, in HAProxy's words (L7OK, L4TOUT); empty: none yet.
	LastCheck string

	// Checked says that the server has a check, Checking that it runs.
	Checked, Checking bool

	stopped, maint, drain bool
}

// Free says whether a slot may be given to a load balancer: no server is left in it, no connection, and no entry of the Services'
// map leads to it. A slot that is not running is free too: the reload that makes it makes it empty.
func (r *Running) Free(l Local) func(slot string) bool {
	led := map[string]bool{}
	for _, e := range r.Maps[l.ServicesMap] {
		backend, _, _ := strings.Cut(e.Value, "|")
		led[backend] = true
	}
	return func(slot string) bool {
		b := r.Backends[slot]
		return !led[slot] && (b == nil || len(b.Servers) == 0 && b.Sessions == 0 && b.Queued == 0)
	}
}
