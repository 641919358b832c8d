package haproxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// The tests in *_daemon_test.go run a real HAProxy in master-worker mode in a network namespace of their own. Nodes are
// addresses of that namespace's loopback; clients and NodePorts are this test binary, run again within the namespace.

// daemon is one HAProxy in its own namespace.
type daemon struct {
	t         testing.TB
	namespace string
	local     Local
	slots     Slots
	left      Left
	runtime   *Runtime
	master    *Runtime
	ask       func(line string) string
}

// startDaemon makes the namespace with addresses on its loopback, runs HAProxy from state, and sends connections to any
// port of vips to it by tproxy.
func startDaemon(t testing.TB, state *desired.State, addresses, vips []string, change ...func(*Local)) *daemon {
	t.Helper()
	lab.RequireRoot(t, "it makes a network namespace")
	lab.RequirePrograms(t, "haproxy", "ip", "nft")
	dir, err := os.MkdirTemp("", "hx") // short: a unix socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{t: t, namespace: filepath.Base(dir), local: testLocal()}
	d.local.StatsSocket, d.local.ServerState = dir+"/admin.sock", dir+"/server-state"
	d.local.ConfigFile, d.local.ServicesMap, d.local.ChecksMap = dir+"/haproxy.cfg", dir+"/services.map", dir+"/checks.map"
	d.local.ControlPlaneCA = dir + "/ca.pem"
	d.local.Chroot, d.local.Log = dir, ""
	for _, c := range change {
		c(&d.local)
	}
	d.command("ip", "netns", "add", d.namespace)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", d.namespace).Run() })
	d.inside("ip", "link", "set", "lo", "up")
	for _, address := range append(addresses, vips...) {
		d.inside("ip", "addr", "add", address, "dev", "lo", "noprefixroute")
	}
	d.tproxy(vips)
	d.runtime = NewRuntime(d.local.StatsSocket)
	d.write(d.render(state))
	d.master = NewRuntime(dir + "/master.sock")
	d.start("haproxy", "-W", "-S", dir+"/master.sock", "-f", d.local.ConfigFile)
	d.eventually("haproxy to answer", func() bool {
		_, err := d.runtime.Read(t.Context())
		return err == nil
	})
	d.startClient()
	return d
}

func (d *daemon) tproxy(vips []string) {
	d.t.Helper()
	script := "table inet front {\n chain front {\n type filter hook prerouting priority mangle;\n"
	for _, vip := range vips {
		if netip.MustParseAddr(vip).Is4() {
			script += fmt.Sprintf("ip daddr %s tcp dport 1-65535 tproxy ip to 127.0.0.1:%d\n", vip, d.local.ServicesPort)
		} else {
			script += fmt.Sprintf("ip6 daddr %s tcp dport 1-65535 tproxy ip6 to [::1]:%d\n", vip, d.local.ServicesPort)
		}
	}
	c := exec.Command("ip", "netns", "exec", d.namespace, "nft", "-f", "-")
	c.Stdin = strings.NewReader(script + "}\n}\n")
	if out, err := c.CombinedOutput(); err != nil {
		d.t.Fatalf("loading the tproxy rules: %v\n%s", err, out)
	}
}

func (d *daemon) command(argv ...string) {
	d.t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

func (d *daemon) inside(argv ...string) {
	d.t.Helper()
	d.command(append([]string{"ip", "netns", "exec", d.namespace}, argv...)...)
}

// start runs a program in the namespace until the test ends.
func (d *daemon) start(argv ...string) *exec.Cmd {
	d.t.Helper()
	return d.run(exec.Command("ip", append([]string{"netns", "exec", d.namespace}, argv...)...))
}

func (d *daemon) run(c *exec.Cmd) *exec.Cmd {
	d.t.Helper()
	var log bytes.Buffer
	c.Stderr = &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
		if d.t.Failed() && log.Len() > 0 {
			d.t.Logf("%s said:\n%s", strings.Join(c.Args, " "), &log)
		}
	})
	return c
}

// child runs this test binary in the namespace.
func (d *daemon) child(role string, args ...string) (io.WriteCloser, *bufio.Reader) {
	d.t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", d.namespace, os.Args[0]}, args...)...)
	c.Env = append(os.Environ(), childRole+"="+role)
	in, err := c.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	d.run(c)
	return in, bufio.NewReader(out)
}

// nodePorts opens ports in the namespace; close stops them.
func (d *daemon) nodePorts(listen ...string) (stop func()) {
	d.t.Helper()
	return d.listen("nodeports", listen)
}

