package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/go-multierror"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// base is the smallest sensible file.
const base = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: 192.0.2.2, interface: eth0}
- {name: gw2, sshAddress: 192.0.2.3, interface: eth0}
ssh: {privateKeyFile: /key, knownHostsFile: /known_hosts}
pools:
- {name: main, addresses: [192.0.2.64/26]}
`

// edit replaces old, which must be in base, by with.
func edit(t *testing.T, pairs ...string) []byte {
	t.Helper()
	text := base
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q is not in the file", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return []byte(text)
}

// told gives the single faults of an error of Decode or Load.
func told(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var list *multierror.Error
	if !errors.As(err, &list) {
		t.Fatalf("%v is no go-multierror list", err)
	}
	var texts []string
	for _, e := range list.Errors {
		texts = append(texts, e.Error())
	}
	return texts
}

func TestDefaults(t *testing.T) {
	c, err := Decode([]byte(base))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &Config{
		APIVersion: APIVersion, Kind: Kind,
		Gateways: []Gateway{
			{Name: "gw1", SSHAddress: "192.0.2.2", SSHPort: 22, VRRPAddress: netip.MustParseAddr("192.0.2.2"), Interface: "eth0"},
			{Name: "gw2", SSHAddress: "192.0.2.3", SSHPort: 22, VRRPAddress: netip.MustParseAddr("192.0.2.3"), Interface: "eth0"},
		},
		SSH:            SSH{User: "gatewayctl", PrivateKeyFile: "/key", KnownHostsFile: "/known_hosts"},
		VRRP:           VRRP{FirstRouterID: 200, AdvertInterval: Duration(100 * time.Millisecond)},
		Pools:          []Pool{{Name: "main", Addresses: []string{"192.0.2.64/26"}, AvoidNetworkAndBroadcast: &yes, AutoAssign: &yes, Probe: &yes}},
		IPMode:         "VIP",
		ServeUnclassed: &yes, LoadBalancerClass: "cloud-provider-haproxy/gateway",
		ResyncInterval: Duration(time.Minute),
		Nodes: Nodes{AddressType: "InternalIP", DrainTime: Duration(5 * time.Minute), HealthCheck: HealthCheck{
			Type: "kube-proxy", Port: 10256, Path: "/healthz", Interval: Duration(2 * time.Second), Rise: 2, Fall: 3}},
	}
	if diff := cmp.Diff(want, c, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("completed configuration (-want +got):\n%s", diff)
	}
}

func TestFiveFaultsAtOnce(t *testing.T) {
	_, err := Decode(edit(t,
		"interface: eth0}\n- {name: gw2", "interfaec: eth0}\n- {name: gw1",
		"privateKeyFile: /key, ", "",
		"[192.0.2.64/26]", "[192.0.2.90-192.0.2.80]",
		"pools:", "vrrp: {firstRouterID: 255}\npools:"))
	want := []string{
		"gateways[0].interfaec: line 4: unknown field; here are allowed: interface, name, sshAddress, sshPort, vrrpAddress",
		"gateways[0].interface: is missing; the name of a network interface (eth0) is needed",
		"gateways[1].name: gw1 is gateways[0].name too; each may be there once",
		"ssh.privateKeyFile: is missing; the path of the controller's private key is needed",
		"vrrp.firstRouterID: 2 gateways need 2 router IDs, 255 to 256, but 255 is the last; 1 to 254 is allowed",
		`pools[0].addresses[0]: address range "192.0.2.90-192.0.2.80": is upside down; did you mean 192.0.2.80-192.0.2.90?`,
	}
	if diff := cmp.Diff(want, told(t, err)); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if !strings.Contains(err.Error(), "6 errors occurred:") {
		t.Errorf("the list does not say how many faults there are:\n%v", err)
	}
}

func TestSingleFaults(t *testing.T) {
	const (
		control = "pools:"
		address = "[192.0.2.64/26]"
	)
	tests := []struct {
		name string
		pair [2]string
		want string // the only fault
	}{
		{"version", [2]string{"haproxy/v1", "haproxy/v2"}, `apiVersion: "cloud-provider-haproxy/v2"; allowed is cloud-provider-haproxy/v1`},
		{"kind", [2]string{"kind: CloudConfig", "kind: Config"}, `kind: "Config"; allowed is CloudConfig`},
		{"unknown at top", [2]string{control, "pool: []\npools:"}, "pool: line 7: unknown field; here are allowed: apiVersion, controlPlane, gateways, ipMode, kind, loadBalancerClass, nodes, pools, readForeignAnnotations, reservations, resyncInterval, serveUnclassed, ssh, vrrp"},
		{"twice", [2]string{"interface: eth0}", "interface: eth0, interface: eth1}"}, "gateways[0].interface: line 4: is written twice, first in line 4; once is allowed"},
		{"twice in a map", [2]string{control, "nodes:\n  addresses:\n    a: [192.0.2.9]\n    a: [192.0.2.9]\npools:"}, "nodes.addresses[a]: line 10: is written twice, first in line 9; once is allowed"},
		{"list for mapping", [2]string{control, "vrrp: []\npools:"}, "vrrp: line 7: is a list; a mapping (key: value) is allowed"},
		{"mapping for list", [2]string{address, "{a: b}"}, "pools[0].addresses: line 8: is a mapping; a list ([a, b]) is allowed"},
		{"text for number", [2]string{"interface: eth0}", "interface: eth0, sshPort: ssh}"}, `gateways[0].sshPort: line 4: is "ssh"; a whole number is allowed`},
		{"number for text", [2]string{"name: gw1", "name: 1"}, `gateways[0].name: line 4: 1 is no text to YAML; write it in quotes: "1"`},
		{"number for bool", [2]string{control, "serveUnclassed: 1\npools:"}, `serveUnclassed: line 7: is "1"; true or false is allowed`},
		{"not an address", [2]string{"interface: eth0}", "interface: eth0, vrrpAddress: gw1}"}, `gateways[0].vrrpAddress: line 4: "gw1"; an IP address (192.0.2.1 or 2001:db8::1) is allowed`},
		{"not a duration", [2]string{control, "vrrp: {advertInterval: 5}\npools:"}, `vrrp.advertInterval: line 7: "5"; a duration (200ms, 5s, 1m) is allowed`},
		{"not a network", [2]string{control, "nodes: {cidrs: [10.0.0.0]}\npools:"}, `nodes.cidrs[0]: line 7: "10.0.0.0"; a network (192.0.2.0/24 or 2001:db8::/64) is allowed`},
		{"a probe of the workers' network", [2]string{control, "nodes: {cidrs: [192.0.2.0/27], clientSourceProbes: [192.0.2.9]}\npools:"}, "nodes.clientSourceProbes[0]: 192.0.2.9 is in nodes.cidrs[0], where workers answer without a route; one that they route like those of clients is allowed"},
		{"a probe of a pool", [2]string{control, "nodes: {clientSourceProbes: [192.0.2.70]}\npools:"}, "nodes.clientSourceProbes[0]: 192.0.2.70 is in pool main; an address that nobody has is allowed"},
		{"two probes of a family", [2]string{control, "nodes: {clientSourceProbes: [203.0.113.1, 203.0.113.2]}\npools:"}, "nodes.clientSourceProbes[1]: 203.0.113.2 is a second address of its family; one is allowed"},
		{"a probe that nobody could be", [2]string{control, "nodes: {clientSourceProbes: [169.254.0.1]}\npools:"}, "nodes.clientSourceProbes[0]: 169.254.0.1 is no address that a client could have"},
		{"pods' network with host bits", [2]string{control, "nodes: {podCIDRs: [10.244.0.1/16]}\npools:"}, "nodes.podCIDRs[0]: 10.244.0.1/16 has host bits; the network is 10.244.0.0/16"},
		{"pods' networks overlap", [2]string{control, "nodes: {podCIDRs: [10.244.0.0/16, 10.0.0.0/8]}\npools:"}, "nodes.podCIDRs[1]: 10.0.0.0/8 overlaps 10.244.0.0/16 of nodes.podCIDRs[0]"},
		{"pods' network with a gateway", [2]string{control, "nodes: {podCIDRs: [192.0.2.2/32]}\npools:"}, "nodes.podCIDRs[0]: 192.0.2.2/32 contains 192.0.2.2, the address of gateways[0]; the network of pods alone is allowed"},
		{"pods' network with a pool", [2]string{control, "nodes: {podCIDRs: [192.0.2.64/27]}\npools:"}, "nodes.podCIDRs[0]: 192.0.2.64/27 overlaps pool main, whose addresses are those of Services; the network of pods alone is allowed"},
		{"anchor", [2]string{address, "&a [192.0.2.64/26]"}, "pools[0].addresses: line 8: uses a YAML anchor or alias; write the value out"},
		{"two documents", [2]string{address + "}\n", address + "}\n---\nkind: CloudConfig\n"}, "file: holds more than one YAML document; one is allowed"},
		{"port", [2]string{"interface: eth0}", "interface: eth0, sshPort: 65536}"}, "gateways[0].sshPort: 65536; 1 to 65535 is allowed"},
		{"port in the address", [2]string{"sshAddress: 192.0.2.2", `sshAddress: "192.0.2.2:22", vrrpAddress: 192.0.2.2`}, `gateways[0].sshAddress: "192.0.2.2:22"; a host name or an IP address is allowed (the port belongs in sshPort)`},
		{"no vrrpAddress", [2]string{"sshAddress: 192.0.2.2", "sshAddress: gw1.example"}, "gateways[0].vrrpAddress: is missing; it is needed because sshAddress is no IP address"},
		{"families", [2]string{"sshAddress: 192.0.2.3", `sshAddress: "2001:db8::3"`}, "gateways[1].vrrpAddress: 2001:db8::3 is of another family than 192.0.2.2 of an earlier gateway; all IPv4 or all IPv6 is allowed"},
		{"one vrrpAddress twice", [2]string{"sshAddress: 192.0.2.3", "sshAddress: 192.0.2.3, vrrpAddress: 192.0.2.2"}, "gateways[1].vrrpAddress: 192.0.2.2 is gateways[0].vrrpAddress too; each may be there once"},
		{"gateway name", [2]string{"name: gw1", "name: GW_1"}, `gateways[0].name: "GW_1"; a DNS label (a-z, 0-9, -; at most 63) is allowed`},
		{"long interface", [2]string{"interface: eth0}", "interface: enp0s31f6.100.200}"}, `gateways[0].interface: "enp0s31f6.100.200"; the name of a network interface (at most 15 characters, such as eth0) is allowed`},
		{"user", [2]string{"ssh: {", "ssh: {user: Root!, "}, `ssh.user: "Root!"; a login name (a-z, 0-9, -, _; at most 32) is allowed`},
		{"router ID", [2]string{control, "vrrp: {firstRouterID: 256}\npools:"}, "vrrp.firstRouterID: 256; 1 to 255 is allowed"},
		{"advert interval", [2]string{control, "vrrp: {advertInterval: 15ms}\npools:"}, "vrrp.advertInterval: 15ms; 10ms to 40.95s in steps of 10ms is allowed"},
		{"negative delay", [2]string{control, "vrrp: {preemptDelay: -1s}\npools:"}, "vrrp.preemptDelay: -1s; 0s to 1000s in whole seconds is allowed"},
		{"long delay", [2]string{control, "vrrp: {preemptDelay: 1001s}\npools:"}, "vrrp.preemptDelay: 16m41s; 0s to 1000s in whole seconds is allowed"},
		{"delay in parts of a second", [2]string{control, "vrrp: {preemptDelay: 1.5s}\npools:"}, "vrrp.preemptDelay: 1.5s; 0s to 1000s in whole seconds is allowed"},
		{"delay without a unit", [2]string{control, "vrrp: {preemptDelay: 5}\npools:"}, `vrrp.preemptDelay: line 7: "5"; a duration (200ms, 5s, 1m) is allowed`},
		{"overlap in a pool", [2]string{address, "[192.0.2.64/26, 192.0.2.70]"}, "pools[0].addresses[1]: 192.0.2.70 overlaps 192.0.2.64/26 of pools[0].addresses[0]; an address belongs to one pool only"},
		{"overlap of pools", [2]string{address + "}", address + "}\n- {name: second, addresses: [192.0.2.60-192.0.2.64]}"}, "pools[0].addresses[0]: 192.0.2.64/26 overlaps 192.0.2.60-192.0.2.64 of pools[1].addresses[0]; an address belongs to one pool only"},
		{"pool twice", [2]string{address + "}", address + "}\n- {name: main, addresses: [198.51.100.1]}"}, "pools[1].name: main is pools[0].name too; each may be there once"},
		{"empty pool", [2]string{address, "[]"}, "pools[0].addresses: is empty; networks, ranges and single addresses are allowed"},
		{"host bits", [2]string{address, "[192.0.2.65/26]"}, `pools[0].addresses[0]: address range "192.0.2.65/26": has host bits set; did you mean 192.0.2.64/26 or the single address 192.0.2.65?`},
		{"range of two families", [2]string{address, `["192.0.2.65-2001:db8::1"]`}, `pools[0].addresses[0]: address range "192.0.2.65-2001:db8::1": 192.0.2.65 and 2001:db8::1 are of different families`},
		{"multicast pool", [2]string{address, "[239.0.0.1]"}, "pools[0].addresses[0]: 239.0.0.1 reaches into 224.0.0.0/3 (multicast and reserved); unicast addresses of the network are allowed"},
		{"nonsense pool", [2]string{address, "[all]"}, `pools[0].addresses[0]: address range "all": "all" is not an IP address`},
		{"pool of gateways", [2]string{address, "[192.0.2.2-192.0.2.3]"}, "pools[0].addresses: nothing is left for Services, the rest being: VRRP address of gateway gw1, VRRP address of gateway gw2; name further addresses"},
		{"address type", [2]string{control, "nodes: {addressType: Hostname}\npools:"}, `nodes.addressType: "Hostname"; allowed is InternalIP, ExternalIP`},
		{"link-local node", [2]string{control, "nodes: {addresses: {a: [169.254.7.7]}}\npools:"}, "nodes.addresses[a][0]: 169.254.7.7; an address that other machines can connect to is allowed: unicast, neither loopback nor link-local, without a zone"},
		{"link-local node, IPv6", [2]string{control, "nodes: {addresses: {a: ['fe80::7']}}\npools:"}, "nodes.addresses[a][0]: fe80::7; an address that other machines can connect to is allowed: unicast, neither loopback nor link-local, without a zone"},
		{"node addresses", [2]string{control, "nodes: {addresses: {a: [192.0.2.8, 192.0.2.9]}}\npools:"}, "nodes.addresses[a]: holds 2 IPv4 and 0 IPv6 addresses; at most one of each is allowed, and at least one in all"},
		{"check type", [2]string{control, "nodes: {healthCheck: {type: http}}\npools:"}, `nodes.healthCheck.type: "http"; allowed is kube-proxy, tcp, none`},
		{"tcp check without port", [2]string{control, "nodes: {healthCheck: {type: tcp}}\npools:"}, "nodes.healthCheck.port: is missing; type tcp needs a port that every worker listens on, for example 10250 (kubelet)"},
		{"none with port", [2]string{control, "nodes: {healthCheck: {type: none, port: 1}}\npools:"}, "nodes.healthCheck.port: 1; type none checks nothing, leave the port out"},
		{"check interval", [2]string{control, "nodes: {healthCheck: {interval: 10ms}}\npools:"}, "nodes.healthCheck.interval: 10ms; 100ms to 1h in whole milliseconds is allowed"},
		{"check fall", [2]string{control, "nodes: {healthCheck: {fall: 101}}\npools:"}, "nodes.healthCheck.fall: 101; 1 to 100 is allowed"},
		{"check path", [2]string{control, "nodes: {healthCheck: {path: livez}}\npools:"}, `nodes.healthCheck.path: "livez"; a path that begins with / and has no spaces is allowed`},
		{"ipMode", [2]string{control, "ipMode: vip\npools:"}, `ipMode: "vip"; allowed is VIP, Proxy`},
		{"class", [2]string{control, "loadBalancerClass: gateway\npools:"}, `loadBalancerClass: "gateway"; a label key with a prefix (cloud-provider-haproxy/gateway) is allowed`},
		{"resync", [2]string{control, "resyncInterval: 1s\npools:"}, "resyncInterval: 1s; 5s or more is allowed"},
		{"control plane at a gateway", [2]string{control, "controlPlane: {address: 192.0.2.2, endpoints: [192.0.2.11]}\npools:"}, "controlPlane.address: 192.0.2.2 is gateways[0].vrrpAddress; it must be an address of its own, which keepalived moves"},
		{"https without CA", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], check: {type: https}}\npools:"}, "controlPlane.check.caFile: is missing; type https verifies the API server with it (type tls completes the handshake and asks for nothing)"},
		{"CA without https", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], check: {type: tls, caFile: ca.crt}}\npools:"}, "controlPlane.check.caFile: ca.crt; type tls verifies no certificate, leave it out or take https"},
		{"path without https", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], check: {path: /readyz}}\npools:"}, `controlPlane.check.path: "/readyz"; type tls asks for no path, leave it out`},
		{"extra port is the port", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], extraPorts: [{port: 6443}]}\npools:"}, "controlPlane.extraPorts[0].port: 6443 is controlPlane.port; each may be there once"},
		{"extra port twice", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], extraPorts: [{port: 8132}, {port: 8132, endpointPort: 8133}]}\npools:"}, "controlPlane.extraPorts[1].port: 8132 is controlPlane.extraPorts[0].port too; each may be there once"},
		{"extra port's endpoint", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], extraPorts: [{port: 8132, endpointPort: 70000}]}\npools:"}, "controlPlane.extraPorts[0].endpointPort: 70000; 1 to 65535 is allowed"},
		{"no extra port", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], extraPorts: [{endpointPort: 8132}]}\npools:"}, "controlPlane.extraPorts[0].port: 0; 1 to 65535 is allowed"},
		{"which port of a Node", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11, \"192.0.2.12:6444\"], endpointsFromNodes: true, check: {port: 6443}}\npools:"}, "controlPlane.endpointsFromNodes: the endpoints have different ports, so that a Node's is not known; give all of them one port, or leave this out"},
		{"Nodes instead of endpoints", [2]string{control, "controlPlane: {address: 192.0.2.9, endpointsFromNodes: true}\npools:"}, "controlPlane.endpoints: is empty; name the API servers"},
		{"control plane loop", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.9]}\npools:"}, "controlPlane.endpoints[0]: 192.0.2.9 is controlPlane.address itself; an API server's own address is allowed"},
		{"endpoint", [2]string{control, "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11, api]}\npools:"}, `controlPlane.endpoints[1]: "api"; an address or address:port (192.0.2.11, [2001:db8::11]:6443) is allowed`},
		{"endpoints' ports differ", [2]string{control, `controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11, "192.0.2.12:443"]}` + "\npools:"}, "controlPlane.check.port: is missing; it is needed because the endpoints have different ports"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Decode(edit(t, test.pair[0], test.pair[1]))
			if diff := cmp.Diff([]string{test.want}, told(t, err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsNoConfigurationAtAll(t *testing.T) {
	for text, want := range map[string]string{
		"":              "file: is empty",
		"a: [":          "file: is not YAML",
		"hello":         `file: line 1: is "hello"; a mapping`,
		"listen: ':80'": "listen: line 1: unknown field",
	} {
		_, err := Decode([]byte(text))
		if got := told(t, err); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("faults of %q: %q, want one that begins with %q", text, got, want)
		}
	}
}

func TestConversions(t *testing.T) {
	c, err := Decode(edit(t, "pools:\n", `controlPlane: {address: 192.0.2.70, endpoints: ["192.0.2.12:6443", 192.0.2.11]}
