package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// install makes the machine what the plan says.
func (p *preparer) install(ctx context.Context) error {
	if err := p.installPackages(ctx); err != nil {
		return err
	}
	p.report.Findings = p.checkAll(ctx)
	if len(refusing(p.report.Findings)) > 0 && !p.plan.DryRun {
		return errors.New("something is in the way, and nothing of ours was installed")
	}
	if p.plan.DryRun && p.facts.PeerKey == "" {
		p.step(peerKeyStep, WouldDo)
	}
	for _, do := range []func(context.Context) error{
		p.makeUser, p.makeDirectories, p.installProgram, p.installFiles, p.loadModules, p.applySysctls, p.start, p.settle,
	} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *preparer) installPackages(ctx context.Context) error {
	missing := p.missingPackages()
	if len(missing) == 0 || !p.plan.InstallPackages {
		if len(missing) == 0 {
			p.step("packages", Unchanged)
		}
		return nil // what is missing then is a finding
	}
	commands := installArgv(p.facts.Family, missing)
	if p.plan.DryRun || commands == nil {
		p.step("packages", WouldDo, "+"+strings.Join(missing, " "))
		return nil
	}
	for _, argv := range commands {
		if _, err := p.machine.Run(ctx, argv, nil); err != nil {
			p.step("packages", Failed)
			return fmt.Errorf("installing packages: %w", err)
		}
	}
	p.step("packages", Changed, "+"+strings.Join(missing, " "))
	return nil
}

func (p *preparer) makeUser(ctx context.Context) error {
	what := "user " + p.plan.User
	account, err := p.account()
	if err != nil {
		return err
	}
	switch {
	case account != nil:
		p.step(what, Unchanged)
		return nil
	case p.plan.DryRun:
		p.step(what, WouldDo)
		return nil
	}
	// It owns nothing; its shell runs the forced command. The password is none that could be typed, which is not the same as a
	// locked account, which sshd refuses.
	_, err = p.machine.Run(ctx, []string{"useradd", "--system", "--user-group", "--shell", "/bin/sh", "--home-dir", "/", "--password", "*", "--", p.plan.User}, nil)
	if err != nil {
		return fmt.Errorf("making user %s: %w", p.plan.User, err)
	}
	p.step(what, Created)
	return nil
}

func (p *preparer) makeDirectories(context.Context) error {
	for _, d := range p.plan.Directories {
		entry, err := p.machine.Stat(d.Path, d.Group)
		if err == nil && entry.Owned && entry.Mode.Perm() == d.Mode {
			p.step(d.Path, Unchanged)
			continue
		}
		outcome := Changed
		if errors.Is(err, fs.ErrNotExist) {
			outcome = Created
		}
		if p.plan.DryRun {
			p.step(d.Path, WouldDo)
			continue
		}
		if err := p.machine.MakeDirectory(d.Path, d.Mode, d.Group); err != nil {
			return err
		}
		p.step(d.Path, outcome)
	}
	return nil
}

func (p *preparer) installProgram(context.Context) error {
	before, err := p.machine.ReadFile(site.Program)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return err
	}
	entry, err := p.machine.Stat(site.Program, "")
	if err == nil && entry.Owned && entry.Mode.Perm() == 0o755 && digest(before) == p.plan.Program {
		p.step(site.Program, Unchanged)
		return nil
	}
	if p.plan.DryRun {
		p.ledger.follow(restartAgent) // in memory alone, to be told
		p.step(site.Program, WouldDo)
		return nil
	}
	self, err := p.Self()
	if err != nil {
		return fmt.Errorf("reading the program that runs: %w", err)
	}
	if digest(self) != p.plan.Program {
		return errors.New("the program that runs is not the one that the operator sent; run bootstrap again")
	}
	p.ledger.follow(restartAgent)
	if err := p.ledger.write(p.machine); err != nil {
		return err
	}
	if err := p.machine.WriteFile(site.Program, self, 0o755, ""); err != nil {
		p.step(site.Program, Failed)
		return err
	}
	p.step(site.Program, madeOrChanged(absent))
	return nil
}

func madeOrChanged(absent bool) string {
	if absent {
		return Created
	}
	return Changed
}

// followers are what has to read a file after it changed.
func followers(path string) []string {
	switch path {
	case site.SSHDFile:
		return []string{reloadSSHD}
	case site.UnitFile:
		return []string{reloadUnits, restartAgent}
	case site.HAProxyUnitFile, site.KeepalivedUnitFile:
		return []string{reloadUnits}
	case site.AgentFile:
		return []string{restartAgent}
	case site.TemporaryFile:
		return []string{makeTemporary}
	}
	return nil // read anew whenever it is needed, or applied by a step of its own
}

