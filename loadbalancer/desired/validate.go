package desired

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Validate returns every fault of the State, each with the path of the field; nil when there is none. See Faults.
//
// A fault that leaves with one load balancer has that one as Owner, so that Manager can serve the others. Lists need
// not be sorted; Validate changes nothing.
func (s *State) Validate() error {
	v := newValidation(s)
	v.fence()
	v.gateways()
	v.instances()
	v.nodes()
	v.floating()
	v.controlPlane()
	v.releasing()
	v.loadBalancers()
	v.unowned()
	v.pools()
	v.reserved()
	v.quarantined()
	return v.verdict()
}

func newValidation(s *State) *validation {
	return &validation{
		state:    s,
		machines: make(map[netip.Addr]string, len(s.Gateways)+len(s.Nodes)),
		vips:     make(map[netip.Addr]*floating, len(s.VIPs)),
		returns:  returns{make(map[netip.Addr]Key, len(s.Releasing)), map[claim]Key{}},
	}
}

func (v *validation) verdict() error {
	if len(v.faults) == 0 {
		return nil
	}
	return v.faults
}

// validation is one run of Validate. Paths and messages are built only when there is a fault: that is what keeps
// thousands of load balancers within milliseconds.
type validation struct {
	state  *State
	faults Faults
	// machines tells whose an address is: "gateway a", "node b".
	machines map[netip.Addr]string
	vips     map[netip.Addr]*floating
	returns  returns
}

// floating is what is known of one VIP.
type floating struct {
	// problem is a fault of the address itself. It is told of the load balancers that have it, because leaving them
	// out cures the State, else of the VIP.
	problem string
	// former is whose return to the pool the problem is: that one may have begun to share what it had alone.
	former Key
	owned  bool
}

// add notes a fault of the whole State.
func (v *validation) add(field, problem string) {
	v.faults = append(v.faults, Fault{Field: field, Problem: problem})
}

// judge notes a problem unless it is empty. Only for the few fields that exist once or once a gateway: the field's
// path is built in any case.
func (v *validation) judge(field, problem string) {
	if problem != "" {
		v.add(field, problem)
	}
}

func (v *validation) fence() {
	f, s := v.state.Fence, v.state
	if s.Schema != Schema {
		v.add("schema", fmt.Sprintf("is %d; allowed is %d", s.Schema, Schema))
	}
	v.judge("fence.clusterUID", identifierProblem(f.ClusterUID))
	v.judge("fence.instance", identifierProblem(f.Instance))
	if f.Epoch == 0 {
		const before = "; a State of epoch 0 was made before the cluster exists and carries the control plane only"
		if f.ClusterUID != "" {
			v.add("fence.clusterUID", "is set, but the epoch is 0"+before)
		}
		if f.Instance != "" {
			v.add("fence.instance", "is set, but the epoch is 0"+before)
		}
		for _, list := range []struct {
			field  string
			length int
		}{{"nodes", len(s.Nodes)}, {"loadBalancers", len(s.LoadBalancers)}, {"releasing", len(s.Releasing)}} {
			if list.length > 0 {
				v.add(list.field, fmt.Sprintf("are %d, but the epoch is 0%s", list.length, before))
			}
		}
		return
	}
	if f.ClusterUID == "" {
		v.add("fence.clusterUID", "is missing; a State of epoch 1 or later belongs to a cluster")
	}
	if f.Instance == "" {
		v.add("fence.instance", "is missing; a State of epoch 1 or later names the controller that made it")
	}
}

