package simulation

import (
	"errors"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/simulation/machine"
)

// spec is what a user asks of a Service.
type spec struct {
	balanced bool // type LoadBalancer
	ports    []uint16
	// local gives it servers of its own; broken is a server that a gateway's HAProxy refuses.
	local, broken bool
	// invalid does not translate.
	invalid bool
	// closed admits somebody else than the clients of this simulation.
	closed bool
	keep   bool
	// datagrams opens the first port for UDP too.
	datagrams bool
	// request is an address by name; the zero Addr: any.
	request netip.Addr
	share   string
}

// The ports that are special: one is outside what the gateways' owners allow, the other one's fault no gateway can attribute.
const (
	forbiddenPort = 9999
	poisonedPort  = machine.Poison
)

// bad says that it cannot be served as it says.
func (s spec) bad() bool {
	return s.invalid || s.broken || slices.Contains(s.ports, forbiddenPort) || slices.Contains(s.ports, poisonedPort)
}

// specOf makes a spec of bits.
func specOf(how uint32) spec {
	bit := func(n int) bool { return how>>n&1 == 1 }
	one := func(n int) bool { return how>>n&7 == 7 } // one of eight
	s := spec{balanced: true, ports: []uint16{80}, local: how&3 == 3, keep: one(2)}
	if bit(5) {
		s.ports = append(s.ports, 443)
	}
	if one(6) {
		s.request = poolAddress(int(how >> 9))
	}
	if how>>12&3 == 3 { // shares, on a port of its own
		s.share = "shared"
		s.ports = []uint16{uint16(8000 + how>>14&3)}
	}
	s.closed = one(16)
	switch how >> 19 & 31 {
	case 31:
		s.invalid = true
	case 30:
		s.ports = append(s.ports, forbiddenPort)
	case 29:
		s.ports = append(s.ports, poisonedPort)
	case 28:
		s.local, s.broken = true, true
	}
	slices.Sort(s.ports)
	return s
}

// specOf is what a user asks in this world.
func (w *world) specOf(how uint32) spec {
	s := specOf(how)
	if w.crowded() {
		s.local = s.local || how>>30 != 0
	}
	s.datagrams = withDatagrams(w.seed) && how>>28&1 == 1
	s.request = w.inPool(s.request)
	return s
}

// inPool is an address of this world's pool instead of one of the largest.
func (w *world) inPool(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	return poolAddress((int(a.As4()[3]) - int(poolAddress(0).As4()[3])) % poolSize(w.seed))
}

// changed is a change of it.
func (w *world) changed(s spec, how uint32) spec {
	datagrams := s.datagrams
	s = s.changed(how)
	if s.datagrams = datagrams; withDatagrams(w.seed) && how>>28&7 == 7 {
		s.datagrams = !datagrams
	}
	s.request = w.inPool(s.request)
	return s
}

func (w *world) crowded() bool { return crowded(w.seed) }

// doors are the ports of a spec with their protocols, as a State sorts them.
func (s spec) doors() (doors []desired.Port) {
	for _, port := range s.ports {
		doors = append(doors, desired.Port{Protocol: desired.TCP, Port: port})
	}
	if s.datagrams {
		doors = append(doors, desired.Port{Protocol: desired.UDP, Port: s.ports[0]})
	}
	return doors
}

// changed is one change of a spec.
func (s spec) changed(how uint32) spec {
	next := specOf(how >> 3)
	switch how & 7 {
	case 0, 1:
		s.ports = next.ports
	case 2:
		s.local = !s.local
		s.broken = false
	case 3:
		s.closed = !s.closed
	case 4:
		s.invalid = !s.invalid
	case 5:
		s.request = next.request
	case 6:
		s.share, s.ports = next.share, next.ports
	case 7:
		balanced := s.balanced
		s = next
		s.balanced = balanced
	}
	return s
}

// mostAddresses are as many as Services can have.
const mostAddresses = services + 1

// poolSize is small, so that addresses are given again soon: in crowded worlds at once, as Services wait for them.
func poolSize(seed uint64) int {
	if crowded(seed) {
		return 3
	}
	return mostAddresses
}

func poolAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i%mostAddresses)})
}

var errInvalid = errors.New("annotation cannot be read")

// translate is what the provider's translate does. It is called with mu held.
func (c *cluster) translate(o *object, nodes []desired.Node) (loadbalancer.Service, *loadbalancer.Sources, error) {
	sources := &loadbalancer.Sources{}
	if o.spec.closed {
		sources.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	}
	s := loadbalancer.Service{Published: o.status, Keep: o.spec.keep}
	lb := desired.LoadBalancer{Key: o.key, UID: o.uid, AllowSources: sources.Allow}
	s.Request = ipam.Request{Families: []ipam.Family{ipam.IPv4}, Sharing: o.sharing()}
	for _, to := range o.spec.doors() {
		lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: to.Protocol, Port: to.Port, NodePort: c.nodePort(o.uid, to.Protocol, to.Port)})
	}
	if o.spec.request.IsValid() {
		s.Request.Addresses = []netip.Addr{o.spec.request}
	}
	if o.spec.local {
		lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: localCheck, Servers: servers(nodes)}
		if o.spec.broken {
			lb.Pool.Servers = append(lb.Pool.Servers, desired.Server{Name: machine.Broken, Address: nodeNumber(9).Addresses[0], Weight: 1})
		}
	}
	s.LoadBalancer = lb
	if o.spec.invalid {
		return s, sources, errInvalid
	}
	return s, sources, nil
}

var localCheck = desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 1000, Rise: 1, Fall: 2}

func servers(nodes []desired.Node) (all []desired.Server) {
	for _, n := range nodes {
		all = append(all, desired.Server{Name: n.Name, Address: n.Addresses[0], Weight: 1})
	}
	slices.SortFunc(all, func(a, b desired.Server) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

// sharing is the Service's, also when the rest does not translate.
func (o *object) sharing() ipam.Sharing {
	s := ipam.Sharing{Key: o.spec.share}
	for _, to := range o.spec.doors() {
		s.Ports = append(s.Ports, ipam.Port{Protocol: string(to.Protocol), Number: to.Port})
	}
	return s
}
