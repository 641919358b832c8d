package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

const (
	sshd          = "/usr/sbin/sshd"
	sshdConfig    = "/etc/ssh/sshd_config"
	sshdDirectory = "/etc/ssh/sshd_config.d"
	sshdIncludes  = sshdDirectory + "/*.conf"
	askSSHD       = "see what `sshd -t` says"
)

// checkSSHD looks whether sshd reads our drop-in at all, whether it likes it, and what it would do for our user then.
func (p *preparer) checkSSHD(ctx context.Context) []Finding {
	i := slices.IndexFunc(p.plan.Files, func(f site.File) bool { return f.Path == site.SSHDFile })
	if i < 0 {
		return nil
	}
	ours := p.plan.Files[i].Content
	config, err := text(p.machine, sshdConfig)
	if err != nil {
		return []Finding{{Problem: err.Error()}}
	}
	head, ok := beforeInclude(config)
	if !ok {
		return []Finding{{Problem: sshdConfig + " does not include " + sshdIncludes,
			Remedy: "write `Include " + sshdIncludes + "` as its first line"}}
	}
	// Ours ends in a Match block, so it fits behind everything.
	whole := slices.Concat([]byte(config), []byte("\n"), ours)
	if _, err := p.machine.Run(ctx, []string{sshd, "-t", "-f", "/dev/stdin"}, whole); err != nil {
		if _, err := p.machine.Run(ctx, []string{sshd, "-t", "-f", "/dev/stdin"}, []byte(config)); err != nil {
			return []Finding{{Problem: fmt.Sprintf("sshd refuses its own configuration, in which nothing is ours: %v", err), Remedy: "correct it: sshd would not start at the next boot"}}
		}
		return []Finding{{Problem: fmt.Sprintf("sshd does not like its configuration with ours: %v", err), Remedy: askSSHD}}
	}
	// The first value of a setting counts: those of ours are judged behind what sshd reads before it, all others in the whole.
	before, err := p.dropInsBefore(ctx)
	if err != nil {
		return []Finding{{Problem: err.Error()}}
	}
	var problems []string
	if first, err := p.effective(ctx, slices.Concat([]byte(head), before, ours)); err == nil { // else it has no host keys there, say
		problems = first.overruled(ours)
	}
	all, err := p.effective(ctx, whole)
	if err != nil {
		return []Finding{{Problem: err.Error(), Remedy: askSSHD}}
	}
	return sshdFindings(append(problems, all.shutOut(p)...), p.plan.User)
}

func sshdFindings(problems []string, user string) []Finding {
	var found []Finding
	for _, problem := range problems {
		found = append(found, Finding{Problem: problem, Remedy: fmt.Sprintf("correct /etc/ssh/sshd_config or its drop-ins; `sshd -T -C user=%s` shows what counts", user)})
	}
	return found
}

// dropInsBefore are Include lines for the files that sshd reads before ours, in the order of glob(7).
func (p *preparer) dropInsBefore(ctx context.Context) ([]byte, error) {
	output, err := p.machine.Run(ctx, []string{"find", sshdDirectory, "-maxdepth", "1", "-name", "*.conf"}, nil)
	if err != nil && exists(p.machine, sshdDirectory) {
		return nil, fmt.Errorf("looking for sshd's drop-ins: %w", err)
	}
	var includes []byte
	for _, file := range slices.Sorted(strings.SplitSeq(strings.TrimSpace(string(output.Stdout)), "\n")) {
		if file != "" && file < site.SSHDFile {
			includes = fmt.Appendf(includes, "Include %q\n", file)
		}
	}
	return includes, nil
}

// settings are what sshd would do for our user: lines of `sshd -T`, keywords in lower case.
type settings []string

// effective asks sshd itself, for a peer's login at the address that it comes to; nil config: the one that sshd reads.
func (p *preparer) effective(ctx context.Context, config []byte) (settings, error) {
	argv := []string{sshd, "-T"}
	if config != nil {
		argv = append(argv, "-f", "/dev/stdin")
	}
	at, from := p.plan.Listen, p.plan.From
	if !at.IsValid() {
		at = netip.AddrPortFrom(p.plan.Address, 22)
	}
	if !from.IsValid() {
		from = at.Addr()
	}
	argv = append(argv, "-C", fmt.Sprintf("user=%s,host=%s,addr=%s,laddr=%s,lport=%d", p.plan.User, from, from, at.Addr(), at.Port()))
	output, err := p.machine.Run(ctx, argv, config)
	if err != nil {
		return nil, fmt.Errorf("asking sshd what it would do for user %s: %w", p.plan.User, err)
	}
	return strings.Split(string(output.Stdout), "\n"), nil
}

