package haproxy

import (
	"fmt"
	"strings"
)

// trust is what a server that gets in has to show: what is said of its health.
type trust string

const (
	// untried: it gets connections when its first check passed.
	untried trust = "down"
	// assumed: it gets them at once, and no more from the first check on that fails, which is made at once (HAProxy's src/server.c,
	// srv_update_status). When all servers are replaced, connections would be closed until one passes.
	assumed trust = ""
	// proven: it serves these connections now, elsewhere, so that it takes as many failures as it ever does. Where it is checked from now
	// on may be open a moment later: kube-proxy opens healthCheckNodePort after it has heard of the same change.
	proven trust = "up"
)

// tell gives the command; "" where there is nothing to say.
func (t trust) tell(id string) string {
	if t == assumed {
		return ""
	}
	return "set server " + id + " health " + string(t)
}

// addServer makes a server, in one line so that the time between "enabled" and what is said of its health is short (DESIGN section 7).
func addServer(backend string, s Server, t trust) string {
	id := backend + "/" + s.Name
	line := "add server " + backend + "/" + s.String()
	if s.checked() {
		line += ";enable health " + id
	}
	line += ";enable server " + id
	if said := t.tell(id); s.checked() && said != "" {
		line += ";" + said
	}
	return line
}

// server repairs a server that runs. Its check's rise, fall and inter are not compared: HAProxy 2.6 can neither tell nor
// change them. Where all servers of a backend share them they are part of Generation.
func (d *Diff) server(id string, has RunningServer, want Server, t trust) {
	if has.Checked != want.checked() || !has.Addr.IsValid() || (has.Port == 0) != (want.Port == 0) {
		d.replace(id, has, want, t)
		return
	}
	var move, commands, changes []string
	moved := has.Addr != want.Addr || has.Port != want.Port
	if moved {
		// Connections to the old address live on; new ones go to the new address when it passed a check. Deleting the
		// server instead would have to wait for the last old connection.
		to := want.Addr.String()
		if want.Port != 0 {
			to += fmt.Sprintf(" port %d", want.Port)
		}
		move = append(move, "set server "+id+" state maint")
		if isPod(has.Name) && has.Addr != want.Addr {
			move = append(move, "shutdown sessions server "+id) // that pod is gone
		}
		move = append(move, "set server "+id+" addr "+to)
		changes = append(changes, "moved to "+want.address())
	}
	if want.checked() && has.CheckPort != want.Check.Port {
		commands = append(commands, fmt.Sprintf("set server %s check-port %d", id, want.Check.Port))
		changes = append(changes, fmt.Sprintf("is checked at port %d", want.Check.Port))
	}
	if has.Weight != want.Weight {
		commands = append(commands, fmt.Sprintf("set server %s weight %d", id, want.Weight))
		changes = append(changes, fmt.Sprintf("has weight %d, not %d", want.Weight, has.Weight))
	}
	if has.maint || has.drain {
		changes = append(changes, "put back from "+has.State)
	}
	commands = append(commands, revive(id, has, want, moved, t)...)
	if len(commands) == 0 {
		return
	}
	if changes == nil {
		changes = []string{"repaired: " + commands[len(commands)-1]}
	}
	c := command{line: strings.Join(commands, ";")}
	if moved {
		// One that could not be moved stays in maintenance: it would get connections at its old address.
		c = command{line: strings.Join(move, ";"), then: c.line}
	}
	d.add = append(d.add, c)
	d.Changes = append(d.Changes, "server "+id+" "+strings.Join(changes, ", "))
}

// revive gives the commands after which a server takes connections as its check says.
func revive(id string, has RunningServer, want Server, moved bool, t trust) []string {
	var commands []string
	if has.maint || has.drain || moved {
		commands = append(commands, "set server "+id+" state ready")
	}
	if want.checked() && !has.Checking {
		commands = append(commands, "enable health "+id)
	}
	switch {
	case want.checked() && (has.maint || moved) && t != assumed:
		// Leaving maintenance sets a server up without asking, until its check fails once.
		commands = append(commands, t.tell(id))
	case !want.checked() && has.stopped && !has.maint:
		// Somebody said that an unchecked server is down, and no check will ever say otherwise.
		commands = append(commands, "set server "+id+" health up")
	}
	return commands
}

// replace makes a server anew that differs in what no command changes.
func (d *Diff) replace(id string, has RunningServer, want Server, t trust) {
	if has.maint && has.Sessions > 0 {
		d.Deferred = append(d.Deferred, id)
		return
	}
	backend, _, _ := strings.Cut(id, "/")
	d.add = append(d.add, command{
		line:    fmt.Sprintf("set server %s state maint;del server %s", id, id),
		patient: true,
		then:    addServer(backend, want, t),

		finishes: has.maint,
	})
	change := fmt.Sprintf("server %s made anew: %s", id, want)
	if has.maint {
		d.finish(change) // it waited for its last connection
		return
	}
	d.Changes = append(d.Changes, change)
}

// finish notes a change that ends an earlier one.
func (d *Diff) finish(change string) {
	d.Changes = append(d.Changes, change)
	d.finishing = append(d.finishing, change)
}
