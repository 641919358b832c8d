package desired

import (
	"fmt"
	"net/netip"
)

// returns are the addresses and ports that are on their way back, and whose they were.
type returns struct {
	addresses map[netip.Addr]Key
	ports     map[claim]Key
}

// releasing judges what is on its way back, before the load balancers: none may have it.
//
// An address without ports was its owner's alone and conflicts with whatever floats there, but for its owner, who shares
// it from now on: nobody else joins before every gateway knows which ports it has. Ports of a shared address
// conflict with the same ports of another owner only: others may serve theirs on it, or give up theirs too.
func (v *validation) releasing() {
	type hold struct {
		address netip.Addr
		owner   Key
	}
	seen := make(map[hold]bool, len(v.state.Releasing))
	for i, r := range v.state.Releasing {
		field := fmt.Sprintf("releasing[%d]", i)
		v.judge(field+".address", addressProblem(r.Address))
		v.judge(field+".owner.namespace", labelProblem(r.Owner.Namespace))
		v.judge(field+".owner.name", labelProblem(r.Owner.Name))
		h := hold{r.Address, r.Owner}
		_, whole := v.returns.addresses[r.Address]
		switch {
		case seen[h]:
			v.add(field+".address", fmt.Sprintf("%s of %s stands there twice; each owner names an address once", r.Address, r.Owner))
		case whole && len(r.Ports) == 0:
			v.add(field+".address", fmt.Sprintf("%s stands there twice; an address that is not shared has one owner", r.Address))
		}
		seen[h] = true
		v.releasingPorts(field, r)
		if len(r.Ports) == 0 {
			v.returns.addresses[r.Address] = r.Owner
		}
		// The control plane shares its address with nobody.
		alone := len(r.Ports) == 0 || v.state.ControlPlane != nil && v.state.ControlPlane.Address == r.Address
		if f := v.vips[r.Address]; f != nil && f.problem == "" && alone {
			f.problem, f.former = returning(r.Address, r.Owner), r.Owner
		}
	}
}

func (v *validation) releasingPorts(field string, r Releasing) {
	for i, p := range r.Ports {
		field := fmt.Sprintf("%s.ports[%d]", field, i)
		v.judge(field+".protocol", protocolProblem(p.Protocol))
		if p.Port == 0 {
			v.add(field+".port", "is 0; allowed are 1 to 65535")
		}
		c := claim{r.Address, p.Protocol, p.Port}
		if owner, twice := v.returns.ports[c]; twice {
			v.add(field, fmt.Sprintf("%s of %s was %s's already; it has one owner", p, r.Address, owner))
		}
		v.returns.ports[c] = r.Owner
	}
}

func returning(what any, owner Key) string {
	return fmt.Sprintf("%s was %s's and is still on its way back to its pool", what, owner)
}
