package nftables

import (
	"strings"
	"testing"
)

// A machine on the segment that takes the gateway for its router gets nowhere, unless the machine was a router before.
func TestGatewayIsNoRouter(t *testing.T) {
	f := newField(t)
	routes := func(what string, want string) {
		t.Helper()
		for _, to := range []string{beyond4, beyond6} {
			got := ""
			for range 5 { // the first packet may be lost while neighbours are asked for their MACs
				if got = who(ask(t, f.client, "", 0, door(to, "30053"))); got == "w1" {
					break
				}
			}
			if got != want {
				t.Errorf("%s: a stranger's packet to %s: %s, want %s", what, to, got, want)
			}
		}
	}
	run(t, "ip", "-n", f.client, "route", "add", beyond4+"/32", "via", own4)
	run(t, "ip", "-n", f.client, "route", "add", beyond6+"/128", "via", own6)
	run(t, "ip", "-n", f.gateway, "route", "add", beyond4+"/32", "via", "10.0.0.11")
	run(t, "ip", "-n", f.gateway, "route", "add", beyond6+"/128", "via", "2001:db8:0:1::11")
	routes("without our table", "w1")
	f.load(t, dns())
	routes("with our table", "timeout")
	for _, vip := range bothVIPs {
		if got := who(ask(t, f.client, "", 0, door(vip, "53"))); got != "w1" && got != "w2" {
			t.Errorf("%s: %s", vip, got)
		}
	}
	local := DebianLocal("a")
	local.Routes4, local.Routes6 = true, true
	script, err := Render(dns(), local)
	if err != nil {
		t.Fatal(err)
	}
	nft(t, f.gateway, script, LoadArgv()...)
	routes("a router on purpose", "w1")
}

// Somebody else's NAT, of the kind that Docker has, does not take our flows.
func TestFlowsBeforeForeignNAT(t *testing.T) {
	f := newField(t)
	f.load(t, dns())
	nft(t, f.gateway, []byte(`table inet site {
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local udp dport 53 dnat ip to 10.0.0.11:9
	}
	chain postrouting { type nat hook postrouting priority srcnat; oifname "eth0" masquerade
	}
}
`), LoadArgv()...)
	if got, want := ask(t, f.client, "", 46001, door(vip4, "53")), " "+door(vip4, "46001")+" ?"; !strings.HasSuffix(got, want) {
		t.Errorf("answered %q, want the node to see %q", got, want)
	}
}
