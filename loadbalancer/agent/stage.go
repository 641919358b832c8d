package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// checkLimit bounds one daemon's check of its configuration.
const checkLimit = 30 * time.Second

// stage writes the new files next to the old ones.
func (a *Agent) stage(w *work) error {
	for _, f := range w.files {
		if err := a.host.WriteFile(f.staged(), f.content, f.mode); err != nil {
			return fmt.Errorf("staging %s: %w", f.path, err)
		}
	}
	return nil
}

// unstage takes back what stage wrote; what is left behind is overwritten by the next transaction.
func (a *Agent) unstage(w *work) error {
	var faults []error
	for _, f := range w.files {
		faults = append(faults, a.host.Remove(f.staged()))
	}
	for _, path := range w.made {
		faults = append(faults, a.host.Remove(path))
	}
	return errors.Join(faults...)
}

// discard removes the files of a rendering that another one has no use for. What a crash leaves behind stays: certificates,
// which no configuration names.
func (a *Agent) discard(old, kept *rendering) {
	if old == nil || kept == nil {
		return
	}
	for _, f := range old.files {
		if kept.has(f.path) {
			continue
		}
		if err := a.host.Remove(f.path); err != nil {
			a.log.Warn("removing a file that is used no more", "path", f.path, "error", err)
		}
	}
}

// check lets each daemon whose bytes change read exactly the bytes that it will run. Faults are the daemons' own words;
// an error means that a daemon could not be asked.
func (a *Agent) check(ctx context.Context, w *work, seen *observation, want *rendering) ([]wire.Fault, error) {
	p := a.config.Paths
	var faults []wire.Fault
	if w.keepalived != nothing || w.swaps(p.Keepalived) {
		found, err := a.checkInterfaces(seen, want.revision.state)
		if err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	if w.swaps(p.HAProxy) {
		found, err := a.checkHAProxy(ctx, w, want)
		if err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	faults = append(faults, a.checkPorts(w, seen, want.revision.state)...)
	if w.swaps(p.Keepalived) {
		found, err := a.checkKeepalived(ctx)
		if err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	if len(w.table) > 0 || w.swaps(p.frontFile()) {
		output, refused, err := a.ask(ctx, nftables.CheckArgv(), want.content(p.frontFile()))
		if err != nil {
			return nil, err
		}
		if refused {
			faults = append(faults, wire.Fault{Field: "front.nft", Message: string(bytes.TrimSpace(output))})
		}
	}
	return faults, nil
}

// checkHAProxy checks the staged file. It names its maps and its certificates by their final paths: what is missing is made
// first, which nobody notices, because no configuration names it yet. The certificates' name has their digest.
func (a *Agent) checkHAProxy(ctx context.Context, w *work, want *rendering) ([]wire.Fault, error) {
	p := a.config.Paths
	for _, path := range []string{p.ServicesMap, p.ChecksMap} {
		_, err := a.host.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			w.made = append(w.made, path)
			err = a.host.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			return nil, fmt.Errorf("making the map %s: %w", path, err)
		}
	}
	if ca := want.config.CAFile; w.swaps(ca) {
		if _, err := a.host.ReadFile(ca); errors.Is(err, fs.ErrNotExist) {
			w.made = append(w.made, ca)
		}
		if err := a.host.WriteFile(ca, want.config.CA, 0o644); err != nil {
			return nil, fmt.Errorf("making %s: %w", ca, err)
		}
	}
	output, refused, err := a.ask(ctx, a.program(a.config.HAProxy, haproxy.CheckArgv(p.HAProxy+".staged")), nil)
	if err != nil || !refused {
		return nil, err
	}
	return haproxyFaults(output, want.config), nil
}

// ask runs a check. A program that says no has refused; one that cannot run, or is killed, is an error.
func (a *Agent) ask(ctx context.Context, argv []string, stdin []byte) (said []byte, refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	output, err := a.host.Run(ctx, argv, stdin)
	said = append(output.Stdout, output.Stderr...)
	if verdict := (*CommandError)(nil); errors.As(err, &verdict) && verdict.Code > 0 {
		return said, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("checking the new configuration: %w", err)
	}
	return said, false, nil
}

// program puts the configured path of a daemon's program in front of its arguments.
func (a *Agent) program(d Daemon, argv []string) []string {
	return append([]string{d.Program}, argv[1:]...)
}

// haproxyFaults says which load balancer is behind each line that HAProxy refuses.
func haproxyFaults(output []byte, config *haproxy.Config) []wire.Fault {
	var faults []wire.Fault
	for _, m := range haproxy.ParseCheck(output) {
		if m.Severity != "ALERT" {
			continue
		}
		fault := wire.Fault{Field: fmt.Sprintf("%s:%d", filepath.Base(config.Local.ConfigFile), m.Line), Message: m.Text}
		if key, owned := config.Owner(m.Line); owned {
			fault.LoadBalancer = &key
		}
		faults = append(faults, fault)
	}
	if len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: filepath.Base(config.Local.ConfigFile), Message: string(bytes.TrimSpace(output))})
	}
	return faults
}

