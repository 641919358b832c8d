package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/simulation/machine"
)

// gateway is one machine and the agents that live on it, one after the other.
type gateway struct {
	world   *world
	name    string
	machine *machine.Machine
	power   chan struct{} // has a signal when it went on
	off     atomic.Bool   // it stays off

	mu    sync.Mutex
	agent *agent.Agent // nil: none answers
	life  context.Context
	died  <-chan struct{}
}

const limits = `
vipPrefixes: [192.0.2.0/24]
serverPrefixes: [10.0.0.0/8]
interfaces: [eth0]
routerIDs: ["51-70"]
ports: ["1-9000"]
`

// restartTime is what systemd waits before it starts an agent again; bootTime is a boot.
const (
	restartTime = time.Second
	bootTime    = 4 * time.Second
)

// live starts an agent whenever the machine has power and none, until the world ends.
func (g *gateway) live() {
	for g.world.ctx.Err() == nil {
		if !g.machine.On() {
			select {
			case <-g.power:
			case <-g.world.ctx.Done():
			}
			continue
		}
		g.liveOnce()
		_ = g.world.wait(g.world.ctx, restartTime)
	}
}

// liveOnce is the life of one agent. Its ghost may go on for a while.
func (g *gateway) liveOnce() {
	p := g.machine.Begin()
	config, err := agent.DecodeConfig(fmt.Appendf(nil, "gateway: %s\nslotsPerKind: %d\n", g.name, slotsPerKind(g.world.seed)))
	if err != nil {
		panic(err)
	}
	a, err := agent.New(agent.Parts{
		Config: config, Version: "simulated", Host: p, HAProxy: p.HAProxy(), TryBind: func(netip.AddrPort) error { return nil },
		Verifier: verifier{}, DialPeer: g.dialPeer, Log: g.world.log.With("at", g.name),
		FirewallEvents: func(context.Context) (<-chan struct{}, error) { return g.machine.Firewall(), nil },
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(g.world.ctx)
	ended := make(chan struct{})
	g.world.group.Go(func() {
		defer close(ended)
		err := a.RunInside(ctx, func() {
			if p.Dead() {
				return
			}
			g.machine.StartKeepalived()
			g.mu.Lock()
			defer g.mu.Unlock()
			g.agent, g.life, g.died = a, ctx, p.Died()
		})
		if err != nil && !errors.Is(err, machine.ErrDead) && g.world.ctx.Err() == nil {
			g.world.note("%s: agent ended: %v", g.name, err)
		}
	})
	select {
	case <-p.Died():
	case <-ended:
	case <-g.world.ctx.Done():
	}
	g.mu.Lock()
	g.agent = nil
	g.mu.Unlock()
	cancel()
}

// present is the agent that answers now; nil when none does.
func (g *gateway) present() (a *agent.Agent, life context.Context, died <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.agent, g.life, g.died
}

// powerOn boots the machine, some seconds from now.
func (g *gateway) powerOn() {
	if g.world.wait(g.world.ctx, bootTime) == nil && !g.off.Load() {
		g.powerOnNow()
	}
}

func (g *gateway) powerOnNow() {
	if g.machine.On() {
		return
	}
	g.machine.PowerOn()
	g.world.checks.booted(g)
	g.world.disturb()
	select {
	case g.power <- struct{}{}:
	default: // it knows
	}
}

// line is one end's way to the agent of a gateway, with the session that stays open.
type line struct {
	from string
	role wire.Role
	to   *gateway
	// awake waits while its owner is paused.
	awake func(context.Context) error

	mu      sync.Mutex
	session *agent.Session
	of      *agent.Agent
}

// dialTime is how long somebody waits for a machine that says nothing.
const dialTime = 5 * time.Second

// ask sends a request and waits for its answer. What was begun on the gateway goes on when the answer is lost.
func (l *line) ask(ctx context.Context, verb wire.Verb, request wire.Request) (*wire.Reply, error) {
	w := l.to.world
	request.Version, request.Verb = wire.Version, verb
	if l.awake != nil {
		if err := l.awake(ctx); err != nil {
			return nil, err
		}
	}
	if err := w.wait(ctx, w.latency(l.from+l.to.name)); err != nil {
		return nil, l.failed(err)
	}
	a, life, died := l.to.present()
	switch {
	case w.cut(l.from, l.to.name) || !l.to.machine.On():
		return nil, l.silence(ctx)
	case a == nil:
		return nil, l.failed(errors.New("connection refused: the agent does not run"))
	}
	session, err := l.enter(a)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", l.to.name, err)
	}
	answered := make(chan *wire.Reply, 1)
	w.group.Go(func() { answered <- session.Ask(life, &request) })
	select {
	case reply := <-answered:
		select {
		case <-died:
			return nil, l.failed(errors.New("connection reset"))
		default:
		}
		w.heard(l, verb, reply)
		if w.cut(l.from, l.to.name) {
			return nil, l.silence(ctx)
		}
		if reply.Refusal != nil {
			return nil, fmt.Errorf("gateway %s refused %s: %w", l.to.name, verb, reply.Refusal)
		}
		return reply, nil
	case <-died:
		return nil, l.failed(errors.New("connection reset"))
	case <-ctx.Done():
		return nil, l.failed(context.Cause(ctx))
	}
}

// silence is what one hears of a machine that is gone.
func (l *line) silence(ctx context.Context) error {
	if err := l.to.world.wait(ctx, dialTime); err != nil {
		return l.failed(err)
	}
	return l.failed(errors.New("no answer"))
}

// failed drops the session.
func (l *line) failed(err error) error {
	l.Close()
	if l.role == wire.RolePeer {
		l.to.world.checks.unheard(l)
	}
	return fmt.Errorf("gateway %s is unreachable: %w", l.to.name, err)
}

func (l *line) enter(a *agent.Agent) (*agent.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil && l.of == a {
		return l.session, nil
	}
	session, err := a.Enter(l.role)
	if err != nil {
		return nil, err
	}
	if l.session != nil {
		l.session.Close()
	}
	l.session, l.of = session, a
	return session, nil
}

// Close ends the session.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		l.session.Close()
		l.session = nil
	}
	return nil
}

