package haproxy

import (
	"cmp"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Marks behind a server's name, in this order, make it another server: they tell what cannot be changed while it runs, what a
// running HAProxy does not tell otherwise, and how it is to be taken out. No node's or pod's name has an underscore.
const (
	podMark    = "_pod"
	backupMark = "_backup"
)

// ServerName is a pool's server as HAProxy names it.
func ServerName(server desired.Server, proxy desired.ProxyProtocol) string {
	name := server.Name
	if server.Port != 0 {
		name += podMark
	}
	if proxy != desired.ProxyNone {
		name += "_" + string(proxy)
	}
	if server.Backup {
		name += backupMark
	}
	return name
}

// isPod says whether a server that runs is one.
func isPod(name string) bool { return strings.Contains(name+"_", podMark+"_") }

// servers are those of a slot. It leaves out servers that drain: they are taken out like those that nobody wants, and a worker
// that starts has no connection of theirs.
func (n need) servers() []Server {
	var servers []Server
	for _, server := range n.pool.Servers {
		if server.Drains {
			continue
		}
		s := Server{Name: ServerName(server, n.Proxy), Addr: server.Address, Weight: server.Weight, Check: n.pool.Check, Proxy: n.Proxy,
			CheckProxy: n.checkProxy}
		if n.Port != 0 {
			s.Port = cmp.Or(server.Port, n.nodePort)
			if s.checked() {
				s.Check.Port = cmp.Or(s.Check.Port, s.Port)
			}
		}
		if server.Backup {
			s = s.unchecked()
			s.Backup = true
		}
		servers = append(servers, s)
	}
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	if a := n.pool.Algorithm; a == desired.Source || a == desired.Random {
		number(servers)
	}
	return servers
}

// number gives servers IDs that follow from their names: source and random look for a server in a ring that has each at places
// which its ID gives. So every gateway, and a worker that read them from the file, sends a client where the others do. A server
// that is added at run time without an ID is placed before it gets one, where all others are: one of three got no connection. Of two names
// with one ID (one pair in 2^30) the second takes another; while the first one drains, HAProxy refuses it.
func number(servers []Server) {
	taken := map[uint32]bool{}
	for i := range servers {
		hash := fnv.New32a()
		hash.Write([]byte(servers[i].Name))
		id := hash.Sum32()>>1 | 1 // a positive int
		for taken[id] {
			id = (id + 2) & math.MaxInt32
		}
		taken[id], servers[i].ID = true, id
	}
}

// pod is one that State names, as HAProxy knows it.
type pod struct {
	name    string // without marks
	address netip.Addr
}

func podOf(s RunningServer) pod {
	name, _, _ := strings.Cut(s.Name, "_")
	return pod{name, s.Addr}
}

// pods are all that State names, those that drain too. One that it does not name is gone, and its address may be another
// Service's already.
func pods(s *desired.State) map[pod]bool {
	all := map[pod]bool{}
	for i := range s.LoadBalancers {
		for _, pool := range s.LoadBalancers[i].Pools() {
			for _, server := range pool.Servers {
				if server.Port != 0 {
					all[pod{server.Name, server.Address}] = true
				}
			}
		}
	}
	return all
}
