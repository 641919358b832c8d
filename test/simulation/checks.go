package simulation

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/simulation/machine"
)

// checks look at every State that a gateway commits, at every transition of VRRP and at every answer, and know what each must
// not be.
type checks struct {
	w *world

	mu sync.Mutex
	// read remembers States by the text of state.json, fences what was ever said under a fence.
	states   map[string]*revision
	fences   map[desired.Fence]string
	gateways map[string]*seen
	applies  map[string]int           // that run, by controller
	names    map[string]string        // of controllers, by instance
	knows    map[string]desired.Fence // the newest State that a controller has read, by its name
	shared   map[string]uint64        // digests of what all gateways make of a State, by State and slots
	sessions []*session
	dialed   int
	settled  map[desired.Key]stable
}

type revision struct {
	signed desired.Signed
	state  *desired.State
}

// seen is what was seen of one gateway.
type seen struct {
	held      *revision
	confirmed desired.Fence   // that it said it holds
	caught    map[string]bool // since its boot it held what this other one held, or newer
	unheard   map[string]bool // since its boot this other one was asked and did not answer
	tampered  time.Time       // when somebody last did something to its daemons
	reloaded  time.Time       // when its HAProxy was reloaded last
}

func newChecks(w *world) *checks {
	c := &checks{w: w, states: map[string]*revision{}, fences: map[desired.Fence]string{}, gateways: map[string]*seen{},
		applies: map[string]int{}, knows: map[string]desired.Fence{}, names: map[string]string{}, settled: map[desired.Key]stable{}, shared: map[string]uint64{}}
	for _, g := range w.gateways {
		c.gateways[g.name] = &seen{caught: map[string]bool{}, unheard: map[string]bool{}}
	}
	return c
}

// read decodes state.json; nothing when there is none.
func (c *checks) read(text []byte) (desired.Signed, *desired.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.decode(text); r != nil {
		return r.signed, r.state
	}
	return desired.Signed{}, nil
}

func (c *checks) decode(text []byte) *revision {
	if text == nil {
		return nil
	}
	if r := c.states[string(text)]; r != nil {
		return r
	}
	r := &revision{}
	err := json.Unmarshal(text, &r.signed)
	if err == nil {
		r.state, err = desired.Decode(r.signed.State)
	}
	if err != nil {
		c.w.fail(3, "state.json cannot be read: %v", err)
		r.state = &desired.State{}
	}
	c.states[string(text)] = r
	return r
}

// look sees what has changed since the last time.
func (c *checks) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.catchUp()
	c.fresh()
	c.owners()
}

// catchUp sees what the gateways have done, in the order in which they did it.
func (c *checks) catchUp() {
	type commit struct {
		machine.Commit
		by *gateway
	}
	var commits []commit
	for _, g := range c.w.gateways {
		for _, one := range g.machine.Commits() {
			commits = append(commits, commit{one, g})
		}
		for _, reload := range g.machine.Reloads() {
			c.reloaded(g, reload)
		}
	}
	slices.SortStableFunc(commits, func(a, b commit) int { return a.At.Compare(b.At) })
	for _, one := range commits {
		c.committed(one.by, one.Commit)
	}
}

// committed judges a State that a gateway holds from now on.
func (c *checks) committed(g *gateway, commit machine.Commit) {
	r := c.decode(commit.Text)
	s := c.gateways[g.name]
	c.fresh()
	before := s.held
	s.held = r
	f := r.state.Fence
	c.w.note("%s holds %s of %s: %s", g.name, f, f.Instance[:min(4, len(f.Instance))], describe(r.state))
	if f.Compare(s.confirmed) < 0 {
		c.w.fail(4, "%s said that it holds %s and goes back to %s", g.name, s.confirmed, f)
	}
	if was, known := c.fences[f]; known && was != string(r.signed.State) {
		c.w.fail(4, "two States are %s of %s", f, f.Instance)
	}
	c.fences[f] = string(r.signed.State)
	c.allowed(g, r)
	if before == nil || f.Compare(before.state.Fence) > 0 {
		c.rendered(g, r, commit.Files)
	}
	if before == nil {
		return
	}
	if c.excused() || f.Compare(before.state.Fence) < 0 { // the way back from a commit that failed, told to nobody
		return
	}
	has := map[desired.Key]bool{}
	for _, lb := range r.state.LoadBalancers {
		has[lb.Key] = true
	}
	was := before.state.Fence
	unread := was.Instance != f.Instance && was.Compare(c.knows[c.names[f.Instance]]) > 0
	for _, lb := range before.state.LoadBalancers {
		if o := c.w.cluster.object(lb.Key); unread && o != nil && (o.spec.bad() || o.spec.request.IsValid() || o.spec.share != "") {
			continue // it may wait for an address or for somebody, and its last good form was on gateways alone that were away
		}
		if !has[lb.Key] && c.w.cluster.missed(lb.UID, c.names[before.state.Fence.Instance]) {
			c.w.fail(1, "%s holds %s without %s, which was served and which nobody deleted", g.name, f, lb.Key)
		}
	}
}

