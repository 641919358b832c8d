package agent

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-multierror"
	"sigs.k8s.io/yaml"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// ConfigFile is where a gateway keeps the agent's configuration unless told otherwise.
const ConfigFile = "/etc/gatewayctl/agent.yaml"

// Socket is where the agent listens unless told otherwise.
const Socket = "/run/gatewayctl/agent.sock"

// Config is agent.yaml: what this gateway is called and where its parts are. Everything has a default for Debian but
// the name.
type Config struct {
	// Gateway is this machine's name in every State, a DNS label. Required.
	Gateway string `json:"gateway"`
	// Group may connect to the agent's socket; the forced command's user belongs to it. Default gatewayctl.
	Group string `json:"group"`

	// ServicesPort and ControlPlanePort are HAProxy's transparent ports on loopback. Default 7480 and 7481.
	ServicesPort     int `json:"servicesPort"`
	ControlPlanePort int `json:"controlPlanePort"`
	// PeersPort is where the gateways' HAProxy tell each other, at their VRRP addresses, which client sticks to which server.
	// All gateways have the same. Default 7482.
	PeersPort int `json:"peersPort"`
	// MaxConn is HAProxy's global maxconn; 0 leaves it to HAProxy's own computation from the file descriptor limit.
	MaxConn int `json:"maxConn"`
	// SlotsPerKind is how many Services with servers of their own HAProxy has room for before a reload makes more room, for each
	// kind of check. Default 50.
	SlotsPerKind int `json:"slotsPerKind"`

	// Drift is what becomes of a difference between the machine and its State that no transaction made: repair (the
	// default), or report: then the agent touches nothing until it is started anew or gets another State.
	Drift string `json:"drift"`

	Paths Paths `json:"paths"`

	// Peers says how the other gateways are asked for a newer State.
	Peers Peers `json:"peers"`

	// HAProxy and Keepalived say how the daemons are driven.
	HAProxy    Daemon `json:"haproxy"`
	Keepalived Daemon `json:"keepalived"`
}

// Paths are the files of a gateway.
type Paths struct {
	Socket     string `json:"socket"`     // default /run/gatewayctl/agent.sock
	Limits     string `json:"limits"`     // default /etc/gatewayctl/limits.yaml
	Signers    string `json:"signers"`    // default /etc/gatewayctl/signers
	State      string `json:"state"`      // directory of what the agent remembers, default /var/lib/gatewayctl
	Track      string `json:"track"`      // directory of keepalived's track files, on tmpfs, default /run/gatewayctl/track
	Keepalived string `json:"keepalived"` // default /etc/keepalived/keepalived.conf

	HAProxy       string `json:"haproxy"`       // default /etc/haproxy/haproxy.cfg
	ServicesMap   string `json:"servicesMap"`   // default /etc/haproxy/services.map
	ChecksMap     string `json:"checksMap"`     // default /etc/haproxy/checks.map
	HAProxySocket string `json:"haproxySocket"` // stats socket, default /run/haproxy/admin.sock
	ServerState   string `json:"serverState"`   // default /var/lib/haproxy/server-state

	// ControlPlaneCA is put with a digest before the extension; default /etc/haproxy/control-plane-ca.pem
	ControlPlaneCA string `json:"controlPlaneCA"`
}

// Daemon says how a daemon is driven. Every command is an argv; no shell ever sees it.
type Daemon struct {
	// Program is the daemon's binary: its version and its own check of a configuration are asked of it.
	Program string `json:"program"`
	// Start, Reload and Stop return when the daemon has been told, not when it is done.
	Start  []string `json:"start"`
	Reload []string `json:"reload"`
	Stop   []string `json:"stop"`
	// Kill ends all its processes at once when HAProxy hangs; empty: kill(1), which takes an agent that is allowed to.
	Kill []string `json:"kill"`
	// PIDFile names the daemon's main process (HAProxy's master).
	PIDFile string `json:"pidFile"`
}

// DecodeConfig reads agent.yaml strictly, fills in the defaults and tells every fault at once.
func DecodeConfig(text []byte) (Config, error) {
	c := defaults()
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return Config{}, fmt.Errorf("decoding the agent's configuration: %w", err)
	}
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("the agent's configuration: %w", err)
	}
	return c, nil
}

func defaults() Config {
	debian := haproxy.DebianLocal()
	return Config{
		Group:            "gatewayctl",
		Drift:            driftRepair,
		ServicesPort:     debian.ServicesPort,
		ControlPlanePort: debian.ControlPlanePort,
		PeersPort:        debian.PeersPort,
		SlotsPerKind:     debian.SlotsPerKind,
		Paths: Paths{
			Socket:        Socket,
			Limits:        "/etc/gatewayctl/limits.yaml",
			Signers:       "/etc/gatewayctl/signers",
			State:         "/var/lib/gatewayctl",
			Track:         "/run/gatewayctl/track",
			Keepalived:    "/etc/keepalived/keepalived.conf",
			HAProxy:       debian.ConfigFile,
			ServicesMap:   debian.ServicesMap,
			ChecksMap:     debian.ChecksMap,
			HAProxySocket: debian.StatsSocket,
			ServerState:   debian.ServerState,

			ControlPlaneCA: debian.ControlPlaneCA,
		},
		Peers: Peers{
			PrivateKeyFile: "/etc/gatewayctl/peer_ed25519",
			KnownHostsFile: "/etc/gatewayctl/known_hosts",
			User:           "gatewayctl",
			Interval:       Duration(2 * time.Second),
		},
		HAProxy:    systemd("haproxy", "/run/haproxy.pid"),
		Keepalived: systemd("keepalived", "/run/keepalived.pid"),
	}
}