// change is a file that is not as it is to be.
type change struct {
	file   site.File
	before []byte
	absent bool
}

func (p *preparer) installFiles(context.Context) error {
	changes, err := p.compareFiles()
	if err != nil {
		return err
	}
	if p.plan.DryRun || len(changes) == 0 {
		return nil
	}
	for _, c := range changes {
		digests := []string{digest(c.file.Content)}
		if p.ledger.wrote(c.file.Path, c.before) {
			digests = append(digests, digest(c.before))
		}
		p.ledger.Files[c.file.Path] = digests
		p.ledger.follow(followers(c.file.Path)...)
	}
	if err := p.ledger.write(p.machine); err != nil {
		return err
	}
	for _, c := range changes {
		if !c.absent && !p.ledger.wrote(c.file.Path, c.before) {
			if err := p.keep(c.file.Path, c.before); err != nil {
				return err
			}
		}
		if err := p.machine.WriteFile(c.file.Path, c.file.Content, c.file.Mode, c.file.Group); err != nil {
			p.step(c.file.Path, Failed)
			return err
		}
		p.step(c.file.Path, madeOrChanged(c.absent), diff(c.before, c.file.Content)...)
	}
	return nil
}

// compareFiles gives those that have to change, and tells of those that do not, or would.
func (p *preparer) compareFiles() ([]change, error) {
	var changes []change
	for _, f := range p.plan.Files {
		before, err := p.machine.ReadFile(f.Path)
		c := change{file: f, before: before, absent: errors.Is(err, fs.ErrNotExist)}
		if err != nil && !c.absent {
			return nil, err
		}
		entry, err := p.machine.Stat(f.Path, f.Group)
		switch {
		case err == nil && entry.Owned && entry.Mode.Perm() == f.Mode && slices.Equal(before, f.Content):
			p.ledger.Files[f.Path] = []string{digest(f.Content)} // also what a person installed by hand, alike
			p.step(f.Path, Unchanged)
		case p.plan.DryRun:
			p.ledger.follow(followers(f.Path)...) // in memory alone, to be told
			p.step(f.Path, WouldDo, diff(before, f.Content)...)
		default:
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func (p *preparer) loadModules(ctx context.Context) error {
	const what = "kernel modules"
	var names []string
	loaded := func() (count int) {
		for _, m := range nftables.Modules() {
			if exists(p.machine, "/sys/module/"+m.Name) {
				count++
			}
		}
		return count
	}
	for _, m := range nftables.Modules() {
		names = append(names, m.Name)
	}
	before := loaded()
	if before == len(names) || p.plan.DryRun {
		outcome := Unchanged
		if before < len(names) {
			outcome = WouldDo
		}
		p.step(what, outcome)
		return nil
	}
	if _, err := p.machine.Run(ctx, append([]string{"modprobe", "--all"}, names...), nil); err != nil {
		// They may be built in, and nft and ss load them by themselves: the agent's first check of the table will tell.
		p.note("kernel modules could not be loaded ahead of need: %v", err)
	}
	outcome := Unchanged
	if loaded() > before {
		outcome = Done
	}
	p.step(what, outcome)
	return nil
}

func (p *preparer) applySysctls(ctx context.Context) error {
	const what = "kernel settings"
	unmet := func() (names []string) {
		for _, s := range nftables.Sysctls() {
			if current, err := p.machine.ReadFile(s.File()); err == nil && !s.Met(string(current)) {
				names = append(names, s.Name)
			}
		}
		return names
	}
	before := unmet()
	switch {
	case len(before) == 0:
		p.step(what, Unchanged)
		return nil
	case p.plan.DryRun:
		p.step(what, WouldDo, "+"+strings.Join(before, " "))
		return nil
	}
	_, err := p.machine.Run(ctx, []string{"sysctl", "--quiet", "--load=" + site.SysctlFile}, nil)
	after := unmet() // says more than an error, which also comes when a module is missing
	if len(after) > 0 {
		p.note("kernel settings that did not take effect: %s; `sysctl --load=%s` says why", strings.Join(after, ", "), site.SysctlFile)
	} else if err != nil {
		p.note("%v", err)
	}
	outcome := Unchanged
	if len(after) < len(before) {
		outcome = Done
	}
	p.step(what, outcome)
	return nil
}

// settle writes into the ledger that all is done.
func (p *preparer) settle(context.Context) error {
	if p.plan.DryRun {
		return nil
	}
	installed := map[string][]string{}
	for _, f := range p.plan.Files {
		installed[f.Path] = []string{digest(f.Content)}
	}
	p.ledger.Files = installed
	return p.ledger.write(p.machine)
}
