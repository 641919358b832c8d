package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Manager keeps the desired State of all Services and makes it true on the gateways. All methods may be called at the
// same time; the order at start is New, Load, SetEndpoints, SetNodes, Replay, Run.
type Manager struct {
	settings  Settings
	instances []desired.Instance
	members   []*member // sorted by name
	signer    Signer
	epochs    EpochStore
	observer  *serialObserver
	log       *slog.Logger
	instance  string

	// wake tells Run that there is something to do, watch that somebody waits for a VIP, prove that somebody waits for an
	// address nobody looked for yet, noted that the ledger may have to be written. Each holds one signal.
	wake, watch, prove, noted chan struct{}
	loaded                    chan struct{}
	ledger                    *ledgerObject
	// surveys are questions to the network that nobody waits for any more; Run ends after them.
	surveys sync.WaitGroup
	// loading is held by Load, so that the epoch is claimed once.
	loading sync.Mutex

	// mu guards all that follows, and the members. It is never held while a gateway or the API server is asked.
	mu       sync.Mutex
	services map[desired.Key]*service
	// leaving are load balancers that no Service has any more while a reachable gateway may still serve them.
	leaving map[desired.Key]departure
	nodes   []desired.Node
	// nodesKnown is set by the first SetNodes.
	nodesKnown bool
	// endpoints are the API servers of SetEndpoints.
	endpoints []netip.AddrPort
	addresses *ipam.Allocator
	pools     PoolSettings
	// since are the holds that the target is without and that are not free yet.
	since map[hold]released
	// proven are the addresses that no stranger answered for, or that are ours since longer; see prove.go.
	proven map[netip.Addr]bool
	// proxied are the pools whose addresses all have one answer (proxy ARP), with its MAC.
	proxied map[poolFamily]string
	// ahead is how many addresses after the ones that Services wait for are looked for too.
	ahead map[poolFamily]int
	// contested are the VIPs that a stranger answers for although a gateway holds them, with his MAC.
	contested map[netip.Addr]string
	// told is when what is wrong with addresses was told; see concerns.go.
	told map[string]time.Time
	// wrongHolders are the VIPs that the last census found held by several gateways, whose names they have, or by nobody ("").
	wrongHolders map[netip.Addr]string
	// kept and quarantined are the ledger's; keeping are Services to be kept whose addresses are not known yet, unwritten
	// those of whom the ledger does not tell yet.
	kept               map[hold]bool
	quarantined        map[netip.Addr]Quarantine
	keeping, unwritten map[desired.Key]bool
	// vouched are the holds of which every later controller learns without the ledger; see given.go.
	vouched map[hold]extent
	// places are the instances of the target's VIPs.
	places map[netip.Addr]place
	// wishes are those of Services that prefer a gateway; see prefer.go.
	wishes map[desired.Key]wish
	// good is the newest State that every gateway of its round confirmed, with its load balancers by key.
	good   *desired.State
	goodBy map[desired.Key]*desired.LoadBalancer
	// target is what gateways are to confirm; nil before the first round.
	target *target
	fence  desired.Fence
	// stored is the highest epoch that the epoch object had; ledAt is when it was asked last whether we lead.
	stored uint64
	ledAt  time.Time
	// rival is the State of another controller, as new as ours or newer, that a gateway holds which only a peer can ask; nil: none.
	rival *rival
	// read is the newest State of another controller that was read, or ours once a round has confirmed one: see ApplyAfter.
	read desired.Fence
	// stopped is a change of settings that was stopped; nil: none.
	stopped *stoppedRollout
	// revision counts changes of what is wanted; made is the one that the newest successful round began with.
	revision, made uint64
	joined         []*call
	awaiting       []*call
	// dropped are Services that were deleted before the first round.
	dropped map[desired.Key]bool
	// replays is what Replay told; replayed is set when it was taken over, which needs the gateways' State.
	replays            []Replay
	toReplay, replayed bool
	ended              bool
}

