package haproxy

import (
	"bytes"
	"cmp"
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

// affinityTimes are the times that there can be tables for, rising. Each that is used costs one reload, 0.17 MB of HAProxy for every
// hundred slots, 36 bytes of a Generation, which has to fit into an answer of 16 KB, and the memory of its clients. So there are few,
// the same ones whatever all Services ask for: nobody's wish takes a table from another one.
func affinityTimes() []int {
	return []int{1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, usualAffinity, 21600, 43200, 86400}
}

// affinityOf is the next longer time that there can be a table for.
func affinityOf(seconds int) affinity {
	times := affinityTimes()
	i, _ := slices.BinarySearch(times, seconds)
	return affinity{times[min(i, len(times)-1)]}
}

// Table is the backend that holds it.
func (a affinity) Table() string { return fmt.Sprintf("%s%d", affinityPrefix, a.Seconds) }

// Size is for how many clients the table has room. All tables together have 1.5 million: 530 MB.
func (a affinity) Size() string {
	if a.Seconds == usualAffinity {
		return "512k"
	}
	return "64k"
}

// affinities are the tables that the State's TCP ports need, and the usual one, sorted. Those of UDP are nftables' own.
func affinities(s *desired.State) []affinity {
	times := map[affinity]bool{{usualAffinity}: true}
	for _, lb := range s.LoadBalancers {
		tcp := slices.ContainsFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Protocol == desired.TCP })
		if tcp && lb.AffinitySeconds != 0 {
			times[affinityOf(lb.AffinitySeconds)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(times), func(a, b affinity) int { return cmp.Compare(a.Seconds, b.Seconds) })
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
	if part == clientSourcePart {
		return "connections from clients' addresses were allowed (clientSourceProbes of limits.yaml)"
	}
	return part + " is new"
}

// gonePart is the same for one that is gone.
func gonePart(part string) string {
	if part == clientSourcePart {
		return "connections from clients' addresses are not allowed any more (clientSourceProbes of limits.yaml)"
	}
	return part + " is gone"
}
