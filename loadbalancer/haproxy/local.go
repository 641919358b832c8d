package haproxy

import (
	"net/netip"
	"time"
)

// Local is what a gateway knows of itself: where its HAProxy lives and how large it may grow. State knows none of it.
type Local struct {
	// Version is HAProxy's own, "2.6.12"; empty when it is not known yet. 2.6 is the oldest that works.
	Version string

	// Gateway is this machine's name in State.Gateways.
	Gateway string

	// ServicesPort and ControlPlanePort are the loopback ports that the nftables table tproxies to.
	ServicesPort, ControlPlanePort int

	// PeersPort is where every gateway's HAProxy, at its VRRP address, is told which client sticks to which server. All of
	// them have the same.
	PeersPort int

	// StatsSocket is the worker's socket, ServerState the file that `show servers state` is saved to before a reload,
	// the other three are the files that Render makes. All are absolute paths.
	StatsSocket, ServerState, ConfigFile, ServicesMap, ChecksMap string

	// ControlPlaneCA is where the control plane's certificates are put, with their digest before the extension: a file of
	// other certificates has another name, so that a check of a new haproxy.cfg reads the new ones, and the running one
	// keeps its own until the swap.
	ControlPlaneCA string

	// User, Group and Chroot are what the worker confines itself to.
	User, Group, Chroot string

	// ClientSourceProbes allow connections from clients' addresses, of a family each, for which HAProxy needs more rights: addresses of
	// this gateway, one of a family at most, from which it checks servers that are to see those.
	ClientSourceProbes []netip.Addr

	// MaxConn is the global maxconn; 0 leaves it to HAProxy, which derives it from the file descriptors that it may
	// have. Reserve is how many of these connections the Services can never use, so that the control plane can.
	MaxConn, Reserve int

	// SlotsPerKind is how many slots of each kind are made at a time; more are made by a reload, ahead of need.
	SlotsPerKind int

	// Log is a syslog target with its facility, "/dev/log local0"; empty logs nothing. A socket is looked for inside
	// Chroot: Debian's package puts one there.
	Log string

	// OldWorkers is how long a worker that was replaced by a reload may keep its connections.
	OldWorkers time.Duration
}

// DebianLocal is Local for Debian's own haproxy package.
func DebianLocal() Local {
	return Local{
		ServicesPort:     7480,
		ControlPlanePort: 7481,
		PeersPort:        7482,
		StatsSocket:      "/run/haproxy/admin.sock",
		ServerState:      "/var/lib/haproxy/server-state",
		ConfigFile:       "/etc/haproxy/haproxy.cfg",
		ServicesMap:      "/etc/haproxy/services.map",
		ChecksMap:        "/etc/haproxy/checks.map",
		ControlPlaneCA:   "/etc/haproxy/control-plane-ca.pem",
		User:             "haproxy",
		Group:            "haproxy",
		Chroot:           "/var/lib/haproxy",
		Reserve:          1000,
		SlotsPerKind:     50,
		Log:              "/dev/log local0",
		OldWorkers:       24 * time.Hour,
	}
}
