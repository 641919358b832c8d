package agent

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// hopLinger is how long a hop stays after the peer ceased to ask for it, or to answer: VIPs that return to it are on
	// their way, and its agent may just be starting anew.
	hopLinger = 5 * time.Second
	// hopAgain is the time between two tries of what stands already: others flush rulesets and rules.
	hopAgain = time.Minute
	// mostHopRules bounds how many rules of agents before this one are looked for.
	mostHopRules = 8
	// hopAsk is how often a drain asks whether its peers have followed.
	hopAsk = 100 * time.Millisecond
	// hopLimit bounds the programs that tell the kernel: the loop that asks the peers waits for them.
	hopLimit = 10 * time.Second
	// hopGrace is how long connections may live on that a drain of unknown grace has left to others.
	hopGrace = 30 * time.Second
)

// hop is this gateway's part in hand-overs: what it tells its peers, and what it has told the kernel.
type hop struct {
	// hurry asks the loop that follows the peers not to wait for its turn.
	hurry chan struct{}
	// arranging is held while the kernel is told. It guards device, for which the kernel lets in what peers hand on, and shut: it is
	// known to let in nothing.
	arranging sync.Mutex
	device    string
	shut      bool

	mu sync.Mutex
	// announced says that a drain is about to be, which no mark tells yet.
	announced bool
	// returning is until when peers hand on what they had of VIPs that have returned here.
	returning time.Time
	addresses []netip.Addr
	// script is what the kernel was told last, at what time; nil: not by this process.
	script []byte
	told   time.Time
	// ready names the peers whose VIPs we are ready for, sorted.
	ready []string
	// wanted is when a peer last asked for it, by name.
	wanted map[string]time.Time
	// had names the peer that was the last to tell that it holds a VIP.
	had map[netip.Addr]string
}

// tell says what peers have to know.
func (h *hop) tell(m *mark) *wire.Hop {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	returning := now.Before(h.returning)
	told := &wire.Hop{Addresses: slices.Clone(h.addresses), For: slices.Clone(h.ready)}
	told.Leaving = !returning && (h.announced || m != nil && now.Before(m.Until))
	told.Moving = returning || told.Leaving || m != nil
	return told
}

func (h *hop) announce(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.announced = yes; yes {
		h.returning = time.Time{}
	}
}

// returns says whether VIPs return here, and who had which.
func (h *hop) returns() (yes bool, had map[netip.Addr]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.returning), maps.Clone(h.had)
}

// arrangeHop tells the kernel what the peers, and our own drain, ask for now. What cannot be done is logged and no fault: the
// connections that it would save are reset, as if one gateway had died.
func (a *Agent) arrangeHop(ctx context.Context) {
	a.hop.arranging.Lock()
	defer a.hop.arranging.Unlock()
	held := a.held()
	if held == nil {
		return
	}
	self := a.hop.tell(a.drainMark())
	want, ready, moving := a.wantHop(held.state, self)
	if !moving {
		want, ready = nftables.Hop{}, nil
	}
	script, err := nftables.RenderHop(want)
	if err != nil {
		a.log.Warn("rendering the second hop", "error", err)
		return
	}
	if a.hop.stands(script, moving) && slices.Equal(a.hop.readyFor(), ready) {
		return
	}
	loading, cancel := context.WithTimeout(ctx, hopLimit)
	defer cancel()
	if err := a.loadHop(loading, script, held.state, moving); err != nil {
		if ctx.Err() != nil {
			return
		}
		a.log.Warn("preparing the second hop: connections that are established when addresses move will be reset", "error", err)
		script, ready = nil, nil
	}
	a.hop.stand(script, ready)
}

// stands says whether the kernel was told this, and needs not be told again.
func (h *hop) stands(script []byte, moving bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.script != nil && bytes.Equal(h.script, script) && len(h.addresses) > 0 && (!moving || time.Since(h.told) < hopAgain)
}

func (h *hop) stand(script []byte, ready []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script, h.ready, h.told = script, ready, time.Now()
}

func (h *hop) readyFor() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

// wantHop decides which VIPs are taken in though they are not here, and whose connections are handed on: those of the gateway
// that had the VIP before. Of those that it leaves that is the first in the order of its instance; of those that had ours while we
// were drained, who told so, else again the first. moving is false when no VIP moves anywhere.
func (a *Agent) wantHop(s *desired.State, self *wire.Hop) (want nftables.Hop, ready []string, moving bool) {
	leaving, others, moving := a.hop.peersOf(a.peers)
	moving = moving || self.Moving
	returning, had := a.hop.returns()
	here, _ := s.Gateway(a.config.Gateway) // checkMeaning has found it there
	orders := make(map[int][]string, len(s.Instances))
	for _, i := range s.Instances {
		orders[i.RouterID] = i.Gateways
	}
	want.Before = map[netip.Addr]netip.Addr{}
	for _, vip := range s.VIPs {
		if vip.Interface != "" && vip.Interface != here.Interface {
			continue // we know no address of the peer there
		}
		want.VIPs = append(want.VIPs, vip.Address)
		from := firstOf(orders[vip.RouterID], leaving, vip.Address)
		if !from.IsValid() && returning {
			from = firstOf(slices.Concat([]string{had[vip.Address]}, orders[vip.RouterID]), others, vip.Address)
		}
		if from.IsValid() {
			want.Before[vip.Address] = from
		}
	}
	for name := range leaving {
		ready = append(ready, name)
	}
	slices.Sort(ready)
	return want, ready, moving
}

