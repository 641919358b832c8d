package provider

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// manager is a loadbalancer.Manager that serves at once whatever it is told, or fails as it is told.
type manager struct {
	mu       sync.Mutex
	observer loadbalancer.Observer
	held     map[desired.Key]loadbalancer.Service
	next     netip.Addr
	// refusals are what Refuse was told, by Service.
	refusals map[desired.Key][]*loadbalancer.Sources
	fail     error // what Ensure and Delete say
	ensures  int
	// refills counts by Service.
	refills map[desired.Key]int
	// ensured counts by Service; during is called once within Ensure.
	ensured map[desired.Key]int
	during  *func()
	nodes   [][]desired.Node
	// endpoints is what SetEndpoints was told, each time.
	endpoints [][]netip.AddrPort
	replays   []loadbalancer.Replay
	settings  loadbalancer.Settings
	// pools are the settings that it was made with and those that it was told since; wrong is what SetPools says.
	pools []loadbalancer.PoolSettings
	wrong error
	// published is what Published was told last.
	published map[desired.Key][]netip.Addr
	// kept are the Services that were deleted, and whether their addresses are to be kept.
	kept   map[desired.Key]bool
	loaded chan struct{}
	ended  chan error
}

func newManager() *manager {
	m := &manager{held: map[desired.Key]loadbalancer.Service{}, refusals: map[desired.Key][]*loadbalancer.Sources{}, refills: map[desired.Key]int{},
		ensured: map[desired.Key]int{}, next: addr("192.0.2.64"), kept: map[desired.Key]bool{},
		published: map[desired.Key][]netip.Addr{},
		loaded:    make(chan struct{}), ended: make(chan error, 1)}
	close(m.loaded)
	return m
}

func (m *manager) Ensure(_ context.Context, s loadbalancer.Service) (*loadbalancer.Ensured, error) {
	m.mu.Lock()
	during := m.during
	m.during = nil
	m.mu.Unlock()
	if during != nil {
		(*during)()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := s.LoadBalancer.Key
	m.ensures++
	m.ensured[key]++
	if m.fail != nil {
		return nil, m.fail
	}
	if s.LoadBalancer.Addresses = m.held[key].LoadBalancer.Addresses; s.LoadBalancer.Addresses == nil {
		s.LoadBalancer.Addresses = []netip.Addr{m.next}
		m.next = m.next.Next()
	}
	m.held[key] = s
	return &loadbalancer.Ensured{Addresses: s.LoadBalancer.Addresses}, nil
}

// Refill has the facts hold for what is served.
func (m *manager) Refill(key desired.Key, facts *loadbalancer.Facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refills[key]++
	if s, held := m.held[key]; held {
		s.LoadBalancer = facts.Of(s.LoadBalancer)
		m.held[key] = s
	}
}

// HasPods is Manager's.
func (m *manager) HasPods(key desired.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.held[key].LoadBalancer.Frontends, func(f desired.Frontend) bool { return f.Pool != nil && f.NodePort == 0 })
}

// Refuse holds who may connect for what is served.
func (m *manager) Refuse(_ context.Context, key desired.Key, sources *loadbalancer.Sources) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals[key] = append(m.refusals[key], sources)
	if s, held := m.held[key]; held && sources != nil {
		s.LoadBalancer.AllowSources, s.LoadBalancer.DenySources = sources.Allow, sources.Deny
		m.held[key] = s
	}
	return m.fail
}

// admitted says who may connect to what is served.
func (m *manager) admitted(key desired.Key) (allow, deny []netip.Prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lb := m.held[key].LoadBalancer
	return lb.AllowSources, lb.DenySources
}

func (m *manager) SetPools(s loadbalancer.PoolSettings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrong != nil {
		return m.wrong
	}
	m.pools = append(m.pools, s)
	return nil
}

func (m *manager) Delete(_ context.Context, key desired.Key, keep bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	delete(m.held, key)
	m.kept[key] = keep
	return nil
}

func (m *manager) Has(key desired.Key) ([]netip.Addr, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, held := m.held[key]
	return s.LoadBalancer.Addresses, held
}

// serve makes this what is served.
func (m *manager) serve(s loadbalancer.Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[s.LoadBalancer.Key] = s
}

func (m *manager) Published(key desired.Key, addresses []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.published[key] = addresses
}

func (m *manager) SetNodes(nodes []desired.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = append(m.nodes, nodes)
}

func (m *manager) SetEndpoints(endpoints []netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endpoints = append(m.endpoints, endpoints)
}

func (m *manager) Loaded() <-chan struct{} { return m.loaded }

func (m *manager) Load(context.Context) error { return m.fail }

func (m *manager) Replay(all []loadbalancer.Replay) { m.replays = all }

func (m *manager) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-m.ended:
		return err
	}
}

func (m *manager) failing(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *manager) counted() (ensures, nodeSets int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ensures, len(m.nodes)
}

// pool gives the names of the servers of a Service's own pool.
func (m *manager) pool(key desired.Key) (names []string, has bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pool := m.held[key].LoadBalancer.Pool
	if pool == nil {
		return nil, false
	}
	for _, server := range pool.Servers {
		names = append(names, server.Name)
	}
	return names, true
}
