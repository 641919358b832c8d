package prepare

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// makeTemporary is the follower of TemporaryFile.
const makeTemporary = "make directories of /run"

// agentUnit is the agent's.
const agentUnit = "gatewayctl-agent.service"

// start has the daemons read what changed. Traffic and addresses stay where they are when the agent restarts.
func (p *preparer) start(ctx context.Context) error {
	if !p.facts.Systemd {
		return p.tellToStart()
	}
	if err := p.trySSHD(ctx); err != nil {
		return err
	}
	for _, f := range []struct {
		why, what string
		argv      []string
	}{
		{makeTemporary, "directories of /run", []string{"systemd-tmpfiles", "--create", site.TemporaryFile}},
		{reloadUnits, "systemd's units", []string{"systemctl", "daemon-reload"}},
		{reloadSSHD, "sshd", []string{"systemctl", "try-reload-or-restart", p.sshdUnit()}},
	} {
		if err := p.follow(ctx, f.why, f.what, f.argv); err != nil {
			return err
		}
	}
	if err := p.checkEffect(ctx); err != nil {
		return err
	}
	for _, unit := range []string{"haproxy.service", "keepalived.service", agentUnit} {
		if err := p.enable(ctx, unit); err != nil {
			return err
		}
	}
	return p.startAgent(ctx)
}

// startAgent starts the agent, or restarts it when there is something for it to read, and waits until it is what it was: no other
// gateway is touched before.
func (p *preparer) startAgent(ctx context.Context) error {
	const what = "agent"
	if p.ledger.pends(restartAgent) {
		var before *wire.Status
		if !p.plan.DryRun {
			before, _ = p.Status(ctx) // one that does not answer is started
		}
		if err := p.follow(ctx, restartAgent, what, []string{"systemctl", "restart", agentUnit}); err != nil || p.plan.DryRun {
			return err
		}
		return p.awaitAgent(ctx, before)
	}
	if _, err := p.machine.Run(ctx, []string{"systemctl", "--quiet", "is-active", agentUnit}, nil); err == nil || p.plan.DryRun {
		p.step(what, unchangedIf(err == nil))
		return nil
	}
	if _, err := p.machine.Run(ctx, []string{"systemctl", "start", agentUnit}, nil); err != nil {
		p.step(what, Failed)
		return fmt.Errorf("starting the agent: %w; see `journalctl -u gatewayctl-agent` there", err)
	}
	p.step(what, Done)
	return p.awaitAgent(ctx, nil)
}

// awaitAgent waits until the agent answers, and serves as it did before a restart; nil: it did not.
func (p *preparer) awaitAgent(ctx context.Context, before *wire.Status) error {
	const every = 250 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		now, err := p.Status(ctx)
		worse := ""
		if err == nil {
			if worse = worsened(before, now); worse == "" {
				return nil
			}
			err = errors.New(worse)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			p.step("agent's health", Failed)
			return fmt.Errorf("the agent was started and is not well after %s: %w; see `gatewayctl status --local` and `journalctl -u gatewayctl-agent` there", p.Patience, err)
		}
	}
}

// worsened says what an agent did before it was restarted and does no more; empty: nothing.
func worsened(before, now *wire.Status) string {
	switch {
	case before == nil:
		return ""
	case now.Fence.Compare(before.Fence) < 0:
		return fmt.Sprintf("it holds %s, and held %s", now.Fence, before.Fence)
	case before.InSync && !now.InSync:
		return "what runs is not what its State says: " + strings.Join(now.Drift, "; ")
	case before.Current && !now.Current:
		return "it does not know whether its State is the newest"
	case before.KeepalivedUp && !now.KeepalivedUp:
		return "keepalived does not run"
	}
	return ""
}

func unchangedIf(is bool) string {
	if is {
		return Unchanged
	}
	return WouldDo
}

// sshdUnit is what the distribution calls it: sshd but for Debian and those that are like it.
func (p *preparer) sshdUnit() string {
	if p.facts.Family == site.Debian {
		return "ssh.service"
	}
	return "sshd.service"
}

// follow does what is pending, and forgets it when it is done.
func (p *preparer) follow(ctx context.Context, why, what string, argv []string) error {
	if !p.ledger.pends(why) {
		return nil
	}
	if p.plan.DryRun {
		p.step(what, WouldDo)
		return nil
	}
	if _, err := p.machine.Run(ctx, argv, nil); err != nil {
		p.step(what, Failed)
		return fmt.Errorf("to %s: %w; mend it and run bootstrap again", why, err)
	}
	p.ledger.settle(why)
	if err := p.ledger.write(p.machine); err != nil {
		return err
	}
	p.step(what, Done)
	return nil
}

func (p *preparer) enable(ctx context.Context, unit string) error {
	what := unit + " at boot"
	if _, err := p.machine.Run(ctx, []string{"systemctl", "--quiet", "is-enabled", unit}, nil); err == nil {
		p.step(what, Unchanged)
		return nil
	}
	if p.plan.DryRun {
		p.step(what, WouldDo)
		return nil
	}
	if _, err := p.machine.Run(ctx, []string{"systemctl", "enable", unit}, nil); err != nil {
		p.step(what, Failed)
		return fmt.Errorf("enabling %s: %w", unit, err)
	}
	p.step(what, Done)
	return nil
}

// tellToStart is for a machine without systemd.
func (p *preparer) tellToStart() error {
	if p.ledger.pends(reloadSSHD) {
		p.note("no systemd here: have sshd read its configuration again yourself (SIGHUP)")
	}
	if p.ledger.pends(restartAgent) {
		p.note("no systemd here: start `%s agent run` yourself, or restart it", site.Program)
	}
	p.ledger.Pending = nil
	return nil
}
