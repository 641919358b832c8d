package nftables

import (
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer whose servers all drain refuses new connections at once; a backup serves.
func TestServed(t *testing.T) {
	server := desired.Server{Name: "w1", Address: netip.MustParseAddr("10.0.0.11"), Weight: 1}
	drains, backup := server, server
	drains.Drains, backup.Backup = true, true
	for name, test := range map[string]struct {
		servers []desired.Server
		want    bool
	}{
		"nobody":             {nil, false},
		"one that drains":    {[]desired.Server{drains}, false},
		"a backup":           {[]desired.Server{drains, backup}, true},
		"one like all other": {[]desired.Server{server, drains}, true},
	} {
		if got := served(&desired.State{}, desired.LoadBalancer{Pool: &desired.Pool{Servers: test.servers}}, desired.Frontend{}); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
