package nftables

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// mostTold bounds how many members of one object Diff tells one by one.
const mostTold = 10

// Diff says in words how t, which runs, differs from want; nothing when they are equal. Loading Render's script cures all of it.
func (t *Table) Diff(want *Table) []string {
	if t.present != want.present {
		if want.present {
			return []string{fmt.Sprintf("nftables: table %s %s is absent", family, tableName)}
		}
		return []string{fmt.Sprintf("nftables: table %s %s is not wanted", family, tableName)}
	}
	var out []string
	tell := func(format string, args ...any) { out = append(out, "nftables: "+fmt.Sprintf(format, args...)) }
	names := slices.Sorted(maps.Keys(want.objects))
	for name := range t.objects {
		if want.objects[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		got, wanted := t.objects[name], want.objects[name]
		switch {
		case got == nil:
			tell("%s is absent", name)
		case wanted == nil:
			tell("%s is a stranger's", name)
		default:
			if got.definition != wanted.definition {
				tell("%s is %s, wanted %s", name, got.definition, wanted.definition)
			}
			for _, difference := range got.diff(wanted) {
				tell("%s %s", name, difference)
			}
		}
	}
	return out
}

// diff compares elements or rules.
func (o *object) diff(want *object) []string {
	lost, strange := subtract(want.members, o.members), subtract(o.members, want.members)
	var out []string
	out = append(out, few("lacks", lost)...)
	out = append(out, few("also has", strange)...)
	if len(out) == 0 && !slices.Equal(o.members, want.members) {
		out = append(out, "has its rules in another order: "+strings.Join(o.members, "; "))
	}
	return out
}

func few(what string, members []string) []string {
	var out []string
	for i, m := range members {
		if i == mostTold {
			return append(out, fmt.Sprintf("%s %d more", what, len(members)-i))
		}
		out = append(out, what+" "+m)
	}
	return out
}

// subtract gives what is in a more often than in b, in a's order.
func subtract(a, b []string) []string {
	count := make(map[string]int, len(b))
	for _, m := range b {
		count[m]++
	}
	var out []string
	for _, m := range a {
		if count[m] == 0 {
			out = append(out, m)
		} else {
			count[m]--
		}
	}
	return out
}
