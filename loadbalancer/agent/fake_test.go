package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// machine is a gateway in memory: files, an HAProxy and a keepalived that load them, a kernel with our table. It is what
// survives when an agent is killed.
type machine struct {
	mu         *sync.Mutex // held by each operation; a test that changes a machine in use holds it too
	files      map[string]string
	haproxy    *fakeHAProxy    // nil: does not run
	keepalived *fakeKeepalived // nil: does not run
	// masters are the router IDs for which keepalived is MASTER as long as it runs.
	masters map[int]bool
	script  string   // that made our table; "" is the absent table
	hop     string   // the newest script of the second hop's tables
	routes  []string // programs run for it
	sourced []string // programs run for clients' addresses
	ruleset string   // what nft tells of everybody's tables; "" is none
	// addressless is true while the machine lacks its own address, as before its network is up.
	addressless bool
	// loads is what HAProxy loads instead of its file; "" is the file.
	loads string
	// strays are addresses that somebody else has put on another interface.
	strays []string
	// added are VIPs that somebody else has put where they belong.
	added []string
	// listening is what ss tells of listeners.
	listening string
	// haproxies is what pidof tells.
	haproxies string
	// connections are what clients of VIPs have open: "192.0.2.10:80 198.51.100.7:40000". Of an immortal machine none can be ended.
	connections []string
	immortal    bool
	// departed are servers, as backend/name, that were taken out of HAProxy and still have connections.
	departed map[string]haproxy.RunningServer
	// tracked are the lines of conntrack(8): "udp 17 29 src=... dst=...".
	tracked []string
	// walked counts deletions of flows.
	walked int
	// lingers says whether the worker before the one with this pid answers instead of it.
	lingers func(pid int) bool
	// forks lets /proc tell of HAProxy's workers.
	forks bool
	// spelling is how this nft spells what it prints.
	spelling string
	pids     int

	// operations counts every call; strike decides what happens to one.
	operations int
	programs   int // of these
	strike     func(n int, operation string) strike
	// verdict is what a check says, nil for yes.
	verdict func(command string) error
	// hangs says whether a program does not end; nil for no.
	hangs func(command string) bool
	// lostReloads is how many reloads of HAProxy are not noticed.
	lostReloads int
	log         []string
	// unlocked fails the test when whoever does this holds the lock of the machine's newest agent.
	unlocked func(doing string)
}

// strike is what happens to an operation instead of, or beside, its effect.
type strike int

const (
	passes      strike = iota
	failsBefore        // no effect, an error
	failsAfter         // the effect, and an error
	diesBefore         // the agent dies, no effect
	diesAfter          // the effect, and the agent dies
)

var errStruck = errors.New("struck by the test")

// struckDead is what a killed agent's goroutine panics with.
type struckDead struct{}

const foreignConfig = "global\n  log /dev/log local0\n"

func newMachine() *machine {
	return &machine{
		mu:      &sync.Mutex{},
		pids:    100,
		masters: map[int]bool{51: true},
		files: map[string]string{
			"/etc/haproxy/haproxy.cfg":     foreignConfig, // Debian's, running
			"/etc/gatewayctl/limits.yaml":  openLimits,
			"/run/gatewayctl/track/ready":  "0\n",
			"/run/gatewayctl/track/alive":  "0\n",
			"/run/haproxy.pid":             "100\n",
			"/run/haproxy/admin.sock":      "",
			"/proc/100/stat":               stat(100, "haproxy"),
			"/var/lib/haproxy/unconcerned": "",
		},
		haproxy: &fakeHAProxy{pid: 100},
		strike:  func(int, string) strike { return passes },
	}
}

func stat(pid int, name string) string {
	return fmt.Sprintf("%d (%s) S 1%s %d0 0", pid, name, strings.Repeat(" 0", 17), pid)
}

