package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// patience is how long a gateway that is current lets a peer be ahead before it helps itself: a controller that visits
	// the gateways one by one comes here next.
	patience = 5 * time.Second
	// patienceVisited is patience while a controller has a session here. It stops a rollout at the first gateway that fails,
	// to spare the others (DESIGN.md invariant 11); and if it hangs with its session open, nobody waits for it longer.
	patienceVisited = time.Minute
	// answerGood is how old an answer may be that confirms our State. Everybody is asked at once, and while one is silent, up
	// to helloLimit, another one may get a newer State.
	answerGood = time.Second
)

// peers are the other gateways as the loop in followPeers knows them.
type peers struct {
	dial func(PeerAddress) (Peer, error)
	log  *slog.Logger

	mu  sync.Mutex // held while all is changed; the loop alone changes it
	all []*peer
	// orphaned is Agent.orphaned.
	orphaned string
}

// followPeers asks the other gateways which State they hold, takes a newer one, and confirms ours when nobody has one.
func (a *Agent) followPeers(ctx context.Context) {
	if a.peers.dial == nil {
		a.dropHop(ctx)
		return
	}
	defer a.peers.meet(nil)
	interval := time.Duration(a.config.Peers.Interval)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		a.peers.meet(a.peerAddresses())
		a.peers.ask(ctx, interval)
		if ctx.Err() != nil {
			return
		}
		a.arrangeHop(ctx)
		if a.takeNewest(ctx, interval) {
			continue // somebody may be newer still; a State is confirmed by a round in which nobody is
		}
		a.judgeFreshness()
		select {
		case <-ticker.C:
		case <-a.hop.hurry:
		case <-ctx.Done():
			return
		}
	}
}

// peerAddresses are the other gateways: those of our State, or of agent.yaml as long as there was none.
func (a *Agent) peerAddresses() []PeerAddress {
	var all []PeerAddress
	if held := a.held(); held != nil {
		for _, g := range held.state.Gateways {
			all = append(all, PeerAddress{Name: g.Name, SSHAddress: g.SSHAddress})
		}
	} else {
		for _, g := range a.config.Peers.Gateways {
			all = append(all, PeerAddress{Name: g.Name, SSHAddress: withPort(g.SSHAddress)})
		}
	}
	var others []PeerAddress
	for _, p := range all {
		if p.Name != a.config.Gateway {
			others = append(others, p)
		}
	}
	return others
}

// meet makes these the peers: it forgets who is gone or has moved.
func (p *peers) meet(addresses []PeerAddress) {
	known := map[PeerAddress]*peer{}
	for _, old := range p.all {
		known[old.address] = old
	}
	next := make([]*peer, 0, len(addresses))
	for _, address := range addresses {
		one := known[address]
		if one == nil {
			one = &peer{address: address}
		}
		delete(known, address)
		next = append(next, one)
	}
	p.mu.Lock()
	p.all = next
	p.mu.Unlock()
	for _, gone := range known {
		gone.close()
	}
}

// ask asks all at once whose turn it is.
func (p *peers) ask(ctx context.Context, interval time.Duration) {
	now := time.Now()
	var asking sync.WaitGroup
	for _, one := range p.all {
		if now.Before(one.askAt) {
			continue
		}
		asking.Go(func() {
			answer := *one // status reads one meanwhile
			answer.ask(ctx, p.dial, interval)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.tell(ctx, one, &answer)
			*one = answer
		})
	}
	asking.Wait()
}

// tell logs that a peer began or ceased to answer, once.
func (p *peers) tell(ctx context.Context, before, after *peer) {
	switch {
	case ctx.Err() != nil:
	case after.answered && !before.answered:
		p.log.Info("peer answers", "peer", after.address.Name)
	case !after.answered && (before.answered || before.failure == nil):
		p.log.Warn("peer does not answer", "peer", after.address.Name, "error", after.failure)
	}
}

