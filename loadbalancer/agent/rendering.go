package agent

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// rendering is what one State means on this machine. It is never changed.
type rendering struct {
	revision *revision
	// served is the State as HAProxy serves it: the revision's, without the wishes that wait.
	served *desired.State
	waits  wishes
	slots  haproxy.Slots
	// short are tenants whose slot a reload has to make first.
	short  []haproxy.Tenant
	config *haproxy.Config
	table  *nftables.Table
	front  string // path of the table's script
	// files are all files that a transaction swaps, in the order in which it does.
	files []file
}

// file is a file as it has to be.
type file struct {
	path    string
	mode    fs.FileMode
	content []byte
}

// staged is where the content waits for its check, in the same directory so that a rename puts it in place.
func (f file) staged() string { return f.path + ".staged" }

// content gives the wanted content of one of the files.
func (r *rendering) content(path string) []byte {
	for _, f := range r.files {
		if f.path == path {
			return f.content
		}
	}
	return nil
}

// script is the wanted nftables table.
func (r *rendering) script() []byte { return r.content(r.front) }

// has tells whether the file at path is one of them.
func (r *rendering) has(path string) bool {
	return slices.ContainsFunc(r.files, func(f file) bool { return f.path == path })
}

// render makes all files of a State. running is nil when HAProxy does not answer: then every slot is free.
func (a *Agent) render(ctx context.Context, r *revision, running *haproxy.Running) (*rendering, error) {
	return a.renderWithout(ctx, r, r.state, wishes{}, running)
}

// renderWithout is render for an HAProxy that serves served: the State without the wishes that wait.
func (a *Agent) renderWithout(ctx context.Context, r *revision, served *desired.State, waits wishes, running *haproxy.Running) (*rendering, error) {
	local := a.haproxyLocal()
	local.StatsSocket = a.statsSocket(ctx, running != nil)
	local.ClientSourceProbes = a.clientSourceProbes()
	free := func(string) bool { return true }
	if running != nil {
		free = running.Free(local)
	}
	assigned, err := a.assigned()
	if err != nil {
		return nil, err
	}
	held := a.held()
	slots, short := a.slotsLeft(served, running).Assign(assigned.of(held), served, free, local)
	config, err := haproxy.Render(served, local, slots)
	if err != nil {
		return nil, fmt.Errorf("rendering HAProxy's configuration: %w", err)
	}
	if now := a.rendered(); now != nil {
		config.Succeed(now.served, now.slots)
	} else if held != nil {
		config.Succeed(held.state, assigned.Slots) // where a transaction that was cut has moved somebody
	}
	vrrp, err := keepalived.Render(r.state, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("rendering keepalived's configuration: %w", err)
	}
	a.firstHealth(running)
	front, table, err := a.renderFront(ctx, r.state, slots, config)
	if err != nil {
		return nil, err
	}
	kept, err := assigned.next(held, r, slots).encode()
	if err != nil {
		return nil, err
	}
	paths := a.config.Paths
	files := []file{
		{paths.slotsFile(), 0o600, kept},
		{paths.ServicesMap, 0o640, config.ServicesMap},
		{paths.ChecksMap, 0o640, config.ChecksMap},
		{paths.HAProxy, 0o640, config.File},
		{paths.frontFile(), 0o640, front},
		{paths.Keepalived, 0o640, vrrp},
	}
	if config.CAFile != "" {
		files = slices.Insert(files, 0, file{config.CAFile, 0o640, config.CA}) // before the file that names it
	}
	return &rendering{revision: r, served: served, waits: waits, slots: slots, short: short, config: config,
		table: table, front: paths.frontFile(), files: files}, nil
}

// rulesShape is what the rules of our table depend on: whether the State has ports of UDP and SCTP, and whether servers may see their
// clients' addresses.
type rulesShape struct{ flows, clientSource bool }

func (a *Agent) renderFront(ctx context.Context, s *desired.State, slots haproxy.Slots, config *haproxy.Config) ([]byte, *nftables.Table, error) {
	local := a.nftablesLocal()
	local.ClientSourceProbes = config.Local.ClientSourceProbes // limits.yaml may have been edited since
	local.Unfit = a.healthNow().moved(slots, config).unfit(s, slots)
	if shape := (rulesShape{nftables.Flows(s), local.ClientSource()}); a.rules == nil || a.rulesOf != shape {
		script, err := nftables.RulesScript(local, shape.flows)
		if err != nil {
			return nil, nil, err
		}
		output, err := a.host.Run(ctx, nftables.RulesArgv(), script)
		if err != nil {
			return nil, nil, fmt.Errorf("asking nft how it spells our rules, for which it needs the kernel modules nft_tproxy and nft_socket: %w", err)
		}
		a.rules, a.rulesOf = output.Stdout, shape
	}
	script, err := nftables.Render(s, local)
	if err != nil {
		return nil, nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	table, err := nftables.Want(s, local, a.rules)
	if err != nil {
		return nil, nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	return script, table, nil
}

func (a *Agent) haproxyLocal() haproxy.Local {
	l := haproxy.DebianLocal()
	l.Version = a.programs().haproxy
	l.Gateway = a.config.Gateway
	l.ServicesPort, l.ControlPlanePort, l.PeersPort = a.config.ServicesPort, a.config.ControlPlanePort, a.config.PeersPort
	l.StatsSocket, l.ServerState = a.config.Paths.HAProxySocket, a.config.Paths.ServerState
	l.ConfigFile, l.ServicesMap, l.ChecksMap = a.config.Paths.HAProxy, a.config.Paths.ServicesMap, a.config.Paths.ChecksMap
	l.ControlPlaneCA = a.config.Paths.ControlPlaneCA
	l.MaxConn, l.SlotsPerKind = a.config.MaxConn, a.config.SlotsPerKind
	return l
}

func (a *Agent) keepalivedLocal() keepalived.Local {
	return keepalived.Local{Gateway: a.config.Gateway, ConfigFile: a.config.Paths.Keepalived,
		AliveFile: a.config.Paths.aliveFile(), ReadyFile: a.config.Paths.readyFile(), Version: a.programs().keepalived}
}

func (a *Agent) nftablesLocal() nftables.Local {
	routes := a.routesNow()
	return nftables.Local{Gateway: a.config.Gateway, ServicesPort: a.config.ServicesPort, ControlPlanePort: a.config.ControlPlanePort,
		PeersPort: a.config.PeersPort,
		Routes4:   routes[0], Routes6: routes[1]}
}