// clone is the same machine at the same moment, for another course of events.
func (m *machine) clone() *machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := *m
	c.mu = &sync.Mutex{}
	c.files, c.masters = maps.Clone(m.files), maps.Clone(m.masters)
	if m.haproxy != nil {
		h := *m.haproxy
		h.config.backends, h.maps = cloneDeep(h.config.backends), cloneDeep(h.maps)
		c.haproxy = &h
	}
	if m.keepalived != nil {
		k := *m.keepalived
		k.addresses = maps.Clone(k.addresses)
		c.keepalived = &k
	}
	c.operations, c.log = 0, nil
	c.strike = func(int, string) strike { return passes }
	return &c
}

func cloneDeep[V any](m map[string]map[string]V) map[string]map[string]V {
	c := make(map[string]map[string]V, len(m))
	for k, v := range m {
		c[k] = maps.Clone(v)
	}
	return c
}

// meanwhile changes a machine that an agent is working on.
func (m *machine) meanwhile(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *machine) file(path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files[path]
}

// did tells whether an operation was done since the log was emptied.
func (m *machine) did(operation string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.log, operation)
}

// do is one operation: every call of the agent goes through here.
func (m *machine) do(operation string, effect func() error) error {
	m.mu.Lock()
	m.operations++
	if strings.HasPrefix(operation, "run ") {
		m.programs++
	}
	m.log = append(m.log, operation)
	n, judge, unlocked := m.operations, m.strike, m.unlocked
	m.mu.Unlock()
	if unlocked != nil {
		unlocked(operation)
	}
	s := judge(n, operation) // may wait
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s {
	case failsBefore:
		return errStruck
	case diesBefore:
		panic(struckDead{})
	}
	err := effect()
	switch {
	case s == diesAfter:
		panic(struckDead{})
	case s == failsAfter && err == nil:
		return errStruck
	}
	return err
}

