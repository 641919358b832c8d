package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/provider/config/strict"
)

// poolRange is one entry of a pool, remembered for the search of overlaps.
type poolRange struct {
	path, text string
	addresses  netipx.IPRange
}

func (c *Config) validatePools(f *strict.Faults) {
	if len(c.Pools) == 0 {
		f.Add("pools", "there is none; name at least one, Services get their addresses from there")
	}
	names := map[string]int{}
	var all []poolRange
	for i, p := range c.Pools {
		path := fmt.Sprintf("pools[%d]", i)
		if named(f, path+".name", p.Name) {
			once(f, names, path+".name", "pools[%d].name", p.Name, i)
		}
		interfaceName(f, path+".interface", p.Interface, false)
		ranges, complete := p.validateAddresses(f, path)
		all = append(all, ranges...)
		excluded := p.validateExclude(f, path, ranges, complete)
		if complete {
			c.validateRest(f, path, p, ranges, excluded)
		}
		p.validateNamespaces(f, path)
		validateSelector(f, path+".namespaceSelector", p.NamespaceSelector)
		validateSelector(f, path+".serviceSelector", p.ServiceSelector)
	}
	tellOverlaps(f, all)
}

// validateAddresses gives the ranges that can be read, and whether those are all.
func (p Pool) validateAddresses(f *strict.Faults, path string) (ranges []poolRange, complete bool) {
	if len(p.Addresses) == 0 {
		f.Add(path+".addresses", "is empty; networks, ranges and single addresses are allowed")
	}
	for j, text := range p.Addresses {
		path := fmt.Sprintf("%s.addresses[%d]", path, j)
		r, err := parseRange(text)
		if err != nil {
			f.Add(path, "%v", err)
			continue
		}
		ranges = append(ranges, poolRange{path, text, r})
	}
	return ranges, len(ranges) > 0 && len(ranges) == len(p.Addresses)
}

// tellOverlaps compares neighbours in sorted order; of three that overlap each one is named at least once.
func tellOverlaps(f *strict.Faults, ranges []poolRange) {
	slices.SortStableFunc(ranges, func(a, b poolRange) int { return a.addresses.From().Compare(b.addresses.From()) })
	for i := range ranges {
		for j := i + 1; j < len(ranges) && ranges[j].addresses.Overlaps(ranges[i].addresses); j++ {
			f.Add(ranges[j].path, "%s overlaps %s of %s; an address belongs to one pool only", ranges[j].text, ranges[i].text, ranges[i].path)
		}
	}
}

// validateExclude gives the excludes that can be read. Whether one lies inside the pool can be judged only when all of
// the pool could be read.
func (p Pool) validateExclude(f *strict.Faults, path string, pool []poolRange, complete bool) (excluded []netipx.IPRange) {
	inside := setOf(pool)
	for j, text := range p.Exclude {
		path := fmt.Sprintf("%s.exclude[%d]", path, j)
		r, err := ipam.ParseRange(text)
		switch {
		case err != nil:
			f.Add(path, "%v", err)
			continue
		case complete && !inside.ContainsRange(r):
			f.Add(path, "%s is not wholly inside the pool's addresses; parts of those are allowed", text)
		}
		excluded = append(excluded, r)
	}
	return excluded
}

// validateRest looks at what remains of a pool when one after the other is left out that no Service gets: nothing left
// is told of the step that took the last address.
func (c *Config) validateRest(f *strict.Faults, path string, p Pool, ranges []poolRange, excluded []netipx.IPRange) {
	var builder netipx.IPSetBuilder
	builder.AddSet(setOf(ranges))
	for _, r := range excluded {
		builder.RemoveRange(r)
	}
	if empty(&builder) {
		f.Add(path+".exclude", "leaves nothing of the pool's addresses; exclude less, or leave the pool out")
		return
	}
	for _, e := range p.networkAndBroadcast() {
		builder.RemoveRange(e.Range)
	}
	if empty(&builder) {
		f.Add(path+".exclude", "leaves only network and broadcast addresses; exclude less, or set avoidNetworkAndBroadcast to false "+
			"if hosts may have those")
		return
	}
	var who []string
	for _, e := range c.machines() {
		if slices.ContainsFunc(ranges, func(r poolRange) bool { return r.addresses.Overlaps(e.Range) }) {
			who = append(who, e.Reason)
		}
		builder.RemoveRange(e.Range)
	}
	if empty(&builder) {
		f.Add(path+".addresses", "nothing is left for Services, the rest being: %s; name further addresses", strings.Join(who, ", "))
		return
	}
	// What ipam alone knows: how large a pool can be. The set's ranges never overlap, which is told above.
	rest, err := builder.IPSet()
	if err == nil {
		_, err = ipam.New([]ipam.Pool{{Name: p.Name, Ranges: rest.Ranges()}}, nil)
	}
	if err != nil {
		f.Add(path+".addresses", "%v", err)
	}
}

