package config

import (
	"fmt"
	"slices"

	"go4.org/netipx"

	"cloud-provider-haproxy/provider/config/strict"
)

// validatePodCIDRs keeps away what could not be meant: the gateways themselves, and the addresses of Services.
func (c *Config) validatePodCIDRs(f *strict.Faults) {
	for i, p := range c.Nodes.PodCIDRs {
		path := fmt.Sprintf("nodes.podCIDRs[%d]", i)
		if !p.IsValid() {
			continue // told where it was read
		}
		if p != p.Masked() {
			f.Add(path, "%s has host bits; the network is %s", p, p.Masked())
		}
		for j, other := range c.Nodes.PodCIDRs[:i] {
			if other.IsValid() && other.Overlaps(p) {
				f.Add(path, "%s overlaps %s of nodes.podCIDRs[%d]", p, other, j)
			}
		}
		for j, g := range c.Gateways {
			if p.Contains(g.VRRPAddress) {
				f.Add(path, "%s contains %s, the address of gateways[%d]; the network of pods alone is allowed", p, g.VRRPAddress, j)
			}
		}
		for _, pool := range c.AddressPools() {
			if slices.ContainsFunc(pool.Ranges, netipx.RangeOfPrefix(p).Overlaps) {
				f.Add(path, "%s overlaps pool %s, whose addresses are those of Services; the network of pods alone is allowed", p, pool.Name)
			}
		}
	}
}
