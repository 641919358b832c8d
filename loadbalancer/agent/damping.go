package agent

import "time"

// A node that fails its check, passes it and fails again has the table loaded and its flows ended each time, and those that it got
// meanwhile are lost. So one that has failed before lately has to pass for a while before it gets new flows: 2 s after the second time, then
// twice as long, at most a minute. TCP needs none of that: a connection that fails goes to another server (option redispatch).

const (
	// settleFirst is how long a server has to pass after it failed for the second time, settleLast the most.
	settleFirst = 2 * time.Second
	settleLast  = time.Minute
	// calmAfter is how long after a failure it does not count any more.
	calmAfter = 5 * time.Minute
	// settling is the state of a server that has to pass for longer. It is none of HAProxy's words: neither in service nor DOWN.
	settling = "SETTLING"
)

// damper remembers who has failed lately, by backend and name.
type damper map[[2]string]*unrest

type unrest struct {
	failures   int
	fell, rose time.Time // rose: the zero Time while it fails
}

// wait is how long it has to pass.
func (u *unrest) wait() time.Duration {
	if u.failures < 2 {
		return 0
	}
	return min(settleLast, settleFirst<<min(u.failures-2, 10))
}

// calm holds servers back in now, in place, that passed in before as well as failed too often. Where nobody else serves nobody is held back.
func (d damper) calm(now, before health, at time.Time) {
	for backend, servers := range now {
		var held []string
		others := false
		for name, state := range servers {
			if d.note(backend, name, state, before[backend][name], at) {
				held = append(held, name)
				continue
			}
			others = others || inService(state)
		}
		for _, name := range held {
			if others {
				servers[name] = settling
			}
		}
	}
	for id, u := range d {
		if at.Sub(u.fell) > calmAfter {
			delete(d, id)
		}
	}
}

// note notes a server's state and says whether it is to be held back.
func (d damper) note(backend, name, state, was string, at time.Time) bool {
	id := [2]string{backend, name}
	u := d[id]
	switch {
	case state == "DOWN" && (inService(was) || was == settling):
		if u == nil {
			u = &unrest{}
			d[id] = u
		}
		u.failures++
		u.fell, u.rose = at, time.Time{}
		return false
	case u == nil || !inService(state):
		if u != nil {
			u.rose = time.Time{}
		}
		return false
	case u.rose.IsZero():
		u.rose = at
	}
	return at.Sub(u.rose) < u.wait()
}
