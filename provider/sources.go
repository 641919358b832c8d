package provider

import (
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// access reads who may connect: spec.loadBalancerSourceRanges, without it the annotation of before there was that
// field, as servicehelper.GetLoadBalancerSourceRanges reads them, and who may not all the same. Of a list that is wrong
// nothing counts, nor of the other: half a rule would close or open the Service to somebody.
func (d *draft) access(svc *v1.Service) {
	allow := asked{where: "spec.loadBalancerSourceRanges", value: strings.Join(svc.Spec.LoadBalancerSourceRanges, ","),
		isSet: len(svc.Spec.LoadBalancerSourceRanges) > 0}
	if !allow.isSet {
		annotated := svc.Annotations[v1.AnnotationLoadBalancerSourceRangesKey]
		allow = asked{where: "annotation " + v1.AnnotationLoadBalancerSourceRangesKey, value: annotated,
			isSet: strings.TrimSpace(annotated) != ""}
	}
	denied, isSet := svc.Annotations[string(DenySourceRanges)]
	deny := asked{where: "annotation " + string(DenySourceRanges), value: denied, isSet: isSet}
	before := len(d.problems)
	sources := &loadbalancer.Sources{Allow: d.ranges(allow), Deny: d.ranges(deny)}
	if len(d.problems) > before {
		return
	}
	d.sources = sources
	lb := &d.service.LoadBalancer
	lb.AllowSources, lb.DenySources = sources.Allow, sources.Deny
	for _, family := range svc.Spec.IPFamilies {
		d.nobody(family, allow, deny)
	}
}

// ranges reads a comma list of prefixes. Spaces around them are none of ours to mind: the API server allows them.
func (d *draft) ranges(ask asked) []netip.Prefix {
	if !ask.isSet {
		return nil
	}
	const allowed = "allowed are IPv4 and IPv6 ranges with commas between, as in 192.0.2.0/24,2001:db8::/32"
	var prefixes []netip.Prefix
	for part := range strings.SplitSeq(ask.value, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil || prefix.Addr().Is4In6() {
			d.wrong("%s %q: %q is not a range; %s; until that is mended, who may connect stays as it was, and nobody "+
				"may if the Service is new", ask.where, ask.value, strings.TrimSpace(part), allowed)
			return nil
		}
		prefixes = append(prefixes, prefix)
	}
	return desired.MergePrefixes(prefixes)
}

// nobody warns when no client of a family may connect: a list of one family closes the Service for the other one.
func (d *draft) nobody(family v1.IPFamily, allow, deny asked) {
	lb := d.service.LoadBalancer
	anyAddress := map[v1.IPFamily]netip.Addr{v1.IPv4Protocol: netip.IPv4Unspecified(),
		v1.IPv6Protocol: netip.IPv6Unspecified()}[family]
	if admitted, _ := lb.AdmittedTo(anyAddress); len(admitted) > 0 {
		return
	}
	lb.DenySources = nil
	if admitted, _ := lb.AdmittedTo(anyAddress); len(admitted) > 0 {
		d.warn("NoSourceAllowed", "%s %q denies every %s client, so connections to the Service's %s address are "+
			"refused; remove it to let them in", deny.where, deny.value, family, family)
		return
	}
	d.warn("NoSourceAllowed", "%s %q has no %s range, so connections to the Service's %s address are refused; add "+
		"the %s ranges that may connect (%s/0: all)", allow.where, allow.value, family, family, family, anyAddress)
}
