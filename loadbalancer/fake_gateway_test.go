package loadbalancer_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

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
	// mute is how many questions for the State are not answered.
	mute int
	// judge may refuse or fail a State.
	judge func(*desired.State) (*wire.Result, error)
	// warnings are told with every answer.
	warnings []wire.Warning
	// drift is told by status until the next Apply.
	drift []string
	// differences are told by status; claims, unless nil, are what it says it holds whatever is true.
	differences []wire.Difference
	claims      []netip.Addr
	// drain is told by status.
	drain *wire.DrainStatus
	// peers are told by status; nil: none.
	peers func(mine desired.Fence) []wire.PeerStatus
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
	muted := g.mute > 0
	g.mute = max(0, g.mute-1)
	g.mu.Unlock()
	if muted {
		<-ctx.Done()
		return nil, ctx.Err()
	}
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
	var peers []wire.PeerStatus
	if g.peers != nil {
		peers = g.peers(g.state.Fence)
	}
	return &wire.Status{Peers: peers, Drain: g.drain, Held: g.held(), InSync: len(g.drift) == 0, Drift: g.drift, Warnings: g.warnings, Differences: g.differences}, nil
}

func (g *fakeGateway) ApplyAfter(ctx context.Context, signed desired.Signed, read desired.Fence) (*wire.Result, error) {
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
	result, err := g.transact(signed, read)
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

func (g *fakeGateway) transact(signed desired.Signed, read desired.Fence) (*wire.Result, error) {
	state, err := desired.Decode(signed.State)
	if err != nil || !bytes.Equal(signed.Signature, []byte("signed "+signed.Signer)) {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: fmt.Sprint(err)}
	}
	g.applies = append(g.applies, state.Fence)
	if refusal := g.fence(state.Fence); refusal != nil {
		return nil, refusal
	}
	if g.state != nil && g.state.Fence.Instance != state.Fence.Instance && g.state.Fence.NewTo(read) {
		g.refused++
		return nil, &wire.Refusal{Code: wire.CodeUnread, Message: "holds " + g.state.Fence.String(), Fence: &g.state.Fence}
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
	if g.claims != nil {
		return g.claims
	}
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
