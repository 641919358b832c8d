package agent

import (
	"context"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// departedEvery is how often it is asked whether a server was taken out with connections on it: nothing is read for that.
const departedEvery = time.Second

// departures are the servers that were taken out of HAProxy and still have connections.
type departures struct {
	// since says when each, as backend/name, was found to be nobody's target any more.
	since map[string]time.Time
	// until says when each may be ended.
	until map[string]time.Time
	// owners say whom each slot served last: a slot that changes hands is empty, so a server that left one was this owner's.
	owners map[string]tenant
	// read is when HAProxy was read last, found whether it had such servers then, whoever their connections are for.
	read  time.Time
	found bool
}

// tenant is a load balancer with a slot. A Service made anew under an old name is another one.
type tenant struct {
	key   desired.Key
	uid   string
	drain time.Duration
}

// endDeparted ends connections to servers that were taken out, a drain time after (departures.drainTime). Nothing is remembered
// for the next agent: that one begins to count anew.
func (a *Agent) endDeparted(ctx context.Context) {
	d := &departures{since: map[string]time.Time{}, owners: map[string]tenant{}}
	ticker := time.NewTicker(departedEvery)
	defer ticker.Stop()
	for {
		a.lookAtDeparted(ctx, d)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// lookAtDeparted reads HAProxy only when something may be due: a comparison told of servers that wait for their last
// connections, or this agent has not looked yet. It holds the right to change the machine, so that no server comes back
// between the question and the end of its connections.
func (a *Agent) lookAtDeparted(ctx context.Context, d *departures) {
	current := a.rendered()
	if current == nil {
		return
	}
	d.know(current)
	if !d.read.IsZero() && !(a.hasLeftover() && d.due()) || !a.tryAcquire() {
		return
	}
	defer a.release()
	if current = a.rendered(); current == nil {
		return
	}
	running, err := a.readHAProxy(ctx)
	if err != nil {
		return // who watches HAProxy tells that
	}
	departed := running.Departed(current.config)
	d.read, d.found = time.Now(), len(departed) > 0
	if d.found {
		a.setLeftover() // also when an agent before us has taken them out
	}
	a.endDue(ctx, d.overdue(departed, current.revision.state))
}

// know remembers whom the slots serve.
func (d *departures) know(current *rendering) {
	s := current.revision.state
	owners := make(map[desired.Key]tenant, len(s.LoadBalancers))
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		owners[lb.Key] = tenant{lb.Key, lb.UID, drainTimeOf(s, lb)}
	}
	for t, slot := range current.slots {
		if owner, ok := owners[t.Key]; ok {
			d.owners[slot] = owner
		}
	}
}

// due says whether HAProxy is to be read again: now and then, and when a server's time is over.
func (d *departures) due() bool {
	now := time.Now()
	for _, until := range d.until {
		if !now.Before(until) {
			return true
		}
	}
	return now.Sub(d.read) >= leftoverEvery || !d.found
}

// overdue gives those of departed whose connections have lived on long enough.
func (d *departures) overdue(departed []haproxy.Departed, s *desired.State) (over []haproxy.Departed) {
	now := time.Now()
	since, until := map[string]time.Time{}, map[string]time.Time{}
	for _, server := range departed {
		if d.targeted(server, s) {
			continue
		}
		id := server.String()
		since[id] = now
		if found, known := d.since[id]; known {
			since[id] = found
		}
		drain := d.drainTime(server, s)
		if now.Sub(since[id]) >= drain {
			over = append(over, server)
			since[id] = now // what survives is ended another time
		}
		until[id] = since[id].Add(drain)
	}
	d.since, d.until = since, until
	return over
}

// drainTime is that of the slot's load balancer, also of one that is gone. A pod that is gone has lost its connections when it was
// taken out; what survived that does not wait. Connections to a node of the shared pool are ended here all
// at once, so in the longest of the times that Services of this pool have; those that have less are ended one by one (outlived.go).
func (d *departures) drainTime(server haproxy.Departed, s *desired.State) time.Duration {
	if server.PodGone {
		return 0
	}
	if owner, known := d.owners[server.Backend]; known && !server.Shared() {
		return owner.drain
	}
	longest := s.DrainTime()
	for i := range s.LoadBalancers {
		if lb := &s.LoadBalancers[i]; server.Shared() && len(lb.Pools()) == 0 {
			longest = max(longest, drainTimeOf(s, lb))
		}
	}
	return longest
}

// targeted says whether the connections of a server that left its backend have a target all the same: the server drains, its
// load balancer went over to the shared pool, which has the node, or it was given another slot. Who had a slot before this agent
// started is not known: there a server that anybody targets stays, and what is nobody's of that outlived.go finds by its port.
func (d *departures) targeted(server haproxy.Departed, s *desired.State) bool {
	if server.Shared() {
		return s.HasNode(server.Addr)
	}
	if server.PodGone {
		return false
	}
	owner, known := d.owners[server.Backend]
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		if (!known || lb.Key == owner.key && lb.UID == owner.uid) && s.Targets(lb, server.Addr) {
			return true
		}
	}
	return false
}

func (a *Agent) endDue(ctx context.Context, over []haproxy.Departed) {
	if len(over) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	end := haproxy.End(over...)
	if err := a.haproxy.Apply(ctx, end); err != nil {
		a.log.Warn("ending connections to servers that were taken out", "error", err)
		return
	}
	a.log.Info("ended connections to servers that were taken out", "servers", strings.Join(end.Changes, "; "))
}

// setLeftover has servers that were taken out looked at until they can be removed.
func (a *Agent) setLeftover() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leftover = true
}
