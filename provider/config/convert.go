package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// DesiredGateways gives the gateways as a State holds them, sorted by name.
func (c *Config) DesiredGateways() []desired.Gateway {
	var gateways []desired.Gateway
	for _, g := range c.Gateways {
		gateways = append(gateways, desired.Gateway{
			Name:        g.Name,
			SSHAddress:  net.JoinHostPort(g.SSHAddress, strconv.Itoa(g.SSHPort)),
			VRRPAddress: g.VRRPAddress,
			Interface:   g.Interface,
		})
	}
	slices.SortFunc(gateways, func(a, b desired.Gateway) int { return strings.Compare(a.Name, b.Name) })
	return gateways
}

// DesiredVRRP gives what all VRRP instances have in common.
func (c *Config) DesiredVRRP() desired.VRRP {
	return desired.VRRP{
		AdvertIntervalMillis: c.VRRP.AdvertInterval.Millis(),
		PreemptDelaySeconds:  int(time.Duration(c.VRRP.PreemptDelay).Seconds()),
	}
}

// NodeCheck gives the check of the shared pool's nodes.
func (c *Config) NodeCheck() desired.Check {
	h := c.Nodes.HealthCheck
	return check(h.Type, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
}

// ServiceCheck gives a check of this kind, not none, with the times of the nodes' check, also where that is none. Its port
// and path are the Service's to say.
func (c *Config) ServiceCheck(kind desired.CheckKind) desired.Check {
	h := c.Nodes.HealthCheck
	return desired.Check{Kind: kind, IntervalMillis: h.Interval.Millis(), Rise: h.Rise, Fall: h.Fall}
}

// DesiredControlPlane gives the API server's frontend; nil when the gateways do not carry it.
func (c *Config) DesiredControlPlane() *desired.ControlPlane {
	if c.ControlPlane == nil {
		return nil
	}
	p := c.ControlPlane
	d := &desired.ControlPlane{
		Address: p.Address,
		Port:    uint16(p.Port),
		Check:   check(p.Check.Type, p.Check.Port, p.Check.Path, p.Check.Interval, p.Check.Rise, p.Check.Fall),
		CA:      p.Check.CAFile.PEM,
	}
	for _, e := range p.ExtraPorts {
		d.ExtraPorts = append(d.ExtraPorts, desired.ExtraPort{Port: uint16(e.Port), EndpointPort: uint16(e.EndpointPort)})
	}
	slices.SortFunc(d.ExtraPorts, desired.ExtraPort.Compare)
	for _, text := range p.Endpoints {
		e, err := parseEndpoint(text)
		if err != nil {
			continue // validate has refused such a file
		}
		d.Endpoints = append(d.Endpoints, e)
	}
	slices.SortFunc(d.Endpoints, netip.AddrPort.Compare)
	return d
}

func check(kind string, port int, path string, interval Duration, rise, fall int) desired.Check {
	kinds := map[string]desired.CheckKind{
		CheckKubeProxy: desired.CheckHTTP, CheckTCP: desired.CheckTCP, CheckTLS: desired.CheckTLS, CheckHTTPS: desired.CheckHTTPS, CheckNone: desired.CheckNone,
	}
	if kind == CheckNone {
		return desired.Check{Kind: desired.CheckNone}
	}
	return desired.Check{Kind: kinds[kind], Port: uint16(port), Path: path, IntervalMillis: interval.Millis(), Rise: rise, Fall: fall}
}

// downInterval is how often a server of a Service with externalTrafficPolicy: Local is checked while it is down.
const downInterval = 250 * time.Millisecond

// LocalCheck gives the check of a Service with externalTrafficPolicy: Local: kube-proxy (or its replacement) answers
// with 200 at the Service's healthCheckNodePort where the Service has a ready endpoint on the node. It knows that, so one
// such answer is enough; and a pod that has just become ready may be the only one, so it is asked soon again.
func (c *Config) LocalCheck(healthCheckNodePort uint16) desired.Check {
	h := c.Nodes.HealthCheck
	local := check(CheckKubeProxy, int(healthCheckNodePort), "/healthz", h.Interval, 1, h.Fall)
	if down := int(downInterval.Milliseconds()); down < local.IntervalMillis {
		local.DownIntervalMillis = down
	}
	return local
}

// DrainSeconds gives desired.State's, which leaves the default out: then gateways of the release before, which know no
// other, understand it.
func (c *Config) DrainSeconds() int {
	seconds := int(time.Duration(c.Nodes.DrainTime).Seconds())
	if seconds == desired.DefaultDrainSeconds {
		return 0
	}
	return seconds
}

// Resync gives how often every gateway is compared with what it should do.
func (c *Config) Resync() time.Duration { return time.Duration(c.ResyncInterval) }
