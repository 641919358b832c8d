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

// instances makes one Instance for each ordered pair, as desired.Instances does.
func instances(gs []desired.Gateway) []desired.Instance {
	if len(gs) == 1 {
		return []desired.Instance{{RouterID: 1, Gateways: []string{gs[0].Name}}}
	}
	var out []desired.Instance
	for _, holder := range gs {
		for _, heir := range gs {
			if heir.Name == holder.Name {
				continue
			}
			order := []string{holder.Name, heir.Name}
			for _, g := range gs {
				if g.Name != holder.Name && g.Name != heir.Name {
					order = append(order, g.Name)
				}
			}
			out = append(out, desired.Instance{RouterID: len(out) + 1, Gateways: order})
		}
	}
	return out
}

func state(n int, subnet string, vips ...desired.VIP) *desired.State {
	gs := gateways(n, subnet)
	return &desired.State{
		Schema:    desired.Schema,
		Gateways:  gs,
		VRRP:      desired.VRRP{AdvertIntervalMillis: 200},
		Instances: instances(gs),
		VIPs:      vips,
	}
}

func vipOn(address, on string, routerID int) desired.VIP {
	return desired.VIP{Address: netip.MustParseAddr(address), Interface: on, RouterID: routerID}
}

// thousand are 1000 VIPs, spread over two instances.
func thousand() []desired.VIP {
	var out []desired.VIP
	for i := range 1000 {
		out = append(out, vipOn(fmt.Sprintf("192.0.%d.%d", 2+i/250, 1+i%250), "", 1+i%2))
	}
	return out
}
