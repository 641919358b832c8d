package config

import (
	"fmt"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/provider/config/strict"
)

// validateClientSourceProbes keeps away addresses that prove nothing: workers answer one of their own network without any route.
func (c *Config) validateClientSourceProbes(f *strict.Faults) {
	for i, p := range c.Nodes.ClientSourceProbes {
		path := fmt.Sprintf("nodes.clientSourceProbes[%d]", i)
		if !p.IsValid() {
			continue // told where it was read
		}
		if !p.IsGlobalUnicast() || p.Is4In6() || p.Zone() != "" {
			f.Add(path, "%s is no address that a client could have", p)
			continue
		}
		if slices.ContainsFunc(c.Nodes.ClientSourceProbes[:i], func(other netip.Addr) bool { return other.Is4() == p.Is4() }) {
			f.Add(path, "%s is a second address of its family; one is allowed", p)
		}
		if j := slices.IndexFunc(c.Nodes.CIDRs, func(network netip.Prefix) bool { return network.Contains(p) }); j >= 0 {
			f.Add(path, "%s is in nodes.cidrs[%d], where workers answer without a route; one that they route like those of clients is allowed", p, j)
		}
		for _, pool := range c.AddressPools() {
			for _, r := range pool.Ranges {
				if r.Contains(p) {
					f.Add(path, "%s is in pool %s; an address that nobody has is allowed", p, pool.Name)
				}
			}
		}
	}
}
