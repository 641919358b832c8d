package agent

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// sample is a State for the gateways east (which the tests are) and west, with change applied.
func sample(sequence uint64, change ...func(*desired.State)) *desired.State {
	s := &desired.State{
		Schema: desired.Schema,
		Fence:  desired.Fence{ClusterUID: "11111111-2222-3333-4444-555555555555", Epoch: 3, Instance: "c0ffee", Sequence: sequence},
		Gateways: []desired.Gateway{
			{Name: "east", SSHAddress: "east.example.net:22", VRRPAddress: addr("10.0.0.2"), Interface: "eth0"},
			{Name: "west", SSHAddress: "west.example.net:22", VRRPAddress: addr("10.0.0.3"), Interface: "eth0"},
		},
		VRRP: desired.VRRP{AdvertIntervalMillis: 100},
		Instances: []desired.Instance{
			{RouterID: 51, Gateways: []string{"east", "west"}},
			{RouterID: 52, Gateways: []string{"west", "east"}},
		},
		NodeCheck: desired.Check{Kind: desired.CheckNone},
		Nodes: []desired.Node{
			{Name: "worker-1", Addresses: []netip.Addr{addr("10.0.2.1")}},
			{Name: "worker-2", Addresses: []netip.Addr{addr("10.0.2.2")}},
		},
	}
	for _, c := range change {
		c(s)
	}
	s.Normalize()
	return s
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// service adds a load balancer with one port on an address of its own, which instance routerID moves.
func service(name, address string, routerID int) func(*desired.State) {
	return func(s *desired.State) {
		s.VIPs = append(s.VIPs, desired.VIP{Address: addr(address), RouterID: routerID})
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{
			Key: desired.Key{Namespace: "default", Name: name}, UID: "uid-" + name,
			Addresses: []netip.Addr{addr(address)},
			Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 80, NodePort: uint16(30000 + int(addr(address).As4()[3]))}},
		})
	}
}

// local gives a load balancer servers of its own.
func local(name string, servers ...string) func(*desired.State) {
	return func(s *desired.State) {
		for i := range s.LoadBalancers {
			if s.LoadBalancers[i].Name != name {
				continue
			}
			pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone}}
			for n, address := range servers {
				pool.Servers = append(pool.Servers, desired.Server{Name: fmt.Sprintf("worker-%d", n+1), Address: addr(address), Weight: 1})
			}
			s.LoadBalancers[i].Pool = pool
		}
	}
}

func node(name, address string) func(*desired.State) {
	return func(s *desired.State) {
		s.Nodes = append(s.Nodes, desired.Node{Name: name, Addresses: []netip.Addr{addr(address)}})
	}
}

func controlPlane(s *desired.State) {
	s.VIPs = append(s.VIPs, desired.VIP{Address: addr("192.0.2.1"), RouterID: 51})
	s.ControlPlane = &desired.ControlPlane{Address: addr("192.0.2.1"), Port: 6443,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.1.1:6443")}, Check: desired.Check{Kind: desired.CheckNone},
		ExtraPorts: []desired.ExtraPort{{Port: 8132, EndpointPort: 18132}}}
}

// The two CAs of the tests.
//
//go:embed testdata/ca.pem
var ca string

//go:embed testdata/renewed.pem
var renewedCA string

// verifies lets the control plane's check verify its servers.
func verifies(ca string) func(*desired.State) {
	return func(s *desired.State) {
		s.ControlPlane.Check = desired.Check{Kind: desired.CheckHTTPS, Port: 6443, Path: "/readyz", IntervalMillis: 1000, Rise: 1, Fall: 2}
		s.ControlPlane.CA = ca
	}
}

// sign gives what believe believes.
func sign(t testing.TB, s *desired.State) desired.Signed {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatalf("the test's own State: %v", err)
	}
	text, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return desired.Signed{State: text, Signature: sum[:], Signer: "SHA256:test"}
}

func decoded(t *testing.T, s *desired.State) *revision {
	t.Helper()
	r, refusal := decode(sign(t, s))
	if refusal != nil {
		t.Fatal(refusal)
	}
	return r
}

// believe is a Verifier for which a digest is a signature.
type believe struct{}

func (believe) Verify(signed desired.Signed) error {
	sum := sha256.Sum256(signed.State)
	if hex.EncodeToString(sum[:]) != hex.EncodeToString(signed.Signature) {
		return fmt.Errorf("the signature of %s is wrong", signed.Signer)
	}
	return nil
}

const openLimits = `
vipPrefixes: [192.0.2.0/24]
serverPrefixes: [10.0.0.0/8]
interfaces: [eth0]
routerIDs: ["51-60"]
`
