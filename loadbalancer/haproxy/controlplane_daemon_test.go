package haproxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const endpoint1, endpoint2 = "10.77.0.21", "10.77.0.22"

// withControlPlane adds an API server's frontend; the tests reach it on its loopback port itself.
func withControlPlane(s *desired.State, check desired.Check) *desired.State {
	s.ControlPlane = &desired.ControlPlane{
		Address: netip.MustParseAddr("192.0.2.2"), Port: 6443, Check: check,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort(endpoint1 + ":6443"), netip.MustParseAddrPort(endpoint2 + ":6443")},
	}
	return s
}

func TestControlPlaneFailsOpen(t *testing.T) {
	check := health(31991, "/nothing")
	state := withControlPlane(twoNodes(), check)
	d := startDaemon(t, state, []string{endpoint1, endpoint2, node1}, vips())
	d.nodePorts(endpoint1+":6443", endpoint1+":31991", endpoint2+":6443", endpoint2+":31991", node1+":6443", node1+":31991")
	d.eventually("both endpoints to fail their check", func() bool {
		b := d.read().Backends["control-plane"]
		return b.Servers[endpoint1+"-6443"].State == "DOWN" && b.Servers[endpoint2+"-6443"].State == "DOWN"
	})
	address := fmt.Sprintf("127.0.0.1:%d", d.local.ControlPlanePort)
	d.wantReach(address, endpoint1+":6443", endpoint2+":6443")
	state.ControlPlane.Endpoints = []netip.AddrPort{netip.MustParseAddrPort(node1 + ":6443")}
	d.apply(state)
	d.wantReach(fmt.Sprintf("[::1]:%d", d.local.ControlPlanePort), node1+":6443")
}

func TestControlPlaneUsesWhatPassesItsCheck(t *testing.T) {
	state := withControlPlane(twoNodes(), health(31991, "/31991"))
	d := startDaemon(t, state, []string{endpoint1, endpoint2}, vips())
	d.nodePorts(endpoint1+":6443", endpoint2+":6443", endpoint2+":31991")
	d.up("control-plane", endpoint2+"-6443")
	d.eventually("endpoint 1 to fail", func() bool {
		return d.read().Backends["control-plane"].Servers[endpoint1+"-6443"].State == "DOWN"
	})
	for range 4 {
		d.wantReach(fmt.Sprintf("127.0.0.1:%d", d.local.ControlPlanePort), endpoint2+":6443")
	}
}

// Services that hold all the connections they may must not keep the API server's clients waiting.
func TestFullServicesLeaveTheControlPlaneItsReserve(t *testing.T) {
	state := withControlPlane(twoNodes(), health(31991, "/31991"))
	d := startDaemon(t, state, append(nodes(), endpoint1), vips(), func(l *Local) { l.MaxConn, l.Reserve = 40, 10 })
	d.nodePorts(node1+":30080", node1+":10256", endpoint1+":6443", endpoint1+":31991")
	d.up("nodes", "worker1")
	d.up("control-plane", endpoint1+"-6443")
	d.apply(state)
	for i := range 30 {
		if got := d.ask(fmt.Sprintf("open s%d %s:80", i, vip4)); got != node1+":30080" {
			t.Fatalf("connection %d got %q", i, got)
		}
	}
	if got := d.ask("open more " + vip4 + ":80"); !strings.HasPrefix(got, "error") {
		t.Errorf("one connection more than the limit got %q", got)
	}
	d.wantReach(fmt.Sprintf("127.0.0.1:%d", d.local.ControlPlanePort), endpoint1+":6443")
}

// Without a configured maxconn only the running HAProxy knows how many connections there are to divide.
func TestReserveOfAComputedMaxConn(t *testing.T) {
	state := twoNodes()
	d := startDaemon(t, state, nodes(), vips())
	if running := d.read(); running.ServicesMaxConn != running.MaxConn || running.MaxConn == 0 {
		t.Fatalf("HAProxy's own limits are %d for the Services of %d", running.ServicesMaxConn, running.MaxConn)
	}
	d.apply(state)
	if running := d.read(); running.ServicesMaxConn != running.MaxConn-min(d.local.Reserve, running.MaxConn/4) {
		t.Errorf("the Services may hold %d of %d connections, the reserve being %d", running.ServicesMaxConn, running.MaxConn, d.local.Reserve)
	}
}

