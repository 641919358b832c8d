package agent

import (
	"context"
	"encoding/json"
	"errors"
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
	slots    haproxy.Slots
	config   *haproxy.Config
	table    *nftables.Table
	front    string // path of the table's script
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
	local := a.haproxyLocal()
	free := func(string) bool { return true }
	if running != nil {
		free = running.Free
	}
	previous, err := a.previousSlots(running)
	if err != nil {
		return nil, err
	}
	// Slots that are short are made by the reload that Compare then asks for.
	slots, _ := haproxy.Assign(previous, r.state, free, local)
	config, err := haproxy.Render(r.state, local, slots)
	if err != nil {
		return nil, fmt.Errorf("rendering HAProxy's configuration: %w", err)
	}
	vrrp, err := keepalived.Render(r.state, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("rendering keepalived's configuration: %w", err)
	}
	a.firstHealth(running)
	front, table, err := a.renderFront(ctx, r.state, slots)
	if err != nil {
		return nil, err
	}
	kept, err := encodeSlots(slots)
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
	return &rendering{revision: r, slots: slots, config: config, table: table, front: paths.frontFile(), files: files}, nil
}

func (a *Agent) renderFront(ctx context.Context, s *desired.State, slots haproxy.Slots) ([]byte, *nftables.Table, error) {
	local := a.nftablesLocal()
	local.Unfit = a.healthNow().unfit(s, slots)
	if flows := nftables.Flows(s); a.rules == nil || a.rulesOfFlows != flows {
		script, err := nftables.RulesScript(local, flows)
		if err != nil {
			return nil, nil, err
		}
		output, err := a.host.Run(ctx, nftables.RulesArgv(), script)
		if err != nil {
			return nil, nil, fmt.Errorf("asking nft how it spells our rules, for which it needs the kernel modules nft_tproxy and nft_socket: %w", err)
		}
		a.rules, a.rulesOfFlows = output.Stdout, flows
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

// previousSlots is the assignment that this machine made last; the running map knows it too when the file is lost.
func (a *Agent) previousSlots(running *haproxy.Running) (haproxy.Slots, error) {
	text, err := a.host.ReadFile(a.config.Paths.slotsFile())
	if errors.Is(err, fs.ErrNotExist) {
		if running == nil {
			return nil, nil
		}
		return running.Slots(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the slots: %w", err)
	}
	var slots haproxy.Slots
	if err := json.Unmarshal(text, &slots); err != nil {
		return nil, fmt.Errorf("decoding %s: %w (remove the file: the running HAProxy knows its slots)", a.config.Paths.slotsFile(), err)
	}
	return slots, nil
}

func encodeSlots(slots haproxy.Slots) ([]byte, error) {
	text, err := json.Marshal(slots) // JSON sorts the keys of a map
	if err != nil {
		return nil, fmt.Errorf("encoding the slots: %w", err)
	}
	return text, nil
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
