package nftables

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// greetingFrom is greeting, from an address of the namespace's.
func greetingFrom(t *testing.T, namespace, source, address string) string {
	t.Helper()
	c, err := inside(namespace, func() (net.Conn, error) {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		return d.DialContext(t.Context(), "tcp", address)
	})
	if err != nil {
		return outcome(err)
	}
	defer c.Close()
	return readGreeting(c)
}

// At an address of the link alone HAProxy has no port for its peers, so nothing is let in there.
func TestNoPeersPortAtLinkLocalAddresses(t *testing.T) {
	s := pair()
	for i := range s.Gateways {
		s.Gateways[i].VRRPAddress = netip.MustParseAddr(fmt.Sprintf("fe80::%d", i+1))
	}
	script, err := Render(s, DebianLocal("a"))
	if err != nil || bytes.Contains(script, []byte("tcp . 7482")) || !bytes.Contains(script, []byte("fe80::2")) {
		t.Errorf("%v\n%s", err, script)
	}
}

// HAProxy's port for its peers is bound transparent, as the Services' are: which is what chain guard lets in.
func TestOnlyPeersTellWhereClientsStick(t *testing.T) {
	w := newWire(t)
	w.haproxy(t)
	over4, over6 := door(own4, "7482"), door(own6, "7482")
	listen(t, w.gateway, "peers", "tcp4", over4, true)
	listen(t, w.gateway, "peers", "tcp6", over6, true)
	six := pair()
	six.Gateways[0].VRRPAddress = netip.MustParseAddr(own6)
	service := pair()
	service.LoadBalancers = append(service.LoadBalancers, desired.LoadBalancer{Key: desired.Key{Namespace: "default", Name: "same"},
		Addresses: []netip.Addr{netip.MustParseAddr(vip4)}, Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: 7482, NodePort: 30082}}})
	for _, c := range []struct {
		name                  string
		state                 *desired.State
		from, source, address string
		want                  string
	}{
		{"a peer", pair(), w.client, peer4, over4, "peers " + over4},
		{"a stranger", pair(), w.client, client4, over4, "refused"},
		{"the gateway itself", pair(), w.gateway, own4, over4, "peers " + over4},
		{"a peer over IPv6", six, w.client, peer6, over6, "peers " + over6},
		{"a stranger over IPv6", six, w.client, client6, over6, "refused"},
		{"a Service with that port", service, w.client, client4, door(vip4, "7482"), "services " + door(vip4, "7482")},
		{"a VIP without that port", pair(), w.client, peer4, door(vip4, "7482"), "refused"},
	} {
		w.load(t, c.state)
		if got := greetingFrom(t, c.from, c.source, c.address); got != c.want {
			t.Errorf("%s: %s answered %q, want %q", c.name, c.address, got, c.want)
		}
	}
}
