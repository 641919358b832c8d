package loadbalancer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// site is the world around a Manager: gateways that live on while controllers come and go, and the epoch object.
type site struct {
	t        testing.TB
	gateways []*fakeGateway
	epochs   *fakeEpochs
	settings loadbalancer.Settings
	ledger   *fakeLedger
	observer *recorder
	network  *fakeNetwork
}

func newSite(t testing.TB, pool string, names ...string) *site {
	s := &site{t: t, epochs: &fakeEpochs{}, ledger: &fakeLedger{}, observer: &recorder{}, network: &fakeNetwork{}}
	r, err := ipam.ParseRange(pool)
	if err != nil {
		t.Fatal(err)
	}
	s.settings = loadbalancer.Settings{
		ClusterUID:    func(context.Context) (string, error) { return "cluster-1", nil },
		VRRP:          desired.VRRP{AdvertIntervalMillis: 200},
		FirstRouterID: 10,
		NodeCheck:     desired.Check{Kind: desired.CheckNone},
		PoolSettings: loadbalancer.PoolSettings{
			Pools: []ipam.Pool{{Name: "default", Ranges: []netipx.IPRange{r}}},
			// Most tests are about something else; those of prove_test.go ask.
			Unprobed: map[string]bool{"default": true},
		},
	}
	mu := new(sync.Mutex)
	for i, name := range names {
		s.settings.Gateways = append(s.settings.Gateways, desired.Gateway{
			Name: name, SSHAddress: name + ":22", VRRPAddress: netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), Interface: "eth0",
		})
		s.gateways = append(s.gateways, &fakeGateway{site: s, name: name, mu: mu, took: 20 * time.Millisecond, looks: 500 * time.Millisecond,
			transaction: make(chan struct{}, 1), session: make(chan struct{}, 1), probes: make(chan struct{}, 1)})
	}
	return s
}

// controller is one life of a controller.
type controller struct {
	*loadbalancer.Manager
	stop func() error // ends Run and gives its error
	done chan struct{}
}

