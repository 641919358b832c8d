package desired_test

import (
	"fmt"
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func key(name string) desired.Key { return desired.Key{Namespace: "default", Name: name} }

// valid is a State with something in every field, in canonical order.
func valid() *desired.State {
	return &desired.State{
		Schema: desired.Schema,
		Fence:  desired.Fence{ClusterUID: "11111111-2222-3333-4444-555555555555", Epoch: 3, Instance: "c0ffee", Sequence: 17},
		Gateways: []desired.Gateway{
			{Name: "east", SSHAddress: "east.example.net:22", VRRPAddress: addr("10.0.0.2"), Interface: "eth0"},
			{Name: "west", SSHAddress: "[2001:db8::3]:2222", VRRPAddress: addr("10.0.0.3"), Interface: "br-lan.100"},
		},
		VRRP: desired.VRRP{AdvertIntervalMillis: 100, PreemptDelaySeconds: 60},
		Instances: []desired.Instance{
			{RouterID: 51, Gateways: []string{"east", "west"}},
			{RouterID: 52, Gateways: []string{"west", "east"}},
		},
		VIPs: []desired.VIP{
			{Address: addr("192.0.2.1"), RouterID: 51},
			{Address: addr("192.0.2.10"), RouterID: 52, Interface: "eth1"},
			{Address: addr("192.0.2.11"), RouterID: 51},
			{Address: addr("2001:db8:1::10"), RouterID: 52},
		},
		ControlPlane: &desired.ControlPlane{
			Address: addr("192.0.2.1"), Port: 6443,
			Endpoints:  []netip.AddrPort{netip.MustParseAddrPort("10.0.1.1:6443"), netip.MustParseAddrPort("10.0.1.2:6443")},
			Check:      desired.Check{Kind: desired.CheckHTTPS, Port: 6443, Path: "/readyz", IntervalMillis: 2000, Rise: 2, Fall: 3},
			ExtraPorts: []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}, {Port: 9345, EndpointPort: 9345}},
			CA:         ca,
		},
		Nodes: []desired.Node{
			{Name: "worker-1", Addresses: []netip.Addr{addr("10.0.2.1"), addr("2001:db8:2::1")}},
			{Name: "worker-2.example.net", Addresses: []netip.Addr{addr("10.0.2.2")}},
		},
		NodeCheck:    desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 1, Fall: 2},
		DrainSeconds: 600,
		LoadBalancers: []desired.LoadBalancer{
			{
				Key: key("api"), UID: "aaaaaaaa-0000-0000-0000-000000000001",
				Addresses: []netip.Addr{addr("2001:db8:1::10"), addr("192.0.2.10")},
				Frontends: []desired.Frontend{
					{Name: "http", Protocol: desired.TCP, Port: 80, NodePort: 30080},
					{Name: "https", Protocol: desired.TCP, Port: 443, NodePort: 30443},
					{Name: "dns", Protocol: desired.UDP, Port: 53, NodePort: 30053},
				},
				AllowSources:   []netip.Prefix{prefix("10.0.0.0/8"), prefix("198.51.100.7/32"), prefix("2001:db8::/32")},
				DenySources:    []netip.Prefix{prefix("10.66.0.0/16"), prefix("2001:db8:66::/48")},
				UDPIdleSeconds: 300, AffinitySeconds: 10800, ConnectionLimit: 5000, SourceRate: 20, Log: true,
			},
			{
				Key: key("local"), UID: "aaaaaaaa-0000-0000-0000-000000000002",
				Addresses: []netip.Addr{addr("192.0.2.11")},
				Frontends: []desired.Frontend{
					{Protocol: desired.TCP, Port: 80, NodePort: 31080},
					{Name: "pods", Protocol: desired.TCP, Port: 9443, ProxyProtocol: desired.ProxyV2, Pool: &desired.Pool{
						Algorithm: desired.LeastConn, Check: desired.Check{Kind: desired.CheckNone},
						Servers: []desired.Server{{Name: "10.0.3.1", Address: addr("10.0.3.1"), Port: 8443, Weight: 1}},
					}},
					{Name: "nodes", Protocol: desired.TCP, Port: 9444, NodePort: 31444, Pool: &desired.Pool{
						Algorithm: desired.Source, Check: desired.Check{Kind: desired.CheckNone}, AllNodes: true, Family: 4,
					}},
				},
				DrainSeconds: 60, ClientSource: true, Timeouts: &desired.Timeouts{ConnectMillis: 500, IdleSeconds: 7200, CheckMillis: 1000},
				Pool: &desired.Pool{
					Algorithm: desired.RoundRobin, Local: true,
					Check: desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/", IntervalMillis: 1000, Rise: 1, Fall: 1, DownIntervalMillis: 250},
					Servers: []desired.Server{
						{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1},
						{Name: "worker-2.example.net", Address: addr("10.0.2.2"), Weight: 256},
						{Name: "worker-3", Address: addr("10.0.2.3"), Weight: 2, Backup: true},
						{Name: "worker-4", Address: addr("10.0.2.4"), Weight: 1, Drains: true},
					},
				},
			},
		},
		Releasing: []desired.Releasing{
			{Address: addr("192.0.2.20"), Owner: key("gone"), SinceEpoch: 2, SinceSequence: 5},
			{Address: addr("192.0.2.21"), Owner: key("old"), SinceEpoch: 3, SinceSequence: 9},
			// It shared the address with default/api, which has it still.
			{Address: addr("2001:db8:1::10"), Owner: key("partner"), SinceEpoch: 3, SinceSequence: 12, Ports: []desired.Port{
				{Protocol: desired.TCP, Port: 8080}, {Protocol: desired.UDP, Port: 80},
			}},
		},
		Pools: []desired.PoolSummary{
			{Name: "office", Family: 4, Size: 250, Assigned: 3, Releasing: 2, Reserved: 2, Quarantined: 1},
			{Name: "office", Family: 6, Size: 65536, Assigned: 1},
		},
		Reserved: []desired.Reserved{
			{Address: addr("192.0.2.30"), Owner: key("printer")},
			{Address: addr("192.0.2.31"), Owner: key("mail"), Kept: true},
		},
		Quarantined: []desired.Quarantined{
			{Address: addr("192.0.2.40"), By: "52:54:00:12:34:56"},
			{Address: addr("2001:db8:1::40"), By: "52:54:00:aa:bb:cc (node worker-1)"},
		},
	}
}

// many is a valid State with n load balancers of two ports, each on an address of its own.
func many(n int) *desired.State {
	s := valid()
	first := addr("198.18.0.0").As4()
	for i := range n {
		a := netip.AddrFrom4([4]byte{first[0], first[1], byte(i >> 8), byte(i)})
		s.VIPs = append(s.VIPs, desired.VIP{Address: a, RouterID: 51 + i%2})
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{
			Key:       desired.Key{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d", i)},
			UID:       fmt.Sprintf("aaaaaaaa-0000-0000-0001-%012d", i),
			Addresses: []netip.Addr{a},
			Frontends: []desired.Frontend{
				{Name: "http", Protocol: desired.TCP, Port: 80, NodePort: uint16(10000 + 2*i)},
				{Name: "https", Protocol: desired.TCP, Port: 443, NodePort: uint16(10001 + 2*i)},
			},
		})
	}
	s.Normalize()
	return s
}

func canonical(t testing.TB, s *desired.State) []byte {
	t.Helper()
	b, err := s.Canonical()
	if err != nil {
		t.Fatalf("canonical: %v", err)
	}
	return b
}