// allowed judges by the limits of the gateway's owner (invariant 13) and by what no State may say (8).
func (c *checks) allowed(g *gateway, r *revision) {
	if err := (verifier{}).Verify(r.signed); err != nil {
		c.w.fail(13, "%s holds a State that it cannot believe: %v", g.name, err)
	}
	if got, want := r.state.ControlPlane, c.w.controlPlane(); !reflect.DeepEqual(got, want) {
		c.w.fail(1, "%s holds a State with the control plane %+v, not %+v", g.name, got, want)
	}
	owners := map[string]desired.Key{}
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	for _, i := range r.state.Instances {
		if i.RouterID < 51 || i.RouterID > 70 {
			c.w.fail(13, "%s holds an instance %d", g.name, i.RouterID)
		}
	}
	for _, lb := range r.state.LoadBalancers {
		for _, a := range lb.Addresses {
			if !prefix.Contains(a) {
				c.w.fail(13, "%s holds VIP %s", g.name, a)
			}
			for _, f := range lb.Frontends {
				if f.Port > 9000 {
					c.w.fail(13, "%s opens port %d", g.name, f.Port)
				}
				to := door(a, f)
				if other, taken := owners[to]; taken {
					c.w.fail(8, "in one State %s is of %s and of %s", to, other, lb.Key)
				}
				owners[to] = lb.Key
			}
		}
	}
}

// door is a port of an address, as HAProxy's map names it; those of UDP have their protocol's name behind.
func door(a netip.Addr, f desired.Frontend) string {
	to := netip.AddrPortFrom(a, f.Port).String()
	if f.Protocol != desired.TCP {
		to += "/" + string(f.Protocol)
	}
	return to
}

// claimed notes whose instance it is.
func (c *checks) claimed(by *controller, instance string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[instance] = by.name
}

// excused says that what was given to whom may contradict itself from now on, as far as the design knows: etcd was restored, and
// says again what was so once.
func (c *checks) excused() bool { return c.w.cluster.wasRestored() }

// owners says that no port of an address has two owners on all the disks, also of machines without power, and in all that runs
// (invariant 8).
func (c *checks) owners() {
	if c.excused() {
		return
	}
	owners := map[string]owner{}
	claim := func(to string, by owner) {
		if other, taken := owners[to]; taken && other.key != by.key {
			c.w.fail(8, "%s is of %s (%s) and of %s (%s)", to, other.key, other.at, by.key, by.at)
		}
		owners[to] = by
	}
	for _, g := range c.w.gateways {
		r := c.gateways[g.name].held
		if r == nil {
			continue
		}
		for _, lb := range r.state.LoadBalancers {
			for _, a := range lb.Addresses {
				for _, f := range lb.Frontends {
					claim(door(a, f), owner{lb.Key, "held by " + g.name})
				}
			}
		}
		for _, route := range g.machine.Routes() {
			claim(route.To, owner{keyOf(route.Owner), "run by " + g.name})
		}
	}
}

// owner is who has a port of an address, and where.
type owner struct {
	key desired.Key
	at  string
}

// fresh notes which gateways have caught up with which since their boot.
func (c *checks) fresh() {
	for _, g := range c.w.gateways {
		s := c.gateways[g.name]
		for _, other := range c.w.gateways {
			if theirs := c.gateways[other.name].held; other != g && s.notOlder(theirs) {
				s.caught[other.name] = true
			}
		}
	}
}