func (s *site) newManager() *loadbalancer.Manager {
	s.t.Helper()
	var clients []loadbalancer.Gateway
	for _, g := range s.gateways {
		clients = append(clients, g)
	}
	m, err := loadbalancer.New(s.settings, clients, fakeSigner{}, s.epochs, s.ledger, s.observer, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// start loads, replays and runs a new controller.
func (s *site) start(replays ...loadbalancer.Replay) *controller {
	s.t.Helper()
	m := s.newManager()
	m.SetNodes([]desired.Node{workerNode})
	m.Replay(replays)
	ctx, cancel := context.WithCancel(s.t.Context())
	c := &controller{Manager: m, done: make(chan struct{})}
	var err error
	go func() {
		err = m.Run(ctx)
		close(c.done)
	}()
	c.stop = func() error {
		cancel()
		<-c.done
		return err
	}
	return c
}

var workerNode = desired.Node{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}

func key(name string) desired.Key { return desired.Key{Namespace: "default", Name: name} }

// web is a Service with one TCP port.
func web(name string, port uint16) loadbalancer.Service {
	return loadbalancer.Service{
		LoadBalancer: desired.LoadBalancer{
			Key: key(name), UID: "uid-" + name,
			Frontends: []desired.Frontend{{Name: "http", Protocol: desired.TCP, Port: port, NodePort: 30000 + port%2000}},
		},
		Request: ipam.Request{Sharing: ipam.Sharing{Ports: []ipam.Port{{Protocol: "TCP", Number: port}}}},
	}
}

func (s *site) ensure(c *controller, service loadbalancer.Service) *loadbalancer.Ensured {
	s.t.Helper()
	ensured, err := c.Ensure(s.t.Context(), service)
	if err != nil {
		s.t.Fatalf("Ensure(%s): %v", service.LoadBalancer.Key, err)
	}
	return ensured
}

// network says which gateway VRRP makes the holder of each VIP.
func (s *site) holder(state *desired.State, vip desired.VIP) string {
	for _, instance := range state.Instances {
		if instance.RouterID != vip.RouterID {
			continue
		}
		for _, name := range instance.Gateways {
			if !s.gateway(name).off.Load() {
				return name
			}
		}
	}
	return ""
}

func (s *site) gateway(name string) *fakeGateway {
	i := slices.IndexFunc(s.gateways, func(g *fakeGateway) bool { return g.name == name })
	return s.gateways[i]
}

// fakeGateway answers as an agent does: it fences, validates, keeps the State, and holds VIPs a moment later.
type fakeGateway struct {
	site *site
	name string
	// transaction is held by the one transaction that runs. It is no mutex, for that would stop synctest's clock.
	transaction chan struct{}
	// session and probes are held by the one call that each of the controller's two sessions answers at a time.
	session, probes chan struct{}

	mu     *sync.Mutex // one for all gateways of a site: who holds a VIP depends on the others
	signed *desired.Signed
	state  *desired.State
	since  time.Time // when the VIPs of state will be held
	// applies are the fences of the States that were offered, digests their contents.
	applies []desired.Fence
	// refused counts the States that were not newer.
	refused int
	// took is how long an Apply lasts, keepalived how long until a confirmed VIP is held.
	took, keepalived time.Duration
	// dead gateways are off; cut ones serve but cannot be reached; hanging ones never answer, frozen ones no Apply.
	dead, cut, hanging, frozen bool
	// off is dead, for the other gateways to see.
	off atomic.Bool
	// judge may refuse or fail a State.
	judge func(*desired.State) (*wire.Result, error)
	// warnings are told with every answer.
	warnings []wire.Warning
	// drift is told by status until the next Apply.
	drift []string
	// links are told by hello.
	links []wire.Link
	// deaf gateways refuse to probe, blind ones find no network where they could; looks is how long a probe lasts.
	deaf, blind bool
	looks       time.Duration
	// broken counts the calls that were given up.
	broken int
}

func (g *fakeGateway) Name() string { return g.name }

func (g *fakeGateway) Hello(ctx context.Context) (*wire.Hello, error) {
	done, err := g.call(ctx, g.session)
	if err != nil {
		return nil, err
	}
	defer done()
	g.mu.Lock()
	defer g.mu.Unlock()
	return &wire.Hello{Gateway: g.name, Links: g.links}, nil
}

// Probe takes half a second, as an agent's does, on a session of its own.
func (g *fakeGateway) Probe(ctx context.Context, targets []wire.ProbeTarget) (*wire.Probed, error) {
	done, err := g.call(ctx, g.probes)
	if err != nil {
		return nil, err
	}
	defer done()
	g.mu.Lock()
	deaf, blind, looks := g.deaf, g.blind, g.looks
	g.mu.Unlock()
	if deaf {
		return nil, &wire.Refusal{Code: wire.CodeRole, Message: "no verb probe in this release"}
	}
	if blind {
		return cannotAsk(targets), nil
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(looks):
	}
	return g.site.network.answer(g.name, targets), nil
}

func (g *fakeGateway) State(ctx context.Context) (*desired.Signed, error) {
	done, err := g.call(ctx, g.session)
	if err != nil {
		return nil, err
	}
	defer done()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.signed, nil
}

func (g *fakeGateway) Status(ctx context.Context) (*wire.Status, error) {
	done, err := g.call(ctx, g.session)
	if err != nil {
		return nil, err
	}
	defer done()
	g.mu.Lock()
	defer g.mu.Unlock()
	return &wire.Status{Held: g.held(), InSync: len(g.drift) == 0, Drift: g.drift, Warnings: g.warnings}, nil
}

func (g *fakeGateway) Apply(ctx context.Context, signed desired.Signed) (*wire.Result, error) {
	done, err := g.call(ctx, g.session)
	if err != nil {
		return nil, err
	}
	defer done()
	g.mu.Lock()
	frozen := g.frozen
	g.mu.Unlock()
	if frozen {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// The transaction runs to its end whether or not the asker waits.
	g.transaction <- struct{}{}
	time.Sleep(g.took)
	g.mu.Lock()
	result, err := g.transact(signed)
	g.mu.Unlock()
	<-g.transaction
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("gateway %s refused apply: %w", g.name, err) // as gateway.Client does
	}
	return result, nil
}

func (g *fakeGateway) transact(signed desired.Signed) (*wire.Result, error) {
	state, err := desired.Decode(signed.State)
	if err != nil || !bytes.Equal(signed.Signature, []byte("signed "+signed.Signer)) {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: fmt.Sprint(err)}
	}
	g.applies = append(g.applies, state.Fence)
	if refusal := g.fence(state.Fence); refusal != nil {
		return nil, refusal
	}
	if err := state.Validate(); err != nil {
		g.site.t.Errorf("gateway %s got an invalid State: %v", g.name, err)
	}
	if g.judge != nil {
		if result, err := g.judge(state); result != nil || err != nil {
			if result != nil {
				result.Held = g.held()
			}
			return result, err
		}
	}
	digest, _ := state.Digest()
	outcome := wire.Runtime
	if g.state != nil {
		if was, _ := g.state.Digest(); was == digest {
			outcome = wire.Unchanged
		}
	}
	if outcome != wire.Unchanged {
		g.since = time.Now().Add(g.keepalived)
	}
	g.state, g.signed, g.drift = state, &signed, nil
	return &wire.Result{Outcome: outcome, Fence: state.Fence, Digest: digest, Held: g.held(), Warnings: g.warnings}, nil
}

// fence refuses as invariant 4 says.
func (g *fakeGateway) fence(f desired.Fence) *wire.Refusal {
	if g.state == nil {
		return nil
	}
	held := g.state.Fence
	refuse := func(code wire.Code) *wire.Refusal {
		g.refused++
		return &wire.Refusal{Code: code, Message: "holds " + held.String(), Fence: &held}
	}
	switch {
	case held.ClusterUID != "" && held.ClusterUID != f.ClusterUID:
		return refuse(wire.CodeCluster)
	case f.Epoch < held.Epoch, f.Epoch == held.Epoch && f.Instance != held.Instance:
		return refuse(wire.CodeEpoch)
	case f.Epoch == held.Epoch && f.Sequence < held.Sequence:
		return refuse(wire.CodeSequence)
	}
	return nil
}

func (g *fakeGateway) held() (held []netip.Addr) {
	if g.state == nil || time.Now().Before(g.since) {
		return nil
	}
	for _, vip := range g.state.VIPs {
		if g.site.holder(g.state, vip) == g.name {
			held = append(held, vip.Address)
		}
	}
	return held
}

// change edits the gateway.
func (g *fakeGateway) change(f func(*fakeGateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
	g.off.Store(g.dead)
}

// serves gives the addresses of a load balancer of the State that the gateway has.
func (g *fakeGateway) serves(name string) *desired.LoadBalancer {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == nil {
		return nil
	}
	for _, lb := range g.state.LoadBalancers {
		if lb.Key == key(name) {
			return &lb
		}
	}
	return nil
}

func (g *fakeGateway) snapshot() (state *desired.State, applies []desired.Fence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, slices.Clone(g.applies)
}

type fakeSigner struct{}

func (fakeSigner) Sign(state []byte) (desired.Signed, error) {
	return desired.Signed{State: state, Signature: []byte("signed key-1"), Signer: "key-1"}, nil
}

// fakeEpochs is the epoch object.
type fakeEpochs struct {
	mu     sync.Mutex
	epoch  uint64
	holder string
	err    error
}

func (e *fakeEpochs) Claim(_ context.Context, atLeast uint64, instance string) (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return 0, e.err
	}
	e.epoch, e.holder = max(e.epoch+1, atLeast), instance
	return e.epoch, nil
}

func (e *fakeEpochs) Held(_ context.Context, instance string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder == instance, e.err
}
