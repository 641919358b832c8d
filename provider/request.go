package provider

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/ipam"
)

// request reads which addresses a Service asks for, and what is to become of them.
func (d *draft) request(svc *v1.Service, around circumstances) {
	d.families(svc)
	d.requested(svc, around)
	d.pools(svc, around)
	d.permitted(svc, around)
	d.sharing(svc, around)
	d.keep(svc)
}

func (d *draft) families(svc *v1.Service) {
	request := &d.service.Request
	for _, family := range svc.Spec.IPFamilies {
		switch family {
		case v1.IPv4Protocol:
			request.Families = append(request.Families, ipam.IPv4)
		case v1.IPv6Protocol:
			request.Families = append(request.Families, ipam.IPv6)
		}
	}
	if policy := svc.Spec.IPFamilyPolicy; policy != nil {
		request.FirstSuffices = *policy == v1.IPFamilyPolicyPreferDualStack
	}
}

// requested reads the addresses that are asked for by name.
func (d *draft) requested(svc *v1.Service, around circumstances) {
	request := &d.service.Request
	ask := around.policy.ask(svc, LoadBalancerIPs)
	spec := asked{where: "spec.loadBalancerIP", value: svc.Spec.LoadBalancerIP, isSet: svc.Spec.LoadBalancerIP != ""}
	fromAnnotation := d.parse(ask, around.policy)
	fromSpec := d.parse(spec, around.policy)
	switch {
	case len(fromAnnotation) == 0:
		request.Addresses = fromSpec
	case len(fromSpec) > 0 && !slices.Contains(fromAnnotation, fromSpec[0]):
		d.wrong("%s %s and %s %q contradict each other; set one of them, or the same address in both", spec.where,
			spec.value, ask.where, ask.value)
	default:
		request.Addresses = fromAnnotation
	}
	if len(request.Families) == 0 {
		return
	}
	for _, address := range request.Addresses {
		if !slices.Contains(request.Families, ipam.FamilyOf(address)) {
			d.wrong("address %s is asked for, but spec.ipFamilies is %v; add %s there or ask for an address of that "+
				"family", address, svc.Spec.IPFamilies, ipam.FamilyOf(address))
		}
	}
}

// parse reads a comma list of at most one address of each family.
func (d *draft) parse(ask asked, p *policy) []netip.Addr {
	if !ask.isSet {
		return nil
	}
	const allowed = "allowed is one IPv4 address, one IPv6 address, or both with a comma between"
	var addresses []netip.Addr
	for part := range strings.SplitSeq(ask.value, ",") {
		address, err := netip.ParseAddr(strings.TrimSpace(part))
		switch {
		case err != nil || address.Zone() != "" || address.Is4In6():
			d.wrong("%s %q: %q is not an address; %s", ask.where, ask.value, strings.TrimSpace(part), allowed)
			return nil
		case slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == address.Is4() }):
			d.wrong("%s %q has two %s addresses; %s", ask.where, ask.value, ipam.FamilyOf(address), allowed)
			return nil
		case address.IsUnspecified():
			d.dhcp(ask, address, p)
			continue
		}
		addresses = append(addresses, address)
	}
	return addresses
}

// dhcp answers 0.0.0.0 and ::, by which kube-vip is asked for an address of the network's DHCP server.
func (d *draft) dhcp(ask asked, address netip.Addr, p *policy) {
	const text = "%s %q: %s is no address that a Service can have (kube-vip takes it for DHCP, which is not " +
		"supported here); "
	if p.foreign && len(d.known) > 0 {
		d.warn("UnsupportedDHCP", text+"the Service keeps the address that it has, which the DHCP server may give to "+
			"another machine: exclude it there", ask.where, ask.value, address)
		return
	}
	d.wrong(text+"name an address of a pool, or none", ask.where, ask.value, address)
}

