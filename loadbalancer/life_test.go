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

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// TestRandomLives: whatever happens in whatever order, no port of an address is served for two Services by any two
// gateways, no address changes unasked, a kept one waits, and everybody gets an answer.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(40) {
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
	kept     map[string]netip.Addr
	busy     map[string]bool

	// story is what happened, for whoever has to find out why.
	telling sync.Mutex
	story   []string
}

// lived is a Service as its owner sees it.
type lived struct {
	service loadbalancer.Service
	// published is in its status.
	published []netip.Addr
	// shares is set when it ever asked for that.
	going, keep, shares bool
	created             time.Time
}

func newLife(t *testing.T, seed uint64) *life {
	s := newProbedSite(t, "10.0.0.1-10.0.0.6", "gw1", "gw2")
	if seed%2 == 0 {
		s = newSite(t, "10.0.0.1-10.0.0.6", "gw1", "gw2")
	}
	return &life{t: t, random: rand.New(rand.NewPCG(seed, 1)), site: s, c: s.start(),
		services: map[string]*lived{}, kept: map[string]netip.Addr{}, busy: map[string]bool{}}
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
	for _, g := range l.site.gateways {
		g.change(func(g *fakeGateway) { g.dead, g.cut = false, false })
	}
	l.site.ledger.fail(nil)
	l.calls.Wait()
	close(ended)
	watch.Wait()
	_ = l.c.stop()
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
	case n < 65:
		l.delete(fmt.Sprintf("s%d", l.random.IntN(6)))
	case n < 75:
		down, cut := l.random.IntN(2) == 0, l.random.IntN(2) == 0
		gateway.change(func(g *fakeGateway) { g.dead, g.cut = down && !cut, down && cut })
		l.note("%s dead %v cut %v", gateway.name, down && !cut, down && cut)
	case n < 81:
		l.restart()
	case n < 87:
		l.site.network.has(address, [][]wire.Neighbor{nil, {stranger}, {worker}, {peer}}[l.random.IntN(4)]...)
	case n < 91:
		pools := poolsOf(l.t, map[string]string{"default": []string{"10.0.0.1-10.0.0.6", "10.0.0.3-10.0.0.8"}[l.random.IntN(2)]})
		if l.random.IntN(2) == 0 {
			pools.Unprobed = nil
		}
		l.note("pools %v %v", pools.Pools, pools.Unprobed)
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
		s = &lived{created: time.Now()}
		l.services[name] = s
	}
	if s.going {
		l.busy[name] = false
		l.mu.Unlock()
		return
	}
	if len(s.service.LoadBalancer.Frontends) == 0 || l.random.IntN(2) == 0 {
		s.service = web(name, uint16(80+l.random.IntN(3)))
		if l.random.IntN(2) == 0 {
			s.service, s.shares = sharing(s.service, []string{"k", "m"}[l.random.IntN(2)]), true
		}
	}
	service := s.service
	service.Published = s.published
	c := l.c
	delete(l.kept, name) // it may be served and deleted again without anybody hearing of it
	l.note("ensure %s %v key %q", name, service.LoadBalancer.Frontends[0].Port, service.Request.Sharing.Key)
	l.mu.Unlock()
	l.calls.Go(func() {
		ensured, err := within(l, func(ctx context.Context) (*loadbalancer.Ensured, error) { return c.Ensure(ctx, service) })
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy[name] = false
		l.note("ensured %s: %v %v", name, ensured, err)
		if err != nil {
			return
		}
		if len(s.published) > 0 && !slices.Equal(s.published, ensured.Addresses) {
			l.t.Errorf("%s was moved from %v to %v", name, s.published, ensured.Addresses)
			l.dump()
		}
		had := s.published
		s.published = ensured.Addresses
		for other, address := range l.kept {
			if slices.Contains(ensured.Addresses, address) && !slices.Contains(had, address) && !l.t.Failed() {
				l.t.Errorf("%s got %s, which is kept for %s", name, address, other)
				l.dump()
			}
		}
	})
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
		s.going, s.keep = true, !s.shares && l.random.IntN(2) == 0 // one Service can keep an address
	}
	l.mu.Unlock()
	l.calls.Go(func() {
		_, err := within(l, func(ctx context.Context) (*loadbalancer.Ensured, error) {
			select {
			case <-c.Loaded():
				if _, there := c.Has(key(name)); !there {
					return nil, nil
				}
			default:
			}
			return nil, c.Delete(ctx, key(name), s.keep)
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy[name] = false
		l.note("deleted %s keep %v: %v", name, s.keep, err)
		if err == nil {
			if s.keep && len(s.published) > 0 {
				l.kept[name] = s.published[0]
			}
			delete(l.services, name)
		}
	})
}

// within fails the test when f takes longer than anybody waits.
func within[T any](l *life, f func(context.Context) (T, error)) (T, error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Minute)
	defer cancel()
	result, err := f(ctx)
	if took := time.Since(begun); took > 3*time.Minute {
		l.t.Errorf("an answer took %s: %v", took, err)
	}
	return result, err
}

// restart kills the controller, whatever it does, and starts the next one.
func (l *life) restart() {
	_ = l.c.stop()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var replays []loadbalancer.Replay
	for _, name := range slices.Sorted(maps.Keys(l.services)) {
		s := l.services[name]
		if s.going && !s.keep {
			continue
		}
		r := loadbalancer.Replay{Key: key(name), Created: s.created, Published: s.published, Sharing: s.service.Request.Sharing}
		if !s.going {
			service := s.service
			service.Published = s.published
			r.Service = &service
		}
		replays = append(replays, r)
	}
	l.note("restart with %d", len(replays))
	newest := desired.Fence{}
	for _, g := range l.site.gateways {
		if state, _ := g.snapshot(); state != nil && state.Fence.Compare(newest) > 0 {
			newest = state.Fence
		}
	}
	for _, g := range l.site.gateways {
		if state, _ := g.snapshot(); state != nil && state.Fence == newest { // doc.go: what only this one knows would be lost
			g.change(func(g *fakeGateway) { g.dead, g.cut = false, false })
		}
	}
	l.site.ledger.fail(nil)
	l.c = l.site.start(replays...)
}

// oneOwner fails the test, once, when gateways serve something for two Services.
func (l *life) oneOwner() {
	if !l.t.Failed() && !l.site.oneOwner() {
		l.dump()
	}
}

// oneOwner looks at what all gateways serve at this moment, also those that nobody can reach, and says whether each port of
// each address is served for one Service.
func (s *site) oneOwner() bool {
	s.t.Helper()
	type port struct {
		address  netip.Addr
		protocol desired.Protocol
		number   uint16
	}
	good, owners := true, map[port]desired.Key{}
	for _, g := range s.gateways {
		state, _ := g.snapshot()
		if state == nil {
			continue
		}
		for _, lb := range state.LoadBalancers {
			for _, address := range lb.Addresses {
				for _, f := range lb.Frontends {
					p := port{address, f.Protocol, f.Port}
					if other, taken := owners[p]; taken && other != lb.Key {
						s.t.Errorf("%s %d at %s is served for %s and for %s", p.protocol, p.number, p.address, other, lb.Key)
						good = false
					}
					owners[p] = lb.Key
				}
			}
		}
	}
	return good
}
