package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// TestRandomLives: whatever happens in whatever order, no port of an address is served for two Services by any two
// gateways, no address changes unasked, a kept one waits, also for those who shared it, and everybody gets an answer.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newLife(t, seed).run() })
		})
	}
}

// life is a site to which things happen, and what its users know.
type life struct {
	t      *testing.T
	random *rand.Rand
	site   *site
	c      *controller
	calls  sync.WaitGroup

	mu sync.Mutex
	// services exist; going ones were deleted and have their finalizer.
	services map[string]*lived
	// kept are Services that were deleted with keep-ip, as they were.
	kept map[string]*lived
	busy map[string]bool

	// story is what happened, for whoever has to find out why.
	telling sync.Mutex
	story   []string
}

// lived is a Service as its owner sees it.
type lived struct {
	service loadbalancer.Service
	// published is in its status.
	published   []netip.Addr
	going, keep bool
	// mayMove is set when its owner asked for something that moves it, refused when the last answer was an error.
	mayMove, refused bool
	created          time.Time
	// waited are the kept ones when it came.
	waited map[string]*lived
}

func newLife(t *testing.T, seed uint64) *life {
	s := newProbedSite(t, "10.0.0.1-10.0.0.6", "gw1", "gw2")
	if seed%2 == 0 {
		s = newSite(t, "10.0.0.1-10.0.0.6", "gw1", "gw2")
	}
	l := &life{t: t, random: rand.New(rand.NewPCG(seed, 1)), site: s,
		services: map[string]*lived{}, kept: map[string]*lived{}, busy: map[string]bool{}}
	s.settings.PoolSettings = l.pools(0, true)
	if seed%2 == 1 {
		s.settings.Unprobed = nil
	}
	l.c = s.start()
	return l
}

func (l *life) run() {
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
				l.oneOwner()
			}
		}
	})
	for range 120 {
		l.happen()
		time.Sleep([]time.Duration{0, 15 * time.Millisecond, 300 * time.Millisecond, 7 * time.Second}[l.random.IntN(4)])
	}
	l.heal()
	l.calls.Wait()
	close(ended)
	watch.Wait()
	l.bringBack()
	l.oneOwner()
	_ = l.c.stop()
}

// heal ends every fault, and gives the pools of the beginning, without the permission to share across namespaces.
func (l *life) heal() {
	for _, g := range l.site.gateways {
		g.change(func(g *fakeGateway) { g.dead, g.cut = false, false })
	}
	l.site.ledger.fail(nil)
	for i := range 8 {
		l.site.network.has(fmt.Sprintf("10.0.0.%d", i+1))
	}
	if err := l.c.SetPools(l.pools(0, false)); err != nil {
		l.t.Error(err)
	}
}

// pools are those of the beginning, or others.
func (l *life) pools(which int, shares bool) loadbalancer.PoolSettings {
	named := []map[string]string{{"default": "10.0.0.1-10.0.0.6", "six": "2001:db8::1-2001:db8::4"},
		{"default": "10.0.0.3-10.0.0.8", "six": "2001:db8::3-2001:db8::6"}, {"default": "10.0.0.1-10.0.0.4", "more": "10.0.0.5-10.0.0.8"}}[which]
	pools := poolsOf(l.t, named)
	for i := range pools.Pools {
		pools.Pools[i].ShareAcrossNamespaces = shares
	}
	return pools
}

// dump tells what every gateway has and what happened before.
func (l *life) dump() {
	for _, g := range l.site.gateways {
		state, _ := g.snapshot()
		g.change(func(g *fakeGateway) { l.t.Logf("%s: dead %v cut %v", g.name, g.dead, g.cut) })
		if state != nil {
			l.t.Logf("  %v releasing %v", state.Fence, state.Releasing)
			for _, lb := range state.LoadBalancers {
				l.t.Logf("  %s %v %v", lb.Key, lb.Addresses, lb.Frontends)
			}
		}
	}
	l.telling.Lock()
	defer l.telling.Unlock()
	for _, line := range l.story {
		l.t.Log(line)
	}
}

