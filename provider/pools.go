package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/provider/config"
)

// policy is what one configuration says of who may have which address, and whose annotations are read. It never
// changes: a new configuration makes a new one.
type policy struct {
	// pools are in the order in which they are asked: highest priority first, equals as in the file.
	pools    []pool
	reserved map[netip.Addr]ipam.Owner
	// excluded are the addresses of pools that no Service gets, but for those of nodes, which come and go.
	excluded []ipam.Exclusion
	// foreign says that other controllers' annotations are read where ours are absent.
	foreign bool
}

// pool is one pool as far as it decides whom it serves.
type pool struct {
	name   string
	ranges []netipx.IPRange
	// automatic pools serve who does not name them; pinned ones choose whom.
	automatic, pinned bool
	// admitsNamespace and services are the choice.
	admitsNamespace func(name string, set labels.Set) bool
	services        labels.Selector
	// whom is the choice in words: "serves namespace a only".
	whom string
}

func newPolicy(c *config.Config) *policy {
	p := &policy{reserved: map[netip.Addr]ipam.Owner{}, excluded: c.Exclusions(), foreign: c.ReadForeignAnnotations}
	ranges := map[string][]netipx.IPRange{}
	for _, one := range c.AddressPools() {
		ranges[one.Name] = one.Ranges
		for _, r := range one.Exclude {
			p.excluded = append(p.excluded, ipam.Exclusion{Range: r, Reason: "exclude of pool " + one.Name})
		}
	}
	for _, one := range c.PoolsByPriority() {
		byLabel := one.NamespaceLabels() // parsed once
		p.pools = append(p.pools, pool{
			name:      one.Name,
			ranges:    ranges[one.Name],
			automatic: one.AutoAssign == nil || *one.AutoAssign,
			pinned:    one.Pinned(),
			admitsNamespace: func(name string, set labels.Set) bool {
				return slices.Contains(one.Namespaces, name) || byLabel.Matches(set)
			},
			services: one.ServiceLabels(),
			whom:     whom(one),
		})
	}
	for _, r := range c.AddressReservations() {
		p.reserved[r.Address] = r.Owner
	}
	return p
}

// whom says in words whom a pool serves.
func whom(p config.Pool) string {
	var parts []string
	switch {
	case len(p.Namespaces) == 1:
		parts = append(parts, "namespace "+p.Namespaces[0])
	case len(p.Namespaces) > 1:
		parts = append(parts, "namespaces "+strings.Join(p.Namespaces, ", "))
	}
	if p.NamespaceSelector != "" {
		parts = append(parts, fmt.Sprintf("namespaces labelled %q", p.NamespaceSelector))
	}
	namespaces := strings.Join(parts, " and ")
	switch {
	case p.ServiceSelector == "":
		return "serves " + namespaces + " only"
	case namespaces == "":
		return fmt.Sprintf("serves Services labelled %q only", p.ServiceSelector)
	default:
		return fmt.Sprintf("serves Services labelled %q of %s only", p.ServiceSelector, namespaces)
	}
}

func (p *pool) admits(svc *v1.Service, namespace labels.Set) bool {
	return p.admitsNamespace(svc.Namespace, namespace) && p.services.Matches(labels.Set(svc.Labels))
}

// unasked gives the pools for a Service that names none: first the pinned ones that admit it. The note says why others
// are not among them; empty when all are.
func (p *policy) unasked(svc *v1.Service, namespace labels.Set) (pools []string, note string) {
	pinned, others, left := []string{}, []string{}, []string{}
	for i := range p.pools {
		switch one := &p.pools[i]; {
		case !one.admits(svc, namespace):
			left = append(left, fmt.Sprintf("pool %s %s", one.name, one.whom))
		case !one.automatic:
			left = append(left, fmt.Sprintf("pool %s has autoAssign: false, so that Services have to name it",
				one.name))
		case one.pinned:
			pinned = append(pinned, one.name)
		default:
			others = append(others, one.name)
		}
	}
	const most = 8 // the note is kept with each Service, and read by people
	if more := len(left) - most; more > 0 {
		left = append(left[:most], fmt.Sprintf("and %d more pools do not serve it unasked", more))
	}
	return append(pinned, others...), strings.Join(left, "; ")
}

// refuse says why a Service may not take addresses from the pool of this name; empty when it may.
func (p *policy) refuse(name string, svc *v1.Service, namespace labels.Set) string {
	i := slices.IndexFunc(p.pools, func(one pool) bool { return one.name == name })
	if i < 0 {
		return fmt.Sprintf("there is no pool %q; there are %s", name, strings.Join(p.names(), ", "))
	}
	if one := &p.pools[i]; !one.admits(svc, namespace) {
		return fmt.Sprintf("pool %s %s", name, one.whom)
	}
	return ""
}

// names gives all pools, sorted.
func (p *policy) names() []string {
	names := make([]string, len(p.pools))
	for i, one := range p.pools {
		names[i] = one.name
	}
	slices.Sort(names)
	return names
}

// poolOf names the pool that address lies in; empty: none.
func (p *policy) poolOf(address netip.Addr) string {
	for i := range p.pools {
		if slices.ContainsFunc(p.pools[i].ranges, func(r netipx.IPRange) bool { return r.Contains(address) }) {
			return p.pools[i].name
		}
	}
	return ""
}

// never says why no Service can have an address, to complete "which ..."; empty: one can.
func (p *policy) never(address netip.Addr) string {
	if p.poolOf(address) == "" {
		return "lies in no pool"
	}
	for _, e := range p.excluded {
		if e.Range.Contains(address) {
			return "is excluded: " + e.Reason
		}
	}
	return ""
}
