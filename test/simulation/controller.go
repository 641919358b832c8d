package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// controller is one life of a controller: the real Manager, and a model of package provider with the service controller and
// its informers, which knows what Manager's contract says and no more.
type controller struct {
	world   *world
	name    string
	manager *loadbalancer.Manager
	ctx     context.Context
	cancel  context.CancelFunc
	lines   []*line

	mu     sync.Mutex
	view   map[desired.Key]*object
	cursor int // of the events that it has seen
	nodes  []desired.Node
	known  bool // view and nodes are those of a first list
	busy   map[desired.Key]bool
	dirty  map[desired.Key]bool
	last   map[desired.Key]error  // of the newest try
	served map[desired.Key]string // whose UID was looked at last
	paused time.Time              // until then
	ended  bool
	epoch  uint64
}

// start begins a controller's life.
func (w *world) start() *controller {
	w.controllers++
	c := &controller{world: w, name: fmt.Sprintf("controller-%d", w.controllers), view: map[desired.Key]*object{},
		busy: map[desired.Key]bool{}, dirty: map[desired.Key]bool{}, last: map[desired.Key]error{},
		served: map[desired.Key]string{}}
	c.ctx, c.cancel = context.WithCancel(w.ctx)
	var clients []loadbalancer.Gateway
	for _, g := range w.gateways {
		l := &line{from: c.name, role: wire.RoleController, to: g, awake: c.awake}
		c.lines = append(c.lines, l)
		clients = append(clients, client{l})
	}
	m, err := loadbalancer.New(w.settings(c), clients, signer{trusted}, epochs{c}, &ledger{of: c}, observer{c}, w.log.With("at", c.name))
	if err != nil {
		panic(err)
	}
	c.manager = m
	w.group.Go(c.live)
	return c
}

func (w *world) settings(c *controller) loadbalancer.Settings {
	pool, err := ipam.ParseRange(poolAddress(0).String() + "-" + poolAddress(poolSize(w.seed)-1).String())
	if err != nil {
		panic(err)
	}
	return loadbalancer.Settings{
		ClusterUID: func(ctx context.Context) (uid string, err error) {
			err = w.cluster.ask(ctx, c, func() error { uid = "cluster-1"; return nil })
			return uid, err
		},
		Existing: c.existing,
		Gateways: w.described, VRRP: desired.VRRP{AdvertIntervalMillis: int(advert / time.Millisecond)}, FirstRouterID: 51,
		NodeCheck: desired.Check{Kind: desired.CheckNone}, ControlPlane: w.controlPlane(),
		Resync: w.resync(),
		PoolSettings: loadbalancer.PoolSettings{
			Pools:    ipamPools(pool),
			Unprobed: map[string]bool{"pool": true}, // prove.go has tests of its own; half a second for each Service says no more here
		},
	}
}

// resync is long for the seeds that look whether failed rounds are tried again before it (settle).
func (w *world) resync() time.Duration {
	if w.retriesOnly() {
		return 5 * time.Minute
	}
	return 20 * time.Second
}

func (w *world) retriesOnly() bool { return w.seed%16 == 3 }

// live is what provider's run does.
func (c *controller) live() {
	defer c.hangUp()
	_ = c.manager.Load(c.ctx) // Run tries again
	for !c.look() {
		if c.world.wait(c.ctx, 200*time.Millisecond) != nil {
			return
		}
	}
	c.manager.SetNodes(c.nodes)
	done := make(chan error, 1)
	c.world.group.Go(func() { done <- c.manager.Run(c.ctx) })
	select {
	case err := <-done:
		c.finish(err)
		return
	case <-c.manager.Loaded():
	}
	c.replay()
	c.begin()
	patrol := time.Now()
	for {
		select {
		case err := <-done:
			c.finish(err)
			return
		case <-time.After(150 * time.Millisecond):
		}
		if c.awake(c.ctx) == nil {
			c.look()
		}
		if time.Since(patrol) > 30*time.Second {
			patrol = time.Now()
			c.patrolStatus()
		}
		c.work()
	}
}

// finish notes how Run ended.
func (c *controller) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.cancel()
	var deposed *loadbalancer.DeposedError
	if err != nil && !errors.As(err, &deposed) {
		c.world.fail(4, "%s ended: %v", c.name, err)
	}
	c.world.note("%s ended: %v", c.name, err)
}

func (c *controller) hangUp() {
	for _, l := range c.lines {
		l.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

func (c *controller) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.ended && c.ctx.Err() == nil
}

// awake waits while the controller is paused: it does nothing then, and knows nothing of it.
func (c *controller) awake(ctx context.Context) error {
	for {
		c.mu.Lock()
		left := time.Until(c.paused)
		c.mu.Unlock()
		if left <= 0 {
			return nil
		}
		if err := c.world.wait(ctx, min(left, time.Second)); err != nil {
			return err
		}
	}
}

func (c *controller) pause(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = until
}

func (c *controller) claimed(epoch uint64, instance string) {
	c.mu.Lock()
	c.epoch = epoch
	c.mu.Unlock()
	c.world.note("%s claimed epoch %d", c.name, epoch)
	c.world.checks.claimed(c, instance)
}

// look takes over what watches have delivered by now, and says whether it knows a first list.
func (c *controller) look() bool {
	api := c.world.cluster
	api.mu.Lock()
	defer api.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if api.down {
		return c.known
	}
	until := time.Now().Add(-api.late)
	for c.cursor < len(api.events) && !api.events[c.cursor].at.After(until) {
		e := api.events[c.cursor]
		c.cursor++
		if e.object == nil {
			delete(c.view, e.key)
		} else {
			c.view[e.key] = e.object
		}
		c.dirty[e.key] = true
	}
	if nodes := api.nodes; !slices.EqualFunc(nodes, c.nodes, func(a, b desired.Node) bool { return a.Name == b.Name }) {
		c.nodes = nodes
		for key, o := range c.view {
			c.dirty[key] = c.dirty[key] || o.spec.local
		}
		if c.known {
			c.manager.SetNodes(nodes)
		}
	}
	c.known = true
	return true
}

// begin has the service controller look at what the informers listed: load balancers, and what has its finalizer. That list is as
// old as the watches are late.
func (c *controller) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, o := range c.view {
		c.dirty[key] = o.wanted() || o.finalizer
	}
}