func (s *seen) notOlder(than *revision) bool {
	return than == nil || s.held != nil && s.held.state.Fence.Compare(than.state.Fence) >= 0
}

// unheard notes that a gateway did not answer another one: who cannot ask does not know, and may be current without it.
func (c *checks) unheard(l *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gateways[l.from].unheard[l.to.name] = true
}

// took judges transitions: who has booted and was never as new as the one it takes VIPs from must not (invariant 6).
func (c *checks) took(transitions []machine.Transition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range transitions {
		c.w.note("%s is master of %d, from %v", t.By.Name(), t.RouterID, names(t.From))
		s := c.gateways[t.By.Name()]
		for _, from := range t.From {
			if from.Serves() && from.Ready() && !s.caught[from.Name()] && !s.unheard[from.Name()] && !s.notOlder(c.gateways[from.Name()].held) {
				c.w.fail(6, "%s booted with an old State and takes the VIPs of instance %d from %s, which has a newer one", t.By.Name(), t.RouterID, from.Name())
			}
		}
	}
}

func names(machines []*machine.Machine) (all []string) {
	for _, m := range machines {
		all = append(all, m.Name())
	}
	return all
}

// heard judges what a gateway says.
func (c *checks) heard(l *line, verb wire.Verb, reply *wire.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := l.to
	c.catchUp()
	s := c.gateways[g.name]
	confirm := func(f desired.Fence) {
		if f.Compare(s.confirmed) > 0 {
			s.confirmed = f
		}
	}
	if reply.Hello != nil && reply.Hello.Fence != nil {
		confirm(*reply.Hello.Fence)
	}
	if held := c.gateways[g.name].held; verb == wire.VerbState && reply.State != nil && held != nil {
		if f := held.state.Fence; f.Compare(c.knows[l.from]) > 0 {
			c.knows[l.from] = f
		}
	}
	if r := reply.Result; r != nil {
		c.w.note("%s answers %s: %s %s %v %v", g.name, verb, r.Outcome, r.Fence, r.Changes, r.Faults)
		if slices.Contains([]wire.Outcome{wire.Unchanged, wire.Runtime, wire.Reloaded}, r.Outcome) {
			confirm(r.Fence)
			c.accounted(g, r)
			c.true(g, r)
		}
		if r.Outcome == wire.RolledBack {
			c.true(g, r)
		}
		if r.Outcome == wire.Stuck && g.machine.Full() && slices.ContainsFunc(r.Faults, func(f wire.Fault) bool {
			return strings.HasPrefix(f.Message, "rolling back: committing")
		}) {
			c.w.fail(3, "%s is stuck over a fence that it could not commit: %v", g.name, r.Faults)
		}
	}
	if reply.Refusal != nil {
		c.w.note("%s refuses %s: %v", g.name, verb, reply.Refusal)
	}
}

// true judges an answer that says that a State, the new one or the old one, is true there (invariant 3).
func (c *checks) true(g *gateway, r *wire.Result) {
	if time.Since(c.gateways[g.name].tampered) < time.Second {
		return
	}
	held := c.decode(g.machine.State())
	if held == nil || held.state.Fence != r.Fence {
		return // another transaction has been there since
	}
	for _, problem := range differences(g.machine.Serving(), held.state) {
		c.w.fail(3, "%s says %s to %s, but %s", g.name, r.Outcome, r.Fence, problem)
	}
}

// handedOver judges an answer that says that nobody's address is here any more (invariant 3).
func (c *checks) handedOver(g *gateway) {
	for _, a := range g.machine.Held() {
		if !a.IsLinkLocalUnicast() { // an anchor
			c.w.fail(3, "%s says that it is drained and holds %s", g.name, a)
		}
	}
}

// booted notes that a gateway knows no more whether it is current.
func (c *checks) booted(g *gateway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.catchUp()
	clear(c.gateways[g.name].caught)
	clear(c.gateways[g.name].unheard)
	c.fresh()
}

// tampered notes that somebody did something to a gateway: for a moment it may say what is so no more.
func (c *checks) tampered(g *gateway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gateways[g.name].tampered = time.Now()
}
