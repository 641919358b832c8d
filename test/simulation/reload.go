package simulation

import (
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/simulation/machine"
)

// reloaded judges a reload of HAProxy: what Services, nodes and slots need is done at run time, unless slots are short (invariant 11).
func (c *checks) reloaded(g *gateway, reload machine.Reload) {
	c.w.note("%s: HAProxy reloaded: %+v", g.name, reload)
	c.gateways[g.name].reloaded = reload.At
	if reload.Before != "" && reload.After != "" && reload.BackendsNow <= reload.BackendsBefore {
		c.w.fail(11, "%s reloaded HAProxy, which ran our configuration; it is another one: %t", g.name, reload.Before != reload.After)
	}
}

// accounted judges that an answer tells of the reload that it needed, and why (invariant 11).
func (c *checks) accounted(g *gateway, r *wire.Result) {
	var took time.Duration
	for _, stage := range r.Stages {
		took += stage.Duration
	}
	during := !c.gateways[g.name].reloaded.Before(time.Now().Add(-took))
	switch told := r.Outcome == wire.Reloaded; {
	case told && len(r.Reasons) == 0:
		c.w.fail(11, "%s reloaded HAProxy for %s and does not say why", g.name, r.Fence)
	case !told && during && took > 0 && (r.Outcome == wire.Runtime || r.Outcome == wire.Unchanged):
		c.w.fail(11, "%s reloaded HAProxy for %s and says %s", g.name, r.Fence, r.Outcome)
	}
}

// applying judges that a controller gives a State to one gateway at a time (invariant 11).
func (c *checks) applying(l *line) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applies[l.from]++
	if c.applies[l.from] > 1 {
		c.w.fail(11, "%s applies to two gateways at once", l.from)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.applies[l.from]--
	}
}