// service is one Service of type LoadBalancer that exists.
type service struct {
	// uid is the object's; empty: not known.
	uid string
	// want is the newest form, without addresses; nil while no translation ever succeeded in this Manager's life.
	want    *desired.LoadBalancer
	request ipam.Request
	// facts are what was told last of where it is reached; nil: nothing. cautious says that a gateway refused what they add to
	// the last good form.
	facts    *Facts
	cautious bool
	// created is when the object was.
	created time.Time
	// published is what its status says as far as we were told.
	published []netip.Addr
	// named is what the Service says of pools, nil while nobody told us; pinned are those that its address has to be of, or it
	// is told.
	named  *string
	pinned []string
	// unassigned is why ipam gave no address at the last try. unproven says that one of want's addresses was not looked for
	// on the network yet.
	unassigned error
	unproven   bool
	// ungiven says that the ledger does not tell yet that the Service may have want's addresses.
	ungiven bool
	// refused is why want is not served in this form; it is tried again when Ensure is called. banned says that the last
	// good form is refused as well.
	refused error
	banned  bool
	// settled says that the target has want and every gateway of the round confirmed it.
	settled bool
}

// servable says that the wanted form can stand in a State.
func (s *service) servable() bool {
	return s.want != nil && len(s.want.Addresses) > 0 && s.unassigned == nil && !s.unproven && !s.ungiven && s.refused == nil
}

// New prepares a Manager; it asks nobody. Faults of the settings are reported.
func New(settings Settings, gateways []Gateway, signer Signer, epochs EpochStore, ledger LedgerStore, observer Observer,
	log *slog.Logger) (*Manager, error) {
	settings = settings.withDefaults()
	instances, err := desired.Instances(settings.Gateways, settings.FirstRouterID)
	if err != nil {
		return nil, err
	}
	members, err := newMembers(settings.Gateways, gateways)
	if err != nil {
		return nil, err
	}
	pools := settings.PoolSettings.clone()
	addresses, err := ipam.New(pools.Pools, settings.exclusions(pools))
	if err != nil {
		return nil, fmt.Errorf("address pools: %w", err)
	}
	m := &Manager{
		settings:    settings,
		instances:   instances,
		members:     members,
		signer:      signer,
		epochs:      epochs,
		observer:    &serialObserver{to: observer},
		log:         log,
		instance:    newInstance(),
		wake:        make(chan struct{}, 1),
		watch:       make(chan struct{}, 1),
		prove:       make(chan struct{}, 1),
		noted:       make(chan struct{}, 1),
		loaded:      make(chan struct{}),
		ledger:      newLedgerObject(ledger),
		services:    map[desired.Key]*service{},
		leaving:     map[desired.Key]departure{},
		addresses:   addresses,
		pools:       pools,
		since:       map[hold]released{},
		proven:      map[netip.Addr]bool{},
		proxied:     map[poolFamily]string{},
		ahead:       map[poolFamily]int{},
		contested:   map[netip.Addr]string{},
		kept:        map[hold]bool{},
		quarantined: map[netip.Addr]Quarantine{},
		keeping:     map[desired.Key]bool{},
		unwritten:   map[desired.Key]bool{},
		vouched:     map[hold]extent{},
		places:      map[netip.Addr]place{},
		wishes:      map[desired.Key]wish{},
		goodBy:      map[desired.Key]*desired.LoadBalancer{},
		dropped:     map[desired.Key]bool{},
		revision:    1,
	}
	m.reserve()
	return m, nil
}

func (s Settings) withDefaults() Settings {
	for _, d := range []struct {
		setting *time.Duration
		value   time.Duration
	}{
		{&s.Resync, 60 * time.Second},
		{&s.ApplyTimeout, 15 * time.Second},
		{&s.AskTimeout, 5 * time.Second},
		{&s.HoldTimeout, 5 * time.Second},
	} {
		if *d.setting == 0 {
			*d.setting = d.value
		}
	}
	s.Servers, s.Bytes = cmp.Or(s.Servers, defaultServers), cmp.Or(s.Bytes, roomyBytes)
	s.Gateways = slices.Clone(s.Gateways)
	return s
}

