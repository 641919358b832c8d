package haproxy

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// logged gives the lines that HAProxy logs. Its log is a socket in its chroot.
func logged(t testing.TB, d *daemon) (next func() string) {
	t.Helper()
	path := filepath.Join(d.local.Chroot, "log")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{d.local.Chroot: 0o755, path: 0o777} { // the worker is nobody special
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { socket.Close() })
	lines := make(chan string, 100000)
	go func() {
		defer close(lines)
		for buffer := make([]byte, 65536); ; {
			n, err := socket.Read(buffer)
			if err != nil {
				return // closed
			}
			lines <- string(buffer[:n])
		}
	}()
	return func() string {
		select {
		case line := <-lines:
			return line
		case <-time.After(time.Second):
			return ""
		}
	}
}

func withLog(l *Local) { l.Log = "/log local0" }

// until reads lines until one has all of these words.
func until(t *testing.T, next func() string, words ...string) {
	t.Helper()
	var seen []string
	for {
		line := next()
		if line == "" {
			t.Fatalf("no line of the log has %q; it has:\n%s", words, strings.Join(seen, "\n"))
		}
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return
		}
		seen = append(seen, line)
	}
}

// startKnobs runs twoNodes with IPv4 and IPv6, and a way to change its Service while it runs, without a reload.
func startKnobs(t *testing.T) (d *daemon, change func(func(*desired.LoadBalancer)), log func() string) {
	t.Helper()
	state := twoNodes()
	d = startDaemon(t, state, slices.Concat(nodes(), clients(3)), vips(), withLog)
	log = logged(t, d)
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	d.up("nodes", "worker1", "worker2")
	d.apply(state)
	return d, func(set func(*desired.LoadBalancer)) {
		t.Helper()
		set(&state.LoadBalancers[0])
		d.apply(state)
	}, log
}

func TestConnectionLimit(t *testing.T) {
	d, change, log := startKnobs(t)
	change(func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 2 })
	d.ask("open a " + vip4 + ":80")
	d.ask("open b [" + vip6 + "]:80") // the other address of the same frontend
	d.wantRefused(vip4 + ":80")
	d.wantRefused("[" + vip6 + "]:80")
	until(t, log, "default/web", "over-limit")
	want := []Limited{{Service: desired.Key{Namespace: "default", Name: "web"}, Port: 80, Lately: 2, Total: 2}}
	if diff := cmp.Diff(want, d.read().Limited); diff != "" {
		t.Errorf("Limited (-want +got):\n%s", diff)
	}
	for _, id := range []string{"a", "b"} {
		if got := d.ask("say " + id); got != "still here" {
			t.Errorf("connection %s says %q", id, got)
		}
	}
	d.ask("close a")
	d.eventually("room", func() bool { return !strings.HasPrefix(d.reach(vip4+":80"), "error") })
	change(func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 3 })
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	change(func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 1 }) // b stays
	d.wantRefused(vip4 + ":80")
	change(func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 0 })
	for range 5 {
		d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	}
}

func TestSourceRate(t *testing.T) {
	d, change, log := startKnobs(t)
	change(func(lb *desired.LoadBalancer) { lb.SourceRate = 2 })
	opened := func(source string, tries int) (n int) {
		for range tries {
			if !strings.HasPrefix(d.from(source, vip4+":80"), "error") {
				n++
			}
		}
		return n
	}
	// Twenty in ten seconds; those that were refused do not count.
	if n := opened(client(1), 40); n < 20 || n > 22 {
		t.Errorf("a client opened %d connections of 40 within ten seconds, want 20", n)
	}
	until(t, log, client(1), "default/web", "over-rate")
	sources, err := d.runtime.ask(t.Context(), "show table sources")
	if err != nil || !strings.Contains(sources, "gpc0_rate(10000)=20\n") {
		t.Errorf("refused connections count as if they had been opened: %v\n%s", err, sources)
	}
	if n := opened(client(2), 10); n != 10 {
		t.Errorf("another client opened %d connections of 10", n)
	}
	if limited := d.read().Limited; len(limited) != 1 || limited[0].Total < 18 {
		t.Errorf("Limited is %+v, want the 20 that were refused", limited)
	}
	change(func(lb *desired.LoadBalancer) { lb.SourceRate = 0 })
	if n := opened(client(1), 5); n != 5 {
		t.Errorf("without the rate a client opened %d connections of 5", n)
	}
}

