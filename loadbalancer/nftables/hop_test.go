package nftables

import (
	"bytes"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRenderHop(t *testing.T) {
	addr := netip.MustParseAddr
	for name, hop := range map[string]Hop{
		"hop-gone":  {},
		"hop-takes": {VIPs: []netip.Addr{addr("192.0.2.11"), addr("2001:db8::10"), addr("192.0.2.10")}},
		"hop-gives": {VIPs: []netip.Addr{addr("192.0.2.11"), addr("2001:db8::10"), addr("192.0.2.10"), addr("2001:db8::11")}, Before: map[netip.Addr]netip.Addr{
			addr("192.0.2.11"): addr("198.51.100.1"), addr("192.0.2.10"): addr("198.51.100.2"), addr("2001:db8::10"): addr("2001:db8:1::1"),
			addr("2001:db8::11"): addr("198.51.100.1"), addr("192.0.2.99"): addr("198.51.100.1"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			script, err := RenderHop(hop)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", name+".nft"), script)
			need(t, "nft", "unshare")
			// Loaded twice: it replaces itself.
			argv := append([]string{"unshare", "--net", "--"}, LoadArgv()...)
			check := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			check.Stdin = bytes.NewReader(append(script, script...))
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("nft: %v\n%s", err, out)
			}
		})
	}
}

// Its programs may run again and again, and say so.
func TestHopRoute(t *testing.T) {
	need(t, "ip", "unshare")
	steps := "ip link set lo up"
	for range 2 {
		for _, argv := range HopRouteArgvs("eth0") {
			steps += "; " + strings.Join(argv, " ")
		}
	}
	steps += "; ip -4 rule; ip -6 rule; ip -4 route show table 7480; ip -6 route show table 7480"
	var stderr bytes.Buffer
	run := exec.CommandContext(t.Context(), "unshare", "--net", "--", "sh", "-c", steps)
	run.Stderr = &stderr
	out, err := run.Output()
	if err != nil {
		t.Fatal(err, stderr.String())
	}
	if n := strings.Count(stderr.String(), "\n"); n != 2 || !HopRouteThere(stderr.Bytes()) {
		t.Errorf("said %q, want that both rules were there the second time", &stderr)
	}
	for _, words := range []string{"fwmark 0x2000000/0x2000000 iif eth0", "local default dev lo"} {
		if strings.Count(string(out), words) != 2 {
			t.Errorf("no %q for each family in\n%s", words, out)
		}
	}
}

// Its rules go with it, for whatever interfaces they were made, and a second removal finds nothing.
func TestHopRouteRemoval(t *testing.T) {
	need(t, "ip", "unshare")
	steps := "ip link set lo up"
	for _, device := range []string{"eth0", "bond0"} {
		for _, argv := range HopRouteArgvs(device) {
			steps += "; " + strings.Join(argv, " ")
		}
	}
	for _, argv := range HopRouteRemovalArgvs() {
		steps += "; while " + strings.Join(argv, " ") + " 2>/dev/null; do :; done"
	}
	steps += "; ip -4 rule; ip -6 rule; ip -4 route show table all type local; ip -6 route show table all type local"
	out, err := exec.CommandContext(t.Context(), "unshare", "--net", "--", "sh", "-c", steps).CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	if strings.Contains(string(out), "7480") || !strings.Contains(string(out), "lookup main") {
		t.Errorf("left:\n%s", out)
	}
}
