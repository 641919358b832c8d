package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
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
	slices.SortFunc(gateways, func(a, b desired.Gateway) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return gateways
}

// DesiredVRRP gives what all VRRP instances have in common.
func (c *Config) DesiredVRRP() desired.VRRP {
	return desired.VRRP{AdvertIntervalMillis: c.VRRP.AdvertInterval.Millis()}
}

// NodeCheck gives the check of the shared pool's nodes.
func (c *Config) NodeCheck() desired.Check {
	h := c.Nodes.HealthCheck
	return check(h.Type, h.Port, h.Path, h.Interval, h.Rise, h.Fall)
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
	}
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
		CheckKubeProxy: desired.CheckHTTP, CheckTCP: desired.CheckTCP, CheckHTTPS: desired.CheckHTTPS, CheckNone: desired.CheckNone,
	}
	if kind == CheckNone {
		return desired.Check{Kind: desired.CheckNone}
	}
	return desired.Check{Kind: kinds[kind], Port: uint16(port), Path: path, IntervalMillis: interval.Millis(), Rise: rise, Fall: fall}
}

// PoolInterfaces gives the interface of every pool that names one.
func (c *Config) PoolInterfaces() map[string]string {
	interfaces := map[string]string{}
	for _, p := range c.Pools {
		if p.Interface != "" {
			interfaces[p.Name] = p.Interface
		}
	}
	return interfaces
}

// Reserved gives the addresses that no Service may get although a pool holds them: those of gateways, of configured
// nodes and of the control plane, sorted.
func (c *Config) Reserved() []netip.Addr {
	var addresses []netip.Addr
	for _, g := range c.Gateways {
		addresses = append(addresses, g.VRRPAddress)
		if a, err := netip.ParseAddr(g.SSHAddress); err == nil {
			addresses = append(addresses, a.Unmap())
		}
	}
	for _, node := range c.Nodes.Addresses {
		addresses = append(addresses, node...)
	}
	if p := c.DesiredControlPlane(); p != nil {
		addresses = append(addresses, p.Address)
		for _, e := range p.Endpoints {
			addresses = append(addresses, e.Addr())
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// Resync gives how often every gateway is compared with what it should do.
func (c *Config) Resync() time.Duration { return time.Duration(c.ResyncInterval) }
