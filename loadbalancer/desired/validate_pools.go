package desired

import (
	"fmt"
	"slices"
)

// pool judges the load balancer's pool, or that of one of its frontends.
func (j *judgement) pool(field string, pool *Pool) {
	if pool == nil {
		return
	}
	if !slices.Contains([]Algorithm{RoundRobin, LeastConn, Source, Random}, pool.Algorithm) {
		j.add(field+".algorithm", fmt.Sprintf("is %q; allowed are %s, %s, %s and %s", pool.Algorithm, RoundRobin, LeastConn, Source, Random))
	}
	for _, fault := range pool.Check.faults() {
		if fault.Field == "port" && pool != j.lb.Pool && !pool.portless() {
			continue // each server's own
		}
		j.add(field+".check."+fault.Field, fault.Problem)
	}
	switch {
	case pool.AllNodes && (len(pool.Servers) > 0 || pool.Local):
		j.add(field+".allNodes", "is set, and the pool has servers of its own or is local; all nodes serve, or some")
	case pool.Family != 0 && !pool.AllNodes:
		j.add(field+".family", "is set without allNodes")
	case pool.Family != 0 && pool.Family != 4 && pool.Family != 6:
		j.add(field+".family", fmt.Sprintf("is %d; allowed are 4 and 6, and 0 for either", pool.Family))
	}
	names := make(map[string]bool, len(pool.Servers))
	for i, server := range pool.Servers {
		at := fmt.Sprintf("%s.servers[%d].", field, i)
		if !isSubdomain(server.Name) {
			j.add(at+"name", subdomainProblem(server.Name))
		}
		if names[server.Name] {
			j.add(at+"name", fmt.Sprintf("%q is the name of an earlier server; names are unique", server.Name))
		}
		names[server.Name] = true
		j.server(at, server)
		if server.Port != 0 && pool == j.lb.Pool {
			j.add(at+"port", fmt.Sprintf("is %d; only servers of a frontend's own pool have a port", server.Port))
		}
	}
}

func (j *judgement) server(at string, server Server) {
	problem := addressProblem(server.Address)
	if problem == "" && j.v.vips[server.Address] != nil {
		problem = fmt.Sprintf("%s is one of the vips; a server has an address of its own", server.Address)
	}
	j.judge(at+"address", problem)
	if server.Weight < 1 || server.Weight > 256 {
		j.add(at+"weight", fmt.Sprintf("is %d; allowed are 1 to 256", server.Weight))
	}
	if server.Backup && server.Drains {
		j.add(at+"drains", "is set with backup; a server that drains gets no connection ever")
	}
}

// target judges where a frontend's connections go. A server without a port would be reached at the VIP's port, which may be
// the node's own sshd.
func (j *judgement) target(i int, f Frontend) {
	at := fmt.Sprintf("frontends[%d].", i)
	j.pool(at+"pool", f.Pool)
	switch {
	case f.NodePort == 0 && f.Pool == nil:
		j.add(at+"nodePort", "is 0; allowed are 1 to 65535")
	case f.NodePort == 0 && f.Pool.portless():
		j.add(at+"nodePort", "is 0, and a server of the frontend's pool has no port; allowed are 1 to 65535")
	}
	switch f.ProxyProtocol {
	case ProxyNone:
	case ProxyV1, ProxyV2:
		if f.Protocol != TCP {
			j.add(at+"proxyProtocol", fmt.Sprintf("is %s; allowed is it for TCP only", f.ProxyProtocol))
		}
		if j.lb.PoolOf(f) == nil {
			j.add(at+"proxyProtocol", fmt.Sprintf("is %s; it needs a pool of the load balancer or the frontend", f.ProxyProtocol))
		}
	default:
		j.add(at+"proxyProtocol", fmt.Sprintf("is %q; allowed are %s and %s", f.ProxyProtocol, ProxyV1, ProxyV2))
	}
}

// knobs judges what a load balancer has that others have not.
func (j *judgement) knobs() {
	inside := func(field string, value, low, high int) {
		if value != 0 && (value < low || value > high) {
			j.add(field, fmt.Sprintf("is %d; allowed are %d to %d, or 0", value, low, high))
		}
	}
	inside("udpIdleSeconds", j.lb.UDPIdleSeconds, 1, 86400)
	inside("affinitySeconds", j.lb.AffinitySeconds, 1, 86400)
	inside("drainSeconds", j.lb.DrainSeconds, 1, maxDrainSeconds)
	inside("connectionLimit", j.lb.ConnectionLimit, 1, 10_000_000)
	inside("sourceRate", j.lb.SourceRate, 1, 10_000_000)
	if t := j.lb.Timeouts; t != nil {
		inside("timeouts.connectMillis", t.ConnectMillis, 50, 60_000)
		inside("timeouts.idleSeconds", t.IdleSeconds, 1, 604_800)
		inside("timeouts.checkMillis", t.CheckMillis, 50, 60_000)
	}
	shared := slices.ContainsFunc(j.lb.Frontends, func(f Frontend) bool { return j.lb.PoolOf(f) == nil })
	if j.lb.Timeouts != nil && shared {
		j.add("timeouts", "are set; they need a pool")
	}
	if j.lb.ClientSource && shared {
		j.add("clientSource", "is set; it needs a pool")
	}
}
