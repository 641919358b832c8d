package haproxy

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
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

// processor is how long the worker ran.
func (d *daemon) processor() time.Duration {
	d.t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(d.read().PID) + "/schedstat")
	if err != nil {
		d.t.Fatal(err)
	}
	var sum time.Duration
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(d.read().PID) + "/task/*/schedstat")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, task := range tasks {
		if text, err = os.ReadFile(task); err != nil {
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
