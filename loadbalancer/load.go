package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Load reads the State that the gateways hold, the newest wins, and claims the epoch above it. Run calls it when nobody
// did, and again until it succeeds; until then calls fail with its error. Errors: *GatewaysError (none answered, or all
// serve another cluster: *ClusterError is in it), and those of the API server.
func (m *Manager) Load(ctx context.Context) error {
	m.loading.Lock()
	defer m.loading.Unlock()
	select {
	case <-m.loaded:
		return nil
	default:
	}
	uid, err := m.clusterUID(ctx)
	if err != nil {
		return fmt.Errorf("ask the API server for the UID of namespace kube-system: %w", err)
	}
	if _, err := m.holder(ctx); err != nil {
		return fmt.Errorf("ask the API server for the epoch: %w", err)
	}
	states, err := m.readGateways(ctx, uid)
	if err != nil {
		return err
	}
	newest := newestOf(states)
	if err := m.openLedger(ctx); err != nil {
		return err
	}
	m.greetAll(ctx, m.present())
	atLeast := uint64(1)
	if newest != nil {
		atLeast = newest.Fence.Epoch + 1
	}
	epoch, err := m.claim(ctx, atLeast)
	if err != nil {
		return fmt.Errorf("claim the epoch: %w", err)
	}
	m.mu.Lock()
	m.fence = desired.Fence{ClusterUID: uid, Epoch: epoch, Instance: m.instance}
	m.adoptPlaces(newest)
	m.read = desired.Fence{ClusterUID: uid}
	if m.good = newest; newest != nil {
		m.read, m.goodBy = newest.Fence, byKey(newest)
	}
	services := len(m.goodBy)
	m.mu.Unlock()
	close(m.loaded)
	m.log.Info("State of the gateways is known", "epoch", epoch, "instance", m.instance, "services", services)
	return nil
}

// clusterUID and claim ask the API server, as long as one may ask a gateway: who waits is told what is wrong.
func (m *Manager) clusterUID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	return m.settings.ClusterUID(ctx)
}

func (m *Manager) claim(ctx context.Context, atLeast uint64) (epoch uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	return m.epochs.Claim(ctx, atLeast, m.instance)
}

// readGateways gives the States of this cluster that the gateways hold, in the order of members; nil: it has none, or did not answer.
func (m *Manager) readGateways(ctx context.Context, uid string) (states []*desired.State, err error) {
	states = make([]*desired.State, len(m.members))
	m.ask(ctx, m.members, m.settings.AskTimeout, func(ctx context.Context, g *member) {
		signed, err := g.State(ctx)
		if err != nil {
			m.setAside(g, err, true)
			return
		}
		state, err := m.ofCluster(g.name, signed, uid)
		m.mu.Lock()
		g.unread = false
		m.mu.Unlock()
		if err != nil {
			m.setAside(g, err, false)
			return
		}
		states[slices.Index(m.members, g)] = state
		m.setAside(g, nil, false)
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(m.present()) == 0 {
		return nil, m.gatewaysError("the State of no gateway could be read")
	}
	return states, nil
}

func newestOf(states []*desired.State) (newest *desired.State) {
	for _, state := range states {
		if state != nil && (newest == nil || state.Fence.Compare(newest.Fence) > 0) {
			newest = state
		}
	}
	return newest
}

func (m *Manager) ofCluster(gateway string, signed *desired.Signed, uid string) (*desired.State, error) {
	if signed == nil {
		return nil, nil
	}
	state, err := desired.Decode(signed.State)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: read its State: %w", gateway, err)
	}
	if got := state.Fence.ClusterUID; got != "" && got != uid {
		return nil, &ClusterError{Gateway: gateway, Got: got, Want: uid}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return state, m.absurd(gateway, "", state.Fence)
}

// takesOver says that takeOver is about to begin the first round.
func (m *Manager) takesOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.replayed && m.toReplay && m.nodesKnown
}

// readAgain takes what the gateways hold now for what they held at Load, when that is newer: until the informers had told
// everything another controller may have led, and a gateway that was away then may be back.
func (m *Manager) readAgain(ctx context.Context) {
	m.mu.Lock()
	uid, known := m.fence.ClusterUID, m.good
	m.mu.Unlock()
	states, err := m.readGateways(ctx, uid)
	newest := newestOf(states)
	if err != nil || newest == nil || known != nil && newest.Fence.Compare(known.Fence) <= 0 {
		return // who is away is told by the round
	}
	m.log.Info("gateways hold a newer State than when we loaded", "fence", newest.Fence)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.adoptPlaces(newest)
	m.read, m.good, m.goodBy = newest.Fence, newest, byKey(newest)
}

// confirmGone asks the API server about the Services that the gateways serve and that nobody told of, before takeOver deletes
// them: who has lost only a watch must not lose its connections. Without an answer no round begins, and what runs stays.
func (m *Manager) confirmGone(ctx context.Context) error {
	m.mu.Lock()
	state := m.good
	m.mu.Unlock()
	found, err := m.untold(ctx, state)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, replay := range found {
		if !m.dropped[replay.Key] && m.services[replay.Key] == nil {
			m.log.Info("Service is there although the first list was without it", "service", replay.Key)
			m.replays = append(m.replays, replay)
		}
	}
	return nil
}

// existingTimeout bounds the question which Services exist: all of the cluster may have to be looked through, by an API server that
// everybody asks for everything because it was away.
const existingTimeout = time.Minute

// untold gives the Services of a State that exist and that nobody told us of.
func (m *Manager) untold(ctx context.Context, state *desired.State) ([]Replay, error) {
	if state == nil || m.settings.Existing == nil {
		return nil, nil
	}
	m.mu.Lock()
	var keys []desired.Key
	for _, lb := range state.LoadBalancers {
		if m.services[lb.Key] == nil && !slices.ContainsFunc(m.replays, func(r Replay) bool { return r.Key == lb.Key }) && !m.dropped[lb.Key] {
			keys = append(keys, lb.Key)
		}
	}
	m.mu.Unlock()
	if len(keys) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, existingTimeout)
	defer cancel()
	found, err := m.settings.Existing(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("ask the API server whether %d Services are gone that the gateways serve: %w", len(keys), err)
	}
	return found, nil
}