func (m *machine) ReadFile(path string) (content []byte, err error) {
	err = m.do("read "+path, func() error {
		text, ok := m.files[path]
		if !ok {
			return fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
		}
		content = []byte(text)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return content, nil
}

func (m *machine) WriteFile(path string, content []byte, _ fs.FileMode) error {
	return m.do("write "+path, func() error { m.files[path] = string(content); return nil })
}

func (m *machine) Rename(from, to string) error {
	return m.do("rename "+from, func() error {
		text, ok := m.files[from]
		if !ok {
			return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
		}
		delete(m.files, from)
		m.files[to] = text
		return nil
	})
}

func (m *machine) Remove(path string) error {
	return m.do("remove "+path, func() error { delete(m.files, path); return nil })
}

// Run knows the programs of testConfig and of the three rooms.
func (m *machine) Run(ctx context.Context, argv []string, stdin []byte) (output Output, err error) {
	if err := ctx.Err(); err != nil {
		return output, err
	}
	command := strings.Join(argv, " ")
	hangs := false
	m.meanwhile(func() { hangs = m.hangs != nil && m.hangs(command) })
	if hangs {
		<-ctx.Done()
		return output, &CommandError{Argv: argv, Code: -1, Err: ctx.Err()}
	}
	if m.verdict != nil {
		if err := m.verdict(command); err != nil {
			var refused *CommandError
			errors.As(err, &refused)
			return refused.Output, err
		}
	}
	err = m.do("run "+command, func() error {
		switch command {
		case "/haproxy start", "/haproxy reload":
			return m.loadHAProxy(command == "/haproxy start")
		case "/haproxy stop", "/haproxy kill", "kill -KILL 101 102 103":
			m.stop("/run/haproxy.pid", m.haproxy.pid)
			m.haproxy = nil
		case "kill -KILL 103":
			delete(m.files, "/proc/103/stat")
		case "/keepalived start", "/keepalived reload":
			return m.loadKeepalived(command == "/keepalived start")
		case "/keepalived stop":
			m.stop("/run/keepalived.pid", m.keepalived.pid)
			m.keepalived = nil
		case strings.Join(nftables.LoadArgv(), " "):
			if strings.Contains(string(stdin), "cloud_provider_haproxy_hop") {
				m.hop = string(stdin)
				return nil
			}
			m.script = string(stdin)
			if m.script == dropFront {
				m.script = ""
			}
		case strings.Join(nftables.ListArgv(), " "):
			return m.listTable(&output)
		case strings.Join(nftables.RulesetArgv(), " "):
			output.Stdout = []byte(cmp.Or(m.ruleset, `{"nftables": []}`))
		case strings.Join(nftables.RulesArgv(), " "):
			output.Stdout = tableOf(string(stdin), m.spelling)
		case strings.Join(keepalived.AddressArgv(), " "):
			output.Stdout = m.listAddresses()
		case strings.Join(neighbor.RouteArgvs()[0], " "):
			output.Stdout = []byte(`[{"dst":"default","gateway":"192.0.2.254","dev":"eth0"},{"dst":"10.9.0.0/16","gateway":"198.51.100.9","dev":"eth1"}]`)
		case strings.Join(neighbor.RouteArgvs()[1], " "):
			output.Stdout = []byte(`[{"dst":"default","gateway":"2001:db8::1","dev":"eth0"}]`)
		case strings.Join(nftables.CheckArgv(), " "):
		case "/usr/sbin/haproxy -v", "/usr/sbin/keepalived -v", "nft --version":
			output.Stdout = []byte("version 2.6.12")
		case strings.Join(connectionsArgv(), " "):
			for _, c := range m.connections {
				output.Stdout = append(output.Stdout, "ESTAB      0      0          "+strings.Replace(c, " ", "     ", 1)+" \n"...)
			}
		case "ss --no-header --listening --tcp --numeric --processes sport = :7480", "ss --no-header --listening --tcp --numeric --processes sport = :7481":
			output.Stdout = []byte(m.listening)
		case "pidof haproxy":
			output.Stdout = []byte(m.haproxies)
		default:
			if slices.ContainsFunc(nftables.HopRouteArgvs("eth0"), func(a []string) bool { return slices.Equal(a, argv) }) {
				m.routes = append(m.routes, command)
				return nil
			}
			if m.changesClientSource(argv) {
				return nil
			}
			if slices.ContainsFunc(nftables.HopRouteRemovalArgvs(), func(a []string) bool { return slices.Equal(a, argv) }) {
				return m.removeRoute(argv)
			}
			if m.setSysctls(argv, &output) || m.changesKernel(argv) || m.endConnections(argv, &output) || m.trackFlows(argv, &output) {
				return nil
			}
			if !strings.HasSuffix(command, ".staged") {
				return fmt.Errorf("the test's machine has no program %q", command)
			}
			if _, ok := m.files[argv[len(argv)-1]]; !ok {
				return &CommandError{Argv: argv, Code: 1, Err: errors.New("no such file")}
			}
			if err := m.namesFiles(m.files[argv[len(argv)-1]]); err != nil {
				return &CommandError{Argv: argv, Code: 1, Err: err}
			}
		}
		return nil
	})
	return output, err
}

func (m *machine) stop(pidFile string, pid int) {
	delete(m.files, pidFile)
	delete(m.files, fmt.Sprintf("/proc/%d/stat", pid))
}

// powerOff leaves what is on the disk.
func (m *machine) powerOff() {
	m.haproxy, m.keepalived, m.script, m.added, m.connections = nil, nil, "", nil, nil
	maps.DeleteFunc(m.files, func(path string, _ string) bool {
		return strings.HasPrefix(path, "/run/") || strings.HasPrefix(path, "/proc/") && !strings.HasPrefix(path, "/proc/sys/")
	})
}

// boot is what systemd starts before the agent: a daemon that cannot load what it finds fails.
func (m *machine) boot() {
	if err := m.loadHAProxy(true); err != nil {
		m.stop("/run/haproxy.pid", m.pids)
		m.haproxy = nil
	}
	if m.files["/etc/keepalived/keepalived.conf"] != "" {
		_ = m.loadKeepalived(true) // it takes every file
	}
}

func (m *machine) begin(pidFile, name string) int {
	m.pids++
	m.files[pidFile] = fmt.Sprintf("%d\n", m.pids)
	m.files[fmt.Sprintf("/proc/%d/stat", m.pids)] = stat(m.pids, name)
	return m.pids
}

func (m *machine) tryBind(to netip.AddrPort) error {
	return m.do("bind "+to.String(), func() error { return nil })
}
