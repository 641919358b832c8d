package nftables

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// set is a set, or a map: then its type is given by expressions (nft's typeof), and an element is "key : value".
type set struct {
	Name, Type, Comment string
	Map, Interval       bool
	Dense               bool     // many elements, of which nobody looks at one
	Elements            []string // as nft prints them
}

// Kind is nft's word for it.
func (s *set) Kind() string {
	if s.Map {
		return "map"
	}
	return "set"
}

// Lines are the elements as a script shows them.
func (s *set) Lines() []string {
	if !s.Dense {
		return s.Elements
	}
	var lines []string
	for some := range slices.Chunk(s.Elements, 16) {
		lines = append(lines, strings.Join(some, ", "))
	}
	return lines
}

// byFamily is a set for IPv4 and one for IPv6: nft has no set of both.
type byFamily struct{ v4, v6 *set }

func (b byFamily) add(a netip.Addr, element string) {
	s := b.v6
	if a.Is4() {
		s = b.v4
	}
	s.Elements = append(s.Elements, element)
}

func newByFamily(name, more, comment string) byFamily {
	return byFamily{
		v4: &set{Name: name + "4", Type: "ipv4_addr" + more, Comment: comment},
		v6: &set{Name: name + "6", Type: "ipv6_addr" + more, Comment: comment},
	}
}

// newSourcesByFamily makes sets of doors with prefixes of clients. A set has one element for each pair: a chain or a set for
// each Service would make rules depend on the State.
func newSourcesByFamily(name, comment string) byFamily {
	b := newByFamily(name, doorType, comment)
	b.v4.Type, b.v6.Type = b.v4.Type+" . ipv4_addr", b.v6.Type+" . ipv6_addr"
	b.v4.Interval, b.v6.Interval = true, true
	return b
}

const doorType = " . inet_proto . inet_service"

// newSets decides what is open.
func newSets(s *desired.State, l Local) ([]*set, error) {
	families, err := newGatewaySets(s, l)
	if err != nil {
		return nil, err
	}
	datagrams := newFlows(s, l.Unfit)
	families = append(families, newDoors(s, l, datagrams).sets()...)
	if Flows(s) {
		back := newAnswers()
		back.add(s)
		families = append(families, datagrams.sets()...)
		families = append(families, back.sets()...)
		if l.ClientSource() {
			families = append(families, newDirect(s, l))
		}
	}
	var all []*set
	for _, b := range families {
		all = append(all, b.v4, b.v6)
	}
	for _, one := range all {
		slices.Sort(one.Elements)
		one.Elements = slices.Compact(one.Elements)
	}
	return all, nil
}

// newGatewaySets are those that no Service has a part in but for its address.
func newGatewaySets(s *desired.State, l Local) ([]byFamily, error) {
	vips := newByFamily("vips", "", "floating addresses of this cluster")
	peers := newByFamily("peers", "", "other gateways, by VRRP address")
	peersPort := newByFamily("peersport", doorType, "where HAProxy of other gateways tells which client sticks to which server")
	control := newByFamily("control", doorType, "ports of the API servers")
	self, err := s.Gateway(l.Gateway)
	if err != nil {
		return nil, err
	}
	for _, g := range s.Gateways {
		if g.Name != l.Gateway {
			peers.add(g.VRRPAddress, g.VRRPAddress.String())
		}
	}
	// Alone, or with an address of the link alone, HAProxy does not listen there (haproxy.PeersAddress).
	if len(s.Gateways) > 1 && !self.VRRPAddress.IsLinkLocalUnicast() {
		peersPort.add(self.VRRPAddress, element(self.VRRPAddress, desired.TCP, uint16(l.PeersPort)))
	}
	for _, v := range s.VIPs {
		vips.add(v.Address, v.Address.String())
	}
	if c := s.ControlPlane; c != nil && len(c.Endpoints) > 0 {
		control.add(c.Address, element(c.Address, desired.TCP, c.Port))
		for _, e := range c.ExtraPorts {
			control.add(c.Address, element(c.Address, desired.TCP, e.Port))
		}
	}
	return []byFamily{vips, peers, peersPort, control}, nil
}

// doors are the ports of Services, and who may connect to them.
type doors struct{ deny, open, allow byFamily }

func (d doors) sets() []byFamily { return []byFamily{d.deny, d.open, d.allow} }

func newDoors(s *desired.State, l Local, datagrams *flows) doors {
	services := doors{
		deny:  newSourcesByFamily("deny", "who may not connect, by port of a Service"),
		open:  newByFamily("open", doorType, "ports of Services that everybody may connect to"),
		allow: newSourcesByFamily("allow", "who may connect, by port of a Service that not everybody may connect to"),
	}
	for _, lb := range s.LoadBalancers {
		if lb.ClientSource {
			lb.DenySources = slices.Concat(lb.DenySources, nodesAsClients(s))
		}
		services.add(lb, func(vip netip.Addr, f desired.Frontend) bool {
			if !l.keepsClients(&lb, vip) {
				return false
			}
			if f.Protocol == desired.TCP {
				return served(s, lb, f)
			}
			return datagrams.serve(lb, vip, f)
		})
	}
	return services
}

// add opens the ports that serves says yes to.
func (d doors) add(lb desired.LoadBalancer, serves func(vip netip.Addr, f desired.Frontend) bool) {
	for _, a := range lb.Addresses {
		allow, deny := lb.AdmittedTo(a)
		everybody := len(allow) > 0 && allow[0].Bits() == 0
		for _, f := range lb.Frontends {
			if !serves(a, f) {
				continue
			}
			door := element(a, f.Protocol, f.Port)
			for _, source := range deny {
				d.deny.add(a, door+" . "+spellPrefix(source))
			}
			if everybody {
				d.open.add(a, door)
				continue
			}
			for _, source := range allow {
				d.allow.add(a, door+" . "+spellPrefix(source))
			}
		}
	}
}

// served says whether anybody could answer at a port of TCP: one without a single server refuses connections at once, instead
// of taking and then hanging or closing them.
func served(s *desired.State, lb desired.LoadBalancer, f desired.Frontend) bool {
	if pool := lb.PoolOf(f); pool != nil {
		return len(pool.Active()) > 0
	}
	if !lb.IPv6Only() {
		return len(s.Nodes) > 0
	}
	return slices.ContainsFunc(s.Nodes, func(n desired.Node) bool {
		_, ok := n.IPv6()
		return ok
	})
}

func element(a netip.Addr, protocol desired.Protocol, port uint16) string {
	return a.String() + " . " + strings.ToLower(string(protocol)) + " . " + strconv.Itoa(int(port))
}

// spellPrefix writes a prefix as nft does: a single address without its length.
func spellPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