// notice is something to tell a Service's owner.
type notice struct {
	key desired.Key
	err error
}

// takeOver makes what Replay told, and what the gateways serve, the beginning: every published address first, then those
// that only the gateways know; what no Service has any more is on its way back (invariants 1 and 8). It says whether
// rounds may run.
func (m *Manager) takeOver() bool {
	m.mu.Lock()
	if m.replayed || !m.toReplay || !m.nodesKnown {
		defer m.mu.Unlock()
		return m.replayed
	}
	slices.SortStableFunc(m.replays, func(a, b Replay) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Key.Compare(b.Key))
	})
	var notices []notice
	var refused []Replay
	terms, disowned := m.servedTerms(), m.disown()
	m.claimUndenied(terms)
	for _, replay := range m.replays {
		if m.services[replay.Key] == nil && !m.enlist(replay) {
			refused = append(refused, replay)
		}
		m.services[replay.Key].published = replay.Published
		notices = append(notices, m.claimPublished(replay, terms)...)
	}
	m.claimServed(m.good, terms, disowned)
	m.claimReleasing(m.recalled())
	m.recallKept()
	for _, replay := range refused {
		m.restrict(replay.Key, replay.Sources)
	}
	for key := range m.keeping {
		m.keep(key)
	}
	clear(m.keeping)
	m.reserve()
	m.replays, m.replayed = nil, true
	clear(m.dropped)
	m.revision++
	m.mu.Unlock()
	m.tellNotices(notices)
	return true
}

// enlist notes a Service that nobody ensured yet, and says whether its form is known.
func (m *Manager) enlist(replay Replay) (wanted bool) {
	if replay.Service != nil {
		m.want(*replay.Service)
		return true
	}
	m.services[replay.Key] = &service{uid: replay.UID, created: replay.Created, facts: replay.Facts, request: ipam.Request{Sharing: replay.Sharing}}
	return false
}

// disown drops the last good forms that are those of former objects: a Service that was made anew and does not translate would be
// served at the NodePorts of the one before, which are another's by now. Its address waits for it. It is called with mu held.
func (m *Manager) disown() (disowned map[desired.Key]bool) {
	disowned = map[desired.Key]bool{}
	for _, replay := range m.replays {
		lb := m.goodBy[replay.Key]
		if replay.Service == nil && lb != nil && replay.UID != "" && lb.UID != "" && replay.UID != lb.UID {
			delete(m.goodBy, replay.Key)
			disowned[replay.Key] = true
		}
	}
	return disowned
}

// tellNotices logs them and tells the owners of the Services.
func (m *Manager) tellNotices(notices []notice) {
	for _, n := range notices {
		m.log.Warn("address", "service", n.key, "err", n.err)
		m.observer.tell(func(o Observer) { o.ServiceNotice(n.key, n.err) })
	}
}
