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
	checkLimits    = "limits"
)

// Ignorable are the checks that an operator may overrule with --ignore. What --adopt and --install-packages are for, and what
// nothing could work without, is not among them.
func Ignorable() []string {
	return []string{checkVersions, checkInterface, checkClock, checkFirewall, checkLimits}
}

// Links tells which addresses an interface has; an error: there is no such interface.
type Links func(name string) ([]netip.Addr, error)

// KernelLinks asks the kernel.
func KernelLinks(name string) ([]netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(links, func(l net.Interface) bool { return l.Name == name })
	if i < 0 {
		var names []string
		for _, l := range links {
			names = append(names, l.Name)
		}
		return nil, fmt.Errorf("this machine has %s", strings.Join(names, ", "))
	}
	link := links[i]
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
	add(checkLimits, p.checkLimits()...)
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
				Remedy: "correct the interface in the cloud configuration"})
		case i == 0 && !slices.Contains(addresses, p.plan.Address):
			found = append(found, Finding{Problem: fmt.Sprintf("interface %s does not have the address %s, which VRRP adverts are to come from", name, p.plan.Address),
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
	if !p.installed("nft") {
		return []Finding{{Warning: true, Problem: "a firewall that would drop the clients cannot be looked for without nft",
			Remedy: "install nftables and run this again, or it is looked for when nft has been installed"}}
	}
	output, err := p.machine.Run(ctx, nftables.RulesetArgv(), nil)
	if err != nil {
		return unreadFirewall(err)
	}
	drops, err := nftables.ForeignDrops(output.Stdout)
	if err != nil {
		return unreadFirewall(err)
	}
	forwardDrops, err := nftables.ForeignForwardDrops(output.Stdout)
	if err != nil {
		return unreadFirewall(err)
	}
	remedy := func(f nftables.Finding) string {
		return "in that firewall's own configuration, and now: " + strings.Join(f.Commands, " && ")
	}
	var found []Finding
	for _, f := range drops {
		found = append(found, Finding{Problem: f.Problem, Remedy: remedy(f)})
	}
	for _, f := range forwardDrops { // a site without Services of UDP and SCTP does not need it
		found = append(found, Finding{Problem: f.Problem, Remedy: remedy(f), Warning: true})
	}
	return found
}

func unreadFirewall(err error) []Finding {
	return []Finding{{Problem: fmt.Sprintf("the firewall cannot be read: %v", err), Remedy: "mend it, or --ignore " + checkFirewall}}
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
			_, next := p.copies(f.Path)
			found = append(found, Finding{Problem: f.Path + " was written or edited by somebody else, and would be overwritten",
				Remedy: "--dry-run --adopt shows the difference; --adopt overwrites it and keeps a copy next to it (" + next + ")"})
		}
	}
	return found
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
