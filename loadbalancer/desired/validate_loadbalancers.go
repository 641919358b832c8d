package desired

import (
	"fmt"
	"net/netip"
	"slices"
)

// claim is what has one owner only (DESIGN invariant 8).
type claim struct {
	address  netip.Addr
	protocol Protocol
	port     uint16
}

// loadBalancers judges them in the order of their keys: of two that claim the same, the later one is at fault.
func (v *validation) loadBalancers() {
	all := v.state.LoadBalancers
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return all[a].Key.Compare(all[b].Key) })
	claims := make(map[claim]*LoadBalancer, 2*len(all))
	for n, i := range order {
		lb := &all[i]
		j := judgement{v: v, lb: lb, index: i}
		j.names()
		if n > 0 && all[order[n-1]].Key == lb.Key {
			j.add("", "has the key of another load balancer; keys are unique")
		}
		j.addresses()
		j.frontends()
		j.pool("pool", lb.Pool)
		j.sources()
		j.knobs()
		j.claims(claims)
	}
}

// judgement is the validation of one load balancer.
type judgement struct {
	v     *validation
	lb    *LoadBalancer
	index int
}

// add notes a fault of this load balancer alone; field is relative to it.
func (j *judgement) add(field, problem string) {
	owner := j.lb.Key
	path := fmt.Sprintf("loadBalancers[%s]", owner)
	if !isLabel(owner.Namespace) || !isLabel(owner.Name) {
		path = fmt.Sprintf("loadBalancers[%d]", j.index)
	}
	if field != "" {
		path += "." + field
	}
	j.v.faults = append(j.v.faults, Fault{Owner: &owner, Field: path, Problem: problem})
}

func (j *judgement) judge(field, problem string) {
	if problem != "" {
		j.add(field, problem)
	}
}

func (j *judgement) names() {
	j.judge("namespace", labelProblem(j.lb.Namespace))
	j.judge("name", labelProblem(j.lb.Name))
	// A State written by hand for `gatewayctl push` has no Service and no UID.
	j.judge("uid", identifierProblem(j.lb.UID))
}

func (j *judgement) addresses() {
	j.judge("addresses", familiesProblem(j.lb.Addresses))
	for i, address := range j.lb.Addresses {
		f := j.v.vips[address]
		problem := ""
		switch {
		case f == nil && j.v.returns.addresses[address] != Key{}:
			problem = returning(address, j.v.returns.addresses[address])
		case f == nil:
			problem = fmt.Sprintf("%s is not one of the vips", address)
		case f.problem != "" && f.former != j.lb.Key:
			problem = f.problem
		case j.v.state.ControlPlane != nil && j.v.state.ControlPlane.Address == address:
			problem = fmt.Sprintf("%s is the control plane's address, which no Service shares", address)
		}
		if f != nil {
			f.owned = true
		}
		if problem != "" {
			j.add(fmt.Sprintf("addresses[%d]", i), problem)
		}
	}
}

func (j *judgement) frontends() {
	if len(j.lb.Frontends) == 0 {
		j.add("frontends", "are missing; at least one is needed")
	}
	for i, f := range j.lb.Frontends {
		if f.Name != "" && !isLabel(f.Name) {
			j.add(fmt.Sprintf("frontends[%d].name", i), labelProblem(f.Name))
		}
		if problem := protocolProblem(f.Protocol); problem != "" {
			j.add(fmt.Sprintf("frontends[%d].protocol", i), problem)
		}
		if f.Port == 0 {
			j.add(fmt.Sprintf("frontends[%d].port", i), "is 0; allowed are 1 to 65535")
		}
		j.target(i, f)
	}
}

// maxSources bounds what one load balancer may cost every gateway: each prefix is an element of the firewall for each
// frontend, and loading 25000 elements takes 0.4 s.
const maxSources = 10000

// sources need not be merged, nor masked: Normalize does it.
func (j *judgement) sources() {
	j.prefixes("allowSources", j.lb.AllowSources)
	j.prefixes("denySources", j.lb.DenySources)
	n := len(j.lb.AllowSources) + len(j.lb.DenySources)
	if n*len(j.lb.Frontends) > maxSources {
		j.add("allowSources", fmt.Sprintf("and denySources are %d prefixes for each of %d frontends; allowed are %d together: "+
			"take shorter prefixes, or spread the ports over several Services", n, len(j.lb.Frontends), maxSources))
	}
}

func (j *judgement) prefixes(field string, prefixes []netip.Prefix) {
	for i, p := range prefixes {
		switch {
		case !p.IsValid():
			j.add(fmt.Sprintf("%s[%d]", field, i), "is no prefix; allowed are IPv4 and IPv6 prefixes, as in 192.0.2.0/24")
		case p.Addr().Is4In6():
			j.add(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%s is an IPv4 prefix in IPv6 form; write it as IPv4", p))
		}
	}
}

func (j *judgement) claims(claims map[claim]*LoadBalancer) {
	for _, address := range j.lb.Addresses {
		for i, f := range j.lb.Frontends {
			c := claim{address, f.Protocol, f.Port}
			if owner := claims[c]; owner != nil {
				j.add(fmt.Sprintf("frontends[%d].port", i), fmt.Sprintf("%s of %s is claimed by %s and by %s; it has one owner",
					f.port(), address, owner.Key, j.lb.Key))
				continue
			}
			if owner, releasing := j.v.returns.ports[c]; releasing && owner != j.lb.Key {
				j.add(fmt.Sprintf("frontends[%d].port", i), returning(fmt.Sprintf("%s of %s", f.port(), address), owner))
			}
			claims[c] = j.lb
		}
	}
}
