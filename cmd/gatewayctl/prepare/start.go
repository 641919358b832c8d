package prepare

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
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
	const what = "agent"
	if p.ledger.pends(restartAgent) {
		return p.follow(ctx, restartAgent, what, []string{"systemctl", "restart", agentUnit})
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
	return nil
}

func unchangedIf(is bool) string {
	if is {
		return Unchanged
	}
	return WouldDo
}

// sshdUnit is what the distribution calls it.
func (p *preparer) sshdUnit() string {
	if p.facts.Family == site.RedHat {
		return "sshd.service"
	}
	return "ssh.service"
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

// trySSHD has sshd judge the files that it will read, before it does: one that cannot read them is gone after the next boot, and on
// some distributions at once. Then our drop-in says nothing, and what it said stands next to it.
func (p *preparer) trySSHD(ctx context.Context) error {
	if p.plan.DryRun || !p.ledger.pends(reloadSSHD) {
		return nil
	}
	_, refused := p.machine.Run(ctx, []string{"/usr/sbin/sshd", "-t"}, nil)
	if refused == nil {
		return nil
	}
	p.step("sshd", Failed)
	content, err := p.machine.ReadFile(site.SSHDFile)
	if err == nil {
		err = p.machine.WriteFile(site.SSHDFile+".refused", content, 0o600, "")
	}
	if err == nil {
		silent := []byte("# sshd refused what bootstrap wrote here; see " + site.SSHDFile + ".refused\n")
		p.ledger.Files[site.SSHDFile] = append(p.ledger.Files[site.SSHDFile], digest(silent))
		err = p.machine.WriteFile(site.SSHDFile, silent, 0o644, "")
	}
	if err == nil {
		err = p.ledger.write(p.machine)
	}
	return errors.Join(fmt.Errorf("sshd refuses its configuration with %s, which was taken back and is kept as %s.refused: %w; "+
		"see what `sshd -t` says, mend it, and run bootstrap again", site.SSHDFile, site.SSHDFile, refused), err)
}

// checkEffect asks sshd itself what it will do for our user: another Match block may come before ours.
func (p *preparer) checkEffect(ctx context.Context) error {
	if p.plan.DryRun {
		return nil
	}
	output, err := p.machine.Run(ctx, []string{"/usr/sbin/sshd", "-T", "-C", "user=" + p.plan.User + ",host=controller,addr=192.0.2.1,laddr=192.0.2.1,lport=22"}, nil)
	if err != nil {
		return fmt.Errorf("asking sshd what it will do for user %s: %w", p.plan.User, err)
	}
	for _, setting := range []string{"authorizedkeysfile " + site.AuthorizedKeysFile, "disableforwarding yes", "permittty no"} {
		if !strings.Contains("\n"+string(output.Stdout), "\n"+setting+"\n") {
			return fmt.Errorf("sshd will not say %q for user %s although %s does: a setting in another file comes first; see `sshd -T -C user=%s`",
				setting, p.plan.User, site.SSHDFile, p.plan.User)
		}
	}
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
	if p.plan.DryRun {
		return nil
	}
	if p.ledger.pends(reloadSSHD) {
		p.note("no systemd here: have sshd read its configuration again yourself (SIGHUP)")
	}
	if p.ledger.pends(restartAgent) {
		p.note("no systemd here: start `%s agent run` yourself, or restart it", site.Program)
	}
	p.ledger.Pending = nil
	return nil
}
