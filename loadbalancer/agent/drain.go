package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// mark says that this gateway is drained. It is a file beside the State, so that a reboot and a new agent know it.
type mark struct {
	Since  time.Time `json:"since"`
	By     wire.Role `json:"by"`
	Reason string    `json:"reason"`
	// Until is when the connections that are left are ended.
	Until time.Time `json:"until"`
}

// settleTime is what keepalived may take to hand over, beside the adverts that its heirs wait for.
const settleTime = 3 * time.Second

// handOverTime bounds the wait for VIPs to leave. An heir takes over after three adverts of a lower priority.
func handOverTime(s *desired.State) time.Duration {
	return min(4*time.Duration(s.VRRP.AdvertIntervalMillis)*time.Millisecond+settleTime, transactionLimit/2)
}

// readMark learns from the file whether this gateway is drained. One that cannot be read counts: somebody was promised that
// nothing runs through this gateway, and as long as another one is there nobody misses it.
func (a *Agent) readMark() {
	text, err := a.host.ReadFile(a.config.Paths.drainFile())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	m := &mark{}
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err != nil {
		a.log.Error("reading the mark of a drained gateway; it counts as drained until `gatewayctl undrain`", "error", err)
		m = &mark{Reason: "the mark cannot be read: " + a.config.Paths.drainFile()}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drained = m
}

func (a *Agent) drainMark() *mark {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.drained
}

// setMark makes m what stands: first on the disk, then for keepalived, then in memory, so that after any failure the same
// request can be repeated and finds everything still to do.
func (a *Agent) setMark(m *mark) error {
	path := a.config.Paths.drainFile()
	if m == nil {
		if err := a.host.Remove(path); err != nil {
			return fmt.Errorf("taking the mark away: %w", err)
		}
	} else {
		text, err := json.Marshal(m)
		if err == nil {
			err = a.host.WriteFile(path, text, 0o640)
		}
		if err != nil {
			return fmt.Errorf("keeping the mark: %w", err)
		}
	}
	a.telling.Lock()
	defer a.telling.Unlock()
	if err := a.writeTrack(a.config.Paths.readyFile(), readiness(a.isCurrent(), m != nil)); err != nil {
		return err
	}
	a.mu.Lock()
	a.drained = m
	a.mu.Unlock()
	select {
	case a.drains <- struct{}{}:
	default: // it is to be looked at already
	}
	return nil
}

// drain hands the VIPs to the others and returns when they are gone. Unless it is forced, nothing is as if it had not been
// asked when nobody takes them. It goes on when its session ends.
func (a *Agent) drain(ctx context.Context, role wire.Role, request *wire.Drain) (*wire.Drained, *wire.Refusal) {
	if request == nil {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: "drain carries no request"}
	}
	if faults := request.Faults(); len(faults) > 0 {
		return nil, &wire.Refusal{Code: wire.CodeInvalid, Message: "this cannot be asked for", Faults: faults}
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	a.draining <- struct{}{}
	defer func() { <-a.draining }()

	before := a.drainMark()
	if before == nil {
		if refusal := a.checkHeirs(a.held(), request.Force); refusal != nil {
			return nil, refusal
		}
		defer a.hop.announce(false) // the mark tells from then on
		a.awaitHop(ctx)
		now := time.Now()
		m := &mark{Since: now.UTC(), By: role, Reason: request.Reason, Until: now.Add(request.Grace).UTC()}
		if err := a.setMark(m); err != nil {
			return nil, notDone(errors.Join(err, a.setMark(nil)), "nothing is drained; mend it and try again")
		}
		a.log.Info("draining", "by", role, "reason", request.Reason, "grace", request.Grace, "force", request.Force)
	}
	left, err := a.awaitGone(ctx)
	if err == nil && len(left) > 0 && a.hasHeir() && a.held().state.VRRP.PreemptDelaySeconds > 0 {
		left, err = a.leave(ctx)
	}
	if err != nil {
		return nil, notDone(err, "this gateway is drained; `gatewayctl undrain` takes the mark away")
	}
	if len(left) > 0 && before == nil && !request.Force {
		message := fmt.Sprintf("no other gateway took %s within %s, so the mark is taken away again", addressList(left), handOverTime(a.held().state))
		if err := a.setMark(nil); err != nil {
			return nil, notDone(err, message+", which failed")
		}
		return nil, &wire.Refusal{Code: wire.CodeNoHeir, Message: message, Remedy: "look at keepalived's log on the other gateways; --force drains all the same"}
	}
	drained, err := a.describeDrain(ctx, before == nil)
	if err != nil {
		return nil, notDone(err, "this gateway is drained")
	}
	a.log.Info("drained", "held", drained.Held, "connections", drained.Drain.Connections)
	return drained, nil
}

// undrain takes the mark away; keepalived takes its VIPs back by itself.
func (a *Agent) undrain(ctx context.Context) (*wire.Drained, *wire.Refusal) {
	ctx, cancel := detached(ctx)
	defer cancel()
	a.draining <- struct{}{}
	defer func() { <-a.draining }()
	before := a.drainMark()
	if before != nil {
		a.returnHop(ctx, before)
	}
	// Also when there is none: a drain that failed may have left a file that it could not remove.
	if err := a.setMark(nil); err != nil {
		return nil, notDone(err, "mend it and try again")
	}
	if before != nil {
		a.log.Info("no longer drained", "since", before.Since, "reason", before.Reason)
	}
	drained, err := a.describeDrain(ctx, before != nil)
	if err != nil {
		return nil, notDone(err, "this gateway is not drained")
	}
	return drained, nil
}

func notDone(err error, remedy string) *wire.Refusal {
	return &wire.Refusal{Code: wire.CodeInternal, Message: err.Error(), Remedy: remedy}
}

// awaitGone waits until this gateway holds no VIP, and gives those that it still holds when that takes too long. It looks between
// transactions: one that has come since the drain was asked for may have given keepalived another VIP.
func (a *Agent) awaitGone(ctx context.Context) (left []netip.Addr, err error) {
	held := a.held()
	if held == nil {
		return nil, nil
	}
	err = poll(ctx, handOverTime(held.state), func() (bool, error) {
		if err := a.acquire(ctx); err != nil {
			return false, err
		}
		defer a.release()
		addresses, err := a.readAddresses(ctx)
		if err != nil {
			return false, err
		}
		left = a.heldVIPs(addresses, a.held().state)
		return len(left) == 0, nil
	})
	if errors.Is(err, errLate) {
		err = nil
	}
	return left, err
}

// leave hands over what is left to a gateway that has returned and waits until it may preempt: that one heeds no lower priority, but
// a goodbye. Nobody has the VIPs for some 30 ms. It gives those that are here again, because nobody took them.
func (a *Agent) leave(ctx context.Context) (left []netip.Addr, err error) {
	a.log.Info("leaving: another gateway waits until it may preempt")
	if err = a.tellReadiness(true); err == nil {
		_, err = a.awaitGone(ctx)
	}
	if err = errors.Join(err, a.tellReadiness(false)); err == nil {
		err = pause(ctx, transitionTime(a.held().state))
	}
	if err != nil {
		return nil, err
	}
	return a.awaitGone(ctx)
}

func (a *Agent) describeDrain(ctx context.Context, changed bool) (*wire.Drained, error) {
	addresses, err := a.readAddresses(ctx)
	if err != nil {
		return nil, err
	}
	drained := &wire.Drained{Changed: changed, Drain: a.drainStatus(ctx, addresses)}
	if held := a.held(); held != nil {
		drained.Held = a.heldVIPs(addresses, held.state)
	}
	return drained, nil
}

// drainStatus tells of the mark; nil when there is none.
func (a *Agent) drainStatus(ctx context.Context, addresses []byte) *wire.DrainStatus {
	m := a.drainMark()
	if m == nil {
		return nil
	}
	s := &wire.DrainStatus{Since: m.Since, By: m.By, Reason: m.Reason, Until: m.Until}
	stranded, err := a.stranded(ctx, addresses)
	if err != nil {
		a.log.Warn("counting the connections that a drain has left", "error", err)
	}
	s.Connections = len(stranded)
	return s
}

// checkHeirs refuses unless a peer, when it was asked last, could take over all that we hold.
func (a *Agent) checkHeirs(held *revision, force bool) *wire.Refusal {
	if held == nil || force {
		return nil
	}
	problems := a.peers.unfit(held.state.Fence)
	if problems == nil {
		return nil
	}
	if len(problems) == 0 {
		problems = []string{"this gateway knows of no other one"}
	}
	return &wire.Refusal{Code: wire.CodeNoHeir, Message: "no other gateway can take over: " + strings.Join(problems, "; "),
		Remedy: "mend that first (`gatewayctl status` on the other gateways tells more); --force drains all the same, and what nobody takes stays"}
}

// unfit is nil when a peer can take over, and else says of each why it cannot.
func (p *peers) unfit(held desired.Fence) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := []string{}
	for _, one := range p.all {
		problem := one.unfit(held)
		if problem == "" {
			return nil
		}
		problems = append(problems, one.address.Name+" "+problem)
	}
	return problems
}

