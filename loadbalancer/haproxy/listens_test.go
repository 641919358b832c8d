package haproxy

import (
	"net/netip"
	"testing"
)

func TestListensForPeers(t *testing.T) {
	file := []byte("peers gateways\n  default-bind transparent\n  peer east 10.0.0.2:7482\n  peer west 10.0.0.3:7482\n\n")
	with, without := &Running{Generation: "global:1/peers-gateways:2"}, &Running{Generation: "global:1"}
	for name, c := range map[string]struct {
		running *Running
		place   string
		want    bool
	}{
		"there":                    {with, "10.0.0.2:7482", true},
		"does not answer":          {nil, "10.0.0.2:7482", true},
		"loaded before peers were": {without, "10.0.0.2:7482", false},
		"another port":             {with, "10.0.0.2:7483", false},
		"another gateway's place":  {with, "10.0.0.3:7482", false},
	} {
		local := DebianLocal()
		local.Gateway = "east"
		if got := ListensForPeers(c.running, file, local, netip.MustParseAddrPort(c.place)); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
