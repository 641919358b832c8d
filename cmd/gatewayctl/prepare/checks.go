package prepare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// Names of checks, for --ignore.
const (
	checkPackages  = "packages"
	checkVersions  = "versions"
	checkInterface = "interface"
	checkClock     = "clock"
	checkFirewall  = "firewall"
	checkForeign   = "foreign"
	checkEdited    = "edited"
	checkUser      = "user"
	checkSSHD      = "sshd"
	checkSELinux   = "selinux"
	checkSystem    = "system"
)

// Ignorable are the checks that an operator may overrule with --ignore. What --adopt and --install-packages are for, and what
// nothing could work without, is not among them.
func Ignorable() []string {
	return []string{checkVersions, checkInterface, checkClock, checkFirewall}
}

// Links tells which addresses an interface has; an error: there is no such interface.
type Links func(name string) ([]netip.Addr, error)

// KernelLinks asks the kernel.
func KernelLinks(name string) ([]netip.Addr, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	networks, err := link.Addrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, n := range networks {
		if prefix, err := netip.ParsePrefix(n.String()); err == nil {
			list = append(list, prefix.Addr())
		}
	}
	return list, nil
}

// checkAll gives everything that is in the way, in a fixed order.
func (p *preparer) checkAll(ctx context.Context) []Finding {
	var all []Finding
	add := func(name string, found ...Finding) {
		for _, f := range found {
			f.Check = name
			f.Warning = f.Warning || slices.Contains(p.plan.Ignore, name) && slices.Contains(Ignorable(), name)
			all = append(all, f)
		}
	}
	if p.facts.Family == "" {
		add(checkSystem, Finding{Warning: true, Problem: fmt.Sprintf("%s is neither Debian-like nor RHEL-like", cmp.Or(p.facts.System, "the operating system")),
			Remedy: "packages have to be installed by hand; the rest is tried"})
	}
	missing := p.missingPackages()
	add(checkPackages, p.checkPackages(missing)...)
	add(checkVersions, p.checkVersions(ctx)...)
	add(checkInterface, p.checkInterfaces()...)
	add(checkClock, p.checkClock()...)
	add(checkFirewall, p.checkFirewall(ctx)...)
	add(checkForeign, p.checkForeign(ctx)...)
	add(checkEdited, p.checkEdited()...)
	add(checkUser, p.checkUser()...)
	add(checkSSHD, p.checkSSHD(ctx)...)
	add(checkSELinux, p.checkSELinux()...)
	return all
}

// refusing are the findings that are no warnings.
func refusing(findings []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Warning })
}

func (p *preparer) checkInterfaces() []Finding {
	var found []Finding
	for i, name := range p.plan.Interfaces {
		addresses, err := p.links(name)
		switch {
		case err != nil:
			found = append(found, Finding{Problem: fmt.Sprintf("there is no interface %s: %v", name, err),
				Remedy: "correct the interface in the cloud configuration; `ip address` shows those that there are"})
		case i == 0 && !slices.Contains(addresses, p.plan.Address):
			found = append(found, Finding{Problem: fmt.Sprintf("interface %s has not the address %s, which VRRP adverts are to come from", name, p.plan.Address),
				Remedy: fmt.Sprintf("correct vrrpAddress or interface in the cloud configuration; it has %s", cmp.Or(addressList(addresses), "none"))})
		}
	}
	return found
}

