package haproxy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Compare tells what has to happen so that what runs becomes what is wanted. It knows nothing of what was wanted before:
// whatever made the difference, a new State, a person with socat or a half-done Apply, the same commands repair it.
func Compare(running *Running, want *Config) Diff {
	var d Diff
	d.reload(running, want)
	former := running.former(want)
	for _, name := range sortedKeys(want.Servers) {
		if backend := running.Backends[name]; backend != nil {
			d.backend(membership{name: name, running: backend, want: want.Servers[name], former: former[name], pods: want.pods})
		}
	}
	for _, name := range sortedKeys(running.Backends) {
		if _, ok := want.Servers[name]; !ok && strings.HasPrefix(name, slotPrefix) {
			d.backend(membership{name: name, running: running.Backends[name], pods: want.pods})
		}
	}
	// All connections are shut before the end of the first is waited for.
	slices.SortStableFunc(d.remove, func(a, b command) int { return cmp.Compare(a.rank(), b.rank()) })
	d.checks = compareMap(want.Local.ChecksMap, running.Maps[want.Local.ChecksMap], want.Checks)
	d.services = compareMap(want.Local.ServicesMap, running.Maps[want.Local.ServicesMap], want.Entries)
	d.Changes = append(d.Changes, d.checks.changes("check")...)
	d.Changes = append(d.Changes, d.services.changes("port")...)
	if most := want.Local.servicesMaxConn(running.MaxConn); running.ServicesMaxConn != most {
		d.add = append(d.add, command{line: fmt.Sprintf("set maxconn frontend %s %d", servicesFrontend, most)})
		d.Changes = append(d.Changes, fmt.Sprintf("connections of all Services limited to %d of %d", most, running.MaxConn))
	}
	return d
}

// reload gives the reasons that no runtime command answers.
func (d *Diff) reload(running *Running, want *Config) {
	if running.Generation == "" {
		d.Reload = []string{"haproxy runs a configuration that is not ours"}
		return
	}
	has, wants := parseGeneration(running.Generation), parseGeneration(want.Generation)
	for _, part := range sortedKeys(wants) {
		switch digest, ok := has[part]; {
		case !ok:
			d.Reload = append(d.Reload, newPart(part))
		case digest != wants[part]:
			d.Reload = append(d.Reload, part+" changed")
		}
	}
	for _, part := range sortedKeys(has) {
		if _, ok := wants[part]; !ok && !stays(part) {
			d.Reload = append(d.Reload, gonePart(part))
		}
	}
	missing := map[slotKind]int{}
	for _, name := range sortedKeys(want.Servers) {
		kind, n := parseSlot(name)
		switch {
		case n == 0 || running.Backends[name] != nil:
		case kind.reloads():
			d.Reload = append(d.Reload, fmt.Sprintf("%s has timeouts of its own, in %s", want.tenants[name], name))
		default:
			missing[kind]++
		}
	}
	for _, kind := range slotKinds(want.Local.clientFamilies()...) {
		if missing[kind] > 0 {
			d.Reload = append(d.Reload, fmt.Sprintf("%d more slots of kind %s are needed", missing[kind], kind))
		}
	}
}
