package agent

import (
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// step is what has to be done to a daemon.
type step int

const (
	nothing step = iota
	reload
	start
)

// work is the difference between what runs and what is wanted: all that a transaction does, and for `plan` all that it
// would do.
type work struct {
	files      []file   // to be swapped
	made       []string // maps that had to be there for a check
	haproxy    step
	reasons    []string // why HAProxy is reloaded or started
	diff       haproxy.Diff
	table      []string // what differs in our nftables table
	keepalived step
	// vips are the VIPs that are not where they should be although keepalived has read the configuration. It may be
	// in the middle of a transition, so it gets a moment before it is told again.
	vips []string
	// astray is set when that moment did not help.
	astray bool
	// changes are for people, one short line each.
	changes []string
}

// compare finds the work that leads from seen to want. before is the State that ran before, nil when there was none.
func (a *Agent) compare(seen *observation, want *rendering, before *desired.State) (*work, error) {
	w := &work{}
	for _, f := range want.files {
		if err := a.look(seen, f.path); err != nil {
			return nil, err
		}
		if !same(seen.files, f) {
			w.files = append(w.files, f)
		}
	}
	a.compareHAProxy(w, seen, want)
	w.table = seen.table.Diff(want.table)
	w.changes = append(w.changes, w.table...)
	if err := a.compareKeepalived(w, seen, want, before); err != nil {
		return nil, err
	}
	if len(w.changes) == 0 {
		w.changes = w.written()
	}
	return w, nil
}

func (a *Agent) compareHAProxy(w *work, seen *observation, want *rendering) {
	switch {
	case seen.haproxy == nil:
		w.haproxy, w.reasons = start, []string{"HAProxy was not running"}
	case seen.running == nil:
		w.haproxy, w.reasons = reload, []string{"HAProxy did not answer on its stats socket"}
	default:
		w.diff = haproxy.Compare(seen.running, want.config)
		w.changes = append(w.changes, w.diff.Changes...)
		if len(w.diff.Reload) > 0 {
			w.haproxy, w.reasons = reload, w.diff.Reload
		}
	}
	verb := map[step]string{reload: "reload", start: "start"}[w.haproxy]
	for _, reason := range w.reasons {
		w.changes = append(w.changes, verb+" HAProxy: "+reason)
	}
}

func (a *Agent) compareKeepalived(w *work, seen *observation, want *rendering, before *desired.State) error {
	switch {
	case seen.keepalived == nil:
		w.keepalived = start
		w.changes = append(w.changes, "start keepalived")
	case seen.loaded != digest(want.content(a.config.Paths.Keepalived)):
		w.keepalived = reload
		w.changes = append(w.changes, "reload keepalived")
	default:
		var err error
		if w.vips, err = a.unsettled(seen.addresses, want.revision.state, before); err != nil {
			return err
		}
		w.changes = append(w.changes, w.vips...)
	}
	return nil
}

// written names the files to be swapped. Next to what changes in the daemons they say nothing new, unless somebody
// edited one.
func (w *work) written() []string {
	var words []string
	for _, f := range w.files {
		words = append(words, "write "+f.path)
	}
	return words
}

// none is true when what runs is what is wanted.
func (w *work) none() bool {
	return len(w.files) == 0 && w.runs()
}

// runs is true when the daemons and the kernel are as wanted, whatever lies on the disk.
func (w *work) runs() bool {
	return w.haproxy == nothing && w.diff.Empty() && len(w.table) == 0 && w.keepalived == nothing && len(w.vips) == 0
}

// swaps tells whether the file at path is among those to be swapped.
func (w *work) swaps(path string) bool {
	for _, f := range w.files {
		if f.path == path {
			return true
		}
	}
	return false
}

// outcome is how the transaction ends when all goes well.
func (w *work) outcome() wire.Outcome {
	switch {
	case w.haproxy != nothing:
		return wire.Reloaded
	case w.none():
		return wire.Unchanged
	}
	return wire.Runtime
}

// most is how many changes are told; the rest is counted.
const most = 100

func (w *work) told() []string { return few(w.changes) }

func few(changes []string) []string {
	if len(changes) <= most {
		return changes
	}
	return append(changes[:most-1:most-1], fmt.Sprintf("and %d more", len(changes)-most+1))
}
