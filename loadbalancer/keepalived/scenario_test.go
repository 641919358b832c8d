package keepalived

import (
	"fmt"
	"net/netip"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// gateways makes n gateways a, b, c... at 10.0.0.1, 10.0.0.2... or 2001:db8:0:1::1...
func gateways(n int, subnet string) []desired.Gateway {
	var out []desired.Gateway
	at := netip.MustParseAddr(subnet)
	for i := range n {
		at = at.Next()
		out = append(out, desired.Gateway{Name: string(rune('a' + i)), VRRPAddress: at, Interface: "eth0"})
	}
	return out
}

func state(n int, subnet string, vips ...desired.VIP) *desired.State {
	gs := gateways(n, subnet)
	instances, err := desired.Instances(gs, 1)
	if err != nil {
		panic(err) // of a test's own making
	}
	return &desired.State{
		Schema:    desired.Schema,
		Gateways:  gs,
		VRRP:      desired.VRRP{AdvertIntervalMillis: 200},
		Instances: instances,
		VIPs:      vips,
	}
}

// delayed is a State whose gateways wait before they take their VIPs back.
func delayed(n int) *desired.State {
	s := state(n, "10.0.0.0", vipOn("192.0.2.10", "", 1))
	s.VRRP.PreemptDelaySeconds = 1000
	return s
}

func vipOn(address, on string, routerID int) desired.VIP {
	return desired.VIP{Address: netip.MustParseAddr(address), Interface: on, RouterID: routerID}
}

// shared is a State whose two Services have one address: one VIP.
func shared() *desired.State {
	s := state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1))
	for i, name := range []string{"dns", "web"} {
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{
			Key: desired.Key{Namespace: "default", Name: name}, Addresses: []netip.Addr{s.VIPs[0].Address},
			Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: uint16(80 + i), NodePort: uint16(30080 + i)}},
		})
	}
	return s
}

// thousand are 1000 VIPs, spread over two instances.
func thousand() []desired.VIP {
	var out []desired.VIP
	for i := range 1000 {
		out = append(out, vipOn(fmt.Sprintf("192.0.%d.%d", 2+i/250, 1+i%250), "", 1+i%2))
	}
	return out
}
