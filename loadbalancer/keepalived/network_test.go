package keepalived

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// machine is a network namespace with eth0 on a common bridge, and a keepalived with its own files.
type machine struct {
	name, namespace, dir string
	process              *exec.Cmd
}

// network makes one machine for each gateway. Each gets its VRRP address on eth0.
func network(t *testing.T, gateways []desired.Gateway) map[string]*machine {
	t.Helper()
	needDaemon(t, "keepalived", "ip")
	prefix := "ka" + rand.Text()[:8]
	namespace := func(name string) string {
		ns := prefix + name
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", ns).Run() })
		ip(t, "-n", ns, "link", "set", "lo", "up")
		return ns
	}
	bridge := namespace("br")
	ip(t, "-n", bridge, "link", "add", "br0", "type", "bridge")
	ip(t, "-n", bridge, "link", "set", "br0", "up")
	machines := map[string]*machine{}
	for _, g := range gateways {
		m := &machine{name: g.Name, namespace: namespace(g.Name), dir: t.TempDir()}
		ip(t, "-n", m.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "to"+g.Name, "netns", bridge)
		ip(t, "-n", bridge, "link", "set", "to"+g.Name, "master", "br0", "up")
		subnet := "/24"
		args := []string{"-n", m.namespace, "address", "add"}
		if g.VRRPAddress.Is6() {
			subnet = "/64"
			args = append(args, "nodad")
		}
		ip(t, append(args, g.VRRPAddress.String()+subnet, "dev", "eth0")...)
		ip(t, "-n", m.namespace, "link", "set", "eth0", "up")
		machines[g.Name] = m
	}
	s := &desired.State{Gateways: gateways}
	for _, m := range machines {
		eventually(t, "the VRRP address is usable", func() bool { return m.held(t, s).Source })
	}
	return machines
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (m *machine) local() Local {
	return Local{
		Gateway:    m.name,
		ConfigFile: filepath.Join(m.dir, "keepalived.conf"),
		AliveFile:  filepath.Join(m.dir, "alive"),
		ReadyFile:  filepath.Join(m.dir, "ready"),
	}
}

// write replaces a file by rename, as the agent does.
func (m *machine) write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) configure(t *testing.T, s *desired.State) {
	t.Helper()
	m.install(t, s)
	checkWithDaemon(t, m.local().ConfigFile)
}

// install is configure without asking keepalived whether it likes it.
func (m *machine) install(t *testing.T, s *desired.State) {
	t.Helper()
	out, err := Render(s, m.local())
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, m.local().ConfigFile, string(out))
}

// start runs keepalived until the test ends.
func (m *machine) start(t *testing.T) {
	t.Helper()
	pid := func(name string) string {
		// As after a boot. A leftover of kill -9 can name a process that nobody reaped yet, and keepalived believes it.
		file := filepath.Join(m.dir, name+".pid")
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return file
	}
	m.process = exec.Command("ip", "netns", "exec", m.namespace, "chrt", "--rr", "10", "keepalived", "--dont-fork", "--log-console", "--no-syslog", "--log-detail",
		"--vrrp", "--use-file", m.local().ConfigFile, "--pid", pid("all"), "--vrrp_pid", pid("vrrp"),
		"--checkers_pid", pid("checkers"), "--bfd_pid", pid("bfd"))
	log, err := os.OpenFile(m.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.process.Stdout, m.process.Stderr = log, log
	if err := m.process.Start(); err != nil {
		t.Fatal(err)
	}
	started := m.process
	t.Cleanup(func() {
		_ = started.Process.Signal(syscall.SIGTERM)
		_ = started.Wait()
		if t.Failed() {
			t.Logf("keepalived on %s:\n%s", m.name, m.log(t))
		}
	})
}

// kill ends keepalived and its child without a chance to say goodbye.
func (m *machine) kill(t *testing.T) {
	t.Helper()
	child, err := os.ReadFile(filepath.Join(m.dir, "vrrp.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(child), &pid); err != nil {
		t.Fatal(err)
	}
	_ = m.process.Process.Kill() // the parent first, it would start another child
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_ = m.process.Wait()
}

func (m *machine) reload(t *testing.T) {
	t.Helper()
	if err := m.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) logFile() string { return filepath.Join(m.dir, "log") }

func (m *machine) log(t *testing.T) string {
	t.Helper()
	out, err := os.ReadFile(m.logFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// transitions counts how often an instance became MASTER, BACKUP or FAULT.
func (m *machine) transitions(t *testing.T) int {
	t.Helper()
	return strings.Count(m.log(t), " STATE\n")
}

// waits says whether the delay before an instance may preempt has begun, and nothing has happened since.
func (m *machine) waits(t *testing.T) bool {
	t.Helper()
	log := m.log(t)
	return strings.LastIndex(log, "start preempt delay") > strings.LastIndex(log, " STATE\n")
}

func (m *machine) addresses(t *testing.T) []byte {
	t.Helper()
	argv := append([]string{"netns", "exec", m.namespace}, AddressArgv()...)
	out, err := exec.Command("ip", argv...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (m *machine) held(t *testing.T, s *desired.State) Holding {
	t.Helper()
	h, err := Held(m.addresses(t), s, m.local())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) time.Duration {
	t.Helper()
	return eventuallyEvery(t, 10*time.Millisecond, what, holds)
}

// eventuallyEvery is for questions that cost: listing 1000 addresses holds the lock under which keepalived changes them.
func eventuallyEvery(t *testing.T, pause time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for deadline := begin.Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		select {
		case <-time.After(pause):
		case <-t.Context().Done():
			t.Fatalf("test ended while waiting: %s", what)
		}
	}
	return time.Since(begin)
}

func contains(jsonText, want string) bool {
	return strings.Contains(strings.ReplaceAll(jsonText, " ", ""), want)
}

// source is the address that the machine would use to reach another.
func source(t *testing.T, m *machine, to string) string {
	t.Helper()
	out, err := exec.Command("ip", "-n", m.namespace, "-json", "route", "get", to).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(out), `"prefsrc":"`)
	address, _, _ := strings.Cut(rest, `"`)
	return address
}
