package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// The files and programs of a Debian gateway, as the agent's defaults name them.
const (
	stateFile      = "/var/lib/gatewayctl/state.json"
	slotsFile      = "/var/lib/gatewayctl/slots.json"
	frontFile      = "/var/lib/gatewayctl/front.nft"
	haproxyFile    = "/etc/haproxy/haproxy.cfg"
	servicesMap    = "/etc/haproxy/services.map"
	checksMap      = "/etc/haproxy/checks.map"
	keepalivedFile = "/etc/keepalived/keepalived.conf"
	aliveFile      = "/run/gatewayctl/track/alive"
	readyFile      = "/run/gatewayctl/track/ready"
	haproxyPID     = "/run/haproxy.pid"
	keepalivedPID  = "/run/keepalived.pid"
)

// Version is that of all daemons.
const Version = "2.6.12"

// How long programs take: what was measured, rounded.
const (
	loadTime = 60 * time.Millisecond // a new worker of HAProxy
	vrrpTime = 20 * time.Millisecond // keepalived's reload
	nftTime  = 5 * time.Millisecond
)

// Run implements agent.Host. It knows the programs that the agent runs, and no other.
func (p *Process) Run(ctx context.Context, argv []string, stdin []byte) (output agent.Output, err error) {
	if err := ctx.Err(); err != nil {
		return output, err
	}
	command := strings.Join(argv, " ")
	run, takes, changes := p.m.program(command, argv, stdin, &output)
	if takes > 0 {
		p.m.mu.Lock()
		takes += p.m.lag
		p.m.mu.Unlock()
		select {
		case <-time.After(takes):
		case <-ctx.Done(): // the program was killed before it did anything
			return output, &agent.CommandError{Argv: argv, Code: -1, Err: ctx.Err()}
		}
	}
	err = p.do(changes, run)
	return output, err
}

// program says what a command does, how long that takes and whether it changes anything. What it does is called with mu held.
func (m *Machine) program(command string, argv []string, stdin []byte, output *agent.Output) (run func() error, takes time.Duration, changes bool) {
	prints := func(text func() []byte) func() error {
		return func() error { output.Stdout = text(); return nil }
	}
	switch command {
	case "/usr/bin/systemctl start haproxy":
		return func() error { return m.loadHAProxy(true) }, loadTime, true
	case "/usr/bin/systemctl reload haproxy":
		return func() error { return m.loadHAProxy(false) }, loadTime, true
	case "/usr/bin/systemctl stop haproxy":
		return func() error { m.stopHAProxy(); return nil }, vrrpTime, true
	case "/usr/bin/systemctl start keepalived":
		return func() error { return m.loadKeepalived(true) }, vrrpTime, true
	case "/usr/bin/systemctl reload keepalived":
		return func() error { return m.loadKeepalived(false) }, vrrpTime, true
	case "/usr/bin/systemctl stop keepalived":
		return func() error { m.stopKeepalived(); return nil }, vrrpTime, true
	case "nft --file -":
		if !strings.Contains(string(stdin), ours) { // the second hop is not modelled; the agent holds a lock meanwhile, for which no bubble waits
			return func() error { return nil }, 0, true
		}
		return func() error { m.setTable(m.texts.table(string(stdin))); return nil }, nftTime, true
	case "nft --json list table inet cloud_provider_haproxy":
		return func() error { return m.listTable(argv, output) }, 0, false
	case "nft --check --file -":
		return func() error { return checkTable(argv, stdin, output) }, 0, false
	case "xargs --null unshare --net -- nft --json --echo":
		return prints(func() []byte { return m.texts.table(string(stdin)).listing }), 0, false
	case "nft --json --terse list ruleset":
		return prints(func() []byte { return []byte(`{"nftables": []}`) }), 0, false
	case "ip -json address show":
		return prints(m.listAddresses), 0, false
	case "ip -json -4 route show table main", "ip -json -6 route show table main":
		return prints(func() []byte { return []byte(`[]`) }), 0, false
	case "/usr/sbin/haproxy -v", "/usr/sbin/keepalived -v", "nft --version":
		return prints(func() []byte { return []byte("version " + Version) }), 0, false
	case "/usr/sbin/haproxy -c -f " + haproxyFile + ".staged":
		return func() error { return m.checkHAProxy(argv, output) }, 0, false
	case "/usr/sbin/keepalived --config-test --use-file " + keepalivedFile + ".staged":
		return func() error { return m.checkKeepalived(argv, output) }, 0, false
	case "ss --no-header --tcp --numeric --extended state established state close-wait":
		return prints(m.listSessions), 0, false
	}
	if run, changes, known := m.network(command, argv, output); known {
		return run, 0, changes
	}
	return func() error { return fmt.Errorf("this machine has no program for %q", command) }, 0, false
}

// network are the programs whose arguments differ.
func (m *Machine) network(command string, argv []string, output *agent.Output) (run func() error, changes, known bool) {
	nothing := func() error { return nil }
	starts := func(prefix string) bool { return strings.HasPrefix(command, prefix) }
	switch {
	case starts("ss --no-header --listening --tcp --numeric --processes sport = :"):
		return nothing, false, true // no other program listens, and HAProxy's does not count
	case len(argv) > 2 && argv[0] == "ss" && argv[2] == "--kill":
		return func() error { m.killSessions(argv, output); return nil }, true, true
	case starts("conntrack -L "):
		return nothing, false, true // conntrack is not modelled
	case starts("sysctl --quiet --write ") && slices.Contains(argv, forwardSetting):
		return func() error { m.memory[forwardFile] = []byte("1\n"); return nil }, true, true
	case starts("ip -4 route replace ") || starts("ip -6 route replace ") || starts("ip -4 rule add ") || starts("ip -6 rule add "):
		return nothing, true, true // the second hop is not modelled
	case starts("ip -4 route delete ") || starts("ip -6 route delete ") || starts("ip -4 rule delete ") || starts("ip -6 rule delete "):
		return func() error { return fails(argv, output, "RTNETLINK answers: No such file or directory\n") }, false, true
	}
	return nil, false, false
}

// fails is a program that exits with 1 after it has said something.
func fails(argv []string, output *agent.Output, said string) error {
	output.Stderr = []byte(said)
	return &agent.CommandError{Argv: argv, Code: 1, Output: *output, Err: errors.New("exit status 1")}
}

// listAddresses is what ip(8) prints: the machine's own address and those that keepalived has put there.
func (m *Machine) listAddresses() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `[{"ifindex":2,"ifname":"eth0","flags":["UP","LOWER_UP"],"link_type":"ether","address":"02:00:00:00:00:%02x","addr_info":[{"local":"%s","prefixlen":24}`,
		m.address.As4()[3], m.address)
	for _, a := range m.held() {
		fmt.Fprintf(&b, `,{"local":"%s","prefixlen":%d}`, a, a.BitLen())
	}
	b.WriteString("]}]")
	return []byte(b.String())
}

func (m *Machine) held() []netip.Addr {
	held := make([]netip.Addr, 0, len(m.addresses))
	for a := range m.addresses {
		held = append(held, a)
	}
	slices.SortFunc(held, netip.Addr.Compare)
	return held
}