// firstOf gives the address, of the VIP's family, of the first gateway in order that has one.
func firstOf(order []string, gateways map[string][]netip.Addr, vip netip.Addr) netip.Addr {
	for _, name := range order {
		for _, address := range gateways[name] {
			if address.Is4() == vip.Is4() {
				return address
			}
		}
	}
	return netip.Addr{}
}

// peersOf gives the addresses of the peers that VIPs leave, and of those that may have had ours. moving says that a peer's VIPs
// move, or are with others.
func (h *hop) peersOf(p *peers) (leaving, others map[string][]netip.Addr, moving bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	leaving, others = map[string][]netip.Addr{}, map[string][]netip.Addr{}
	if h.wanted == nil {
		h.wanted, h.had = map[string]time.Time{}, map[netip.Addr]string{}
	}
	for _, one := range p.all {
		name := one.address.Name
		if one.hop == nil || len(one.hop.Addresses) == 0 || now.Sub(one.heard) > hopLinger {
			delete(h.wanted, name)
			continue
		}
		for _, vip := range one.held {
			h.had[vip] = name
		}
		moving = moving || one.hop.Moving
		if one.hop.Leaving {
			h.wanted[name] = one.heard
		}
		switch asked, ok := h.wanted[name]; {
		case ok && now.Sub(asked) <= hopLinger:
			leaving[name] = one.hop.Addresses
			moving = true
		case one.heir != nil && one.heir.Fit:
			others[name] = one.hop.Addresses
		}
	}
	return leaving, others, moving
}

// loadHop tells the kernel, and learns where peers may hand packets on to us.
func (a *Agent) loadHop(ctx context.Context, script []byte, s *desired.State, moving bool) error {
	output, err := a.host.Run(ctx, keepalived.AddressArgv(), nil)
	if err != nil {
		return err
	}
	addresses, device, err := keepalived.Own(output.Stdout, s, a.keepalivedLocal())
	if err != nil {
		return err
	}
	a.hop.mu.Lock()
	a.hop.addresses = addresses
	a.hop.mu.Unlock()
	if moving {
		a.letHopIn(ctx, device)
	}
	if _, err = a.host.Run(ctx, nftables.LoadArgv(), script); err == nil && !moving {
		a.shutHopOut(ctx)
	}
	return err
}

// letHopIn lets marked packets in whose destination is not here.
func (a *Agent) letHopIn(ctx context.Context, device string) {
	if a.hop.device != "" && a.hop.device != device {
		a.shutHopOut(ctx)
	}
	a.hop.device, a.hop.shut = device, false
	for _, argv := range nftables.HopRouteArgvs(device) {
		_, err := a.host.Run(ctx, argv, nil)
		if failed := (*CommandError)(nil); errors.As(err, &failed) && nftables.HopRouteThere(failed.Output.Stderr) {
			continue
		}
		if err != nil {
			a.log.Warn("letting in what peers hand on", "error", err) // one family may be absent
		}
	}
}

// shutHopOut undoes letHopIn, also of an agent before this one: the mark's bit may mean something else to the site's own rules.
func (a *Agent) shutHopOut(ctx context.Context) {
	if a.hop.shut {
		return
	}
	for _, argv := range nftables.HopRouteRemovalArgvs() {
		for range mostHopRules {
			if _, err := a.host.Run(ctx, argv, nil); err != nil {
				break // none is left, or one family is absent
			}
		}
	}
	a.hop.shut = ctx.Err() == nil
}

// dropHop removes what is left of the second hop on a gateway that has ceased to ask its peers.
func (a *Agent) dropHop(ctx context.Context) {
	a.hop.arranging.Lock()
	defer a.hop.arranging.Unlock()
	script, err := nftables.RenderHop(nftables.Hop{})
	if err == nil {
		_, err = a.host.Run(ctx, nftables.LoadArgv(), script)
	}
	if err != nil {
		a.log.Warn("removing the tables of the second hop", "error", err)
		return
	}
	a.shutHopOut(ctx)
}

// awaitHop announces a drain and waits until every peer that can take over is ready to hand our connections on to us. A peer
// asks us every so often; one that does not follow in time costs connections, not the drain.
func (a *Agent) awaitHop(ctx context.Context) {
	if a.peers.dial == nil {
		return
	}
	a.hop.announce(true)
	a.arrangeHop(ctx)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Duration(a.config.Peers.Interval)+time.Second)
	defer cancel()
	tick := time.NewTicker(hopAsk)
	defer tick.Stop()
	for !a.peers.follow(a.config.Gateway) {
		select {
		case a.hop.hurry <- struct{}{}:
		default: // the loop will look anyway
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.log.Warn("not every peer that can take over is ready to hand connections on; some will be reset")
			return
		}
	}
}

// follow says whether all peers that can take over, and that know of hand-overs, are ready for this gateway's.
func (p *peers) follow(gateway string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		if one.answered && one.heir != nil && one.heir.Fit && one.hop != nil && !slices.Contains(one.hop.For, gateway) {
			return false
		}
	}
	return true
}

// returnHop prepares that VIPs come back from those who have them, which takes its time when there is a delay: what is established
// there lives on as long as what was established here was given.
func (a *Agent) returnHop(ctx context.Context, m *mark) {
	grace := m.Until.Sub(m.Since)
	if grace <= 0 {
		grace = hopGrace
	}
	grace = min(grace, wire.MaxGrace)
	if held := a.held(); held != nil {
		grace += time.Duration(held.state.VRRP.PreemptDelaySeconds) * time.Second
	}
	a.hop.mu.Lock()
	a.hop.returning = time.Now().Add(grace)
	a.hop.mu.Unlock()
	a.arrangeHop(ctx)
}
