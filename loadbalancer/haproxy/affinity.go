package haproxy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// usualAffinity is what Kubernetes gives a Service with sessionAffinity ClientIP that names no timeout (core/v1,
// DefaultClientIPServiceAffinitySeconds). Its table is always there, so that such a Service reloads nothing.
const usualAffinity = 10800

// affinityPrefix begins the name of each table of affinity and of no other backend.
const affinityPrefix = "affinity-"

// affinity is a time for which clients stick to a server. All Services with the same one share a table.
type affinity struct{ Seconds int }

// Table is the backend that holds it.
func (a affinity) Table() string { return fmt.Sprintf("%s%d", affinityPrefix, a.Seconds) }

// maxAffinities bounds how many tables there are. Each costs a reload, 0.17 MB of HAProxy for every hundred slots, and 36 bytes of
// a Generation, which has to fit into an answer of 16 KB.
const maxAffinities = 100

// affinities are all times that the State's TCP ports ask for, and the usual one, sorted. Those of UDP are nftables' own. When
// there are too many, some load balancers are left over.
func affinities(s *desired.State) (all []affinity, left []*desired.LoadBalancer) {
	times := map[affinity]bool{{usualAffinity}: true}
	for _, lb := range sortedByKey(s.LoadBalancers) {
		tcp := slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Protocol == desired.TCP })
		a := affinity{lb.AffinitySeconds}
		switch {
		case !tcp || a.Seconds == 0 || times[a]:
		case len(times) == maxAffinities:
			left = append(left, lb)
		default:
			times[a] = true
		}
	}
	return slices.SortedFunc(maps.Keys(times), func(a, b affinity) int { return a.Seconds - b.Seconds }), left
}

func sortedByKey(all []desired.LoadBalancer) []*desired.LoadBalancer {
	sorted := make([]*desired.LoadBalancer, len(all))
	for i := range all {
		sorted[i] = &all[i]
	}
	slices.SortFunc(sorted, func(a, b *desired.LoadBalancer) int { return a.Key.Compare(b.Key) })
	return sorted
}

// affinities refuses those that are left over.
func (in *input) affinities(s *desired.State) {
	_, left := affinities(s)
	for _, lb := range left {
		owner := lb.Key
		in.owner = &owner
		in.fault("affinitySeconds", fmt.Sprintf("is %d; the gateways have tables for %d different times, which other Services have: take %d, or one of theirs",
			lb.AffinitySeconds, maxAffinities, usualAffinity))
		in.owner = nil
	}
}

// tableOf gives the table of the line "  stick on KEY table NAME if ...".
func tableOf(line []byte) (table string, ok bool) {
	if !bytes.HasPrefix(line, []byte("  stick on ")) {
		return "", false
	}
	_, rest, _ := strings.Cut(string(line), " table ")
	table, _, ok = strings.Cut(rest, " ")
	return table, ok
}

// stickOf makes a line that sticks clients part of its table instead of its section: a table that is new is one reason to
// reload, and one that nobody uses any more is none. Of slots it does not count how many there are.
func stickOf(table, section string, line []byte) string {
	if strings.HasPrefix(section, slotSection) {
		section = slotSection
	}
	return fmt.Sprintf("backend-%s %s:%s", table, section, line)
}

// stays says whether a part that nobody wants may run until the next reload.
func stays(part string) bool { return strings.HasPrefix(part, "backend-"+affinityPrefix) }

// newPart tells people what a part is that a reload has to make.
func newPart(part string) string {
	if seconds, ok := strings.CutPrefix(part, "backend-"+affinityPrefix); ok {
		return fmt.Sprintf("affinity of %s s is new", seconds)
	}
	return part + " is new"
}
