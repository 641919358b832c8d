package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
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
		if found, err = a.checkAddresses(seen, want.revision.state); err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	found, err := a.checkServers(seen, want.revision.state)
	if err != nil {
		return nil, err
	}
	faults = append(faults, found...)
	if w.swaps(p.HAProxy) {
		found, err := a.checkHAProxy(ctx, w, want)
		if err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	faults = append(faults, a.checkPorts(ctx, w, seen, want.revision.state)...)
	if w.swaps(p.Keepalived) {
		found, err := a.checkKeepalived(ctx, want)
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
			faults = append(faults, nftablesFaults(output, want)...)
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
			err = a.host.WriteFile(path, nil, 0o640)
		}
		if err != nil {
			return nil, fmt.Errorf("making the map %s: %w", path, err)
		}
	}
	if ca := want.config.CAFile; w.swaps(ca) {
		if _, err := a.host.ReadFile(ca); errors.Is(err, fs.ErrNotExist) {
			w.made = append(w.made, ca)
		}
		if err := a.host.WriteFile(ca, want.config.CA, 0o640); err != nil {
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
