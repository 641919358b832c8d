package haproxy

import "fmt"

// membership compares the servers of one backend.
type membership struct {
	name    string
	running *RunningBackend
	want    []Server
	// former are the backends that this one's connections go to now: a load balancer moves.
	former []formerBackend
	pods   map[pod]bool // all that State names
}

// formerBackend is one that a load balancer leaves.
type formerBackend struct {
	*RunningBackend
	// fromClients says that it reaches nodes at their addresses of one family, whichever the next one takes.
	fromClients bool
}

func (d *Diff) backend(m membership) {
	wanted := make(map[string]bool, len(m.want))
	replaced := m.replacesAll()
	for _, server := range m.want {
		wanted[server.Name] = true
		id := m.name + "/" + server.Name
		t := untried
		switch {
		case fromClients(m.name):
		case m.isProven(server):
			t = proven
		case replaced:
			t = assumed
		}
		if has, ok := m.running.Servers[server.Name]; ok {
			d.server(id, has, server, t)
			continue
		}
		d.add = append(d.add, command{line: addServer(m.name, server, t)})
		d.Changes = append(d.Changes, fmt.Sprintf("server %s added: %s", id, server.address()))
	}
	for _, name := range sortedKeys(m.running.Servers) {
		if has := m.running.Servers[name]; !wanted[name] {
			d.removal(m.name+"/"+name, has, m.gone(has))
		}
	}
}

// fromClients says that a server must pass its check before it gets connections, whoever is refused till then: to have served others
// shows nothing of where its answers to clients go.
func fromClients(backend string) bool {
	kind, _ := parseSlot(backend)
	return kind.client != noClients
}

func serves(has RunningServer) bool { return has.State == "UP" || has.State == "NOCHECK" }

// replacesAll says that servers take connections now, and of those that are wanted none does so yet.
func (m membership) replacesAll() bool {
	for _, s := range m.want {
		if has, ok := m.running.Servers[s.Name]; ok && serves(has) || !ok && !s.checked() {
			return false
		}
	}
	for _, has := range m.running.Servers {
		if serves(has) {
			return true
		}
	}
	return false
}

// isProven says whether the machine serves these connections already, from the slot or the pool that the load balancer leaves. If
// it had to pass a check first, connections would be closed until then.
func (m membership) isProven(s Server) bool {
	for _, former := range m.former {
		for _, has := range former.Servers {
			if (has.Addr == s.Addr || former.fromClients && has.Name == s.Name) && serves(has) {
				return true
			}
		}
	}
	return false
}

// gone says whether a server is a pod that State does not name any more. The next pod with its address may be another
// Service's: what still tries to connect must not reach that one.
func (m membership) gone(has RunningServer) bool { return isPod(has.Name) && !m.pods[podOf(has)] }

// removal takes a server out at once and removes it as soon as nobody is connected to it. Nobody waits for one that is gone.
func (d *Diff) removal(id string, has RunningServer, gone bool) {
	remove := command{line: "del server " + id, patient: true, insists: gone}
	switch {
	case has.maint && has.Sessions > 0 && !gone:
		d.Deferred = append(d.Deferred, id)
		return
	case has.maint && has.Sessions == 0:
		remove.finishes = true
		d.finish(fmt.Sprintf("server %s removed", id))
	case gone:
		d.remove = append(d.remove, command{line: fmt.Sprintf("set server %s state maint;shutdown sessions server %s", id, id)})
		d.Changes = append(d.Changes, fmt.Sprintf("server %s is gone, %d connections ended", id, has.Sessions))
	default:
		remove.line = fmt.Sprintf("set server %s state maint;%s", id, remove.line)
		d.Changes = append(d.Changes, fmt.Sprintf("server %s taken out, %d connections left", id, has.Sessions))
	}
	d.remove = append(d.remove, remove)
}