// pools reads which pools are asked, and says why others are not. What a Service has it keeps: when it has published
// addresses, pools that it names and may not use any more are a warning, and it gets no new address.
func (d *draft) pools(svc *v1.Service, around circumstances) {
	request := &d.service.Request
	ask := around.policy.ask(svc, AddressPool)
	if !ask.isSet {
		request.Pools, request.Note = around.policy.unasked(svc, around.namespace)
		return
	}
	request.Pools = []string{}
	d.named = d.names(ask)
	if !ask.foreign {
		d.service.Named = strings.Join(d.named, ",")
	}
	var refused []string
	for _, name := range d.named {
		if why := around.policy.refuse(name, svc, around.namespace); why != "" {
			refused = append(refused, why)
		}
	}
	switch {
	case len(refused) == 0:
		request.Pools = append(request.Pools, d.named...)
		request.Note = fmt.Sprintf("%s %q names no other pool", ask.where, ask.value)
		// A Service that comes from another controller stays where that one put it.
		request.Moves = !ask.foreign && len(d.named) > 0
	case len(d.known) > 0:
		request.Note = fmt.Sprintf("%s %q: %s", ask.where, ask.value, strings.Join(refused, "; "))
		d.warn("UnusablePool", "%s; the Service keeps the address that it has and gets no other one", request.Note)
	default:
		d.wrong("%s %q: %s", ask.where, ask.value, strings.Join(refused, "; "))
	}
}

// names reads a comma list of pools.
func (d *draft) names(ask asked) []string {
	const allowed = "allowed is the name of a pool, or several with commas between, each once"
	var names []string
	for part := range strings.SplitSeq(ask.value, ",") {
		name := strings.TrimSpace(part)
		switch {
		case name == "":
			d.wrong("%s %q: a name is empty; %s", ask.where, ask.value, allowed)
			return nil
		case slices.Contains(names, name):
			d.wrong("%s %q names pool %s twice; %s", ask.where, ask.value, name, allowed)
			return nil
		}
		names = append(names, name)
	}
	return names
}

// permitted refuses addresses that are asked for by name and lie in a pool that the Service may not use. One that it
// has published it keeps, one that is reserved for it it gets. What lies in no pool is for ipam to refuse.
func (d *draft) permitted(svc *v1.Service, around circumstances) {
	owner := ipam.Owner(keyOf(svc))
	for _, address := range d.service.Request.Addresses {
		pool := around.policy.poolOf(address)
		if pool == "" || slices.Contains(d.known, address) || around.policy.reserved[address] == owner {
			continue
		}
		if why := around.policy.refuse(pool, svc, around.namespace); why != "" {
			d.wrong("address %s is asked for, but its %s", address, why)
		} else if ask := around.policy.ask(svc, AddressPool); ask.isSet && !slices.Contains(d.named, pool) {
			d.wrong("address %s is asked for and lies in pool %s, but %s %q does not name that pool; remove one of "+
				"the two", address, pool, ask.where, ask.value)
		}
	}
}

// sharing reads with whom the addresses may be shared.
func (d *draft) sharing(svc *v1.Service, around circumstances) {
	if ask := around.policy.ask(svc, AllowSharedIP); ask.isSet && strings.TrimSpace(ask.value) == "" {
		d.wrong("%s is empty; allowed is any text, which all Services that share an address have in common", ask.where)
	}
	d.service.Request.Sharing = around.policy.sharing(svc)
}

// sharing is known also of a Service that is faulty otherwise: the key, and the ports of all protocols, also of those
// that are not served yet, so that they are free when they are. kube-vip lets Services share an address without a key, as long
// as their ports differ (https://kube-vip.io/docs/usage/kubernetes-services/): where its annotations are read they stay together.
func (p *policy) sharing(svc *v1.Service) ipam.Sharing {
	key := strings.TrimSpace(p.ask(svc, AllowSharedIP).value)
	sharing := ipam.Sharing{Key: key, Keyless: key == "" && p.foreign}
	for _, port := range svc.Spec.Ports {
		protocol := string(cmp.Or(port.Protocol, v1.ProtocolTCP))
		sharing.Ports = append(sharing.Ports, ipam.Port{Protocol: protocol, Number: uint16(port.Port)})
	}
	slices.SortFunc(sharing.Ports, func(a, b ipam.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
	})
	return sharing
}

// keep reads whether the addresses stay reserved when the Service goes.
func (d *draft) keep(svc *v1.Service) {
	text, isSet := svc.Annotations[string(KeepIP)]
	if isSet && text != "true" && text != "false" {
		d.wrong("annotation %s %q; allowed is true or false", KeepIP, text)
	}
	d.service.Keep = keeps(svc)
}

// keeps says whether the addresses of a Service stay reserved for it when it goes.
func keeps(svc *v1.Service) bool { return svc.Annotations[string(KeepIP)] == "true" }
