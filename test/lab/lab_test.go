package lab_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

func TestHosts(t *testing.T) {
	l := lab.New(t, lab.Options{Bare: true})

	t.Run("each is a machine of its own", func(t *testing.T) {
		for _, h := range l.Hosts() {
			if name := mustRun(t, h, "hostname"); name != h.Name {
				t.Errorf("hostname of %s is %q", h.Name, name)
			}
			if err := h.WriteFile("/etc/gatewayctl/whose", []byte(h.Name), 0o600); err != nil {
				t.Error(err)
			}
			if processes := mustRun(t, h, "pgrep", "-c", "hostinit"); processes != "1" {
				t.Errorf("%s sees %s processes hostinit, want its own process 1 alone", h.Name, processes)
			}
		}
		for _, h := range l.Hosts() {
			got, err := h.ReadFile("/etc/gatewayctl/whose")
			if err != nil || string(got) != h.Name {
				t.Errorf("%s reads %q, %v", h.Name, got, err)
			}
		}
	})

	t.Run("a killed command takes its program with it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := l.Client.Command(ctx, "sleep", "4711")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		runs := func() bool {
			_, err := l.Client.Run(t.Context(), "pgrep", "-fx", "sleep 4711")
			return err == nil
		}
		eventually(t, runs)
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Error("the command ended well")
		}
		eventually(t, func() bool { return !runs() })
	})

	t.Run("a command that fails says what and why", func(t *testing.T) {
		_, err := l.Client.Run(t.Context(), "cat", "/nowhere")
		for _, want := range []string{"on client", "cat /nowhere", "exit status 1", "No such file"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v lacks %q", err, want)
			}
		}
	})

	t.Run("syslog is kept", func(t *testing.T) {
		mustRun(t, l.Client, "logger", "hello from the client")
		eventually(t, func() bool {
			var logs strings.Builder
			if err := l.WriteLogs(&logs, 10); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(logs.String(), "hello from the client")
		})
	})

	for _, family := range []struct {
		name string
		addr func(*lab.Host) netip.Addr
	}{
		{"IPv4", func(h *lab.Host) netip.Addr { return h.Addr4 }},
		{"IPv6", func(h *lab.Host) netip.Addr { return h.Addr6 }},
	} {
		t.Run("cables, "+family.name, func(t *testing.T) { testCables(t, l, family.addr) })
	}
	t.Run("power", func(t *testing.T) { testPower(t, l) })
}

// testCables: a host is reached, not when its cable is pulled, not by whom it is cut from, and again after.
func testCables(t *testing.T, l *lab.Lab, addr func(*lab.Host) netip.Addr) {
	server := l.Workers[0]
	target := netip.AddrPortFrom(addr(server), 80).String()
	listener, err := server.Listen(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	reaches := func(from *lab.Host) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		conn, err := from.Dial(ctx, "tcp", target)
		if err != nil {
			return false
		}
		if peer := conn.RemoteAddr().String(); peer != target {
			t.Errorf("connected to %s, want %s", peer, target)
		}
		return conn.Close() == nil
	}
	check := func(when string, client, gateway bool) {
		t.Helper()
		if got := reaches(l.Client); got != client {
			t.Errorf("%s: client reaches the worker: %v, want %v", when, got, client)
		}
		if got := reaches(l.Gateways[0]); got != gateway {
			t.Errorf("%s: gateway reaches the worker: %v, want %v", when, got, gateway)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("at first", true, true)
	must(server.CutOff(t.Context()))
	check("cable pulled", false, false)
	must(server.Reconnect(t.Context()))
	eventually(t, func() bool { return reaches(l.Client) && reaches(l.Gateways[0]) })
	must(l.Cut(t.Context(), l.Client, server))
	check("client cut from the worker", false, true)
	must(l.Mend(t.Context(), server, l.Client))
	check("mended", true, true)
}

// testPower: what was on the disk survives a power cut, what ran and what was in memory does not, and the address is back.
func testPower(t *testing.T, l *lab.Lab) {
	h := l.Gateways[1]
	for _, path := range []string{"/var/lib/gatewayctl/kept", "/run/lost"} {
		if err := h.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	booted := 0
	h.AtBoot(func(context.Context) error { booted++; return nil })
	sleeper, err := h.Start("sleeper", "sh", "-c", "echo asleep; exec sleep 4712")
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.AwaitLine(t.Context(), "asleep"); err != nil {
		t.Fatal(err)
	}
	if err := h.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("a program survived the power cut")
	}
	var off *lab.OffError
	if _, err := h.Run(t.Context(), "true"); !errors.As(err, &off) {
		t.Errorf("a command on a host without power: %v, want an OffError", err)
	}
	if err := h.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if booted != 1 {
		t.Errorf("services were started %d times, want once", booted)
	}
	if _, err := h.ReadFile("/var/lib/gatewayctl/kept"); err != nil {
		t.Error(err)
	}
	if _, err := h.ReadFile("/run/lost"); err == nil {
		t.Error("/run survived the power cut")
	}
	mustRun(t, l.Client, "ping", "-c1", "-W1", h.Addr4.String())
	mustRun(t, l.Client, "ping", "-c1", "-W1", h.Addr6.String())
}

// TestTraffic: the client tells who answered, what was refused, and which held connections were cut.
func TestTraffic(t *testing.T) {
	l := lab.New(t, lab.Options{Bare: true, Workers: 3})
	argv := func(h *lab.Host) []string {
		return []string{l.Program("backend"), "-name", h.Name, "-listen", ":80"}
	}
	var targets []string
	var backends []*lab.Process
	for _, h := range l.Workers {
		p, err := h.Start("backend", argv(h)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AwaitLine(t.Context(), "ready"); err != nil {
			t.Fatal(err)
		}
		backends = append(backends, p)
		targets = append(targets, netip.AddrPortFrom(h.Addr4, 80).String(), netip.AddrPortFrom(h.Addr6, 80).String())
	}
	closed := netip.AddrPortFrom(l.Workers[0].Addr4, 81).String()

	report, err := l.Client.Flow(t.Context(), traffic.Flow{Targets: append(targets, closed), Rate: 500, Count: 70, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed != 10 || report.Errors["refused"] != 10 || report.By["worker1"] != 20 || report.By["worker3"] != 20 {
		t.Errorf("report %v, want 20 answers of each worker and 10 refused", report)
	}

	hold, err := l.Client.StartHold(t.Context(), traffic.Hold{Targets: targets, Count: 12, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := backends[1].Kill(); err != nil {
		t.Fatal(err)
	}
	held, err := hold.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if held.Held != 12 || len(held.Cut) != 4 {
		t.Errorf("report %+v, want 12 held and the 4 of worker2 cut", held)
	}
	for _, c := range held.Cut {
		if c.Who != "worker2" {
			t.Errorf("cut %+v, want worker2's only", c)
		}
	}
}

func mustRun(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// eventually polls until the condition holds.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("still not so after ten seconds")
		}
	}
}
