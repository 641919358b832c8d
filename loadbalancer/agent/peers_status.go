package agent

import (
	"errors"
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// status tells what each peer answered last. An epoch that is absurd is not told on: a fence is not signed, and a controller would claim
// the epoch above it.
func (p *peers) status(held *desired.Fence) []wire.PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []wire.PeerStatus
	for _, one := range p.all {
		s := wire.PeerStatus{Gateway: one.address.Name, Answers: one.answered, Heard: one.heard, Fence: one.fence, Held: one.held}
		absurd := one.fence != nil && jumps(held, *one.fence)
		if absurd {
			s.Fence = nil
		}
		switch {
		case one.failure != nil:
			s.Problem = one.failure.Error()
		case one.untaken != nil:
			s.Problem = fmt.Sprintf("its newer State (%s) cannot be taken: %v", one.fence, one.untaken)
		case absurd:
			s.Problem = fmt.Sprintf("it tells of a State (%s) whose epoch no cluster can have reached; look at its agent", one.fence)
		}
		all = append(all, s)
	}
	return all
}

// peerWarnings tell what keeps this gateway from helping itself. A peer that is merely down is none of them: whoever reads
// this asks that gateway too.
func (a *Agent) peerWarnings() []wire.Warning {
	var warnings []wire.Warning
	if held := a.held(); held != nil && !a.isCurrent() && len(a.peerAddresses()) > 0 {
		warnings = append(warnings, wire.Warning{Reason: "NotCurrent", Message: fmt.Sprintf(
			"since it booted nobody has confirmed that its State (%s) is the newest, so this gateway takes no VIP from one that is current; "+
				"it is confirmed when the controller or a peer is reached", held.state.Fence)})
	}
	a.peers.mu.Lock()
	defer a.peers.mu.Unlock()
	var unarmed *unarmedError
	for _, one := range a.peers.all {
		switch {
		case errors.As(one.failure, &unarmed):
			// The same for all of them: told once, below.
		case one.untaken != nil:
			warnings = append(warnings, wire.Warning{Reason: "NewerStateNotTaken", Message: fmt.Sprintf(
				"peer %s holds a newer State, which cannot be taken: %v", one.address.Name, one.untaken)})
		}
	}
	if unarmed != nil {
		warnings = append(warnings, wire.Warning{Reason: "NoSelfConfiguration", Message: fmt.Sprintf(
			"this gateway cannot ask the others for a newer State, so after a boot it waits for a controller: %v; "+
				"see \"How the gateways ask each other\" in manifests/gateway/README.md", unarmed)})
	}
	return warnings
}