// existing is loadbalancer.Settings.Existing: what etcd has.
func (c *controller) existing(ctx context.Context, keys []desired.Key) (found []loadbalancer.Replay, err error) {
	api := c.world.cluster
	err = api.ask(ctx, c, func() error {
		for _, key := range keys {
			if o := api.objects[key]; o.wanted() || o != nil && o.spec.keep && o.finalizer {
				found = append(found, c.replayOf(o))
			}
		}
		return nil
	})
	return found, err
}

// replay tells what there is.
func (c *controller) replay() {
	api := c.world.cluster
	api.mu.Lock()
	defer api.mu.Unlock()
	var all []loadbalancer.Replay
	for _, key := range slices.SortedFunc(maps.Keys(c.view), desired.Key.Compare) {
		o := c.view[key]
		if !o.wanted() && !(o.spec.keep && o.finalizer) {
			continue
		}
		all = append(all, c.replayOf(o))
	}
	c.manager.Replay(all)
}

// replayOf is called with the cluster's mu held.
func (c *controller) replayOf(o *object) loadbalancer.Replay {
	r := loadbalancer.Replay{Key: o.key, UID: o.uid, Created: o.created, Published: o.status, Sharing: o.sharing()}
	if !o.wanted() {
		return r
	}
	if s, sources, err := c.world.cluster.translate(o, c.nodes); err == nil {
		r.Service = &s
	} else {
		r.Sources, r.Facts = sources, s.Facts
	}
	return r
}

// work begins what is to be done and is not being done.
func (c *controller) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range slices.SortedFunc(maps.Keys(c.dirty), desired.Key.Compare) {
		if c.dirty[key] && !c.busy[key] {
			c.dirty[key], c.busy[key] = false, true
			c.world.group.Go(func() { c.reconcile(key) })
		}
	}
}

// reconcile is the service controller's worker for one Service. It tries again after provider's RetryErrors.
func (c *controller) reconcile(key desired.Key) {
	err := c.sync(key)
	c.mu.Lock()
	c.last[key] = err
	c.mu.Unlock()
	if err != nil {
		until := time.Now().Add(retryTime(err))
		for time.Now().Before(until) && !c.isDirty(key) {
			if c.world.wait(c.ctx, 250*time.Millisecond) != nil {
				break
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[key] = false
	c.dirty[key] = c.dirty[key] || err != nil
}

func (c *controller) isDirty(key desired.Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dirty[key]
}

// retryTime is provider's: 5 s for what passes by itself, 30 s for what somebody has to mend.
func retryTime(err error) time.Duration {
	if waits(err) {
		return 30 * time.Second
	}
	return 5 * time.Second
}

// waits says that a Service waits for somebody to change something, an address among them.
func waits(err error) bool {
	var refused *loadbalancer.ServiceFaultError
	return errors.Is(err, errInvalid) || errors.As(err, &refused) || addressless(err)
}

// addressless says that ipam gave no address.
func addressless(err error) bool {
	var (
		exhausted *ipam.ExhaustedError
		taken     *ipam.TakenError
		sharing   *ipam.SharingError
		reserved  *ipam.ReservedError
	)
	return errors.As(err, &exhausted) || errors.As(err, &taken) || errors.As(err, &sharing) || errors.As(err, &reserved)
}

// patrolStatus tells Manager what statuses say, and has those written again that say something else than what is served.
func (c *controller) patrolStatus() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, o := range c.view {
		if o.wanted() {
			c.manager.Published(key, o.status)
		}
		if addresses, ok := c.manager.Has(key); o.wanted() && ok && len(addresses) > 0 && !slices.Equal(addresses, o.status) {
			c.dirty[key] = true
		}
	}
}

// observer is told nothing that a test needs.
type observer struct{ c *controller }

func (o observer) RoundDone(r loadbalancer.Round) {
	o.c.world.note("%s round %s %s: %v err %v", o.c.name, r.Reason, r.Fence, r.Outcomes, r.Err)
}
func (o observer) GatewayChanged(s loadbalancer.GatewayStatus) {
	o.c.world.note("%s: gateway %s: %v", o.c.name, s.Name, s.Err)
}
func (o observer) AddressFreed(a netip.Addr) {
	o.c.world.note("%s: %s is free", o.c.name, a)
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	for key, err := range o.c.last { // provider's wakeups
		if addressless(err) {
			o.c.dirty[key] = true
		}
	}
}
func (o observer) ServiceNotice(key desired.Key, err error) {
	o.c.world.note("%s: %s: %v", o.c.name, key, err)
}
func (o observer) Notice(err error) { o.c.world.note("%s: %v", o.c.name, err) }
