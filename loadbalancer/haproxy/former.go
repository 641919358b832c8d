package haproxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer that gets another slot takes its servers with it. Those that served it until now are not asked to pass a check
// first: what serves TCP now tells the running map, and what served datagrams, of which HAProxy has no entry, tells Succeed.

// Succeed tells the Config which State was in effect until now, and with which slots: Compare and Former then know where load
// balancers of UDP and SCTP come from. Without it their servers begin with a check. The slots may be those of another State with the same
// load balancers: who has none there is in the shared pool.
func (c *Config) Succeed(before *desired.State, slots Slots) {
	c.former = map[string]string{}
	if before == nil {
		return
	}
	type who struct {
		desired.Key
		family clientFamily // noClients: whichever it was
	}
	served := map[who]string{}
	for i := range before.LoadBalancers {
		lb := &before.LoadBalancers[i]
		for _, f := range lb.Frontends {
			if f.Protocol == desired.TCP || f.Pool != nil { // HAProxy checks no pods for datagrams
				continue
			}
			for _, vip := range lb.Addresses {
				backend := cmp.Or(slots.AtVIP(lb, vip), sharedBackend(lb))
				served[who{lb.Key, familyOf(vip)}], served[who{lb.Key, noClients}] = backend, backend
			}
		}
	}
	for slot, tenant := range c.tenants {
		if before := served[who{tenant.Key, tenant.Client}]; tenant.Port == 0 && before != "" && before != slot {
			c.former[slot] = before
		}
	}
}

// Former gives the backend, a slot or one of the shared ones, whose checks spoke for a slot's load balancer of UDP or SCTP until this
// Config; empty when it was this one, or none. What a server's state was there holds until the slot tells it.
func (c *Config) Former(slot string) string { return c.former[slot] }

// backendOf is the backend that serves a frontend at a VIP; empty when it needs a slot and has none.
func backendOf(lb *desired.LoadBalancer, f desired.Frontend, vip netip.Addr, slots Slots) string {
	if tenant, needed := tenantAt(lb, f, vip); needed {
		return slots.of(tenant)
	}
	return sharedBackend(lb)
}

func sharedBackend(lb *desired.LoadBalancer) string {
	if lb.IPv6Only() {
		return nodes6Backend
	}
	return nodesBackend
}

// former gives, for each slot, the running backends whose connections it is going to take over.
func (r *Running) former(want *Config) map[string][]formerBackend {
	former := map[string][]formerBackend{}
	add := func(slot, before string) {
		f := formerBackend{r.Backends[before], fromClients(before)}
		if f.RunningBackend != nil && !slices.Contains(former[slot], f) {
			former[slot] = append(former[slot], f)
		}
	}
	served := map[string]string{}
	for _, e := range r.Maps[want.Local.ServicesMap] {
		served[e.Key], _, _ = strings.Cut(e.Value, "|")
	}
	for _, e := range want.Entries {
		backend, _, _ := strings.Cut(e.Value, "|")
		if before, ok := served[e.Key]; ok && before != backend && strings.HasPrefix(backend, slotPrefix) {
			add(backend, before)
		}
	}
	for slot, before := range want.former {
		add(slot, before)
	}
	return former
}
