package nftables

import (
	"net/netip"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// answers are what comes from a server as the answer to a flow: to the VIP, from the server's port. Conntrack leads it back to the
// client, so a first packet that looks so is one whose flow this kernel does not know: the VIP has just come here, or the flow was
// forgotten. Taken for a client's it would go to a server that answers it, for ever where both sides use the same port (IKE, SIP,
// NTP); refused, the server's socket would see an error. Two that are no answers look so all the same and get none: a pod behind
// kube-proxy's masquerade whose source became a NodePort of the VIP (--random-fully draws from 1024 to 65535: one flow in 64512 for
// each NodePort), and a pod that is a client of its own VIP from the port that it serves at.
type answers struct {
	// nodes are the nodes, ports the NodePorts of a VIP.
	nodes, ports byFamily
	// servers are pods, at ports of their own.
	servers byFamily
}

func newAnswers() answers {
	return answers{
		nodes: newByFamily("answerers", "", "nodes that answer for Services"),
		ports: newByFamily("answers", doorType, "NodePorts from which nodes answer to a VIP"),
		servers: byFamily{
			v4: &set{Name: "ownanswers4", Type: "ipv4_addr" + doorType + " . ipv4_addr", Comment: ownAnswers},
			v6: &set{Name: "ownanswers6", Type: "ipv6_addr" + doorType + " . ipv6_addr", Comment: ownAnswers},
		},
	}
}

const ownAnswers = "servers' own ports from which they answer to a VIP"

// isAnswers says whether a set, given by its name and what follows, is one of theirs whose elements have ports.
func isAnswers(name string) bool {
	return strings.HasPrefix(name, "answers") || strings.HasPrefix(name, "ownanswers")
}

func (a answers) sets() []byFamily { return []byFamily{a.nodes, a.ports, a.servers} }

// add notes who answers for a State's ports of UDP and SCTP.
func (a answers) add(s *desired.State) {
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, f := range lb.Frontends {
			for _, vip := range lb.Addresses {
				if f.Protocol != desired.TCP {
					a.addPort(lb, f, vip)
				}
			}
		}
	}
	if len(a.ports.v4.Elements)+len(a.ports.v6.Elements) == 0 {
		return
	}
	for _, n := range s.Nodes {
		for _, address := range n.Addresses {
			a.nodes.add(address, address.String())
		}
	}
}

func (a answers) addPort(lb *desired.LoadBalancer, f desired.Frontend, vip netip.Addr) {
	if f.NodePort != 0 {
		a.ports.add(vip, element(vip, f.Protocol, f.NodePort))
	}
	pool := lb.PoolOf(f)
	if pool == nil {
		return
	}
	for _, server := range pool.Servers {
		if server.Port != 0 && server.Address.Is4() == vip.Is4() {
			a.servers.add(vip, element(vip, f.Protocol, server.Port)+" . "+server.Address.String())
		}
	}
}
