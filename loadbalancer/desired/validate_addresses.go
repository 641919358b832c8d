package desired

import (
	"fmt"
	"net/netip"
	"slices"
)

// floating judges the VIPs.
func (v *validation) floating() {
	routers := make(map[int]bool, len(v.state.Instances))
	for _, instance := range v.state.Instances {
		routers[instance.RouterID] = true
	}
	all := make([]floating, len(v.state.VIPs))
	for i, vip := range v.state.VIPs {
		if v.vips[vip.Address] != nil {
			v.add(fmt.Sprintf("vips[%d].address", i), fmt.Sprintf("%s stands in an earlier VIP; addresses are unique", vip.Address))
		} else {
			all[i].problem = v.vipProblem(vip)
			v.vips[vip.Address] = &all[i]
		}
		if vip.Interface != "" {
			if problem := interfaceProblem(vip.Interface); problem != "" {
				v.add(fmt.Sprintf("vips[%d].interface", i), problem)
			}
		}
		if !routers[vip.RouterID] {
			v.add(fmt.Sprintf("vips[%d].routerID", i), fmt.Sprintf("%d is the router ID of no instance", vip.RouterID))
		}
	}
}

func (v *validation) vipProblem(vip VIP) string {
	if problem := addressProblem(vip.Address); problem != "" {
		return problem
	}
	if machine, taken := v.machines[vip.Address]; taken {
		return fmt.Sprintf("%s is the own address of %s and cannot float", vip.Address, machine)
	}
	return ""
}

// unowned tells the problems of VIPs that no load balancer was told of.
func (v *validation) unowned() {
	for i, vip := range v.state.VIPs {
		if f := v.vips[vip.Address]; f.problem != "" && !f.owned {
			v.add(fmt.Sprintf("vips[%d].address", i), f.problem)
		}
	}
}

func (v *validation) controlPlane() {
	c := v.state.ControlPlane
	if c == nil {
		return
	}
	if v.vips[c.Address] == nil {
		v.add("controlPlane.address", fmt.Sprintf("%s is not one of the vips", c.Address))
	}
	if c.Port == 0 {
		v.add("controlPlane.port", "is 0; allowed are 1 to 65535")
	}
	if len(c.Endpoints) == 0 {
		v.add("controlPlane.endpoints", "are missing; at least one API server is needed")
	}
	for i, endpoint := range c.Endpoints {
		problem := addressProblem(endpoint.Addr())
		switch {
		case problem != "":
		case endpoint.Port() == 0:
			problem = fmt.Sprintf("%s has port 0; allowed are 1 to 65535", endpoint)
		case v.vips[endpoint.Addr()] != nil:
			problem = fmt.Sprintf("%s is one of the vips; an endpoint is the API server's own address", endpoint)
		case slices.Contains(c.Endpoints[:i], endpoint):
			problem = fmt.Sprintf("%s stands there twice", endpoint)
		}
		if problem != "" {
			v.add(fmt.Sprintf("controlPlane.endpoints[%d]", i), problem)
		}
	}
	v.extraPorts(c)
	v.check("controlPlane.check", c.Check)
	switch {
	case c.CA == "": // an https check of a State from before there were CAs; it is rendered as tls
	case c.Check.Kind != CheckHTTPS:
		v.add("controlPlane.ca", fmt.Sprintf("is set, but check %s verifies no certificate", c.Check.Kind))
	default:
		v.judge("controlPlane.ca", certificatesProblem(c.CA))
	}
}

func (v *validation) extraPorts(c *ControlPlane) {
	taken := map[uint16]bool{c.Port: true}
	for i, e := range c.ExtraPorts {
		field := fmt.Sprintf("controlPlane.extraPorts[%d]", i)
		switch {
		case e.Port == 0:
			v.add(field+".port", "is 0; allowed are 1 to 65535")
		case taken[e.Port]:
			v.add(field+".port", fmt.Sprintf("%d is another port of the control plane; ports are unique", e.Port))
		}
		taken[e.Port] = true
		if e.EndpointPort == 0 {
			v.add(field+".endpointPort", "is 0; allowed are 1 to 65535")
		}
	}
}

func (v *validation) pools() {
	type key struct {
		name   string
		family int
	}
	seen := make(map[key]bool, len(v.state.Pools))
	for i, pool := range v.state.Pools {
		field := fmt.Sprintf("pools[%d]", i)
		if pool.Name == "" {
			v.add(field+".name", "is missing")
		}
		v.judge(field+".name", identifierProblem(pool.Name))
		if pool.Family != 4 && pool.Family != 6 {
			v.add(field+".family", fmt.Sprintf("is %d; allowed are 4 and 6", pool.Family))
		}
		k := key{pool.Name, pool.Family}
		if seen[k] {
			v.add(field, fmt.Sprintf("%s of family %d stands there twice", pool.Name, pool.Family))
		}
		seen[k] = true
	}
}

// ValidateAddresses is Validate for Releasing, Reserved and Quarantined alone: what a person wrote down is judged before it
// gets into a State, where one bad entry would concern everybody.
func (s *State) ValidateAddresses() error {
	v := newValidation(s)
	v.releasing()
	v.reserved()
	v.quarantined()
	return v.verdict()
}

func (v *validation) reserved() {
	type reservation struct {
		address netip.Addr
		owner   Key
	}
	seen := make(map[reservation]bool, len(v.state.Reserved))
	for i, r := range v.state.Reserved {
		field := fmt.Sprintf("reserved[%d]", i)
		v.judge(field+".address", addressProblem(r.Address))
		v.judge(field+".owner.namespace", labelProblem(r.Owner.Namespace))
		v.judge(field+".owner.name", labelProblem(r.Owner.Name))
		if seen[reservation{r.Address, r.Owner}] {
			v.add(field+".address", fmt.Sprintf("%s stands there twice for %s; each owner names an address once", r.Address, r.Owner))
		}
		seen[reservation{r.Address, r.Owner}] = true
	}
}

func (v *validation) quarantined() {
	seen := make(map[netip.Addr]bool, len(v.state.Quarantined))
	for i, q := range v.state.Quarantined {
		field := fmt.Sprintf("quarantined[%d]", i)
		v.judge(field+".address", addressProblem(q.Address))
		v.judge(field+".by", descriptionProblem(q.By))
		v.unique(seen, field+".address", q.Address)
	}
}

func (v *validation) unique(seen map[netip.Addr]bool, field string, address netip.Addr) {
	if seen[address] {
		v.add(field, fmt.Sprintf("%s stands there twice; addresses are unique", address))
	}
	seen[address] = true
}
