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

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// object is a Service as the API server has it. It is never changed: a change is another object.
type object struct {
	key       desired.Key
	uid       string
	spec      spec
	status    []netip.Addr
	created   time.Time
	finalizer bool
	deleting  bool
}

// wanted says that it is a load balancer of ours and stays one.
func (o *object) wanted() bool { return o != nil && o.spec.balanced && !o.deleting }

// event is one change that watches deliver; object is nil when it is gone.
type event struct {
	at     time.Time
	key    desired.Key
	object *object
}

// stored is what etcd has, and loses when it is restored.
type stored struct {
	objects  map[desired.Key]*object
	epoch    uint64
	instance string
	ledger   *loadbalancer.Ledger
}

// claim is what a Service was told that it is served at.
type claim struct {
	addresses []netip.Addr
	doors     []desired.Port
	by        map[string]bool // the controllers that ever said so
}

// endpoint is a port of a Service's pods.
type endpoint struct {
	uid  string
	port desired.Port
}

// cluster is the API server with its etcd, the nodes and the pods.
type cluster struct {
	mu sync.Mutex
	stored
	backups []stored // one before each operation
	events  []event
	nodes   []desired.Node
	down    bool          // nobody is answered
	late    time.Duration // watches are so much behind

	// What is true whatever etcd says. pods is whose pods answer at a NodePort, unwanted since when an object was not wanted;
	// valid are objects whose status was written while all was well: an etcd that was restored says what was once so.
	pods     map[uint16]endpoint
	ports    map[string]uint16 // uid and port -> NodePort
	unwanted map[string]time.Time
	valid    map[string]claim
	moved    map[string]bool // objects that at some time asked for another address, or with whom to share
	names    map[string]desired.Key
	restored bool
	created  int
	sick     map[string]bool
}

func newCluster() *cluster {
	c := &cluster{
		stored: stored{objects: map[desired.Key]*object{}},
		pods:   map[uint16]endpoint{}, ports: map[string]uint16{}, unwanted: map[string]time.Time{}, valid: map[string]claim{},
		moved: map[string]bool{}, names: map[string]desired.Key{},
		sick: map[string]bool{},
	}
	for i := range 2 {
		c.nodes = append(c.nodes, nodeNumber(i))
	}
	return c
}

