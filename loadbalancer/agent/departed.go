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
	// owners say whom each slot served last: a slot that changes hands is empty, so a server that left one was this owner's.
	owners map[string]desired.Key
	// read is when HAProxy was read last, next when the first of them may be over.
	read, next time.Time
}

// endDeparted ends connections to servers that were taken out, the drain time after: the load balancer's, or the State's for nodes
// that all of them share. Nothing is remembered for the
// next agent: that one begins to count anew.
func (a *Agent) endDeparted(ctx context.Context) {
	d := &departures{since: map[string]time.Time{}, owners: map[string]desired.Key{}}
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
	for tenant, slot := range current.slots {
		d.owners[slot] = tenant.Key
	}
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
	d.read = time.Now()
	departed := running.Departed(current.config)
	if len(departed) > 0 {
		a.setLeftover() // also when an agent before us has taken them out
	}
	a.endDue(ctx, d.overdue(departed, current.revision.state))
}

// due says whether HAProxy is to be read again: now and then, and when a server's time is over.
func (d *departures) due() bool {
	now := time.Now()
	return len(d.since) == 0 || !now.Before(d.next) || now.Sub(d.read) >= leftoverEvery
}

// overdue gives those of departed whose connections have lived on long enough.
func (d *departures) overdue(departed []haproxy.Departed, s *desired.State) (over []haproxy.Departed) {
	now := time.Now()
	since := map[string]time.Time{}
	d.next = now.Add(leftoverEvery)
	for _, server := range departed {
		if d.targeted(server, s) {
			continue
		}
		id := server.String()
		since[id] = now
		if found, known := d.since[id]; known {
			since[id] = found
		}
		patience := d.patience(server, s)
		if now.Sub(since[id]) >= patience {
			over = append(over, server)
			since[id] = now // what survives is ended another time
		}
		if end := since[id].Add(patience); end.Before(d.next) {
			d.next = end
		}
	}
	d.since = since
	return over
}

// patience is how long connections to a server may live on. A pod that is gone has lost them when it was taken out; what
// survived that does not wait.
func (d *departures) patience(server haproxy.Departed, s *desired.State) time.Duration {
	if server.Gone {
		return 0
	}
	return drainTimeOf(s, d.owner(server, s))
}

// drainTimeOf is the load balancer's own drain time, the State's when it has none.
func drainTimeOf(s *desired.State, lb *desired.LoadBalancer) time.Duration {
	if lb != nil && lb.DrainSeconds > 0 {
		return time.Duration(lb.DrainSeconds) * time.Second
	}
	return s.DrainTime()
}

// owner is the load balancer whose slot the server left; nil when all share the backend, or nobody knows.
func (d *departures) owner(server haproxy.Departed, s *desired.State) *desired.LoadBalancer {
	owner, known := d.owners[server.Backend]
	if server.Shared() || !known {
		return nil
	}
	for i := range s.LoadBalancers {
		if s.LoadBalancers[i].Key == owner {
			return &s.LoadBalancers[i]
		}
	}
	return nil
}

// targeted says whether the connections of a server that left its backend have a target all the same: the server drains, its
// load balancer went over to the shared pool, which has the node, or it was given another slot.
func (d *departures) targeted(server haproxy.Departed, s *desired.State) bool {
	if server.Shared() {
		return s.Targets(&desired.LoadBalancer{}, server.Addr)
	}
	owner := d.owner(server, s)
	return owner != nil && !server.Gone && s.Targets(owner, server.Addr)
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