// takeNewest takes the newest State of those that peers hold and we do not, and says whether ours is newer now.
func (a *Agent) takeNewest(ctx context.Context, interval time.Duration) bool {
	from := a.peers.newest(a.heldFence(), a.patience())
	if from == nil {
		return false
	}
	log := a.log.With("peer", from.address.Name, "fence", from.fence.String())
	signed, err := from.handOver(ctx)
	if err != nil {
		log.Warn("asking a peer for its newer State", "error", err)
		a.peers.mu.Lock()
		defer a.peers.mu.Unlock()
		from.failed(err, interval)
		return false
	}
	if err := a.take(ctx, signed); err != nil {
		log.Warn("a peer's newer State cannot be taken", "error", err)
		a.peers.mu.Lock()
		defer a.peers.mu.Unlock()
		from.fruitless(err)
		return false
	}
	log.Info("took a newer State from a peer")
	return true
}

// patience is how long a peer may be ahead before its State is taken. A gateway that is not current holds nothing that it
// could upset.
func (a *Agent) patience() time.Duration {
	switch {
	case !a.isCurrent():
		return 0
	case len(a.places[wire.RoleController]) > 0:
		return patienceVisited
	}
	return patience
}

// newest is the peer with the newest State that is due to be taken; nil when there is none.
func (p *peers) newest(held *desired.Fence, patience time.Duration) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var newest *peer
	for _, one := range p.all {
		if !one.answered {
			continue
		}
		if one.compare(fencingPeer(p.orphaned, held, one.fence)) != ahead || now.Before(one.takeAt) || !one.returned && now.Sub(one.ahead) < patience {
			continue
		}
		if newest == nil || one.fence.Compare(*newest.fence) > 0 {
			newest = one
		}
	}
	return newest
}

// handOver asks for its State.
func (p *peer) handOver(ctx context.Context) (desired.Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, handOverLimit)
	defer cancel()
	signed, err := p.client.State(ctx)
	if err == nil && signed == nil {
		err = errors.New("it told that it holds a State and then that it holds none")
	}
	if err != nil {
		return desired.Signed{}, err
	}
	return *signed, nil
}

// take is apply for a State that a peer handed over: the same transaction with the same checks, and one more. It confirms
// nothing: another peer's may be newer.
func (a *Agent) take(ctx context.Context, signed desired.Signed) error {
	result, refusal := a.transact(ctx, signed, func(ctx context.Context, t *transaction) (*wire.Result, *wire.Refusal) {
		if refusal := checkHandedOver(a.fencing(t.held, t.offered.state.Fence), t.offered); refusal != nil {
			return nil, refusal
		}
		result, refusal := t.run(ctx)
		if refusal == nil {
			a.account(result)
		}
		return result, refusal
	})
	if refusal != nil {
		return refusal
	}
	logResult(a.log, "take", result)
	if len(result.Faults) > 0 {
		return fmt.Errorf("%s: %s", result.Outcome, faultList(result.Faults))
	}
	return nil
}

func (a *Agent) heldFence() *desired.Fence {
	if held := a.held(); held != nil {
		fence := held.state.Fence
		return &fence
	}
	return nil
}

// judgeFreshness confirms the State that is held when the peers say that it is the newest.
func (a *Agent) judgeFreshness() {
	held := a.heldFence()
	if held == nil || a.isCurrent() {
		return
	}
	if agree := a.peers.agreeing(held); len(agree) > 0 {
		a.confirm(fmt.Sprintf("no peer that answers holds a newer State: %s", strings.Join(agree, ", ")))
	}
}

// agreeing are the peers that were reached and hold nothing newer, none as soon as one holds something newer. Who holds
// another cluster's State, or one that is not believed, says nothing either way; whom nobody reaches cannot be asked.
func (p *peers) agreeing(held *desired.Fence) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var agree []string
	for _, one := range p.all {
		if !one.answered || time.Since(one.heard) > answerGood {
			continue
		}
		switch one.compare(fencingPeer(p.orphaned, held, one.fence)) {
		case ahead:
			return nil
		case noNewer:
			agree = append(agree, one.address.Name)
		}
	}
	return agree
}