// Each extra port has servers of its own, and fails open by itself.
func TestControlPlaneExtraPorts(t *testing.T) {
	check := health(31991, "/31991")
	check.Rise = 20 // two seconds
	state := withControlPlane(twoNodes(), check)
	state.ControlPlane.ExtraPorts = []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}, {Port: 9345, EndpointPort: 9345}}
	d := startDaemon(t, state, []string{endpoint1, endpoint2}, vips())
	d.inside("nft", "insert", "rule", "inet", "front", "front", "ip", "daddr", vip4, "tcp", "dport", "{ 6443, 8132, 9345 }",
		"tproxy", "ip", "to", fmt.Sprintf("127.0.0.1:%d", d.local.ControlPlanePort), "accept")
	d.nodePorts(endpoint1+":6443", endpoint1+":31991", endpoint1+":18132", endpoint2+":6443", endpoint2+":31991")
	d.up("control-plane-8132", endpoint1+"-18132")
	d.up("control-plane", endpoint2+"-6443")
	d.eventually("endpoint 2 to fail at the extra ports, and endpoint 1 at one", func() bool {
		b := d.read().Backends
		return b["control-plane-8132"].Servers[endpoint2+"-18132"].State == "DOWN" &&
			b["control-plane-9345"].Servers[endpoint1+"-9345"].State == "DOWN" && b["control-plane-9345"].Servers[endpoint2+"-9345"].State == "DOWN"
	})
	d.wantReach(vip4+":6443", endpoint1+":6443", endpoint2+":6443")
	for range 4 {
		d.wantReach(vip4+":8132", endpoint1+":18132")
	}
	d.nodePorts(endpoint2 + ":9345") // its check has not noticed yet: only the backend that fails open leads there
	d.wantReach(vip4+":9345", endpoint2+":9345")
}

// A watch or a log that is silent for hours lives on. Nobody waits for hours here: HAProxy tells of a live session when it would
// end for silence, by the timeouts that are in effect, checked and failing open; a worker that was replaced keeps it as long.
func TestSilenceAtTheControlPlane(t *testing.T) {
	for name, checked := range map[string]bool{"checked": true, "failing open": false} {
		t.Run(name, func(t *testing.T) {
			state := withControlPlane(twoNodes(), health(31991, "/31991"))
			state.ControlPlane.ExtraPorts = []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}}
			d := startDaemon(t, state, []string{endpoint1, endpoint2}, vips())
			d.inside("nft", "insert", "rule", "inet", "front", "front", "ip", "daddr", vip4, "tcp", "dport", "{ 6443, 8132 }",
				"tproxy", "ip", "to", fmt.Sprintf("127.0.0.1:%d", d.local.ControlPlanePort), "accept")
			d.nodePorts(endpoint1+":6443", endpoint2+":6443", endpoint1+":18132", endpoint2+":18132")
			backend, extra := "control-plane-open", "control-plane-8132"
			if checked {
				backend = "control-plane"
				d.nodePorts(endpoint1 + ":31991")
				d.up("control-plane", endpoint1+"-6443")
			} else {
				d.eventually("no endpoint to pass its check", func() bool {
					b := d.read().Backends["control-plane"]
					return b.Servers[endpoint1+"-6443"].State == "DOWN" && b.Servers[endpoint2+"-6443"].State == "DOWN"
				})
			}
			d.up("control-plane-8132", endpoint1+"-18132")
			for port, at := range map[string]string{"6443": backend, "8132": extra} {
				if got := d.ask("open " + port + " " + vip4 + ":" + port); strings.HasPrefix(got, "error") {
					t.Fatalf("port %s: %s", port, got)
				}
				said, err := d.runtime.ask(t.Context(), "show sess all")
				if err != nil {
					t.Fatal(err)
				}
				session := sessionOf(string(said), "backend="+at+" ")
				for _, side := range regexp.MustCompile(`\brex=(\S+)`).FindAllStringSubmatch(session, -1) {
					if side[1] != "1d" && !strings.HasPrefix(side[1], "23h") { // as HAProxy writes 24h
						t.Errorf("port %s: a side of the session ends after %s of silence:\n%s", port, side[1], session)
					}
				}
				if n := strings.Count(session, "rex="); n != 2 {
					t.Errorf("port %s: %d sides of a session of %s in:\n%s", port, n, at, said)
				}
			}
		})
	}
}

// sessionOf gives the paragraph of `show sess all` that has a word.
func sessionOf(all, word string) string {
	for session := range strings.SplitSeq(all, "\n0x") {
		if strings.Contains(session, word) {
			return session
		}
	}
	return ""
}
