package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// flowVerdict is what becomes of a flow.
type flowVerdict int

const (
	stays   flowVerdict = iota
	departs             // at the end of the load balancer's drain time: its node is taken out, or its client may not go on
	lost                // at once
)

// flowJudge knows where flows may be.
type flowJudge struct {
	state  *desired.State
	doors  map[door]doorman
	health health
	own    own
	vips   map[netip.Addr]bool
	nodes  map[netip.Addr]string
	unfit  nftables.Unfit
}

type door struct {
	protocol desired.Protocol
	at       netip.AddrPort
}

type doorman struct {
	lb       *desired.LoadBalancer
	frontend desired.Frontend
	guests   guests
}

func newFlowJudge(r *rendering, h health) flowJudge {
	s := r.revision.state
	j := flowJudge{state: s, health: h, own: own{h, r.slots}, unfit: h.unfit(s, r.slots),
		doors: map[door]doorman{}, vips: map[netip.Addr]bool{}, nodes: map[netip.Addr]string{}}
	for _, v := range s.VIPs {
		j.vips[v.Address] = true
	}
	for _, n := range s.Nodes {
		for _, a := range n.Addresses {
			j.nodes[a] = n.Name
		}
	}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, vip := range lb.Addresses {
			guests := guestsAt(s, lb, vip)
			for _, f := range lb.Frontends {
				j.doors[door{f.Protocol, netip.AddrPortFrom(vip, f.Port)}] = doorman{lb, f, guests}
			}
		}
	}
	return j
}

// cull is what ends the flow: for all clients of the server, or for this one when it is the client that may not go on.
func (j flowJudge) cull(f flow) cull {
	c := cull{protocol: f.protocol, node: f.node.Addr(), nodePort: f.node.Port(), vip: f.vip}
	if d, ok := j.doors[door{f.protocol, f.vip}]; ok && !d.guests.welcome(f.client.Addr()) {
		c.client = f.client.Addr()
	}
	return c
}

// patience is how long a flow lives on after it was found.
func (j flowJudge) patience(f flow, v flowVerdict) time.Duration {
	if v == departs {
		return j.doors[door{f.protocol, f.vip}].guests.drain
	}
	return 0
}

func (j flowJudge) of(f flow) flowVerdict {
	d, ok := j.doors[door{f.protocol, f.vip}]
	switch {
	case !ok && !f.ours && !j.vips[f.vip.Addr()]:
		return stays // somebody else's
	case !ok:
		return lost // the next Service with that NodePort must not get its datagrams
	}
	verdict := j.ofTarget(f, d)
	if verdict != lost && !d.guests.welcome(f.client.Addr()) {
		return departs
	}
	return verdict
}

// ofTarget is about where a flow goes.
func (j flowJudge) ofTarget(f flow, d doorman) flowVerdict {
	name, known := j.nodes[f.node.Addr()]
	switch pool := d.lb.PoolOf(d.frontend); {
	case pool != nil:
		return j.ofOwn(f, d, pool)
	case d.frontend.NodePort != f.node.Port():
		return lost // the node has closed that port
	default:
		return j.ofShared(f, name, known)
	}
}

// ofOwn is about a server of the port's own. Those that drain, and backups, keep what they have. A pod that is not among them is
// gone, and the next one with its address may be another Service's; a node that is not still has the NodePort, which leads nowhere
// when it has no endpoint of a Local one.
func (j flowJudge) ofOwn(f flow, d doorman, pool *desired.Pool) flowVerdict {
	name, known := j.nodes[f.node.Addr()]
	for _, server := range pool.Servers {
		here := server.Address == f.node.Addr() || server.Port == 0 && known && server.Name == name
		if !here || f.node.Port() != cmp.Or(server.Port, d.frontend.NodePort) {
			continue
		}
		switch {
		case server.Drains || server.Backup || d.frontend.Pool != nil: // HAProxy checks none of them
		case j.own.state(d.lb, f.vip.Addr(), server.Name) == "DOWN":
			return lost
		case j.unfit.Of(d.lb, f.vip.Addr())[server.Name]:
			return departs
		}
		return stays
	}
	if f.node.Port() != d.frontend.NodePort || pool.Local && known {
		return lost
	}
	return departs
}

// ofShared is about a node of the shared pool, which fails open.
func (j flowJudge) ofShared(f flow, name string, known bool) flowVerdict {
	if !known {
		return departs
	}
	backend, unfit := nodes6Backend, j.unfit.Nodes6
	if f.node.Addr().Is4() {
		backend, unfit = nodesBackend, j.unfit.Nodes4
	}
	someoneFit := slices.ContainsFunc(j.state.Nodes, func(n desired.Node) bool {
		return !unfit[n.Name] && slices.ContainsFunc(n.Addresses, func(a netip.Addr) bool { return a.Is4() == f.node.Addr().Is4() })
	})
	switch {
	case !someoneFit:
		return stays
	case j.health.dead(backend, name):
		return lost
	case unfit[name]:
		return departs
	}
	return stays
}
