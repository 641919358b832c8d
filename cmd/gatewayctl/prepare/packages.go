package prepare

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// program is one that a gateway needs.
type program struct {
	name     string
	packages map[site.Family]string
	// version asks for it, least is the oldest that works; empty: any.
	version []string
	least   string
}

// programs are those that the agent and this program run. sshd is not among them: we came through it.
func programs() []program {
	same := func(name string) map[site.Family]string {
		return map[site.Family]string{site.Debian: name, site.RedHat: name}
	}
	return []program{
		{name: "haproxy", packages: same("haproxy"), version: []string{"haproxy", "-v"}, least: "2.6"},
		{name: "keepalived", packages: same("keepalived"), version: []string{"keepalived", "-v"}, least: "2.2"},
		{name: "nft", packages: same("nftables"), version: []string{"nft", "--version"}, least: "1.0"},
		{name: "ip", packages: map[site.Family]string{site.Debian: "iproute2", site.RedHat: "iproute"}},
		{name: "ss", packages: map[site.Family]string{site.Debian: "iproute2", site.RedHat: "iproute"}},
		{name: "conntrack", packages: map[site.Family]string{site.Debian: "conntrack", site.RedHat: "conntrack-tools"}},
		{name: "sysctl", packages: map[site.Family]string{site.Debian: "procps", site.RedHat: "procps-ng"}},
	}
}

// Packages are all that a gateway needs, besides the sshd that it has.
func Packages(family site.Family) []string {
	var names []string
	for _, program := range programs() {
		names = append(names, program.packages[family])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// installed says whether a program is where distributions put it.
func (p *preparer) installed(name string) bool {
	return slices.ContainsFunc([]string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}, func(directory string) bool {
		return exists(p.machine, directory+name)
	})
}

// missingPackages are those whose programs are missing.
func (p *preparer) missingPackages() []string {
	var names []string
	for _, program := range programs() {
		if !p.installed(program.name) {
			name := program.packages[p.facts.Family]
			if name == "" {
				name = program.packages[site.Debian]
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// installArgv are the commands that install packages.
func installArgv(family site.Family, packages []string) [][]string {
	switch family {
	case site.Debian:
		apt := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--option=DPkg::Lock::Timeout=120"}
		return [][]string{
			slices.Concat(apt, []string{"update"}),
			slices.Concat(apt, []string{"install", "--yes", "--no-install-recommends"}, packages),
		}
	case site.RedHat:
		return [][]string{slices.Concat([]string{"dnf", "install", "--assumeyes"}, packages)}
	}
	return nil
}

func (p *preparer) checkPackages(missing []string) []Finding {
	if len(missing) == 0 {
		return nil
	}
	f := Finding{Problem: "missing are the packages " + strings.Join(missing, ", ")}
	commands := installArgv(p.facts.Family, missing)
	switch {
	case commands == nil:
		f.Remedy = "install them by hand"
	case p.plan.InstallPackages && (p.plan.Action == Check || p.plan.DryRun):
		f.Warning, f.Remedy = true, "--install-packages will install them"
	default:
		f.Remedy = "give --install-packages, or run: " + strings.Join(commands[len(commands)-1], " ")
	}
	return []Finding{f}
}

var versionNumber = regexp.MustCompile(`\d+\.\d+`)

func (p *preparer) checkVersions(ctx context.Context) []Finding {
	var found []Finding
	for _, program := range programs() {
		if program.least == "" || !p.installed(program.name) {
			continue
		}
		output, err := p.machine.Run(ctx, program.version, nil)
		if err != nil {
			found = append(found, Finding{Problem: fmt.Sprintf("%s does not tell its version: %v", program.name, err)})
			continue
		}
		// keepalived tells it on stderr.
		version := string(versionNumber.Find(append(output.Stdout, output.Stderr...)))
		if older(version, program.least) {
			found = append(found, Finding{Problem: fmt.Sprintf("%s is of version %s, and %s or newer is needed", program.name, version, program.least),
				Remedy: "Debian 12, Ubuntu 24.04, RHEL 10 and newer ones have it"})
		}
	}
	return found
}

// older compares two versions of the form major.minor; one that cannot be read is older.
func older(version, least string) bool {
	is, wanted := numbers(version), numbers(least)
	return is == nil || slices.Compare(is, wanted) < 0
}

func numbers(version string) []int {
	var list []int
	for _, word := range strings.Split(version, ".") {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil
		}
		list = append(list, n)
	}
	return list
}