// Ensure makes the Service's newest form wanted and returns when a reachable gateway holds its VIPs. Errors:
// *GatewaysError and *NotHeldError (try again soon; Manager tries too), *ServiceFaultError and ipam's (somebody has to
// change something first), ErrStopped, ctx's.
func (m *Manager) Ensure(ctx context.Context, s Service) (*Ensured, error) {
	key := s.LoadBalancer.Key
	m.mu.Lock()
	changed := m.want(s)
	m.notePublished(key, s.Published)
	m.vouchPublished(key, s.Published, s.Request.Sharing)
	if entry := m.services[key]; !changed && entry.settled && m.revision == m.made && m.holds(m.goodBy[key].Addresses) {
		defer m.mu.Unlock()
		return m.ensured(key, m.goodBy[key].Addresses), nil
	}
	return m.join(ctx, &call{key: key, ensure: true})
}

// Delete makes the Service unwanted and returns when every reachable gateway confirmed a State without it. Its
// addresses stay releasing until every configured gateway did, and then reserved for a Service of the same name when keep
// is set. Errors: *GatewaysError, *LedgerError (what is kept could not be written down), ErrStopped, ctx's.
func (m *Manager) Delete(ctx context.Context, key desired.Key, keep bool) error {
	m.mu.Lock()
	switch {
	case keep && m.replayed:
		m.keep(key)
		m.unwritten[key] = true
	case keep:
		m.keeping[key], m.unwritten[key] = true, true
	case m.unwritten[key]: // whoever deletes it has thought better of it
		m.unkeep(key)
	}
	m.drop(key)
	if _, going := m.leaving[key]; going || !m.replayed || m.revision != m.made {
		if _, err := m.join(ctx, &call{key: key}); err != nil {
			return err
		}
	} else {
		m.mu.Unlock()
	}
	if !keep {
		return nil
	}
	if err := m.writeLedger(ctx); err != nil {
		return &LedgerError{err}
	}
	return nil
}

// Has says which addresses the gateways still serve for a Service, or are to serve; ok also while its addresses are to be
// kept and the ledger does not say so yet. Before Load it knows nothing; see
// Loaded.
func (m *Manager) Has(key desired.Key) (addresses []netip.Addr, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if going, ok := m.leaving[key]; ok {
		return slices.Clone(going.addresses), true
	}
	_, wanted := m.services[key]
	// What was replayed is about to be served: whoever deletes it meanwhile has to tell us.
	wanted = wanted || m.unwritten[key] || slices.ContainsFunc(m.replays, func(r Replay) bool { return r.Key == key })
	lb := m.goodBy[key]
	if !wanted && (m.replayed || lb == nil) {
		return nil, false
	}
	if held := m.addresses.Addresses(ipam.Owner(key)); len(held) > 0 {
		return held, true
	}
	if lb != nil {
		return slices.Clone(lb.Addresses), true
	}
	return nil, true
}

// SetNodes makes these the workers of the shared pool; before it no round runs, for that would empty the pool that the
// gateways serve. Their addresses are given to no Service.
func (m *Manager) SetNodes(nodes []desired.Node) {
	copied := slices.Clone(nodes)
	for i, node := range copied {
		copied[i].Addresses = slices.Clone(node.Addresses)
	}
	m.mu.Lock()
	m.nodes, m.nodesKnown = copied, true
	m.exclude()
	m.revision++
	m.mu.Unlock()
	signal(m.wake)
}

// Replay tells every Service of type LoadBalancer that exists and is ours; before it no round runs. What the gateways
// serve and no Replay names is deleted.
func (m *Manager) Replay(services []Replay) {
	m.mu.Lock()
	m.replays = slices.Clone(services)
	m.toReplay = true
	m.mu.Unlock()
	signal(m.wake)
}

// Loaded is closed when the State of the gateways is known.
func (m *Manager) Loaded() <-chan struct{} { return m.loaded }

// Gateways gives what is known of each gateway, sorted by name.
func (m *Manager) Gateways() []GatewayStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses()
}

// statuses is called with mu held.
func (m *Manager) statuses() []GatewayStatus {
	all := make([]GatewayStatus, len(m.members))
	for i, g := range m.members {
		all[i] = g.status()
	}
	return all
}

// Pools gives the counts of every pool and family.
func (m *Manager) Pools() []ipam.Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses.Counts()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
