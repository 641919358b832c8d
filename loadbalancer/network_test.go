package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// fakeNetwork says who answers for addresses.
type fakeNetwork struct {
	mu        sync.Mutex
	neighbors map[netip.Addr][]wire.Neighbor
	// proxy answers for every IPv4 address that nobody else answers for (proxy ARP).
	proxy string
	// hushed are the addresses that it does not answer for.
	hushed []string
	// asked are the questions to each gateway, one list for each probe.
	asked map[string][][]netip.Addr
}

func (n *fakeNetwork) has(address string, neighbors ...wire.Neighbor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.neighbors == nil {
		n.neighbors = map[netip.Addr][]wire.Neighbor{}
	}
	n.neighbors[netip.MustParseAddr(address)] = neighbors
}

func (n *fakeNetwork) setProxy(mac string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proxy = mac
}

func (n *fakeNetwork) answer(gateway string, targets []wire.ProbeTarget) *wire.Probed {
	n.mu.Lock()
	defer n.mu.Unlock()
	probed := &wire.Probed{}
	var asked []netip.Addr
	for _, target := range targets {
		asked = append(asked, target.Address)
		answer := wire.ProbeAnswer{Address: target.Address, Asked: true, Neighbors: n.neighbors[target.Address]}
		if n.proxy != "" && target.Address.Is4() && len(answer.Neighbors) == 0 && !slices.Contains(n.hushed, target.Address.String()) {
			answer.Neighbors = []wire.Neighbor{{MAC: n.proxy}}
		}
		probed.Answers = append(probed.Answers, answer)
	}
	if n.asked == nil {
		n.asked = map[string][][]netip.Addr{}
	}
	n.asked[gateway] = append(n.asked[gateway], asked)
	return probed
}

// questions are those to the first gateway; all get the same.
func (n *fakeNetwork) questions() [][]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked["gw1"])
}

// cannotAsk is what a gateway answers that is not on the network of the pool.
func cannotAsk(targets []wire.ProbeTarget) *wire.Probed {
	probed := &wire.Probed{}
	for _, target := range targets {
		probed.Answers = append(probed.Answers, wire.ProbeAnswer{Address: target.Address, Problem: "there is no interface eth0"})
	}
	return probed
}

var errDialTimeout = errors.New("no answer from 198.51.100.1:22 within 5s; is the machine up and its sshd reachable?")

// call waits for the session, as gateway.Client does, and is what the network does to a request. The session answers the
// next call after done; a call that is given up costs the connection, and the next one gets another.
func (g *fakeGateway) call(ctx context.Context, session chan struct{}) (done func(), err error) {
	select {
	case session <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("gateway %s: waiting for an earlier call to end: %w", g.name, context.Cause(ctx))
	}
	leave := sync.OnceFunc(func() { <-session })
	stop := context.AfterFunc(ctx, leave)
	done = func() {
		if !stop() {
			g.change(func(g *fakeGateway) { g.broken++ })
		}
		leave()
	}
	if err := g.reach(ctx); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

func (g *fakeGateway) reach(ctx context.Context) error {
	g.mu.Lock()
	hanging, away, took := g.hanging, (g.dead || g.cut) && !g.frozen, g.took
	g.mu.Unlock()
	if hanging {
		<-ctx.Done()
		return ctx.Err()
	}
	if away {
		return fmt.Errorf("gateway %s is unreachable: %w", g.name, errDialTimeout)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(took / 10):
		return nil
	}
}

// fakeLedger is the object in the API server.
type fakeLedger struct {
	mu     sync.Mutex
	object *loadbalancer.Ledger
	err    error
	writes int
	// limit is how many bytes it may have in a file, 0: any.
	limit int
}

// size is about what the ledger takes as YAML.
func size(ledger loadbalancer.Ledger) (n int) {
	for _, g := range ledger.Given {
		n += len("- address: \n  service: /\n") + len(g.Address.String()) + len(g.Owner.Namespace) + len(g.Owner.Name)
	}
	return n
}

// ledgerOf is the ledger as one controller reaches it.
type ledgerOf struct {
	*fakeLedger
	// known is what it read or wrote last.
	known *loadbalancer.Ledger
}

func (l *ledgerOf) Read(context.Context) (*loadbalancer.Ledger, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = l.object
	return l.object, l.err
}

func (l *ledgerOf) Write(_ context.Context, ledger loadbalancer.Ledger) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if !reflect.DeepEqual(l.known, l.object) {
		return &loadbalancer.LedgerChangedError{Err: errors.New("another resourceVersion")}
	}
	if n := size(ledger); l.limit > 0 && n > l.limit {
		return fmt.Errorf("ConfigMap is invalid: %d bytes: must have at most %d bytes", n, l.limit)
	}
	l.object, l.known = &ledger, &ledger
	l.writes++
	return nil
}

// edit is what a person does to the object.
func (l *fakeLedger) edit(f func(*loadbalancer.Ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var object loadbalancer.Ledger
	if l.object != nil {
		object = *l.object
	}
	object.Kept, object.Quarantined = slices.Clone(object.Kept), slices.Clone(object.Quarantined)
	f(&object)
	l.object = &object
}

// remove is what a person does who knows no better.
func (l *fakeLedger) remove() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.object = nil
}

func (l *fakeLedger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *fakeLedger) read() loadbalancer.Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.object == nil {
		return loadbalancer.Ledger{}
	}
	return *l.object
}
