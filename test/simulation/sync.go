package simulation

import (
	"context"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func ipamPools(r netipx.IPRange) []ipam.Pool {
	return []ipam.Pool{{Name: "pool", Ranges: []netipx.IPRange{r}}}
}

// sync is one look of the service controller at one Service.
func (c *controller) sync(key desired.Key) error {
	c.mu.Lock()
	o, before := c.view[key], c.served[key]
	c.mu.Unlock()
	if o != nil && before != "" && before != o.uid { // the library compares the UID with that in its cache
		if err := c.manager.Delete(c.ctx, key, false); err != nil {
			return err
		}
	}
	c.mu.Lock()
	if delete(c.served, key); o.wanted() {
		c.served[key] = o.uid
	}
	c.mu.Unlock()
	if o.wanted() {
		return c.ensure(o)
	}
	return c.clean(key, o)
}

// clean deletes the load balancer of a Service that is gone, goes or is none of ours, as GetLoadBalancer says that there is one.
func (c *controller) clean(key desired.Key, o *object) error {
	exists := true
	select {
	case <-c.manager.Loaded():
		_, exists = c.manager.Has(key)
	default: // nobody knows
	}
	if exists {
		if err := c.manager.Delete(c.ctx, key, o != nil && o.spec.keep); err != nil {
			return err
		}
	}
	if o == nil || !o.finalizer {
		return nil
	}
	return c.write(key, o.uid, func(o *object) {
		if !o.wanted() {
			o.finalizer = false
		}
	})
}

// ensure makes a load balancer and publishes its addresses.
func (c *controller) ensure(o *object) error {
	if !o.finalizer {
		if err := c.write(o.key, o.uid, func(o *object) { o.finalizer = o.finalizer || !o.deleting }); err != nil {
			return err
		}
	}
	c.mu.Lock()
	nodes := c.nodes
	c.mu.Unlock()
	api := c.world.cluster
	api.mu.Lock()
	service, sources, err := api.translate(o, nodes)
	api.mu.Unlock()
	if err != nil {
		c.manager.Refill(o.key, service.Facts)
		if refused := c.manager.Refuse(c.ctx, o.key, sources); refused != nil {
			return refused
		}
		return err
	}
	ensured, err := c.manager.Ensure(c.ctx, service)
	if err != nil {
		return err
	}
	return c.publish(o, ensured)
}

// publish patches the status, unless that of the object it knows says so already.
func (c *controller) publish(o *object, ensured *loadbalancer.Ensured) error {
	c.world.ensured(c, o, ensured.Addresses)
	if slices.Equal(o.status, ensured.Addresses) {
		return nil
	}
	return c.write(o.key, o.uid, func(now *object) {
		if now.spec.balanced {
			now.status = slices.Clone(ensured.Addresses)
		}
	})
}

func (c *controller) write(key desired.Key, uid string, change func(*object)) error {
	api := c.world.cluster
	return api.ask(c.ctx, c, func() error { api.edit(key, uid, change); return nil })
}

// client is loadbalancer.Gateway.
type client struct{ *line }

// Name implements loadbalancer.Gateway, as the others do.
func (c client) Name() string { return c.to.name }

// Hello says who is there.
func (c client) Hello(ctx context.Context) (*wire.Hello, error) {
	reply, err := c.ask(ctx, wire.VerbHello, wire.Request{})
	if err != nil {
		return nil, err
	}
	return reply.Hello, nil
}

// State gives what it holds.
func (c client) State(ctx context.Context) (*desired.Signed, error) {
	reply, err := c.ask(ctx, wire.VerbState, wire.Request{})
	if err != nil {
		return nil, err
	}
	return reply.State, nil
}

// ApplyAfter makes a State true.
func (c client) ApplyAfter(ctx context.Context, signed desired.Signed, read desired.Fence) (*wire.Result, error) {
	defer c.to.world.applying(c.line)()
	reply, err := c.ask(ctx, wire.VerbApply, wire.Request{Apply: &wire.Apply{Signed: signed, Read: &read}})
	if err != nil {
		return nil, err
	}
	return reply.Result, nil
}

// Status says what is true.
func (c client) Status(ctx context.Context) (*wire.Status, error) {
	reply, err := c.ask(ctx, wire.VerbStatus, wire.Request{})
	if err != nil {
		return nil, err
	}
	return reply.Status, nil
}

// Probe is not asked: the pool is not probed.
func (c client) Probe(ctx context.Context, targets []wire.ProbeTarget) (*wire.Probed, error) {
	reply, err := c.ask(ctx, wire.VerbProbe, wire.Request{Probe: &wire.Probe{Targets: targets}})
	if err != nil {
		return nil, err
	}
	return reply.Probed, nil
}

// address is the first of a status, for messages and comparisons.
func address(status []netip.Addr) netip.Addr {
	if len(status) == 0 {
		return netip.Addr{}
	}
	return status[0]
}
