package config

import (
	"net/netip"
	"time"
)

// LoadBalancerClass is the default of the field with this name.
const LoadBalancerClass = "cloud-provider-haproxy/gateway"

// apiServerPort is where kube-apiserver listens unless told otherwise.
const apiServerPort = 6443

// kubeProxyHealthPort is kube-proxy's --healthz-bind-address port.
const kubeProxyHealthPort = 10256

// setDefaults fills in what the file leaves out.
func (c *Config) setDefaults() {
	for i := range c.Gateways {
		g := &c.Gateways[i]
		orDefault(&g.SSHPort, 22)
		if a, err := netip.ParseAddr(g.SSHAddress); err == nil {
			orDefault(&g.VRRPAddress, a.Unmap())
		}
	}
	orDefault(&c.SSH.User, "gatewayctl")
	orDefault(&c.VRRP.FirstRouterID, 200)
	orDefault(&c.VRRP.AdvertInterval, Duration(100*time.Millisecond))
	orDefault(&c.IPMode, "VIP")
	orDefault(&c.LoadBalancerClass, LoadBalancerClass)
	orTrue(&c.ServeUnclassed)
	for i := range c.Pools {
		p := &c.Pools[i]
		orTrue(&p.AvoidNetworkAndBroadcast)
		orTrue(&p.AutoAssign)
		orTrue(&p.Probe)
	}
	orDefault(&c.ResyncInterval, Duration(time.Minute))
	c.Nodes.setDefaults()
	if c.ControlPlane != nil {
		c.ControlPlane.setDefaults()
	}
}

func (n *Nodes) setDefaults() {
	orDefault(&n.AddressType, "InternalIP")
	h := &n.HealthCheck
	orDefault(&h.Type, CheckKubeProxy)
	if h.Type == CheckKubeProxy {
		orDefault(&h.Port, kubeProxyHealthPort)
		orDefault(&h.Path, "/healthz")
	}
	orDefault(&h.Interval, Duration(2*time.Second))
	orDefault(&h.Rise, 2)
	orDefault(&h.Fall, 3)
}

func (p *ControlPlane) setDefaults() {
	orDefault(&p.Port, apiServerPort)
	h := &p.Check
	if h.CAFile.Path != "" {
		orDefault(&h.Type, CheckHTTPS)
	}
	orDefault(&h.Type, CheckTLS)
	for i := range p.ExtraPorts {
		orDefault(&p.ExtraPorts[i].EndpointPort, p.ExtraPorts[i].Port)
	}
	if h.Type == CheckHTTPS {
		orDefault(&h.Path, "/readyz")
	}
	if port, differ := commonPort(p.Endpoints); !differ && h.Type != CheckNone {
		orDefault(&h.Port, port)
	}
	orDefault(&h.Interval, Duration(time.Second))
	orDefault(&h.Rise, 2)
	orDefault(&h.Fall, 3)
}

// commonPort gives the port of the endpoints that can be read, 0 if there are none or it differs.
func commonPort(endpoints []string) (port int, differ bool) {
	for _, text := range endpoints {
		e, err := parseEndpoint(text)
		if err != nil {
			continue
		}
		if port != 0 && port != int(e.Port()) {
			return 0, true
		}
		port = int(e.Port())
	}
	return port, false
}

// parseEndpoint reads an address, or an address and a port.
func parseEndpoint(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), apiServerPort), nil
	}
	e, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(e.Addr().Unmap(), e.Port()), err
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func orTrue(field **bool) {
	if *field == nil {
		yes := true
		*field = &yes
	}
}
