package haproxy

import (
	"maps"
	"slices"
	"strings"
)

// Diff is what lies between what runs and what is wanted.
type Diff struct {
	// Reload are the reasons why only a reload helps, for people; empty when runtime commands do. A reload makes
	// everything so, commands included, as long as it finds the files of the same Config.
	Reload []string
	// Changes are for people, one short line each. Grow and Shrink keep the whole list.
	Changes []string
	// Deferred are servers, as backend/name, that were taken out and wait for their last connections. There is nothing
	// to do for them now; a later Compare finds the connections gone and removes them.
	Deferred []string

	checks, services mapChange
	add, remove      []command
	// finishing are the Changes that end what an earlier change began: a server that was Deferred is let go.
	finishing []string
}

// Unasked are the Changes without those that only finish an earlier one. When nothing was to be changed, somebody else
// made the difference.
func (d Diff) Unasked() []string {
	return slices.DeleteFunc(slices.Clone(d.Changes), func(c string) bool { return slices.Contains(d.finishing, c) })
}

// Finishing is the part that ends what earlier changes began, and undoes nothing that somebody else did.
func (d Diff) Finishing() Diff {
	asked := func(c command) bool { return !c.finishes }
	return Diff{Changes: d.finishing, Deferred: d.Deferred, finishing: d.finishing,
		add: slices.DeleteFunc(slices.Clone(d.add), asked), remove: slices.DeleteFunc(slices.Clone(d.remove), asked)}
}

// command is one line for the stats socket.
type command struct {
	line string
	// finishes is set for the commands of finishing.
	finishes bool
	// patient commands may be refused because connections remain; a later Compare tries again. then follows a line that was not
	// refused.
	patient bool
	then    string
	// insists asks again, for a moment, before it takes connections for ones that remain: they were shut just now.
	insists bool
}

// rank puts those that insist last.
func (c command) rank() int {
	if c.insists {
		return 1
	}
	return 0
}

// mapChange turns a running map into the wanted one.
type mapChange struct {
	file string
	// put are entries that are new or have another value; fresh are the keys among them that are new.
	put   []Entry
	fresh map[string]bool
	// drop are running entries that nobody wants.
	drop []Entry
	// want are all wanted entries. A change that is large, or that starts from a map with a key twice, replaces the map.
	want    []Entry
	replace bool
}

// Empty is true when what runs is what is wanted, apart from Deferred.
func (d Diff) Empty() bool {
	return len(d.Reload) == 0 && len(d.add) == 0 && len(d.remove) == 0 && d.checks.empty() && d.services.empty()
}

// Grow is the part that must be true before nftables and keepalived send connections here: new servers, new and changed
// map entries.
func (d Diff) Grow() Diff {
	d.remove = nil
	d.checks, d.services = d.checks.grow(), d.services.grow()
	return d
}

// Shrink is the part that must wait until nftables and keepalived no longer send connections here: map entries, then
// servers, that nobody wants any more.
func (d Diff) Shrink() Diff {
	d.Reload, d.add = nil, nil
	d.checks, d.services = d.checks.shrink(), d.services.shrink()
	return d
}

func (m mapChange) empty() bool { return len(m.put) == 0 && len(m.drop) == 0 && !m.replace }

// grow leaves in the map what is to be dropped later.
func (m mapChange) grow() mapChange {
	if m.replace && len(m.drop) > 0 {
		m.want = slices.Concat(m.want, m.drop)
		sortEntries(m.want)
	}
	m.drop = nil
	return m
}

func (m mapChange) shrink() mapChange {
	m.put, m.replace = nil, m.replace && len(m.drop) > 0
	return m
}

// bulk is the number of single changes from which on the map is replaced as a whole: a commit of 5000 entries costs
// about as much as 200 single commands.
const bulk = 200

// compareMap tells how to get from running to want; both may be in any order.
func compareMap(file string, running, want []Entry) mapChange {
	m := mapChange{file: file, want: want, fresh: map[string]bool{}}
	values := make(map[string]string, len(running))
	for _, e := range running {
		if _, twice := values[e.Key]; twice {
			m.replace = true
		}
		values[e.Key] = e.Value
	}
	wanted := make(map[string]bool, len(want))
	for _, e := range want {
		wanted[e.Key] = true
		value, ok := values[e.Key]
		if !ok {
			m.fresh[e.Key] = true
		}
		if !ok || value != e.Value {
			m.put = append(m.put, e)
		}
	}
	for key, value := range values {
		if !wanted[key] {
			m.drop = append(m.drop, Entry{Key: key, Value: value})
		}
	}
	sortEntries(m.drop)
	m.replace = m.replace || len(m.put)+len(m.drop) > bulk
	return m
}

// changes describes the change, one line for each entry.
func (m mapChange) changes(of string) []string {
	var lines []string
	for _, e := range m.put {
		what := "changed to"
		if m.fresh[e.Key] {
			what = "added:"
		}
		lines = append(lines, strings.Join([]string{of, e.Key, what, e.Value}, " "))
	}
	for _, e := range m.drop {
		lines = append(lines, strings.Join([]string{of, e.Key, "removed:", e.Value}, " "))
	}
	if len(lines) == 0 && m.replace {
		lines = append(lines, of+" replaced: an entry was there twice")
	}
	return lines
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
