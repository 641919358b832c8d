package prepare

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/provider/config"
)

const shippedHAProxy = "# as the package brings it\n"

// machine is a directory, with the programs of a Debian machine played.
type machine struct {
	// refusesSSHD is what `sshd -t` says of the files that it reads.
	refusesSSHD error
	Local
	t       *testing.T
	ran     []string
	enabled map[string]bool
	active  bool
	// dropIns are what `find` finds of sshd's; effective are settings that `sshd -T` shows beside ours, and instead of ours.
	dropIns   []string
	effective string
	asked     []string // configurations that sshd was asked about
	real      bool     // the machine's own sshd answers
	// locked says who has the lock; statuses are what the agent says, one after the other, the last one for ever.
	locked   string
	statuses []wire.Status
	// versions of programs that differ from good ones; ruleset is nft's; fails are commands that do.
	versions map[string]string
	ruleset  string
	fails    map[string]error
	// cut makes the n-th write fail, and everything after it; 0: none.
	cut, writes int
}

// newMachine is a bare Debian 12 with systemd.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, enabled: map[string]bool{}, versions: map[string]string{}, fails: map[string]error{}, ruleset: `{"nftables": []}`}
	m.Local = Local{Root: t.TempDir(), Owner: func(group string) (int, int, error) {
		if group != "" && !strings.Contains(m.read("/etc/passwd"), group) {
			return 0, 0, fmt.Errorf("group: unknown group %s", group)
		}
		return os.Geteuid(), os.Getegid(), nil
	}}
	for path, content := range map[string]string{
		"/etc/os-release":          "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n",
		"/etc/passwd":              "root:x:0:0:root:/root:/bin/bash\n",
		"/etc/group":               "root:x:0:\n",
		"/etc/ssh/sshd_config":     "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n",
		"/etc/haproxy/haproxy.cfg": shippedHAProxy,
		"/run/systemd/system/here": "",
		"/usr/sbin/haproxy":        "", "/usr/sbin/keepalived": "", "/usr/sbin/nft": "", "/usr/bin/ip": "", "/usr/bin/ss": "", "/usr/sbin/sysctl": "", "/usr/sbin/conntrack": "",
		"/proc/sys/net/ipv4/tcp_tw_reuse": "2\n",
	} {
		m.put(path, content)
	}
	return m
}

