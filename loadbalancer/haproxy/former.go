package haproxy

import (
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer that gets another slot takes its servers with it. Those that served it until now are not asked to pass a check
// first: what serves TCP now tells the running map, and what served datagrams, of which HAProxy has no entry, tells Succeed.

// Succeed tells the Config which State was in effect until now, and with which slots: Compare and Former then know where load
// balancers of UDP and SCTP come from. Without it their servers begin with a check.
func (c *Config) Succeed(before *desired.State, slots Slots) {
	c.former = map[string]string{}
	if before == nil {
		return
	}
	served := map[desired.Key]string{}
	for i := range before.LoadBalancers {
		lb := &before.LoadBalancers[i]
		for _, f := range lb.Frontends {
			if f.Protocol != desired.TCP && f.Pool == nil { // HAProxy checks no pods for datagrams
				served[lb.Key] = backendOf(lb, f, slots)
			}
		}
	}
	for slot, tenant := range c.tenants {
		if before := served[tenant.Key]; tenant.Port == 0 && before != "" && before != slot {
			c.former[slot] = before
		}
	}
}

// Former gives the backend, a slot or one of the shared ones, whose checks spoke for a slot's load balancer of UDP or SCTP until this
// Config; empty when it was this one, or none. What a server's state was there holds until the slot tells it.
func (c *Config) Former(slot string) string { return c.former[slot] }

// backendOf is the backend that serves a frontend; empty when it needs a slot and has none.
func backendOf(lb *desired.LoadBalancer, f desired.Frontend, slots Slots) string {
	if tenant, needed := TenantOf(lb, f); needed {
		return slots.of(tenant)
	}
	if lb.IPv6Only() {
		return nodes6Backend
	}
	return nodesBackend
}

// former gives, for each slot, the running backends whose connections it is going to take over.
func (r *Running) former(want *Config) map[string][]*RunningBackend {
	former := map[string][]*RunningBackend{}
	add := func(slot, before string) {
		if b := r.Backends[before]; b != nil && !slices.Contains(former[slot], b) {
			former[slot] = append(former[slot], b)
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