// setOf gives the addresses of ranges. Ranges that ParseRange gave are valid, so the builder has nothing to refuse.
func setOf(ranges []poolRange) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	for _, r := range ranges {
		builder.AddRange(r.addresses)
	}
	set, _ := builder.IPSet()
	return set
}

func empty(builder *netipx.IPSetBuilder) bool {
	set, err := builder.IPSet()
	return err == nil && len(set.Ranges()) == 0
}

func (p Pool) validateNamespaces(f *strict.Faults, path string) {
	if p.Namespaces != nil && len(p.Namespaces) == 0 {
		f.Add(path+".namespaces", "is empty, which admits nobody; name namespaces, or leave the field out to admit all")
	}
	seen := map[string]int{}
	for j, name := range p.Namespaces {
		at := fmt.Sprintf("%s.namespaces[%d]", path, j)
		if !dnsLabel(name) {
			f.Add(at, "%q; the name of a namespace, a DNS label (a-z, 0-9, -; at most 63), is allowed", name)
			continue
		}
		once(f, seen, at, path+".namespaces[%d]", name, j)
	}
}

func validateSelector(f *strict.Faults, path, text string) {
	if text == "" {
		return
	}
	const form = "labels as for kubectl get -l (team=web,stage in (prod, test),!legacy) are allowed"
	s, err := labels.Parse(text, field.WithPath(field.NewPath("label")))
	switch {
	case err != nil:
		f.Add(path, "%q: %v; %s", text, err, form)
	case s.Empty():
		f.Add(path, "%q is blank; %s, or leave the field out", text, form)
	}
}

func (c *Config) validateReservations(f *strict.Faults) {
	spelled := map[netip.Addr]string{}
	for _, text := range sortedKeys(c.Reservations) {
		path := strict.Key("reservations", text)
		if owner := c.Reservations[text]; !isServiceKey(owner) {
			f.Add(path, "%q; the namespace and name of a Service (default/web) are allowed", owner)
		}
		address, ok := reservedAddress(text)
		if !ok {
			f.Add(path, "is for no address; one IP address (192.0.2.70 or 2001:db8::70) for each reservation is allowed")
			continue
		}
		if other, twice := spelled[address]; twice {
			f.Add(path, "is %s, which stands there as %s too; each address may be there once", address, other)
			continue
		}
		spelled[address] = text
		c.validateReserved(f, path, address)
	}
}

// validateReserved says why no Service could get a reserved address.
func (c *Config) validateReserved(f *strict.Faults, path string, address netip.Addr) {
	for _, e := range c.machines() {
		if e.Range.Contains(address) {
			f.Add(path, "is the %s; an address that Services can get is allowed", e.Reason)
			return
		}
	}
	readable := !f.Unread("pools")
	for i, p := range c.Pools {
		readable = readable && !f.Unread(fmt.Sprintf("pools[%d].addresses", i))
		for _, text := range p.Addresses {
			r, err := parseRange(text)
			if err != nil {
				readable = false
				continue
			}
			if r.Contains(address) {
				p.validateReservedInside(f, path, address, i)
				return
			}
		}
	}
	if readable { // else it may be in the part that is told elsewhere
		f.Add(path, "is in no pool; an address of pools[].addresses is allowed")
	}
}

// validateReservedInside judges an address that lies in pool p, which is the i-th.
func (p Pool) validateReservedInside(f *strict.Faults, path string, address netip.Addr, i int) {
	for j, text := range p.Exclude {
		if r, err := ipam.ParseRange(text); err == nil && r.Contains(address) {
			f.Add(path, "is excluded by pools[%d].exclude[%d] (%s); an address that Services can get is allowed", i, j, text)
			return
		}
	}
	for _, e := range p.networkAndBroadcast() {
		if e.Range.Contains(address) {
			f.Add(path, "is the %s; set pools[%d].avoidNetworkAndBroadcast to false if Services may have it", e.Reason, i)
			return
		}
	}
}

// isServiceKey says whether text is namespace/name.
func isServiceKey(text string) bool {
	namespace, name, found := strings.Cut(text, "/")
	return found && dnsLabel(namespace) && dnsLabel(name)
}