func systemd(unit, pidFile string) Daemon {
	return Daemon{
		Program: "/usr/sbin/" + unit,
		Start:   []string{"/usr/bin/systemctl", "start", unit},
		Reload:  []string{"/usr/bin/systemctl", "reload", unit},
		Stop:    []string{"/usr/bin/systemctl", "stop", unit},
		Kill:    []string{"/usr/bin/systemctl", "kill", "--signal=KILL", unit},
		PIDFile: pidFile,
	}
}

func (c Config) validate() error {
	var faults *multierror.Error
	fault := func(field, problem string) {
		faults = multierror.Append(faults, fmt.Errorf("%s: %s", field, problem))
	}
	if c.Gateway == "" {
		fault("gateway", "is missing; give this machine's name as the controller's configuration has it")
	}
	for _, p := range []struct {
		field string
		port  int
	}{{"servicesPort", c.ServicesPort}, {"controlPlanePort", c.ControlPlanePort}, {"peersPort", c.PeersPort}} {
		if p.port < 1 || p.port > 65535 {
			fault(p.field, fmt.Sprintf("%d is no port; give 1 to 65535", p.port))
		}
	}
	if c.ServicesPort == c.ControlPlanePort {
		fault("controlPlanePort", "must differ from servicesPort")
	}
	if c.PeersPort == c.ServicesPort || c.PeersPort == c.ControlPlanePort {
		fault("peersPort", "must differ from servicesPort and controlPlanePort")
	}
	if c.MaxConn < 0 {
		fault("maxConn", fmt.Sprintf("%d is negative; give 0 for HAProxy's own choice", c.MaxConn))
	}
	if c.SlotsPerKind < 1 {
		fault("slotsPerKind", fmt.Sprintf("%d leaves no room; give at least 1", c.SlotsPerKind))
	}
	if c.Drift != driftRepair && c.Drift != driftReport {
		fault("drift", fmt.Sprintf("%q is neither %s nor %s", c.Drift, driftRepair, driftReport))
	}
	c.Peers.validate(fault)
	for _, p := range c.absolutePaths() {
		if !filepath.IsAbs(p.path) {
			fault(p.field, fmt.Sprintf("%q is no absolute path", p.path))
		}
	}
	return faults.ErrorOrNil()
}

type namedPath struct{ field, path string }

func (c Config) absolutePaths() []namedPath {
	paths := []namedPath{
		{"paths.socket", c.Paths.Socket},
		{"paths.limits", c.Paths.Limits},
		{"paths.signers", c.Paths.Signers},
		{"paths.state", c.Paths.State},
		{"paths.track", c.Paths.Track},
		{"paths.keepalived", c.Paths.Keepalived},
		{"paths.haproxy", c.Paths.HAProxy},
		{"paths.servicesMap", c.Paths.ServicesMap},
		{"paths.checksMap", c.Paths.ChecksMap},
		{"paths.haproxySocket", c.Paths.HAProxySocket},
		{"paths.serverState", c.Paths.ServerState},
		{"paths.controlPlaneCA", c.Paths.ControlPlaneCA},
		{"peers.privateKeyFile", c.Peers.PrivateKeyFile},
		{"peers.knownHostsFile", c.Peers.KnownHostsFile},
	}
	for _, d := range []struct {
		name string
		Daemon
	}{{"haproxy", c.HAProxy}, {"keepalived", c.Keepalived}} {
		paths = append(paths,
			namedPath{d.name + ".program", d.Program},
			namedPath{d.name + ".start[0]", first(d.Start)},
			namedPath{d.name + ".reload[0]", first(d.Reload)},
			namedPath{d.name + ".stop[0]", first(d.Stop)},
			namedPath{d.name + ".pidFile", d.PIDFile})
	}
	return paths
}

func first(argv []string) string {
	if len(argv) == 0 {
		return ""
	}
	return argv[0]
}

// The files that are the agent's own.
func (p Paths) stateFile() string    { return filepath.Join(p.State, "state.json") }
func (p Paths) slotsFile() string    { return filepath.Join(p.State, "slots.json") }
func (p Paths) countersFile() string { return filepath.Join(p.State, "counters.json") }
func (p Paths) drainFile() string    { return filepath.Join(p.State, "drained.json") }
func (p Paths) orphanFile() string   { return filepath.Join(p.State, "orphaned") }
func (p Paths) frontFile() string    { return filepath.Join(p.State, "front.nft") }

// journalFile holds what stood on the machine before the very first State, while that one is being made true.
func (p Paths) journalFile() string { return filepath.Join(p.State, "before.json") }

// loadedFile tells which configuration the running keepalived has read. It belongs to that process, so on tmpfs.
func (p Paths) loadedFile() string { return filepath.Join(filepath.Dir(p.Track), "keepalived.loaded") }
func (p Paths) aliveFile() string  { return filepath.Join(p.Track, "alive") }
func (p Paths) readyFile() string  { return filepath.Join(p.Track, "ready") }

// savedAside is the name under which a configuration that is not ours is kept for its owner.
func savedAside(path string) string { return path + ".before-gatewayctl" }
