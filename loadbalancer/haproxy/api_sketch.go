package haproxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

var errUnfinished = errors.New("not written yet")

// Slots says which slot serves which load balancer with a Pool. It is the agent's own and persisted; when it is lost,
// Running.Slots knows it too.
type Slots map[desired.Key]string

// Assign keeps what previous says for load balancers that still need it, and gives a free slot to the others. free asks
// the running HAProxy (Running.Free); slots beyond the running ones are taken when none is free, and short names the load
// balancers that got such a slot: Render then makes the slots, Compare asks for the reload. An agent that does not want
// a reload now deletes these keys from slots: Render leaves their map entries out, so their ports refuse.
func Assign(previous Slots, s *desired.State, free func(slot string) bool, l Local) (slots Slots, short []desired.Key) {
	return nil, nil
}

// Entry is one line of a map.
type Entry struct {
	Key, Value string
	Owner      desired.Key // zero in Running
}

// Server is one server line.
type Server struct {
	Name string
	Addr netip.Addr
	Port uint16 // 0: the connection's own, which the map set to the NodePort
	// Weight is 1 to 256.
	Weight int
	Check  desired.Check
}

// Config is everything that HAProxy runs from.
type Config struct {
	File, ServicesMap, ChecksMap []byte
	Generation                   string
	Servers                      map[string][]Server // by backend, sorted by name
	Entries, Checks              []Entry             // sorted by key
	Local                        Local
}

// Render makes the configuration of one gateway.
func Render(s *desired.State, l Local, slots Slots) (*Config, error) { return nil, errUnfinished }

// Owner tells whose line of File that is (1 is the first), when one load balancer alone is behind it.
func (c *Config) Owner(line int) (desired.Key, bool) { return desired.Key{}, false }

// Running is what the running HAProxy says of itself.
type Running struct {
	Generation  string // "" when the configuration is not ours
	Version     string
	PID         int
	Started     time.Time
	Connections int
	MaxConn     int
	Backends    map[string]*RunningBackend
	Maps        map[string][]Entry // by file
}

// RunningBackend is a backend and its servers.
type RunningBackend struct {
	Sessions, Queued int
	Servers          map[string]RunningServer
}

// RunningServer is a server as it runs.
type RunningServer struct {
	Name     string
	State    string // UP, DOWN, MAINT, DRAIN, NOLB or NOCHECK
	Sessions int    // now
	Total    uint64 // since the worker started
}

// Free says whether a slot may be given away: it has no server, no connection, and no map entry leads to it.
func (r *Running) Free(slot string) bool { return false }

// Slots reads the assignment of slots back from the running map.
func (r *Running) Slots() Slots { return nil }

// Runtime is the client of the stats socket.
type Runtime struct{ socket string }

// NewRuntime makes a client of the stats socket; it connects anew for each command.
func NewRuntime(socket string) *Runtime { return &Runtime{socket: socket} }

// Read asks for everything that Compare needs.
func (r *Runtime) Read(ctx context.Context) (*Running, error) { return nil, errUnfinished }

// ServersState is the output of `show servers state`, to be written to Local.ServerState before a reload.
func (r *Runtime) ServersState(ctx context.Context) ([]byte, error) { return nil, errUnfinished }

// Diff is what lies between what runs and what is wanted.
type Diff struct {
	// Reload are the reasons why only a reload helps, for people; empty when the runtime commands do.
	Reload []string
	// Changes are for people, one short line each.
	Changes []string
	// Deferred are removed servers, backend/name, that wait for their last connections; nothing is left to do for them now.
	Deferred []string
}

// Empty is true when what runs is what is wanted, apart from Deferred.
func (d Diff) Empty() bool { return true }

// Grow is the part that is applied before nftables and keepalived change, Shrink the part after them (DESIGN section 3, Order).
func (d Diff) Grow() Diff { return d }

// Shrink is the part that takes away.
func (d Diff) Shrink() Diff { return d }

// Compare tells what to do.
func Compare(running *Running, want *Config) Diff { return Diff{} }

// Apply makes it so at run time. It ignores d.Reload.
func (r *Runtime) Apply(ctx context.Context, d Diff) error { return errUnfinished }

// CheckArgv is the command that checks a configuration file. The maps that the file names must exist; HAProxy reads them
// at start only, so the new ones may be in place before the check.
func CheckArgv(file string) []string { return []string{"haproxy", "-c", "-f", file} }

// Message is one line of HAProxy's about a configuration.
type Message struct {
	Severity string // ALERT, WARNING, NOTICE
	File     string
	Line     int // 0: none told
	Text     string
}

// ParseCheck reads what `haproxy -c` wrote.
func ParseCheck(output []byte) []Message { return nil }