// unfit says why it could not take over what a gateway with the State held holds; "" when it could.
func (p *peer) unfit(held desired.Fence) string {
	switch {
	case !p.answered && p.failure == nil:
		return "was not asked yet"
	case !p.answered:
		return fmt.Sprintf("does not answer: %v", p.failure)
	case p.fence == nil || p.fence.ClusterUID != held.ClusterUID || p.fence.Compare(held) < 0:
		return "does not hold the State that this gateway holds"
	case p.heir == nil:
		return "has an older agent, which cannot tell whether it could"
	case !p.heir.Fit:
		return p.heir.Problem
	}
	return ""
}

// heir tells other gateways whether this one could take over. It runs no program: peers ask every two seconds.
func (a *Agent) heir() *wire.Heir {
	problem := ""
	alive, _, err := a.readTrack(a.config.Paths.aliveFile())
	keepalived, asked := a.alive(a.config.Keepalived)
	switch {
	case a.held() == nil:
		problem = "holds no State"
	case err != nil || alive != aliveWeight:
		problem = "has no HAProxy that answers"
	case asked != nil || keepalived == nil:
		problem = "runs no keepalived"
	case !a.isCurrent():
		problem = "has booted and is not confirmed current"
	case a.drainMark() != nil:
		problem = "is drained itself"
	}
	return &wire.Heir{Fit: problem == "", Problem: problem}
}