nodes: {addresses: {worker: [192.0.2.71]}, healthCheck: {type: tcp, port: 10250, interval: 1500ms}}
pools:
- {name: v6, addresses: ["2001:db8::/64"], interface: eth1}
`, "name: gw1", "name: zz", "interface: eth0", "sshPort: 2222, interface: eth0"))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	comparable := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})
	wantGateways := []desired.Gateway{
		{Name: "gw2", SSHAddress: "192.0.2.3:22", VRRPAddress: addr("192.0.2.3"), Interface: "eth0"},
		{Name: "zz", SSHAddress: "192.0.2.2:2222", VRRPAddress: addr("192.0.2.2"), Interface: "eth0"},
	}
	if diff := cmp.Diff(wantGateways, c.DesiredGateways(), comparable); diff != "" {
		t.Errorf("gateways (-want +got):\n%s", diff)
	}
	wantControl := &desired.ControlPlane{Address: addr("192.0.2.70"), Port: 6443,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.11:6443"), netip.MustParseAddrPort("192.0.2.12:6443")},
		Check:     desired.Check{Kind: desired.CheckTLS, Port: 6443, IntervalMillis: 1000, Rise: 2, Fall: 3}}
	if diff := cmp.Diff(wantControl, c.DesiredControlPlane(), comparable); diff != "" {
		t.Errorf("control plane (-want +got):\n%s", diff)
	}
	if want := (desired.Check{Kind: desired.CheckTCP, Port: 10250, IntervalMillis: 1500, Rise: 2, Fall: 3}); c.NodeCheck() != want {
		t.Errorf("node check %+v, want %+v", c.NodeCheck(), want)
	}
	if diff := cmp.Diff(map[string]string{"v6": "eth1"}, c.PoolInterfaces()); diff != "" {
		t.Errorf("pool interfaces (-want +got):\n%s", diff)
	}
	var excluded []string
	for _, e := range c.Exclusions() {
		excluded = append(excluded, e.Range.From().String()+" "+e.Reason)
	}
	wantExcluded := []string{"192.0.2.2 VRRP address of gateway zz", "192.0.2.3 VRRP address of gateway gw2", "192.0.2.71 address of node worker",
		"192.0.2.70 address of the control plane", "192.0.2.11 address of an API server", "192.0.2.12 address of an API server",
		"2001:db8:: subnet-router anycast address of 2001:db8::/64", "192.0.2.64 network address of 192.0.2.64/26", "192.0.2.127 broadcast address of 192.0.2.64/26"}
	if diff := cmp.Diff(wantExcluded, excluded); diff != "" {
		t.Errorf("exclusions (-want +got):\n%s", diff)
	}
	allocator, err := ipam.New(c.AddressPools(), c.Exclusions())
	if err != nil {
		t.Fatal(err)
	}
	got, err := allocator.Allocate(ipam.Owner{Namespace: "a", Name: "b"}, ipam.Request{})
	if err != nil || got[0] != addr("192.0.2.65") {
		t.Errorf("first address %v, %v; want 192.0.2.65", got, err)
	}
}

func TestLoadLooksAtTheFilesNamedInside(t *testing.T) {
	directory := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	write("key", "secret", 0o440)
	write("open", "secret", 0o644)
	write("empty", "", 0o644)
	write("known_hosts", "gw1 ssh-ed25519 AAAA", 0o644)
	config := func(key, hosts string) string {
		return write("cloud.yaml", string(edit(t, "/key", key, "/known_hosts", hosts)), 0o644)
	}

	c, err := Load(config("key", "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(directory, "key"); c.SSH.PrivateKeyFile != want {
		t.Errorf("the key's path is %s, want %s: relative to the configuration", c.SSH.PrivateKeyFile, want)
	}
	_, err = Load(config("open", "missing"))
	want := []string{
		fmt.Sprintf("ssh.privateKeyFile: %s/open has mode 0644, so others than its owner and group can read or change it; allowed is 0400, 0440, 0600 or 0640 (chmod 0400, or defaultMode: 0400 of a Secret volume)", directory),
		fmt.Sprintf("ssh.knownHostsFile: cannot be read: open %s/missing: no such file or directory", directory),
	}
	if diff := cmp.Diff(want, told(t, err)); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if _, err = Load(config("key", "empty")); !strings.Contains(fmt.Sprint(err), "ssh.knownHostsFile: "+directory+"/empty is empty") {
		t.Errorf("an empty known_hosts: %v", err)
	}

	pem, err := os.ReadFile("../../loadbalancer/desired/testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	write("ca.crt", "The cluster's CA.\n"+string(pem), 0o644)
	write("ca.key", strings.ReplaceAll(string(pem), "CERTIFICATE", "PRIVATE KEY"), 0o644)
	verified := func(ca string) (*Config, error) {
		control := "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], check: {caFile: " + ca + "}}\npools:"
		return Load(write("cloud.yaml", string(edit(t, "/key", "key", "/known_hosts", "known_hosts", "pools:", control)), 0o644))
	}
	if c, err = verified("ca.crt"); err != nil {
		t.Fatal(err)
	}
	if p := c.DesiredControlPlane(); p.CA != string(pem) || p.Check.Kind != desired.CheckHTTPS || p.Check.Path != "/readyz" {
		t.Errorf("the control plane is checked by %+v with the CA %q", p.Check, p.CA)
	}
	for file, says := range map[string]string{
		"gone":   "controlPlane.check.caFile: cannot be read: open " + directory + "/gone",
		"ca.key": "controlPlane.check.caFile: " + directory + "/ca.key holds a PRIVATE KEY; certificates alone are allowed",
		"empty":  "controlPlane.check.caFile: " + directory + "/empty holds no certificate",
	} {
		if _, err := verified(file); !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	if _, err = Load(filepath.Join(directory, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing configuration: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(base))
	f.Add([]byte(strings.Replace(base, "pools:\n"+onePool, richPools, 1)))
	f.Add([]byte("gateways: {a: &a [*a]}\npools: [[[]]]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		if (c.DesiredControlPlane() == nil) != (c.ControlPlane == nil) || len(c.AddressReservations()) != len(c.Reservations) {
			t.Error("a valid configuration does not convert")
		}
		if _, err := ipam.New(c.AddressPools(), c.Exclusions()); err != nil {
			t.Errorf("ipam refuses a valid configuration: %v", err)
		}
	})
}

// The example that the manifest's reader copies must be one.
func TestExample(t *testing.T) {
	b, err := os.ReadFile("../../manifests/controller/example/cloud-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); err != nil {
		t.Error(err)
	}
	// What is commented out is right too: lines that begin with #key, or are indented.
	c, err := Decode(regexp.MustCompile(`(?m)^#([a-z]|  )`).ReplaceAll(b, []byte("$1")))
	if err != nil {
		t.Fatal(err)
	}
	if c.ControlPlane == nil || len(c.Reservations) == 0 {
		t.Error("the commented parts do not begin with #controlPlane and #reservations")
	}
}

func TestPreemptDelay(t *testing.T) {
	for text, want := range map[string]int{"": 0, "vrrp: {preemptDelay: 0s}\n": 0, "vrrp: {preemptDelay: 1000s}\n": 1000} {
		if c, err := Decode([]byte(base + text)); err != nil || c.DesiredVRRP().PreemptDelaySeconds != want {
			t.Errorf("%s: got %+v, %v, want %d", text, c, err, want)
		}
	}
}

// The default drain time is left out, for gateways that know no other.
func TestDrainTime(t *testing.T) {
	for text, want := range map[string]int{"": 0, "nodes: {drainTime: 5m}\n": 0, "nodes: {drainTime: 90s}\n": 90, "nodes: {drainTime: 24h}\n": 86400} {
		c, err := Decode([]byte(base + text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.DrainSeconds(); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
	for _, wrong := range []string{"-1s", "500ms", "1500ms", "25h"} {
		_, err := Decode([]byte(base + "nodes: {drainTime: " + wrong + "}\n"))
		if err == nil || !strings.Contains(err.Error(), "nodes.drainTime: ") || !strings.Contains(err.Error(), "1s to 24h in whole seconds is allowed") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