// proxied opens ports that want a PROXY protocol's header.
func (d *daemon) proxied(listen ...string) (stop func()) {
	d.t.Helper()
	return d.listen("proxied", listen)
}

func (d *daemon) listen(role string, listen []string) (stop func()) {
	d.t.Helper()
	in, out := d.child(role, listen...)
	if line, err := out.ReadString('\n'); err != nil {
		d.t.Fatalf("opening %v: %v %s", listen, err, line)
	}
	return func() { in.Close() }
}

func (d *daemon) startClient() {
	in, out := d.child("client")
	d.ask = func(line string) string {
		d.t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			d.t.Fatal(err)
		}
		answer, err := out.ReadString('\n')
		if err != nil {
			d.t.Fatal(err)
		}
		return strings.TrimSpace(answer)
	}
}

// reach opens a connection and gives the NodePort that greeted.
func (d *daemon) reach(address string) string {
	d.t.Helper()
	answer := d.ask("open once " + address)
	if !strings.HasPrefix(answer, "error") {
		d.ask("close once")
	}
	return answer
}

func (d *daemon) wantReach(address string, want ...string) {
	d.t.Helper()
	got := d.reach(address)
	for _, w := range want {
		if got == w {
			return
		}
	}
	d.t.Errorf("%s led to %q, want one of %q", address, got, want)
}

func (d *daemon) wantRefused(address string) {
	d.t.Helper()
	if got := d.reach(address); !strings.HasPrefix(got, "error") {
		d.t.Errorf("%s led to %s, want it refused", address, got)
	}
}

func (d *daemon) eventually(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			d.t.Fatalf("waited 10 s for %s", what)
		case <-tick.C:
		}
	}
}

func (d *daemon) render(state *desired.State) *Config {
	d.t.Helper()
	free := func(string) bool { return true }
	if d.slots != nil {
		free = d.read().Free(d.local)
	}
	d.slots, _ = d.left.Assign(d.slots, state, free, d.local)
	c, err := Render(state, d.local, d.slots)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

func (d *daemon) write(c *Config) {
	d.t.Helper()
	for file, content := range map[string][]byte{d.local.ConfigFile: c.File, d.local.ServicesMap: c.ServicesMap, d.local.ChecksMap: c.ChecksMap, c.CAFile: c.CA} {
		if file == "" {
			continue
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *daemon) read() *Running {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	running, err := d.runtime.Read(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	return running
}

// apply makes state true at run time, and fails when that takes a reload or leaves a difference.
func (d *daemon) apply(state *desired.State) Diff {
	d.t.Helper()
	c := d.render(state)
	d.write(c)
	before := d.read()
	diff := Compare(before, c)
	if len(diff.Reload) > 0 {
		d.t.Fatalf("a reload is asked for: %q", diff.Reload)
	}
	for _, part := range []Diff{diff.Grow(), diff.Shrink()} {
		if err := d.runtime.Apply(d.t.Context(), part); err != nil {
			d.t.Fatal(err)
		}
	}
	after := d.read()
	left := Compare(after, c)
	if !left.Empty() {
		d.t.Errorf("after Apply this is left to do: %q (%+v)", left.Changes, left)
	}
	if after.PID != before.PID || after.Generation != before.Generation {
		d.t.Errorf("worker %d of generation %s became %d of %s", before.PID, before.Generation, after.PID, after.Generation)
	}
	return left
}

// reload replaces the worker, which inherits the servers' state, and waits until the new one answers with the generation.
func (d *daemon) reload(c *Config) {
	d.t.Helper()
	state, err := c.Inherit(d.saved())
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.local.ServerState, state, 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.write(c)
	before := d.read().PID
	d.eventually("the master to hear of it", func() bool {
		_, err := d.master.ask(d.t.Context(), "reload") // refused, not lost, while the master is starting
		return err == nil
	})
	d.eventually("the new worker", func() bool {
		running, err := d.runtime.Read(d.t.Context())
		return err == nil && running.PID != before && running.Generation == c.Generation
	})
}

// up waits until a server takes connections.
func (d *daemon) up(backend string, servers ...string) {
	d.t.Helper()
	d.eventually(fmt.Sprintf("%v of %s to be up", servers, backend), func() bool {
		running := d.read().Backends[backend]
		for _, name := range servers {
			if state := running.Servers[name].State; state != "UP" && state != "NOCHECK" {
				return false
			}
		}
		return true
	})
}