// stranded are the connections of VIPs that this gateway has no more.
func (a *Agent) stranded(ctx context.Context, addresses []byte) ([]connection, error) {
	held := a.held()
	if held == nil {
		return nil, nil
	}
	gone := make(map[netip.Addr]bool, len(held.state.VIPs))
	for _, vip := range held.state.VIPs {
		gone[vip.Address] = true
	}
	for _, address := range a.heldVIPs(addresses, held.state) {
		delete(gone, address)
	}
	return a.connections(ctx, func(c connection) bool { return gone[c.vip.Addr()] })
}

// strandedEvery is how often it is looked, after the grace of a drain, for connections that have lost their VIP.
const strandedEvery = 10 * time.Second

// endStranded ends what a drain has left when its grace is over.
func (a *Agent) endStranded(ctx context.Context) {
	for {
		var due <-chan time.Time
		if m := a.drainMark(); m != nil {
			wait := time.Until(m.Until)
			if wait <= 0 {
				a.endAllStranded(ctx)
				wait = strandedEvery
			}
			due = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.drains:
		case <-due:
		}
	}
}

func (a *Agent) endAllStranded(ctx context.Context) {
	// A VIP that a drain has just begun to move, or that returns, is not judged half-way.
	select {
	case a.draining <- struct{}{}:
		defer func() { <-a.draining }()
	case <-ctx.Done():
		return
	}
	if a.drainMark() == nil {
		return
	}
	addresses, err := a.readAddresses(ctx)
	var stranded []connection
	if err == nil {
		stranded, err = a.stranded(ctx, addresses)
	}
	if err == nil {
		err = a.endAll(ctx, stranded, "their VIP has left this gateway, which is drained")
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("ending the connections that a drain has left", "error", err)
	}
}

func addressList(addresses []netip.Addr) string {
	words := make([]string, len(addresses))
	for i, address := range addresses {
		words[i] = address.String()
	}
	const most = 5
	if len(words) > most {
		words = append(words[:most], fmt.Sprintf("and %d more", len(words)-most))
	}
	return strings.Join(words, ", ")
}