// peer is agent.Peer.
type peer struct{ *line }

// Hello implements agent.Peer.
func (p peer) Hello(ctx context.Context) (*wire.Hello, error) {
	reply, err := p.ask(ctx, wire.VerbHello, wire.Request{})
	if err != nil {
		return nil, err
	}
	if p.to.lies() {
		p.to.world.checks.unheard(p.line) // what it has nobody can know
	}
	return p.to.toldHello(reply.Hello), nil
}

// State implements agent.Peer.
func (p peer) State(ctx context.Context) (*desired.Signed, error) {
	reply, err := p.ask(ctx, wire.VerbState, wire.Request{})
	if err != nil {
		return nil, err
	}
	return p.to.toldState(reply.State), nil
}

// dialPeer is agent.Parts.DialPeer.
func (g *gateway) dialPeer(to agent.PeerAddress) (agent.Peer, error) {
	for _, other := range g.world.gateways {
		if other.name == to.Name {
			return peer{&line{from: g.name, role: wire.RolePeer, to: other}}, nil
		}
	}
	return nil, fmt.Errorf("there is no gateway %s", to.Name)
}

// signer and verifier stand for the controller's SSH key: this package is about everything but cryptography.
type signer struct{ name string }

// Sign implements loadbalancer.Signer.
func (s signer) Sign(state []byte) (desired.Signed, error) {
	return desired.Signed{State: state, Signature: []byte("signed by " + s.name), Signer: s.name}, nil
}

const trusted = "controller"

type verifier struct{}

// Verify implements agent.Verifier.
func (verifier) Verify(signed desired.Signed) error {
	if signed.Signer != trusted || string(signed.Signature) != "signed by "+trusted {
		return fmt.Errorf("the key %s is not in the signers file", signed.Signer)
	}
	return nil
}

// quiet is a log that nobody reads.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