// A client of IPv6 has a network of 64 bits, and could come from another address of it each time.
func TestRateOfIPv6CountsNetworks(t *testing.T) {
	state := twoNodes()
	state.LoadBalancers[0].SourceRate = 1 // ten in ten seconds
	d := startDaemon(t, state, append(nodes(), "fd88:0:0:1::1", "fd88:0:0:1::2", "fd88:0:0:1::3", "fd88:0:0:2::1"), vips())
	d.nodePorts(node1+":30080", node1+":10256")
	d.up("nodes", "worker1")
	opened := 0
	for i := range 18 {
		if got := d.from(fmt.Sprintf("fd88:0:0:1::%d", 1+i%3), "["+vip6+"]:80"); !strings.HasPrefix(got, "error") {
			opened++
		}
	}
	if opened != 10 {
		t.Errorf("the addresses of a network opened %d connections, want 10", opened)
	}
	if got := d.from("fd88:0:0:2::1", "["+vip6+"]:80"); strings.HasPrefix(got, "error") {
		t.Errorf("another network got %s", got)
	}
}

// A flood beyond the limit gets to the backend that has it logged a hundred times, and is counted. (How many lines the log has
// is no measure: HAProxy drops those that its reader does not take at once.)
func TestFloodIsNotLogged(t *testing.T) {
	d, change, log := startKnobs(t)
	change(func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 1 })
	d.ask("open a " + vip4 + ":80")
	if greeted := d.ask("flood 300 " + vip4 + ":80"); greeted != "0" {
		t.Errorf("%s connections were greeted", greeted)
	}
	until(t, log, "default/web", "over-limit")
	const backend, sessions = "2", 7 // the type, and the place of stot (management guide section 9.1)
	answer, err := d.runtime.ask(t.Context(), "show stat over-limit "+backend+" -1")
	if err != nil {
		t.Fatal(err)
	}
	_, row, _ := strings.Cut(answer, "\n")
	if named := strings.Split(row, ",")[sessions]; named != "100" {
		t.Errorf("%s of 300 refused connections are told, want 100", named)
	}
	if limited := d.read().Limited; len(limited) != 1 || limited[0].Total != 300 {
		t.Errorf("Limited is %+v, want 300", limited)
	}
}

func TestLog(t *testing.T) {
	d, change, log := startKnobs(t)
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	change(func(lb *desired.LoadBalancer) { lb.Log = true })
	home := "nodes/worker1"
	if d.reach("["+vip6+"]:80") == node2+":30080" {
		home = "nodes/worker2"
	}
	until(t, log, "<133>", vip6+":80 default/web "+home) // local0.notice
	change(func(lb *desired.LoadBalancer) { lb.Log = false })
	d.wantReach(vip4+":80", node1+":30080", node2+":30080")
	change(func(lb *desired.LoadBalancer) { lb.Frontends[0].NodePort = 1 })
	d.wantRefused(vip4 + ":80")
	var lines []string
	for line := log(); line != ""; line = log() {
		if strings.Contains(line, "default/web") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "<131>") || !strings.Contains(lines[0], " SC ") { // local0.err
		t.Errorf("without log these connections are told, want the one that failed alone:\n%s", strings.Join(lines, "\n"))
	}
}

// BenchmarkConnection tells what one connection costs HAProxy's worker, in nanoseconds of a processor.
func BenchmarkConnection(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(*desired.LoadBalancer)
	}{
		{"plain", func(*desired.LoadBalancer) {}},
		{"affinity", func(lb *desired.LoadBalancer) { lb.AffinitySeconds = usualAffinity }},
		{"limit", func(lb *desired.LoadBalancer) { lb.ConnectionLimit = 1000 }},
		{"rate", func(lb *desired.LoadBalancer) { lb.SourceRate = 1_000_000 }},
		{"log", func(lb *desired.LoadBalancer) { lb.Log = true }},
	} {
		b.Run(c.name, func(b *testing.B) {
			state := twoNodes()
			c.change(&state.LoadBalancers[0])
			d := startDaemon(b, state, nodes(), vips(), withLog)
			logged(b, d)
			d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
			d.up("nodes", "worker1", "worker2")
			b.ResetTimer()
			before := d.processor()
			if greeted := d.ask("flood " + strconv.Itoa(b.N) + " " + vip4 + ":80"); greeted != strconv.Itoa(b.N) {
				b.Fatalf("%s of %d were greeted", greeted, b.N)
			}
			b.ReportMetric(float64((d.processor()-before).Nanoseconds())/float64(b.N), "worker-ns/op")
		})
	}
}

// processor is how long the worker's threads ran.
func (d *daemon) processor() time.Duration {
	d.t.Helper()
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(d.read().PID) + "/task/*/schedstat")
	if err != nil {
		d.t.Fatal(err)
	}
	var sum time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			d.t.Fatal(err)
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			d.t.Fatal(err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum
}
