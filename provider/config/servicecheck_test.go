package config

import (
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A Service may be checked although the nodes are not: the times are there all the same.
func TestServiceCheck(t *testing.T) {
	for kind, times := range map[string]string{CheckNone: "", CheckTCP: ", port: 10250, interval: 1500ms, rise: 4, fall: 5"} {
		c, err := Decode([]byte(`apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways: [{name: gw1, sshAddress: 192.0.2.2, interface: eth0}]
ssh: {privateKeyFile: /key, knownHostsFile: /known_hosts}
pools: [{name: main, addresses: [192.0.2.64/26]}]
nodes: {healthCheck: {type: ` + kind + times + `}}
`))
		if err != nil {
			t.Fatal(err)
		}
		want := desired.Check{Kind: desired.CheckHTTP, IntervalMillis: 2000, Rise: 2, Fall: 3}
		if times != "" {
			want.IntervalMillis, want.Rise, want.Fall = 1500, 4, 5
		}
		if got := c.ServiceCheck(desired.CheckHTTP); got != want {
			t.Errorf("type %s: %+v, want %+v", kind, got, want)
		}
	}
}

// A node with a pod is up as soon as kube-proxy says so, and is asked soon; a check that is faster than that stays.
func TestLocalCheck(t *testing.T) {
	for text, want := range map[string]desired.Check{
		"": {Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 2000, DownIntervalMillis: 250, Rise: 1, Fall: 3},
		"nodes: {healthCheck: {type: tcp, port: 10250, interval: 200ms, rise: 5, fall: 4}}\n": {Kind: desired.CheckHTTP, Port: 32000,
			Path: "/healthz", IntervalMillis: 200, Rise: 1, Fall: 4},
	} {
		c, err := Decode([]byte(base + text))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.LocalCheck(32000); got != want {
			t.Errorf("%s: got %+v", text, got)
		}
	}
}
