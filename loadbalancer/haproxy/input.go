package haproxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// checkInput refuses what cannot be written into HAProxy's files and commands and mean what it says. Validate has
// judged the State before; this asks one question more of every text that is written, as the last line of defence
// against a name that is a configuration, and of every port that a server of ours would take.
func checkInput(s *desired.State, l Local, slots Slots) error {
	if err := l.check(); err != nil {
		return err
	}
	if err := checkPeers(s, l); err != nil {
		return err
	}
	in := &input{}
	for i, g := range s.Gateways {
		in.word(fmt.Sprintf("gateways[%d].name", i), g.Name)
	}
	in.path("nodeCheck.path", s.NodeCheck)
	for i, node := range s.Nodes {
		in.word(fmt.Sprintf("nodes[%d].name", i), node.Name)
		if len(node.Addresses) == 0 {
			in.fault(fmt.Sprintf("nodes[%d].addresses", i), "are missing; one is needed")
		}
	}
	if s.ControlPlane != nil {
		in.path("controlPlane.check.path", s.ControlPlane.Check)
	}
	for i := range s.LoadBalancers {
		in.loadBalancer(&s.LoadBalancers[i])
	}
	in.slots(s, l, slots)
	if in.faults != nil {
		return in.faults
	}
	return nil
}

// input gathers what is wrong with a State.
type input struct {
	owner  *desired.Key
	faults desired.Faults
}

func (in *input) fault(field, problem string) {
	if in.owner != nil {
		field = fmt.Sprintf("loadBalancers[%s].%s", in.owner, field)
	}
	in.faults = append(in.faults, desired.Fault{Owner: in.owner, Field: field, Problem: problem})
}

func (in *input) word(field, value string) {
	if !isWord(value) {
		in.fault(field, fmt.Sprintf("%q cannot stand in haproxy.cfg; letters, digits and %s can", value, punctuation))
	}
}

func (in *input) path(field string, c desired.Check) {
	if path := path(c); path != "" && !isPath(path) {
		in.fault(field, fmt.Sprintf("%q cannot stand in haproxy.cfg; blanks, quotes, semicolons and backslashes cannot", path))
	}
}

func (in *input) loadBalancer(lb *desired.LoadBalancer) {
	owner := lb.Key
	in.owner = &owner
	defer func() { in.owner = nil }()
	in.word("namespace", lb.Namespace)
	in.word("name", lb.Name)
	in.clientSource(lb)
	in.pool("pool", lb.Pool)
	for i, f := range lb.Frontends {
		field := fmt.Sprintf("frontends[%d].", i)
		in.pool(field+"pool", f.Pool)
		if f.Protocol != desired.TCP {
			continue
		}
		// A server without a port would be reached at the VIP's port, which may be the node's own sshd.
		portless := f.Pool == nil || slices.ContainsFunc(f.Pool.Servers, func(s desired.Server) bool { return s.Port == 0 })
		if f.NodePort == 0 && portless {
			in.fault(field+"nodePort", "is 0; the servers have no other port")
		}
		if f.ProxyProtocol != desired.ProxyNone && lb.PoolOf(f) == nil {
			in.fault(field+"proxyProtocol", "is set, and all Services share the pool; it needs a pool of its own")
		}
	}
}

func (in *input) pool(field string, p *desired.Pool) {
	if p == nil {
		return
	}
	if _, err := kindOf(p, nil); err != nil {
		in.fault(field, err.Error())
	}
	in.path(field+".check.path", p.Check)
	for i, server := range p.Servers {
		in.word(fmt.Sprintf("%s.servers[%d].name", field, i), server.Name)
	}
}

// slots finds load balancers without a slot, which would refuse everybody, and slots that were given twice, or to a pool of another
// kind: no Service may get another one's servers.
func (in *input) slots(s *desired.State, l Local, slots Slots) {
	tenants := map[string]Tenant{}
	for _, n := range needs(s) {
		kind, err := n.kind()
		if err != nil || !l.allows(kind) {
			continue // pool has told; whom this gateway's owner does not allow is refused here alone, and told by the agent
		}
		owner := n.Key
		in.owner = &owner
		slot := slots.of(n.Tenant)
		other, taken := tenants[slot]
		switch {
		case slot == "":
			in.fault("pool", fmt.Sprintf("has no slot for %s: all %d of kind %s are taken, or wait for their last connections; "+
				"give it what most load balancers have, or remove some", n.Tenant, maxSlots, kind))
		case kind.number(slot) == 0:
			in.fault("pool", fmt.Sprintf("was given %s for %s, which is not of the kind %s that it needs", slot, n.Tenant, kind))
		case taken:
			in.fault("pool", fmt.Sprintf("was given %s for %s, which %s has", slot, n.Tenant, other))
		}
		tenants[slot] = n.Tenant
	}
	in.owner = nil
}

// check judges what the gateway's own configuration says.
func (l Local) check() error {
	var faults []error
	if l.Version != "" && !atLeast(l.Version, 2, 6) {
		faults = append(faults, fmt.Errorf("haproxy %s is too old: its servers could not be added and checked at run time; install 2.6 or newer", l.Version))
	}
	for _, f := range []struct{ field, value string }{
		{"stats socket", l.StatsSocket}, {"file of the servers' state", l.ServerState}, {"map of Services", l.ServicesMap},
		{"map of checks", l.ChecksMap}, {"file of the control plane's certificates", l.ControlPlaneCA},
		{"user", l.User}, {"group", l.Group}, {"chroot", l.Chroot},
		{"log target", strings.ReplaceAll(l.Log, " ", "_")},
	} {
		if !isWord(f.value) && (f.value != "" || f.field != "log target") {
			faults = append(faults, fmt.Errorf("haproxy's %s: %q cannot stand in haproxy.cfg; letters, digits and %s can", f.field, f.value, punctuation))
		}
	}
	if l.SlotsPerKind < 1 {
		faults = append(faults, fmt.Errorf("haproxy's slots of each kind: %d; at least 1 is needed", l.SlotsPerKind))
	}
	if l.OldWorkers.Seconds() < 1 {
		faults = append(faults, fmt.Errorf("life of haproxy's old workers: %s; at least 1s is needed", l.OldWorkers))
	}
	return errors.Join(faults...)
}

// atLeast compares a version like 2.6.12 with a branch; a version that it cannot read is new enough.
func atLeast(version string, major, minor int) bool {
	var has, hasMinor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &has, &hasMinor); n < 2 {
		return true
	}
	return has > major || has == major && hasMinor >= minor
}

// punctuation may stand, with letters and digits, in a word of a configuration, a map or a runtime command: nothing
// quotes, separates, expands or comments there.
const punctuation = "._:/@+-"

func isWord(s string) bool { return s != "" && consistsOf(s, punctuation) }

// isPath is for paths, which stand in single quotes in the file and bare in a map's value and a runtime command.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && consistsOf(s, punctuation+"_~%&,=?!()*")
}

func consistsOf(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(more, c) >= 0) {
			return false
		}
	}
	return true
}