func addressList(list []netip.Addr) string {
	var words []string
	for _, a := range list {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

// Clocks that differ: certificates of the API server and the logs of two gateways are compared by them.
const (
	clockWarning = 2 * time.Second
	clockLimit   = 30 * time.Second
)

func (p *preparer) checkClock() []Finding {
	apart := p.facts.Now.Sub(p.plan.Sent).Abs()
	if p.plan.Sent.IsZero() || apart <= clockWarning {
		return nil
	}
	return []Finding{{Problem: fmt.Sprintf("the clock is %s apart from the operator's", apart.Round(100*time.Millisecond)),
		Remedy: "have both set by NTP (systemd-timesyncd, chrony)", Warning: apart <= clockLimit}}
}

func (p *preparer) checkFirewall(ctx context.Context) []Finding {
	output, err := p.machine.Run(ctx, nftables.RulesetArgv(), nil)
	if err != nil {
		if len(p.missingPackages()) > 0 {
			return nil // nft is one of them
		}
		return []Finding{{Problem: fmt.Sprintf("the firewall cannot be read: %v", err), Remedy: "mend it, or --ignore " + checkFirewall}}
	}
	drops, err := nftables.ForeignDrops(output.Stdout)
	if err != nil {
		return []Finding{{Problem: fmt.Sprintf("the firewall cannot be read: %v", err), Remedy: "mend it, or --ignore " + checkFirewall}}
	}
	var found []Finding
	for _, f := range drops {
		found = append(found, Finding{Problem: f.Problem, Remedy: "in that firewall's own configuration, and now: " + strings.Join(f.Commands, " && ")})
	}
	return found
}

// checkEdited finds files of ours that somebody else wrote or changed.
func (p *preparer) checkEdited() []Finding {
	if p.plan.Adopt {
		return nil
	}
	var found []Finding
	for _, f := range p.plan.Files {
		content, err := p.machine.ReadFile(f.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			found = append(found, Finding{Problem: err.Error()})
		case string(content) != string(f.Content) && !p.ledger.wrote(f.Path, content):
			found = append(found, Finding{Problem: f.Path + " was written or edited by somebody else, and would be overwritten",
				Remedy: "--dry-run --adopt shows the difference; --adopt overwrites it and keeps a copy next to it (" + f.Path + kept + ")"})
		}
	}
	return found
}

// firstPerson is the lowest uid of people on all distributions that we know (UID_MIN in login.defs(5)).
const firstPerson = 1000

// checkUser looks at an account that is there already.
func (p *preparer) checkUser() []Finding {
	account, err := p.account()
	if err != nil {
		return []Finding{{Problem: err.Error()}}
	}
	if account == nil {
		return nil
	}
	uid, shell := account[2], account[6]
	if uid == "0" {
		return []Finding{{Problem: fmt.Sprintf("user %s is root by another name", p.plan.User), Remedy: "give another ssh.user in the cloud configuration"}}
	}
	if n, err := strconv.Atoi(uid); err != nil || n >= firstPerson {
		return []Finding{{Problem: fmt.Sprintf("user %s (uid %s) is somebody's own account, which could do nothing but reach the agent from then on", p.plan.User, uid),
			Remedy: "give another ssh.user in the cloud configuration"}}
	}
	if strings.HasSuffix(shell, "/nologin") || strings.HasSuffix(shell, "/false") {
		return []Finding{{Problem: fmt.Sprintf("user %s has the shell %s, which runs no forced command", p.plan.User, shell),
			Remedy: "usermod --shell /bin/sh " + p.plan.User}}
	}
	return nil
}

// account is the user's line in /etc/passwd (passwd(5)); nil: there is none.
func (p *preparer) account() ([]string, error) {
	passwd, err := text(p.machine, "/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("looking for user %s: %w", p.plan.User, err)
	}
	for line := range strings.Lines(passwd) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) == 7 && fields[0] == p.plan.User {
			return fields, nil
		}
	}
	return nil, nil
}

// checkSSHD looks whether sshd reads our file at all, and whether it likes it.
func (p *preparer) checkSSHD(ctx context.Context) []Finding {
	config, err := text(p.machine, "/etc/ssh/sshd_config")
	if err != nil {
		return []Finding{{Problem: err.Error()}}
	}
	if !includesOurs(config) {
		return []Finding{{Problem: "/etc/ssh/sshd_config does not include /etc/ssh/sshd_config.d/*.conf",
			Remedy: "write `Include /etc/ssh/sshd_config.d/*.conf` as its first line"}}
	}
	for _, f := range p.plan.Files {
		if f.Path != site.SSHDFile {
			continue
		}
		// Ours ends in a Match block, so it fits behind everything.
		candidate := slices.Concat([]byte(config), []byte("\n"), f.Content)
		if _, err := p.machine.Run(ctx, []string{"/usr/sbin/sshd", "-t", "-f", "/dev/stdin"}, candidate); err != nil {
			return []Finding{{Problem: fmt.Sprintf("sshd does not like its configuration with ours: %v", err), Remedy: "see what `sshd -t` says"}}
		}
	}
	return nil
}

// includesOurs reads sshd_config(5) as far as the first Match: an Include below would count for that alone.
func includesOurs(config string) bool {
	for line := range strings.Lines(config) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case strings.EqualFold(fields[0], "Match"):
			return false
		case strings.EqualFold(fields[0], "Include"):
			if slices.ContainsFunc(fields[1:], func(f string) bool { return strings.Trim(f, `"`) == "/etc/ssh/sshd_config.d/*.conf" }) {
				return true
			}
		}
	}
	return false
}

func (p *preparer) checkSELinux() []Finding {
	enforcing, err := text(p.machine, "/sys/fs/selinux/enforce")
	if err != nil || strings.TrimSpace(enforcing) != "1" {
		return nil
	}
	return []Finding{{Warning: true, Problem: "SELinux is enforcing, and its policy keeps HAProxy from most ports",
		Remedy: "setsebool -P haproxy_connect_any=1, and look at `ausearch -m avc` when something is refused"}}
}

// release reads /etc/os-release (os-release(5)).
func release(m Machine) (name string, family site.Family, err error) {
	content, err := text(m, "/etc/os-release")
	if err != nil {
		return "", "", err
	}
	fields := map[string]string{}
	for line := range strings.Lines(content) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[key] = strings.Trim(value, `"'`)
		}
	}
	like := strings.Fields(fields["ID"] + " " + fields["ID_LIKE"])
	switch {
	case slices.Contains(like, "debian"):
		family = site.Debian
	case slices.Contains(like, "rhel"), slices.Contains(like, "fedora"):
		family = site.RedHat
	}
	return fields["PRETTY_NAME"], family, nil
}
