package simulation

import (
	"errors"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// lieFor lets a gateway tell its peers, for a while, of a State that no controller made, and hand it to them.
func (w *world) lieFor(d time.Duration, g *gateway) { w.countFor(d, w.lies, g.name) }

func (g *gateway) lies() bool {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return g.world.lies[g.name] > 0
}

// lie is a fence above a true one: of the controller that leads, or of one that nobody knows.
func (w *world) lie(f desired.Fence) *desired.Fence {
	if w.seed>>4&1 == 1 {
		f.Sequence += 1000
	} else {
		f.Epoch, f.Instance = f.Epoch+1, "liar"
	}
	return &f
}

// toldHello is what a peer hears.
func (g *gateway) toldHello(hello *wire.Hello) *wire.Hello {
	if hello == nil || hello.Fence == nil || !g.lies() {
		return hello
	}
	told, fence := *hello, *hello.Fence
	told.Fence = g.world.lie(fence)
	return &told
}

// toldState is what a peer is handed.
func (g *gateway) toldState(signed *desired.Signed) *desired.Signed {
	if signed == nil || !g.lies() {
		return signed
	}
	state, err := desired.Decode(signed.State)
	if err != nil {
		return signed
	}
	state.Fence = *g.world.lie(state.Fence)
	text, err := state.Canonical()
	if err != nil {
		return signed
	}
	forged := desired.Signed{State: text, Signature: signed.Signature, Signer: "stranger"}
	return &forged
}

// drain is what an operator does before he works on a gateway, and after it. He forces it or not, and does not give up undraining.
func (w *world) drain(g *gateway, o Operation) {
	over := make(chan struct{})
	w.lasts(o.For, func() { close(over) })
	grace := time.Duration(o.How>>1%20) * time.Second
	if w.operate(g, wire.Request{Verb: wire.VerbDrain, Drain: &wire.Drain{Grace: grace, Force: o.How&1 == 1}}) != nil {
		return
	}
	w.disturb()
	select {
	case <-over:
	case <-w.ctx.Done():
		return
	}
	for w.operate(g, wire.Request{Verb: wire.VerbUndrain}) != nil && w.wait(w.ctx, time.Second) == nil {
	}
	w.disturb()
}

// operate asks a gateway's agent as its operator, root on it.
func (w *world) operate(g *gateway, request wire.Request) error {
	a, life, _ := g.present()
	if a == nil {
		return errors.New("no agent runs")
	}
	s, err := a.Enter(wire.RoleOperator)
	if err != nil {
		return err
	}
	defer s.Close()
	request.Version = wire.Version
	reply := s.Ask(life, &request)
	w.note("%s answers %s: %+v %v", g.name, request.Verb, reply.Drained, reply.Refusal)
	if reply.Refusal != nil {
		return reply.Refusal
	}
	if d := request.Drain; d != nil && !d.Force && reply.Drained.Changed {
		w.checks.handedOver(g)
	}
	return nil
}