func (m *machine) put(path, content string) {
	m.t.Helper()
	file := filepath.Join(m.Root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(path string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.Root, path)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	content, err := os.ReadFile(filepath.Join(m.Root, path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return string(content)
}

var errCut = errors.New("the power is gone")

func (m *machine) WriteFile(path string, content []byte, mode os.FileMode, group string) error {
	if err := m.write(); err != nil {
		return err
	}
	return m.Local.WriteFile(path, content, mode, group)
}

func (m *machine) MakeDirectory(path string, mode os.FileMode, group string) error {
	if err := m.write(); err != nil {
		return err
	}
	return m.Local.MakeDirectory(path, mode, group)
}

func (m *machine) write() error {
	m.writes++
	if m.cut > 0 && m.writes >= m.cut {
		return errCut
	}
	return nil
}

// changing are the commands that change something: each is an operation that can be cut.
var changing = [...]string{"useradd", "sysctl", "modprobe", "systemctl daemon-reload", "systemctl enable", "systemctl restart", "systemctl start",
	"systemctl try", "env", "dnf"}

func (m *machine) Run(ctx context.Context, argv []string, stdin []byte) (agent.Output, error) {
	line := strings.Join(argv, " ")
	if slices.ContainsFunc(changing[:], func(c string) bool { return strings.HasPrefix(line, c) }) {
		if err := m.write(); err != nil {
			return agent.Output{}, err
		}
		m.ran = append(m.ran, line)
	}
	for prefix, err := range m.fails {
		if strings.HasPrefix(line, prefix) {
			return agent.Output{}, &agent.CommandError{Argv: argv, Code: 1, Err: err}
		}
	}
	out := func(text string) (agent.Output, error) { return agent.Output{Stdout: []byte(text)}, nil }
	switch argv[0] {
	case "haproxy", "keepalived", "nft":
		if argv[len(argv)-1] == "ruleset" {
			return out(m.ruleset)
		}
		good := map[string]string{"haproxy": "HAProxy version 2.6.12-1+deb12u4", "keepalived": "Keepalived v2.2.7", "nft": "nftables v1.0.6"}
		if version := m.versions[argv[0]]; version != "" {
			return out(version)
		}
		return out(good[argv[0]])
	case "dpkg-query":
		sum := md5.Sum([]byte(shippedHAProxy))
		return out(" /etc/haproxy/haproxy.cfg " + hex.EncodeToString(sum[:]) + "\n")
	case "useradd":
		m.put("/etc/group", m.read("/etc/group")+argv[len(argv)-1]+":x:999:\n")
		m.put("/etc/passwd", m.read("/etc/passwd")+argv[len(argv)-1]+":x:999:999::/:/bin/sh\n")
	case "sysctl":
		m.put("/proc/sys/net/ipv4/tcp_tw_reuse", "1\n")
	case "env":
		if slices.Contains(argv, "install") {
			m.put("/usr/sbin/haproxy", "")
		}
	case "find":
		return out(strings.Join(m.dropIns, "\n"))
	case sshd:
		if m.real {
			return agent.Machine{}.Run(ctx, argv, stdin)
		}
		if len(argv) == 2 {
			return agent.Output{}, m.refusesSSHD
		}
		return m.askSSHD(argv, string(stdin))
	case "systemctl":
		return m.systemctl(argv)
	}
	return agent.Output{}, nil
}

// askSSHD plays `sshd -T`: the first word of a setting counts, for our user.
func (m *machine) askSSHD(argv []string, config string) (agent.Output, error) {
	if argv[1] == "-T" {
		m.asked = append(m.asked, strings.Join(argv, " "), config)
	}
	if !slices.Contains(argv, "-f") {
		config = m.read(site.SSHDFile)
	}
	if !strings.Contains(config, "Match User gatewayctl") {
		return agent.Output{}, errors.New("sshd was asked about something else")
	}
	shown := m.effective + "forcecommand none\npubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-256\n"
	_, ours, _ := strings.Cut(config, "Match User gatewayctl\n")
	for line := range strings.Lines(ours) {
		keyword, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if keyword = strings.ToLower(keyword); keyword != "#" && !strings.Contains("\n"+m.effective, "\n"+keyword+" ") {
			shown += keyword + " " + value + "\n"
		}
	}
	return agent.Output{Stdout: []byte(shown)}, nil
}

func (m *machine) status(context.Context) (*wire.Status, error) {
	if len(m.statuses) == 0 {
		return &wire.Status{}, nil
	}
	status := m.statuses[0]
	if len(m.statuses) > 1 {
		m.statuses = m.statuses[1:]
	}
	return &status, nil
}

func (m *machine) systemctl(argv []string) (agent.Output, error) {
	unit := argv[len(argv)-1]
	no := &agent.CommandError{Argv: argv, Code: 1, Err: errors.New("exit status 1")}
	switch {
	case slices.Contains(argv, "is-enabled") && !m.enabled[unit], slices.Contains(argv, "is-active") && !m.active:
		return agent.Output{}, no
	case argv[1] == "enable":
		m.enabled[unit] = true
	case argv[1] == "start", argv[1] == "restart":
		m.active = true
	}
	return agent.Output{}, nil
}

// programText is what stands for the program.
const programText = "\x7fELF of gatewayctl"

// plan is an order for gateway gw1 of a pair.
func plan(t *testing.T, action Action, change func(*Plan)) Plan {
	t.Helper()
	c, err := config.Decode([]byte(`{apiVersion: cloud-provider-haproxy/v1, kind: CloudConfig, ssh: {privateKeyFile: k, knownHostsFile: h},
gateways: [{name: gw1, sshAddress: 192.0.2.2, interface: eth0}, {name: gw2, sshAddress: 192.0.2.3, interface: eth0}],
pools: [{name: a, addresses: [192.0.2.64/27], interface: eth1}], nodes: {cidrs: [192.0.2.0/24]}}`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.New(c, site.Options{ControllerKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJRYAcEbpfFb2mYUFnpYPq3wIOc5xVL9nkKMtg3eVzgp controller"}})
	if err != nil {
		t.Fatal(err)
	}
	files, err := s.Files("gw1", site.Debian, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, _ := s.Gateway("gw1")
	p := Plan{Action: action, Gateway: "gw1", User: s.User, Address: g.VRRPAddress, Interfaces: s.InterfacesOf(g), Program: digest([]byte(programText)),
		Directories: s.Directories(), Files: files, Sent: noon}
	if change != nil {
		change(&p)
	}
	return p
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func parts(m *machine) Parts {
	return Parts{
		Machine: m,
		Links: func(name string) ([]netip.Addr, error) {
			if name != "eth0" && name != "eth1" {
				return nil, errors.New("no such network interface")
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.2")}, nil
		},
		Self: func() ([]byte, error) { return []byte(programText), nil },
		Now:  func() time.Time { return noon.Add(time.Second) },
		Lock: func() (func() error, error) {
			if m.locked != "" {
				return nil, errors.New(m.locked)
			}
			return func() error { return nil }, nil
		},
		TryLock: func() error {
			if m.locked != "" {
				return errors.New(m.locked)
			}
			return nil
		},
		Status:   m.status,
		Patience: time.Second,
	}
}

func (m *machine) do(p Plan) Report { return Run(m.t.Context(), p, parts(m)) }

// tree is every file below the root, with its mode.
func (m *machine) tree() map[string]string {
	m.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(m.Root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		stat, err := entry.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, m.Root)
		files[name] = fmt.Sprintf("%v %v\n%s", stat.Mode(), stat.ModTime(), m.read(name))
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return files
}