func nodeNumber(i int) desired.Node {
	return desired.Node{Name: fmt.Sprintf("node-%d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 2, byte(i + 1)})}}
}

// put stores an object and tells watches. It is called with mu held.
func (c *cluster) put(key desired.Key, o *object) {
	before := c.objects[key]
	if before != nil && (o == nil || o.uid != before.uid || !o.wanted()) {
		c.unwanted[before.uid] = time.Now()
	}
	if o == nil {
		delete(c.objects, key)
	} else {
		c.names[o.uid] = key
		c.moved[o.uid] = c.moved[o.uid] || o.spec.request.IsValid() || o.spec.share != ""
		c.objects[key] = o
	}
	c.events = append(c.events, event{time.Now(), key, o})
}

// edit changes an object unless it is gone or another one.
func (c *cluster) edit(key desired.Key, uid string, change func(*object)) {
	o := c.objects[key]
	if o == nil || o.uid != uid {
		return
	}
	changed := *o
	change(&changed)
	if changed.deleting && !changed.finalizer {
		c.put(key, nil)
		return
	}
	c.put(key, &changed)
}

// nodePort gives a port of a Service its NodePort, which no other one ever gets.
func (c *cluster) nodePort(uid string, protocol desired.Protocol, port uint16) uint16 {
	id := fmt.Sprintf("%s:%s:%d", uid, protocol, port)
	if known, ok := c.ports[id]; ok {
		return known
	}
	n := uint16(30000 + len(c.ports))
	c.ports[id], c.pods[n] = n, endpoint{uid, desired.Port{Protocol: protocol, Port: port}}
	return n
}

// The users' side.

func (c *cluster) create(key desired.Key, s spec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.objects[key]; o != nil {
		c.edit(key, o.uid, func(o *object) { o.respec(s) })
		return
	}
	c.created++
	c.put(key, &object{key: key, uid: fmt.Sprintf("uid-%d", c.created), spec: s, created: time.Now()})
}

func (c *cluster) change(key desired.Key, change func(*spec)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.objects[key]; o != nil {
		c.edit(key, o.uid, func(o *object) {
			s := o.spec
			change(&s)
			o.respec(s)
		})
	}
}

// respec takes a new spec. The API server clears the status of a Service that is no load balancer any more.
func (o *object) respec(s spec) {
	if o.deleting {
		return
	}
	if o.spec = s; !s.balanced {
		o.status = nil
	}
}

func (c *cluster) delete(key desired.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.objects[key]; o != nil {
		c.edit(key, o.uid, func(o *object) { o.deleting = true })
	}
}

// save is what restore goes back to.
func (c *cluster) save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stored
	s.objects = maps.Clone(c.objects)
	c.backups = append(c.backups, s)
}

func (c *cluster) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func (c *cluster) setLate(late time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = late
}

// restore is what an administrator does to etcd: everything is as it was, and watches list anew.
func (c *cluster) restore(ago int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.objects
	c.stored = c.backups[max(0, len(c.backups)-1-ago)]
	c.objects = maps.Clone(c.objects)
	c.restored = true
	clear(c.valid)
	for _, o := range before {
		if c.objects[o.key] == nil {
			c.unwanted[o.uid] = time.Now()
			c.events = append(c.events, event{time.Now(), o.key, nil})
		}
	}
	for key, o := range c.objects {
		if old := before[key]; old != nil && old.uid != o.uid {
			c.unwanted[old.uid] = time.Now()
		}
		c.events = append(c.events, event{time.Now(), key, o})
	}
	slices.SortStableFunc(c.events, func(a, b event) int { return a.at.Compare(b.at) })
}

func (c *cluster) toggleNode(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := nodeNumber(i % 3)
	without := slices.DeleteFunc(slices.Clone(c.nodes), func(n desired.Node) bool { return n.Name == node.Name })
	if len(without) == len(c.nodes) {
		without = append(without, node)
	}
	if len(without) > 0 {
		c.nodes = without
	}
}

// nodeNames are sorted.
func (c *cluster) nodeNames() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

// sicken lets a node fall ill, or all.
func (c *cluster) sicken(i int, all bool) (undo func()) {
	set := func(sick bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for n := range 3 {
			if n == i%2 || all {
				c.sick[nodeNumber(n).Addresses[0].String()] = sick
			}
		}
	}
	set(true)
	return func() { set(false) }
}

// healthy says whether a node answers at its address.
func (c *cluster) healthy(addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.sick[addr.String()]
}

// serving says whether a node serves anybody.
func (c *cluster) serving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.nodes, func(n desired.Node) bool { return !c.sick[n.Addresses[0].String()] })
}

// object gives what the API server has now.
func (c *cluster) object(key desired.Key) *object {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects[key]
}

// all gives all objects in the order of their keys.
func (c *cluster) all() []*object {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Collect(maps.Values(c.objects))
	slices.SortFunc(all, func(a, b *object) int { return a.key.Compare(b.key) })
	return all
}

var errAPIDown = errors.New("the API server does not answer")

// ask is one request of a controller. What it does is done at once, and its answer may be lost.
func (c *cluster) ask(ctx context.Context, from *controller, do func() error) error {
	if err := from.awake(ctx); err != nil {
		return err
	}
	if err := from.world.wait(ctx, from.world.latency("api")); err != nil {
		return err
	}
	c.mu.Lock()
	if c.down {
		c.mu.Unlock()
		if err := from.world.wait(ctx, time.Second); err != nil {
			return err
		}
		return errAPIDown
	}
	err := do()
	c.mu.Unlock()
	return errors.Join(err, ctx.Err())
}
