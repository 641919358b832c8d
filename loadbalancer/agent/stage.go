package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

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
	return errors.Join(faults...)
}

// check lets each daemon whose bytes change read exactly the bytes that it will run. Faults are the daemons' own words;
// an error means that a daemon could not be asked.
func (a *Agent) check(ctx context.Context, w *work, want *rendering) ([]wire.Fault, error) {
	var faults []wire.Fault
	p := a.config.Paths
	if w.swaps(p.HAProxy) {
		found, err := a.checkHAProxy(ctx, want)
		if err != nil {
			return nil, err
		}
		faults = append(faults, found...)
	}
	if w.swaps(p.Keepalived) {
		argv := keepalived.CheckArgv(p.Keepalived + ".staged")
		output, refused, err := a.ask(ctx, a.program(a.config.Keepalived, argv), nil)
		if err != nil {
			return nil, err
		}
		if refused {
			faults = append(faults, keepalivedFaults(output)...)
		}
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

// checkHAProxy checks the staged file. It names its maps by their final paths: a missing one is made first, which
// nobody notices, because no configuration names it yet.
func (a *Agent) checkHAProxy(ctx context.Context, want *rendering) (faults []wire.Fault, err error) {
	p := a.config.Paths
	for _, path := range []string{p.ServicesMap, p.ChecksMap} {
		_, err := a.host.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = a.host.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			return nil, fmt.Errorf("making the map %s: %w", path, err)
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

func keepalivedFaults(output []byte) []wire.Fault {
	var faults []wire.Fault
	for _, m := range keepalived.ParseCheck(output) {
		faults = append(faults, wire.Fault{Field: fmt.Sprintf("keepalived.conf:%d", m.Line), Message: m.Text})
	}
	if len(faults) == 0 {
		faults = append(faults, wire.Fault{Field: "keepalived.conf", Message: string(bytes.TrimSpace(output))})
	}
	return faults
}
