package nftables

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"text/template"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// The one table that is ours.
const (
	family    = "inet"
	tableName = "cloud_provider_haproxy"
)

// Local is what the gateway knows about itself and State does not tell.
type Local struct {
	Gateway          string // its name in State.Gateways
	ServicesPort     int    // HAProxy's transparent bind for all Services, on loopback
	ControlPlanePort int    // the same for the control plane
}

// DebianLocal gives the ports of a Debian gateway.
func DebianLocal(gateway string) Local {
	return Local{Gateway: gateway, ServicesPort: 7480, ControlPlanePort: 7481}
}

//go:embed table.nft.tmpl
var tableText string

// content is what the template shows. The rules depend on Local only, the elements on the State only.
type content struct {
	Local
	Sets []*set
}

type set struct {
	Name, Type, Comment string
	Elements            []string // as nft prints them
}

// Render gives a script for LoadArgv that replaces our whole table in one transaction, whether it exists or not. The fence
// of the State is not in it: same content, same bytes.
func Render(s *desired.State, l Local) ([]byte, error) {
	sets, err := newSets(s, l.Gateway)
	if err != nil {
		return nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	return execute(content{Local: l, Sets: sets})
}

func execute(c content) ([]byte, error) {
	t, err := template.New("table.nft").Parse(tableText)
	if err != nil {
		return nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	return out.Bytes(), nil
}

// CheckArgv reads a script on stdin and checks it without loading it.
func CheckArgv() []string { return []string{"nft", "--check", "--file", "-"} }

// LoadArgv reads a script on stdin and loads it, all or nothing.
func LoadArgv() []string { return []string{"nft", "--file", "-"} }

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

// newSets decides what is open.
func newSets(s *desired.State, gateway string) ([]*set, error) {
	const door = " . inet_proto . inet_service"
	vips := newByFamily("vips", "", "floating addresses of this cluster")
	peers := newByFamily("peers", "", "other gateways, by VRRP address")
	control := newByFamily("control", door, "ports of the API servers")
	open := newByFamily("open", door, "ports of Services")

	known := false
	for _, g := range s.Gateways {
		if g.Name == gateway {
			known = true
			continue
		}
		peers.add(g.VRRPAddress, g.VRRPAddress.String())
	}
	if !known {
		return nil, fmt.Errorf("no gateway %q in State: "+
			"the name in agent.yaml must be one of the controller's configuration", gateway)
	}
	for _, v := range s.VIPs {
		vips.add(v.Address, v.Address.String())
	}
	if c := s.ControlPlane; c != nil && len(c.Endpoints) > 0 {
		control.add(c.Address, element(c.Address, c.Port))
	}
	for _, lb := range s.LoadBalancers {
		if !served(s, lb) {
			continue
		}
		for _, f := range lb.Frontends {
			if f.Protocol != desired.TCP {
				continue // refused by the guard until nftables itself carries UDP and SCTP
			}
			for _, a := range lb.Addresses {
				open.add(a, element(a, f.Port))
			}
		}
	}
	var all []*set
	for _, b := range []byFamily{vips, peers, control, open} {
		all = append(all, b.v4, b.v6)
	}
	for _, one := range all {
		slices.Sort(one.Elements)
		one.Elements = slices.Compact(one.Elements)
	}
	return all, nil
}

// served says whether anybody could answer: a load balancer without a single server refuses connections at once, instead
// of taking and then hanging or closing them.
func served(s *desired.State, lb desired.LoadBalancer) bool {
	if lb.Pool != nil {
		return len(lb.Pool.Servers) > 0
	}
	if !lb.IPv6Only() {
		return len(s.Nodes) > 0
	}
	return slices.ContainsFunc(s.Nodes, func(n desired.Node) bool {
		_, ok := n.IPv6()
		return ok
	})
}

func element(a netip.Addr, port uint16) string {
	return a.String() + " . tcp . " + strconv.Itoa(int(port))
}
