package nftables

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A node that answers a flow which this kernel does not know is neither taken for a client, which would send its answer to a server,
// itself here, nor told an error. Who asks from another port is a client.
func TestAnswersOfUnknownFlows(t *testing.T) {
	const vip, nodePort = "10.0.0.100", 30053
	for name, pool := range map[string]*desired.Pool{
		"shared pool": nil,
		"pods": {Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone},
			Servers: []desired.Server{{Name: "pod", Address: netip.MustParseAddr(client4), Port: nodePort, Weight: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			s := pair()
			s.Nodes = []desired.Node{{Name: "node", Addresses: []netip.Addr{netip.MustParseAddr(client4)}}}
			s.LoadBalancers = []desired.LoadBalancer{{Key: desired.Key{Namespace: "default", Name: "ike"}, UID: "u", Addresses: []netip.Addr{s.VIPs[0].Address},
				Frontends: []desired.Frontend{{Protocol: desired.UDP, Port: 500, NodePort: nodePort, Pool: pool}}}}
			if s.VIPs[0].Address.String() != vip {
				t.Fatalf("the VIP is %s", s.VIPs[0].Address)
			}
			run(t, "ip", "netns", "exec", w.gateway, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
			w.load(t, s)
			if pool == nil {
				if got := w.ask(t, client4, 41000, vip, 500, nodePort); got != "served" {
					t.Errorf("a client is %s", got)
				}
			}
			if got := w.ask(t, client4, nodePort, vip, 500, 0); got != "timeout" {
				t.Errorf("an answer to an open port is %s", got)
			}
			if got := w.ask(t, client4, nodePort, vip, 9, 0); got != "timeout" {
				t.Errorf("an answer to another port is %s", got)
			}
			if got := w.ask(t, client4, 41001, vip, 9, 0); got != "refused" {
				t.Errorf("a client at a port that is not open is %s", got)
			}
		})
	}
}

// ask sends a datagram from one of the client machine's addresses and says what becomes of it: "served" when it comes back to
// listening, a port of the machine, or to who sent it.
func (w wire) ask(t *testing.T, source string, from int, target string, to, listening int) string {
	t.Helper()
	at := func(host string, port int) *net.UDPAddr { return &net.UDPAddr{IP: net.ParseIP(host), Port: port} }
	server, err := inside(w.client, func() (*net.UDPConn, error) { return net.ListenUDP("udp4", at(source, listening)) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c, err := inside(w.client, func() (*net.UDPConn, error) { return net.DialUDP("udp4", at(source, from), at(target, to)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return outcome(err)
	}
	got := make([]byte, 8)
	if listening > 0 {
		_ = server.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, _, err := server.ReadFrom(got); err != nil {
			return outcome(err)
		}
		return "served"
	}
	_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := c.Read(got); err != nil {
		return outcome(err)
	}
	return "served"
}
