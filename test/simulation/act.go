package simulation

import (
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/simulation/machine"
)

// services is how many names Services can have: fewer than there are addresses, so that one is left for each, and few, so
// that names come back.
const services = 5

func serviceKey(i int) desired.Key {
	return desired.Key{Namespace: "default", Name: fmt.Sprintf("service-%d", i%services)}
}

// act does one operation.
func (w *world) act(o Operation) {
	w.note("OPERATION %s", o)
	w.mu.Lock()
	w.moved = time.Now()
	w.mu.Unlock()
	w.cluster.save()
	switch o.Kind {
	case Create:
		w.cluster.create(serviceKey(o.Which), w.specOf(o.How))
	case Change:
		w.cluster.change(serviceKey(o.Which), func(s *spec) { *s = w.changed(*s, o.How) })
	case Delete:
		w.cluster.delete(serviceKey(o.Which))
	case Retype:
		w.cluster.change(serviceKey(o.Which), func(s *spec) { s.balanced = !s.balanced })
	case Node:
		w.cluster.toggleNode(o.Which)
	case Sicken:
		w.lasts(o.For, w.cluster.sicken(o.Which, w.crowded() && o.How&1 == 1))
		w.disturb()
	case Crash, Second, Pause:
		w.actOnController(o)
	case APIDown:
		w.cluster.setDown(true)
		w.lasts(o.For, func() { w.cluster.setDown(false) })
	case APILate:
		w.cluster.setLate(time.Duration(o.How%15) * time.Second)
		w.lasts(o.For, func() { w.cluster.setLate(0) })
	case Restore:
		w.cluster.restore(1 + int(o.How%6))
	case Forget:
		w.cluster.epochForgotten()
	default:
		w.actOnGateway(w.gateways[o.Which%len(w.gateways)], o)
		w.disturb()
	}
}

func (w *world) actOnGateway(g *gateway, o Operation) {
	m := g.machine
	w.checks.tampered(g)
	switch o.Kind {
	case PowerOff:
		m.PowerOff()
		w.lasts(o.For, func() { w.group.Go(g.powerOn) })
	case Reboot:
		m.PowerOff()
		w.group.Go(g.powerOn)
	case KillAgent:
		m.KillAgent()
	case KillHA:
		m.KillHAProxy()
	case KillVRRP:
		m.KillKeepalived()
	case Flush:
		m.FlushFirewall()
	case Strike:
		how := machine.How(1 + o.How%6)
		m.Arm(machine.Strike{How: how, After: int(o.How >> 3 % 24)})
		w.lasts(20*time.Second, func() { m.Arm(machine.Strike{}) })
		w.group.Go(func() { w.bootAfter(g, 30*time.Second) })
	case Full:
		m.SetFull(true)
		w.lasts(o.For, func() { m.SetFull(false); w.disturb() })
	case Lag:
		m.SetLag(time.Duration(100+o.How%4000) * time.Millisecond)
		w.lasts(o.For, func() { m.SetLag(0); w.disturb() })
	case Forge:
		w.forge(g, o)
	case Lie:
		w.lieFor(o.For, g)
	case Drain:
		w.group.Go(func() { w.drain(g, o) })
	case CutSSH:
		w.cutFor(o.For, "controllers>"+g.name)
	case CutPeers:
		w.cutFor(o.For, "peers>"+g.name)
	case CutVRRP:
		w.cutFor(o.For, "vrrp>"+g.name)
	}
}

// bootAfter boots the machine when it loses power within a time.
func (w *world) bootAfter(g *gateway, within time.Duration) {
	for end := time.Now().Add(within); time.Now().Before(end); {
		if w.wait(w.ctx, time.Second) != nil {
			return
		}
		if !g.machine.On() {
			w.disturb()
			g.powerOn()
			return
		}
	}
}

func (w *world) actOnController(o Operation) {
	switch o.Kind {
	case Crash:
		for _, c := range w.leading() {
			c.cancel()
		}
	case Second:
		w.lead()
	case Pause:
		for _, c := range w.leading() {
			c.pause(time.Now().Add(o.For))
			w.lasts(o.For, func() { c.pause(time.Time{}) })
		}
	}
}

// supervise starts a controller when there is none, as a Deployment does, until ctx ends.
func (w *world) supervise() {
	w.mu.Lock()
	alive := w.leaders[:0:0]
	for _, c := range w.leaders {
		if c.alive() {
			alive = append(alive, c)
		}
	}
	w.leaders = alive
	w.mu.Unlock()
	if len(alive) == 0 {
		w.lead()
	}
}

// lead starts a controller that believes that it leads.
func (w *world) lead() {
	c := w.start()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaders = append(w.leaders, c)
}

func (w *world) leading() []*controller {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.leaders)
}

// forge offers States that a gateway must not take: of a key that it does not believe, or outside of what its owner allows.
func (w *world) forge(g *gateway, o Operation) {
	a, life, _ := g.present()
	signed, state := g.held()
	if a == nil || state == nil {
		return
	}
	state = state.Clone()
	state.Fence.Epoch += uint64(1 + o.How%3)
	role, key := wire.RoleController, "stranger"
	switch o.How >> 4 % 3 {
	case 1:
		role, key = wire.RolePeer, trusted
	case 2:
		key = trusted
		state.VRRP.AdvertIntervalMillis = 100
		state.Instances[0].RouterID = 200
		for i := range state.VIPs {
			state.VIPs[i].RouterID = 200
		}
	}
	text, err := state.Canonical()
	if err != nil {
		return // it cannot even be written
	}
	if signed, err = (signer{key}).Sign(text); err != nil {
		return
	}
	w.group.Go(func() {
		s, err := a.Enter(role)
		if err != nil {
			return
		}
		defer s.Close()
		reply := s.Ask(life, &wire.Request{Version: wire.Version, Verb: wire.VerbApply, Apply: &wire.Apply{Signed: signed}})
		if reply.Refusal == nil && reply.Result != nil && reply.Result.Fence == state.Fence {
			w.fail(13, "%s took a State that it must not take (%d)", g.name, o.How>>4%3)
		}
	})
}

// held is the State on the disk of a gateway.
func (g *gateway) held() (signed desired.Signed, state *desired.State) {
	return g.world.checks.read(g.machine.State())
}

// run lets a history happen, and then everything settle.
func (w *world) run(h History) {
	for _, g := range w.gateways {
		w.group.Go(g.live)
	}
	w.lead()
	w.group.Go(w.live)
	_ = w.wait(w.ctx, 2*time.Second)
	for _, o := range h.Operations {
		w.act(o)
		_ = w.wait(w.ctx, o.Then)
		if w.failed() {
			return
		}
	}
	w.settle(h)
}

// live is what goes on by itself: adverts, clients, somebody who starts controllers, and the eyes that look at all of it.
func (w *world) live() {
	for n := 1; w.wait(w.ctx, advert) == nil; n++ {
		w.checks.took(w.segment.Tick(time.Now()))
		w.checks.look()
		if n%5 == 0 {
			w.checks.clients()
		}
		if n%20 == 0 {
			w.supervise()
		}
	}
}
