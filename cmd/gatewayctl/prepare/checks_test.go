package prepare

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// What is in the way is told at once, and nothing is touched.
func TestEverythingInTheWayIsTold(t *testing.T) {
	m := newMachine(t)
	m.remove("/usr/sbin/sysctl")
	m.versions["haproxy"] = "HAProxy version 2.4.24"
	m.versions["keepalived"] = "no idea"
	m.put("/etc/haproxy/haproxy.cfg", "frontend site\n")
	m.put("/etc/keepalived/keepalived.conf", "vrrp_instance site {}\n")
	m.put(site.LimitsFile, "# my own\n")
	m.put("/etc/passwd", "gatewayctl:x:5:5::/:/usr/sbin/nologin\n")
	m.put("/etc/group", "gatewayctl:x:5:\n")
	m.put("/etc/ssh/sshd_config", "Match User x\nInclude /etc/ssh/sshd_config.d/*.conf\n")
	m.put("/sys/fs/selinux/enforce", "1")
	m.ruleset = `{"nftables": [{"chain": {"family": "inet", "table": "site", "name": "input", "hook": "input", "policy": "drop", "type": "filter", "prio": 0}}]}`
	before := m.tree()
	for _, action := range []Action{Check, Install} {
		r := m.do(plan(t, action, func(p *Plan) {
			p.Interfaces = []string{"eth0", "eth7"}
			p.Address = p.Address.Next()
			p.Sent = noon.Add(-time.Hour)
		}))
		var told []string
		for _, f := range r.Findings {
			told = append(told, fmt.Sprintf("%s %t", f.Check, f.Warning))
		}
		want := []string{"packages false", "versions false", "versions false", "interface false", "interface false", "clock false", "firewall false",
			"foreign false", "foreign false", "edited false", "user false", "sshd false", "selinux true"}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("%s tells (-want +got):\n%s", action, diff)
		}
		if (r.Error != "") != (action == Install) {
			t.Errorf("%s: error %q", action, r.Error)
		}
	}
	if r := m.do(plan(t, Install, func(p *Plan) { p.DryRun = true })); r.Error != "" || len(r.Steps) < 10 || len(refusing(r.Findings)) == 0 {
		t.Errorf("a dry run tells %+v", r)
	}
	if diff := cmp.Diff(before, m.tree()); diff != "" || len(m.ran) > 0 {
		t.Errorf("something was changed, by %q (-before +after):\n%s", m.ran, diff)
	}
}

// What may be ignored is then a warning; what may not stays.
func TestIgnore(t *testing.T) {
	m := newMachine(t)
	m.versions["haproxy"] = "HAProxy version 2.4.24"
	m.put("/etc/haproxy/haproxy.cfg", "frontend site\n")
	r := m.do(plan(t, Check, func(p *Plan) { p.Ignore = []string{checkVersions, checkForeign} }))
	if got := refusing(r.Findings); len(got) != 1 || got[0].Check != checkForeign {
		t.Errorf("in the way is %+v, want the foreign configuration alone", got)
	}
}

// A configuration of HAProxy that is the package's, the agent's or absent is nobody's.
func TestForeign(t *testing.T) {
	for content, want := range map[string]int{shippedHAProxy: 0, shippedHAProxy + "# mine\n": 1, "# Written by gatewayctl and replaced\n": 0} {
		m := newMachine(t)
		m.put("/etc/haproxy/haproxy.cfg", content)
		if got := m.do(plan(t, Check, nil)).Findings; len(got) != want {
			t.Errorf("%q: %+v", content, got)
		}
	}
	m := newMachine(t)
	m.fails["dpkg-query"] = errors.New("the database is locked")
	if got := m.do(plan(t, Check, nil)).Findings; len(got) != 1 || got[0].Check != checkForeign {
		t.Errorf("nobody knows whose it is: %+v", got)
	}
	if got := m.do(plan(t, Check, func(p *Plan) { p.Adopt = true })).Findings; len(got) != 0 {
		t.Errorf("with --adopt: %+v", got)
	}
	// What --adopt does not cure is told with it, too.
	m = newMachine(t)
	m.put("/etc/os-release", "ID=rocky\nID_LIKE=\"rhel fedora\"\n")
	m.put("/etc/haproxy/conf.d/site.cfg", "listen site\n")
	m.dropIns = []string{"/etc/haproxy/conf.d/site.cfg"}
	if got := m.do(plan(t, Check, func(p *Plan) { p.Adopt = true })).Findings; len(got) != 1 || !strings.Contains(got[0].Problem, "HAProxy also reads /etc/haproxy/conf.d/site.cfg") {
		t.Errorf("with --adopt and conf.d: %+v", got)
	}
}

// A firewall that cannot be looked at yet, or that matters to some Services alone, is told and stops nothing.
func TestFirewallWarnings(t *testing.T) {
	m := newMachine(t)
	m.remove("/usr/sbin/nft")
	found := m.do(plan(t, Check, func(p *Plan) { p.InstallPackages = true })).Findings
	if len(refusing(found)) > 0 || !slices.ContainsFunc(found, func(f Finding) bool { return f.Check == checkFirewall && strings.Contains(f.Problem, "without nft") }) {
		t.Errorf("without nft: %+v", found)
	}
	m = newMachine(t)
	m.ruleset = `{"nftables": [{"chain": {"family": "inet", "table": "site", "name": "forward", "hook": "forward", "policy": "drop", "type": "filter", "prio": 0}}]}`
	found = m.do(plan(t, Check, nil)).Findings
	if len(found) != 1 || !found[0].Warning || !strings.Contains(found[0].Problem, "chain forward") {
		t.Errorf("a forward chain: %+v", found)
	}
}

// An account of a person, who would be locked out, is not made the gateways' user.
func TestPersonsAccount(t *testing.T) {
	m := newMachine(t)
	m.put("/etc/passwd", m.read("/etc/passwd")+"gatewayctl:x:1000:1000::/home/gatewayctl:/bin/bash\n")
	r := m.do(plan(t, Install, nil))
	if r.Error == "" || !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Check == "user" && strings.Contains(f.Problem, "somebody's own account")
	}) {
		t.Errorf("got %q, %+v", r.Error, r.Findings)
	}
}

// An account without the group that may read its keys is told before anything is changed.
func TestAccountWithoutItsGroup(t *testing.T) {
	for groups, want := range map[string]int{"daemon:x:5:\n": 1, "gatewayctl:x:900:\n": 1, "gatewayctl:x:5:\n": 0, "gatewayctl:x:900:other,gatewayctl\n": 0} {
		m := newMachine(t)
		m.put("/etc/passwd", m.read("/etc/passwd")+"gatewayctl:x:5:5::/:/bin/sh\n")
		m.put("/etc/group", groups)
		if got := m.do(plan(t, Check, nil)).Findings; len(got) != want || want == 1 && !strings.Contains(got[0].Problem, "not in a group gatewayctl") {
			t.Errorf("%q: %+v", groups, got)
		}
	}
}