// checkPorts tries the loopback ports that HAProxy is going to listen on and has not yet. A port that cannot be had would
// refuse connections on all frontends for two seconds, and HAProxy's own check does not see it.
func (a *Agent) checkPorts(w *work, seen *observation, want *desired.State) []wire.Fault {
	if w.haproxy == nothing {
		return nil
	}
	services, control := true, want.ControlPlane != nil
	// An HAProxy of ours has the ports of the State that is held.
	if held := a.held(); held != nil && w.haproxy == reload && (seen.running == nil || seen.running.Generation != "") {
		services, control = false, control && held.state.ControlPlane == nil
	}
	var faults []wire.Fault
	try := func(needed bool, field string, port int) {
		for _, address := range []string{"127.0.0.1", "::1"} {
			if !needed {
				return
			}
			if err := a.tryBind(netip.AddrPortFrom(netip.MustParseAddr(address), uint16(port))); err != nil {
				faults = append(faults, wire.Fault{Field: field,
					Message: fmt.Sprintf("HAProxy could not listen: %v; stop the program that has the port, or give another one in agent.yaml", err)})
			}
		}
	}
	try(services, "servicesPort", a.config.ServicesPort)
	try(control, "controlPlanePort", a.config.ControlPlanePort)
	return faults
}

// checkKeepalived checks the staged file. keepalived exits with 0 also when it complains, so each word is a fault.
func (a *Agent) checkKeepalived(ctx context.Context) ([]wire.Fault, error) {
	argv := keepalived.CheckArgv(a.config.Paths.Keepalived + ".staged")
	output, refused, err := a.ask(ctx, a.program(a.config.Keepalived, argv), nil)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(a.config.Paths.Keepalived)
	var faults []wire.Fault
	for _, m := range keepalived.ParseCheck(output) {
		faults = append(faults, wire.Fault{Field: fmt.Sprintf("%s:%d", name, m.Line), Message: m.Text})
	}
	if refused && len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: name, Message: "keepalived refuses the file and does not say why"})
	}
	return faults, nil
}

// checkInterfaces finds VIPs on interfaces that this machine lacks, which keepalived's own check does not see: it would
// keep every instance with such a VIP in state FAULT. So it would without the address that it sends adverts from, until it
// is told again; that is nobody's fault but this machine's, hence an error.
func (a *Agent) checkInterfaces(seen *observation, s *desired.State) ([]wire.Fault, error) {
	holding, err := keepalived.Held(seen.addresses, s, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	for _, g := range s.Gateways {
		if g.Name == a.config.Gateway && !holding.Source {
			return nil, fmt.Errorf("keepalived cannot send adverts: this machine has no usable address %s on %s; "+
				"look at `ip address`, and at vrrpAddress and interface of %s in the controller's configuration", g.VRRPAddress, g.Interface, g.Name)
		}
	}
	var faults []wire.Fault
	owners := ownersOf(s)
	for _, name := range holding.Missing {
		for n, v := range s.VIPs {
			if v.Interface == name {
				faults = append(faults, wire.Fault{LoadBalancer: owners[v.Address], Field: fmt.Sprintf("vips[%d].interface", n),
					Message: fmt.Sprintf("the gateway %s has no interface %q", a.config.Gateway, name)})
			}
		}
	}
	return faults, nil
}