func (v *validation) gateways() {
	if len(v.state.Gateways) == 0 {
		v.add("gateways", "are missing; at least one is needed")
	}
	names := make(map[string]bool, len(v.state.Gateways))
	for i, g := range v.state.Gateways {
		field := "gateways[" + strconv.Itoa(i) + "]"
		v.judge(field+".name", labelProblem(g.Name))
		if names[g.Name] {
			v.add(field+".name", fmt.Sprintf("%q is the name of an earlier gateway; names are unique", g.Name))
		}
		names[g.Name] = true
		v.judge(field+".sshAddress", hostPortProblem(g.SSHAddress))
		v.judge(field+".interface", interfaceProblem(g.Interface))
		if problem := machineAddressProblem(g.VRRPAddress); problem != "" {
			v.add(field+".vrrpAddress", problem)
			continue
		}
		if other, taken := v.machines[g.VRRPAddress]; taken {
			v.add(field+".vrrpAddress", fmt.Sprintf("%s is the address of %s; each gateway has its own", g.VRRPAddress, other))
		}
		if g.VRRPAddress.Is4() != v.state.Gateways[0].VRRPAddress.Is4() {
			v.add(field+".vrrpAddress", fmt.Sprintf("%s is of another family than %s of gateway %s; peers advertise to each other",
				g.VRRPAddress, v.state.Gateways[0].VRRPAddress, v.state.Gateways[0].Name))
		}
		v.machines[g.VRRPAddress] = "gateway " + g.Name
	}
	if ms := v.state.VRRP.AdvertIntervalMillis; ms < 10 || ms > 40950 || ms%10 != 0 {
		v.add("vrrp.advertIntervalMillis", fmt.Sprintf("is %d; allowed are 10 to 40950 in steps of 10", ms))
	}
	if seconds := v.state.VRRP.PreemptDelaySeconds; seconds < 0 || seconds > 1000 {
		v.add("vrrp.preemptDelaySeconds", fmt.Sprintf("is %d; allowed are 0 to 1000", seconds))
	}
}

// hostPortProblem judges the host:port of an sshd.
func hostPortProblem(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		n, portErr := strconv.ParseUint(port, 10, 16)
		address, addressErr := netip.ParseAddr(host)
		named := addressErr == nil && consistsOf(address.Zone(), "-._@+") || isSubdomain(strings.ToLower(host))
		if named && portErr == nil && n > 0 {
			return ""
		}
	}
	return fmt.Sprintf("%q is no host:port; allowed is a DNS name or an address (IPv6 in brackets) and a port, 1 to 65535", s)
}

func (v *validation) instances() {
	seen := make(map[int]bool, len(v.state.Instances))
	for i, instance := range v.state.Instances {
		field := "instances[" + strconv.Itoa(i) + "]"
		if instance.RouterID < 1 || instance.RouterID > maxRouterID {
			v.add(field+".routerID", fmt.Sprintf("is %d; allowed are 1 to %d", instance.RouterID, maxRouterID))
		}
		if seen[instance.RouterID] {
			v.add(field+".routerID", fmt.Sprintf("%d is the router ID of an earlier instance; router IDs are unique", instance.RouterID))
		}
		seen[instance.RouterID] = true
		if !v.listsEachGateway(instance.Gateways) {
			v.add(field+".gateways", fmt.Sprintf("are %q; allowed is each gateway exactly once", instance.Gateways))
		}
	}
}

func (v *validation) listsEachGateway(names []string) bool {
	if len(names) != len(v.state.Gateways) {
		return false
	}
	for _, g := range v.state.Gateways {
		if !slices.Contains(names, g.Name) {
			return false
		}
	}
	return true
}

func (v *validation) nodes() {
	names := make(map[string]bool, len(v.state.Nodes))
	for i, node := range v.state.Nodes {
		if problem := subdomainProblem(node.Name); problem != "" {
			v.add(fmt.Sprintf("nodes[%d].name", i), problem)
		}
		if names[node.Name] {
			v.add(fmt.Sprintf("nodes[%d].name", i), fmt.Sprintf("%q is the name of an earlier node; names are unique", node.Name))
		}
		names[node.Name] = true
		if problem := familiesProblem(node.Addresses); problem != "" {
			v.add(fmt.Sprintf("nodes[%d].addresses", i), problem)
		}
		for j, address := range node.Addresses {
			problem := addressProblem(address)
			if other, taken := v.machines[address]; problem == "" && taken {
				problem = fmt.Sprintf("%s is the address of %s; each node has its own", address, other)
			}
			if problem != "" {
				v.add(fmt.Sprintf("nodes[%d].addresses[%d]", i, j), problem)
				continue
			}
			v.machines[address] = "node " + node.Name
		}
	}
	v.check("nodeCheck", v.state.NodeCheck)
	if seconds := v.state.DrainSeconds; seconds < 0 || seconds > maxDrainSeconds {
		v.add("drainSeconds", fmt.Sprintf("is %d; allowed are 1 to %d, and 0 for %d", seconds, maxDrainSeconds, DefaultDrainSeconds))
	}
}
