package haproxy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// word is what may stand in a configuration, a map or a runtime command as one word: nothing that quotes, separates or
// comments there. Kubernetes' names and HAProxy's server names (manual section 4.2, server) are within it.
const word = `^[A-Za-z0-9._:/@+-]+$`

// urlPath is an HTTP path that can stand in single quotes and in a map's value.
const urlPath = `^/[!#-&(-\[\]-~]*$`

// checkInput refuses what Render would have to write into a configuration without being sure what it means there. State
// was validated before; this is about HAProxy's syntax alone, and the last line of defence against a name that is one.
func checkInput(s *desired.State, l Local, slots Slots) error {
	in := input{word: regexp.MustCompile(word), path: regexp.MustCompile(urlPath)}
	in.local(l)
	in.check("nodeCheck", s.NodeCheck)
	names := map[string]bool{}
	for i, node := range s.Nodes {
		field := fmt.Sprintf("nodes[%d]", i)
		in.name(field+".name", node.Name)
		in.unique(field+".name", names, node.Name)
		if len(node.Addresses) == 0 || !node.Addresses[0].IsValid() {
			in.fault("%s.addresses: node %s has none", field, node.Name)
		}
	}
	if s.ControlPlane != nil {
		in.check("controlPlane.check", s.ControlPlane.Check)
	}
	owners := map[string]desired.Key{}
	for _, lb := range s.LoadBalancers {
		in.loadBalancer(lb)
		slot, ok := slots[lb.Key]
		if !ok || lb.Pool == nil {
			continue
		}
		kind, err := kindOf(lb.Pool)
		if err == nil && kind.number(slot) == 0 {
			in.fault("slot %s of %s is not of the kind %s-%s that its pool needs", slot, lb.Key, kind.check, kind.algorithm)
		}
		if other, ok := owners[slot]; ok {
			in.fault("slot %s was given to both %s and %s", slot, other, lb.Key)
		}
		owners[slot] = lb.Key
	}
	return errors.Join(in.faults...)
}

// input gathers what is wrong.
type input struct {
	word, path *regexp.Regexp
	faults     []error
}

func (in *input) fault(format string, args ...any) {
	in.faults = append(in.faults, fmt.Errorf(format, args...))
}

func (in *input) name(field, value string) {
	if !in.word.MatchString(value) {
		in.fault("%s: %q cannot stand in haproxy.cfg; letters, digits and . _ : / @ + - can", field, value)
	}
}

func (in *input) unique(field string, seen map[string]bool, value string) {
	if seen[value] {
		in.fault("%s: %s is there twice", field, value)
	}
	seen[value] = true
}

func (in *input) local(l Local) {
	for _, f := range []struct{ field, value string }{
		{"statsSocket", l.StatsSocket}, {"serverState", l.ServerState}, {"servicesMap", l.ServicesMap},
		{"checksMap", l.ChecksMap}, {"user", l.User}, {"group", l.Group}, {"chroot", l.Chroot},
	} {
		in.name("local."+f.field, f.value)
	}
	for w := range strings.FieldsSeq(l.Log) {
		in.name("local.log", w)
	}
	if strings.ContainsAny(l.Log, "\r\n") {
		in.fault("local.log: %q is more than one line", l.Log)
	}
	if l.SlotsPerKind < 1 {
		in.fault("local.slotsPerKind: %d; at least 1 is needed", l.SlotsPerKind)
	}
	if l.OldWorkers.Seconds() < 1 {
		in.fault("local.oldWorkers: %s; at least 1s is needed", l.OldWorkers)
	}
}

func (in *input) check(field string, c desired.Check) {
	switch c.Kind {
	case desired.CheckNone:
		return
	case desired.CheckTCP:
	case desired.CheckHTTP, desired.CheckHTTPS:
		if !in.path.MatchString(c.Path) {
			in.fault("%s.path: %q cannot stand in haproxy.cfg; a path begins with / and has no space, quote or backslash", field, c.Path)
		}
	default:
		in.fault("%s.kind: %q; none, tcp, http and https are known", field, c.Kind)
	}
	if c.Port == 0 || c.IntervalMillis < 1 || c.Rise < 1 || c.Fall < 1 {
		in.fault("%s: port %d, interval %d ms, rise %d, fall %d; each must be at least 1", field, c.Port, c.IntervalMillis, c.Rise, c.Fall)
	}
}

func (in *input) loadBalancer(lb desired.LoadBalancer) {
	field := fmt.Sprintf("loadBalancers[%s]", lb.Key)
	in.name(field+".namespace", lb.Namespace)
	in.name(field+".name", lb.Name)
	for i, f := range lb.Frontends {
		// A server without a port would otherwise be reached at the VIP's port, which may be the node's own sshd.
		if f.Protocol == desired.TCP && (f.NodePort == 0 || f.Port == 0) {
			in.fault("%s.frontends[%d]: port %d, nodePort %d; both are needed", field, i, f.Port, f.NodePort)
		}
	}
	if lb.Pool == nil {
		return
	}
	if _, err := kindOf(lb.Pool); err != nil {
		in.fault("%s.pool: %w", field, err)
	}
	in.check(field+".pool.check", lb.Pool.Check)
	names := map[string]bool{}
	for i, server := range lb.Pool.Servers {
		at := fmt.Sprintf("%s.pool.servers[%d]", field, i)
		in.name(at+".name", server.Name)
		in.unique(at+".name", names, server.Name)
		if !server.Address.IsValid() || server.Weight < 1 || server.Weight > 256 {
			in.fault("%s: address %s, weight %d; an address and a weight from 1 to 256 are needed", at, server.Address, server.Weight)
		}
	}
}