// of are all values of a keyword.
func (s settings) of(keyword string) (values []string) {
	for _, line := range s {
		if value, ok := strings.CutPrefix(line, keyword+" "); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// overruled names the settings of our drop-in that would not hold: somebody else's come first.
func (s settings) overruled(dropIn []byte) (problems []string) {
	for line := range bytes.Lines(dropIn) {
		words := strings.Fields(string(line))
		if len(words) < 2 || strings.HasPrefix(words[0], "#") || strings.EqualFold(words[0], "Match") {
			continue
		}
		keyword, want := strings.ToLower(words[0]), strings.Join(words[1:], " ")
		if got := s.of(keyword); len(got) > 0 && !slices.Equal(got, []string{want}) {
			problems = append(problems, fmt.Sprintf("sshd would take %s %s for the user of controllers and gateways, from a setting before %s, which says %s",
				words[0], strings.Join(got, " "), site.SSHDFile, want))
		}
	}
	return problems
}

// shutOut names what would keep controllers and gateways out, or let them do something else.
func (s settings) shutOut(p *preparer) (problems []string) {
	user := p.plan.User
	if command := s.of("forcecommand"); len(command) > 0 && command[0] != "none" {
		problems = append(problems, fmt.Sprintf("sshd would run ForceCommand %s for user %s instead of the agent's pipe", command[0], user))
	}
	groups := []string{user} // those that it will have
	if account, err := p.account(); err == nil && account != nil {
		groups = p.groupsOf(account)
	}
	names := []string{user}
	for _, list := range []struct {
		keyword string
		names   []string
		refuses bool
	}{{"denyusers", names, true}, {"allowusers", names, false}, {"denygroups", groups, true}, {"allowgroups", groups, false}} {
		patterns := strings.Fields(strings.Join(s.of(list.keyword), " "))
		if len(patterns) > 0 && named(list.names, patterns, list.refuses) == list.refuses {
			problems = append(problems, fmt.Sprintf("sshd would not let user %s in: %s is %s", user, list.keyword, strings.Join(patterns, " ")))
		}
	}
	if kinds := s.of("pubkeyacceptedalgorithms"); len(kinds) > 0 {
		accepted := strings.Split(kinds[0], ",")
		for _, kind := range p.keyKinds() {
			if !slices.ContainsFunc(signedBy(kind), func(a string) bool { return slices.Contains(accepted, a) }) {
				problems = append(problems, fmt.Sprintf("sshd takes no keys of type %s (PubkeyAcceptedAlgorithms), which controllers or gateways have", kind))
			}
		}
	}
	return problems
}

// keyKinds are the types of the keys that have to be let in: the controllers', and ed25519, which gateways make.
func (p *preparer) keyKinds() []string {
	kinds := []string{ssh.KeyAlgoED25519}
	for _, f := range p.plan.Files {
		if f.Path != site.AuthorizedKeysFile {
			continue
		}
		for line := range bytes.Lines(f.Content) {
			if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil && !slices.Contains(kinds, key.Type()) {
				kinds = append(kinds, key.Type())
			}
		}
	}
	return kinds
}

// signedBy are the signature algorithms of a type of key.
func signedBy(kind string) []string {
	if kind == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256} // RFC 8332
	}
	return []string{kind}
}

// named says whether one of the names is in a list of patterns (PATTERNS in ssh_config(5)). One with a host (USER@HOST) may be meant
// for the controller's: it allows and does not refuse.
func named(names, patterns []string, refuses bool) bool {
	matches := func(pattern string) bool {
		pattern, _, atHost := strings.Cut(pattern, "@")
		if atHost && refuses {
			return false
		}
		return slices.ContainsFunc(names, func(name string) bool {
			ok, err := path.Match(pattern, name)
			return ok && err == nil
		})
	}
	excepted := slices.ContainsFunc(patterns, func(p string) bool { return strings.HasPrefix(p, "!") && matches(p[1:]) })
	return !excepted && slices.ContainsFunc(patterns, matches)
}

// beforeInclude reads sshd_config(5) as far as its Include of ours, and gives what comes before; false: there is none. Below a Match
// it would count for that alone.
func beforeInclude(config string) (head string, ok bool) {
	read := 0
	for line := range strings.Lines(config) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case strings.EqualFold(fields[0], "Match"):
			return "", false
		case strings.EqualFold(fields[0], "Include"):
			if slices.ContainsFunc(fields[1:], func(f string) bool { return strings.Trim(f, `"`) == sshdIncludes }) {
				return config[:read], true
			}
		}
		read += len(line)
	}
	return "", false
}

// trySSHD has sshd judge the files that it will read, before it does: one that cannot read them is gone after the next boot, and on
// some distributions at once. Then our drop-in says nothing, and what it said stands next to it.
func (p *preparer) trySSHD(ctx context.Context) error {
	if p.plan.DryRun || !p.ledger.pends(reloadSSHD) {
		return nil
	}
	_, refused := p.machine.Run(ctx, []string{sshd, "-t"}, nil)
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

// checkEffect asks sshd what it does now that our drop-in is there: another one may have come meanwhile.
func (p *preparer) checkEffect(ctx context.Context) error {
	if p.plan.DryRun {
		return nil
	}
	ours, err := p.machine.ReadFile(site.SSHDFile)
	if err != nil {
		return err
	}
	now, err := p.effective(ctx, nil)
	if err != nil {
		return err
	}
	if problems := append(now.overruled(ours), now.shutOut(p)...); len(problems) > 0 {
		return fmt.Errorf("%s; see `sshd -T -C user=%s`", strings.Join(problems, "; "), p.plan.User)
	}
	return nil
}