func (l *life) note(format string, args ...any) {
	l.telling.Lock()
	defer l.telling.Unlock()
	l.story = append(l.story, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

// happen lets one thing happen.
func (l *life) happen() {
	gateway := l.site.gateways[l.random.IntN(2)]
	address := fmt.Sprintf("10.0.0.%d", 1+l.random.IntN(8))
	switch n := l.random.IntN(100); {
	case n < 45:
		l.ensure(fmt.Sprintf("s%d", l.random.IntN(6)))
	case n < 63:
		l.delete(fmt.Sprintf("s%d", l.random.IntN(6)))
	case n < 74:
		down, cut := l.random.IntN(2) == 0, l.random.IntN(2) == 0
		gateway.change(func(g *fakeGateway) { g.dead, g.cut = down && !cut, down && cut })
		l.note("%s dead %v cut %v", gateway.name, down && !cut, down && cut)
	case n < 82:
		l.restart()
	case n < 87:
		l.site.network.has(address, [][]wire.Neighbor{nil, {stranger}, {worker}, {peer}}[l.random.IntN(4)]...)
	case n < 91:
		pools := l.pools(l.random.IntN(3), l.random.IntN(2) == 0)
		for i := range l.random.IntN(3) {
			pools.Reservations = append(pools.Reservations,
				ipam.Reservation{Address: addresses(fmt.Sprintf("10.0.0.%d", 2*i+1+l.random.IntN(2)))[0], Owner: ipam.Owner(l.key(fmt.Sprintf("s%d", l.random.IntN(6))))})
		}
		if l.random.IntN(2) == 0 {
			pools.Unprobed = nil
		}
		l.note("pools %v %v %v", pools.Pools, pools.Unprobed, pools.Reservations)
		l.mu.Lock()
		l.site.settings.PoolSettings = pools
		l.overrule()
		l.mu.Unlock()
		if err := l.c.SetPools(pools); err != nil {
			l.t.Error(err)
		}
	case n < 95:
		var nodes []desired.Node
		for i := range l.random.IntN(3) {
			nodes = append(nodes, desired.Node{Name: fmt.Sprintf("n%d", i), Addresses: addresses(fmt.Sprintf("203.0.113.%d", i+1))})
		}
		l.c.SetNodes(nodes)
	default:
		l.site.ledger.fail([]error{nil, nil, errors.New("no API server")}[l.random.IntN(3)])
	}
}

// begin says whether the caller may do something with a Service; one thing is done with it at a time, as the library does.
func (l *life) begin(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[name] {
		return false
	}
	l.busy[name] = true
	return true
}

// ensure makes or changes a Service, or calls again for it.
func (l *life) ensure(name string) {
	if !l.begin(name) {
		return
	}
	l.mu.Lock()
	s := l.services[name]
	if s == nil {
		s = &lived{created: time.Now(), waited: maps.Clone(l.kept)}
		l.services[name] = s
	}
	if s.going {
		l.busy[name] = false
		l.mu.Unlock()
		return
	}
	if len(s.service.LoadBalancer.Frontends) == 0 || l.random.IntN(2) == 0 {
		l.edit(name, s, true)
	}
	service := s.service
	service.Published = s.published
	c := l.c
	mine := l.kept[name]
	delete(l.kept, name) // it may be served and deleted again without anybody hearing of it
	l.note("ensure %s %v key %q", name, service.LoadBalancer.Frontends[0].Port, service.Request.Sharing.Key)
	l.mu.Unlock()
	l.calls.Go(func() {
		ensured, err := within(l, func(ctx context.Context) (*loadbalancer.Ensured, error) { return c.Ensure(ctx, service) })
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy[name] = false
		l.note("ensured %s: %v %v", name, ensured, err)
		if s.refused = err != nil; s.refused {
			return
		}
		for _, address := range s.published {
			if !slices.Contains(ensured.Addresses, address) && !s.mayMove && !l.t.Failed() {
				l.t.Errorf("%s was moved from %v to %v", name, s.published, ensured.Addresses)
				l.dump()
			}
		}
		had := s.published
		s.published, s.mayMove = ensured.Addresses, false
		for other, waits := range l.kept {
			if s.waited[other] != waits {
				continue // the other one was there when this one may have joined it
			}
			for _, address := range waits.published {
				its := mine != nil && slices.Contains(mine.published, address) // they shared it
				if slices.Contains(ensured.Addresses, address) && !slices.Contains(had, address) && !its && !l.t.Failed() {
					l.t.Errorf("%s got %s, which is kept for %s", name, address, other)
					l.dump()
				}
			}
		}
	})
}

// edit changes what a Service asks for; live says whether a controller sees it happen.
func (l *life) edit(name string, s *lived, live bool) {
	before := s.service
	s.service = web(name, uint16(80+l.random.IntN(3)))
	s.service.LoadBalancer.Key = l.key(name)
	if l.random.IntN(4) > 0 {
		s.service = sharing(s.service, []string{"k", "k", "m"}[l.random.IntN(3)])
	}
	s.service.Request.Families = [][]ipam.Family{{4}, {4}, {4, 6}}[l.random.IntN(3)]
	s.service.Request.FirstSuffices = true
	switch l.random.IntN(8) {
	case 0:
		s.service = requesting(s.service, fmt.Sprintf("10.0.0.%d", 1+l.random.IntN(8)))
		s.mayMove = true
	case 1, 2:
		pool := []string{"default", "more"}[l.random.IntN(2)]
		s.service.Named, s.service.Request.Pools, s.service.Request.Moves = pool, []string{pool}, true
	}
	s.mayMove = s.mayMove || live && s.service.Named != before.Named ||
		len(s.service.Request.Families) < len(before.Request.Families)
	l.note("edit %s: %v %+v", name, s.service.LoadBalancer.Frontends[0].Port, s.service.Request)
}

// overrule forgets what was kept where the configuration reserves it for somebody: that counts.
func (l *life) overrule() {
	for _, r := range l.site.settings.Reservations {
		maps.DeleteFunc(l.kept, func(_ string, s *lived) bool { return slices.Contains(s.published, r.Address) })
	}
}

// key puts the last two Services into another namespace.
func (l *life) key(name string) desired.Key {
	if name >= "s4" {
		return desired.Key{Namespace: "other", Name: name}
	}
	return key(name)
}

// delete is what the library does for a Service that is being deleted: until nothing exists, again and again.
func (l *life) delete(name string) {
	if !l.begin(name) {
		return
	}
	l.mu.Lock()
	s, c := l.services[name], l.c
	if s == nil {
		l.busy[name] = false
		l.mu.Unlock()
		return
	}
	l.note("delete %s", name)
	if !s.going {
		s.going, s.keep = true, l.random.IntN(2) == 0
	}
	l.mu.Unlock()
	l.calls.Go(func() {
		_, err := within(l, func(ctx context.Context) (*loadbalancer.Ensured, error) {
			select {
			case <-c.Loaded():
				if _, there := c.Has(l.key(name)); !there {
					return nil, nil
				}
			default:
			}
			return nil, c.Delete(ctx, l.key(name), s.keep)
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy[name] = false
		l.note("deleted %s keep %v: %v", name, s.keep, err)
		if err == nil {
			if s.keep && len(s.published) > 0 {
				l.kept[name] = s
			}
			l.overrule()
			delete(l.services, name)
		}
	})
}
