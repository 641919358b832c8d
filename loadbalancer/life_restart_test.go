package loadbalancer_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

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
		switch l.random.IntN(5) {
		case 0:
			if !s.going {
				l.edit(name, s, false)
			}
		case 1:
			l.note("deleted while down %s", name)
			s.going = true
		}
		if s.going && !s.keep {
			continue
		}
		r := loadbalancer.Replay{Key: l.key(name), Created: s.created, Published: s.published, Sharing: s.service.Request.Sharing}
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

// bringBack makes the Services anew that were kept, in a quiet world: each has its address again, unless somebody who has it
// shares on other terms by now.
func (l *life) bringBack() {
	time.Sleep(40 * time.Minute) // no quarantine is left
	kept := l.site.ledger.read().Kept
	for _, name := range slices.Sorted(maps.Keys(l.kept)) {
		was := l.kept[name]
		address := was.published[0]
		waits := slices.Contains(kept, ipam.Reservation{Address: address, Owner: ipam.Owner(l.key(name))})
		asked := was.service.Request
		for otherName, other := range l.services {
			mine := asked.Sharing
			theirs := other.service.Request.Sharing
			got, _ := l.c.Has(l.key(otherName)) // its Ensure may have failed for want of gateways
			has := slices.Contains(other.published, address) || slices.Contains(got, address)
			fits := mine.Key != "" && mine.Key == theirs.Key && mine.Ports[0] != theirs.Ports[0]
			waits = waits && (!has || fits && !other.refused && !other.going)
		}
		if pool, _ := ipam.ParseRange("10.0.0.1-10.0.0.6"); l.services[name] != nil || !waits || len(asked.Addresses) > 0 || !pool.Contains(address) {
			continue
		}
		service := was.service
		service.Published = nil
		l.note("bring back %s %+v", name, service.Request)
		ensured, err := l.c.Ensure(l.t.Context(), service)
		if (err != nil || !slices.Contains(ensured.Addresses, address)) && !l.t.Failed() {
			l.t.Errorf("%s got %v, %v; %s was kept for it", name, ensured, err, address)
			l.dump()
		}
		l.services[name] = &lived{service: service, published: []netip.Addr{address}}
	}
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
