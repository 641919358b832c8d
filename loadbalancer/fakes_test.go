package loadbalancer_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// site is the world around a Manager: gateways that live on while controllers come and go, and the epoch object.
type site struct {
	t        testing.TB
	gateways []*fakeGateway
	epochs   *fakeEpochs
	settings loadbalancer.Settings
	ledger   *fakeLedger
	observer *recorder
	network  *fakeNetwork
}

func newSite(t testing.TB, pool string, names ...string) *site {
	s := &site{t: t, epochs: &fakeEpochs{}, ledger: &fakeLedger{}, observer: &recorder{}, network: &fakeNetwork{}}
	r, err := ipam.ParseRange(pool)
	if err != nil {
		t.Fatal(err)
	}
	s.settings = loadbalancer.Settings{
		ClusterUID:    func(context.Context) (string, error) { return "cluster-1", nil },
		VRRP:          desired.VRRP{AdvertIntervalMillis: 200},
		FirstRouterID: 10,
		NodeCheck:     desired.Check{Kind: desired.CheckNone},
		PoolSettings: loadbalancer.PoolSettings{
			Pools: []ipam.Pool{{Name: "default", Ranges: []netipx.IPRange{r}}},
			// Most tests are about something else; those of prove_test.go ask.
			Unprobed: map[string]bool{"default": true},
		},
	}
	mu := new(sync.Mutex)
	for i, name := range names {
		s.settings.Gateways = append(s.settings.Gateways, desired.Gateway{
			Name: name, SSHAddress: name + ":22", VRRPAddress: netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), Interface: "eth0",
		})
		s.gateways = append(s.gateways, &fakeGateway{site: s, name: name, mu: mu, took: 20 * time.Millisecond, looks: 500 * time.Millisecond,
			transaction: make(chan struct{}, 1), session: make(chan struct{}, 1), probes: make(chan struct{}, 1)})
	}
	return s
}

// controller is one life of a controller.
type controller struct {
	*loadbalancer.Manager
	stop func() error // ends Run and gives its error
	done chan struct{}
}

func (s *site) newManager() *loadbalancer.Manager {
	s.t.Helper()
	var clients []loadbalancer.Gateway
	for _, g := range s.gateways {
		clients = append(clients, g)
	}
	m, err := loadbalancer.New(s.settings, clients, fakeSigner{}, s.epochs, &ledgerOf{fakeLedger: s.ledger}, s.observer, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// start loads, replays and runs a new controller.
func (s *site) start(replays ...loadbalancer.Replay) *controller {
	s.t.Helper()
	m := s.newManager()
	m.SetNodes([]desired.Node{workerNode})
	m.Replay(replays)
	ctx, cancel := context.WithCancel(s.t.Context())
	c := &controller{Manager: m, done: make(chan struct{})}
	var err error
	go func() {
		err = m.Run(ctx)
		close(c.done)
	}()
	c.stop = func() error {
		cancel()
		<-c.done
		return err
	}
	return c
}

var workerNode = desired.Node{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}

func key(name string) desired.Key { return desired.Key{Namespace: "default", Name: name} }

// web is a Service with one TCP port.
func web(name string, port uint16) loadbalancer.Service {
	return loadbalancer.Service{
		LoadBalancer: desired.LoadBalancer{
			Key: key(name), UID: "uid-" + name,
			Frontends: []desired.Frontend{{Name: "http", Protocol: desired.TCP, Port: port, NodePort: 30000 + port%2000}},
		},
		Request: ipam.Request{Sharing: ipam.Sharing{Ports: []ipam.Port{{Protocol: "TCP", Number: port}}}},
	}
}

func (s *site) ensure(c *controller, service loadbalancer.Service) *loadbalancer.Ensured {
	s.t.Helper()
	ensured, err := c.Ensure(s.t.Context(), service)
	if err != nil {
		s.t.Fatalf("Ensure(%s): %v", service.LoadBalancer.Key, err)
	}
	return ensured
}

// network says which gateway VRRP makes the holder of each VIP.
func (s *site) holder(state *desired.State, vip desired.VIP) string {
	for _, instance := range state.Instances {
		if instance.RouterID != vip.RouterID {
			continue
		}
		for _, name := range instance.Gateways {
			if !s.gateway(name).off.Load() {
				return name
			}
		}
	}
	return ""
}

func (s *site) gateway(name string) *fakeGateway {
	i := slices.IndexFunc(s.gateways, func(g *fakeGateway) bool { return g.name == name })
	return s.gateways[i]
}

type fakeSigner struct{}

func (fakeSigner) Sign(state []byte) (desired.Signed, error) {
	return desired.Signed{State: state, Signature: []byte("signed key-1"), Signer: "key-1"}, nil
}

// fakeEpochs is the epoch object.
type fakeEpochs struct {
	mu     sync.Mutex
	epoch  uint64
	holder string // "": there is no object
	err    error
	asked  int // who holds it
}

// become makes the object another one: restored from a backup, or with no holder deleted.
func (e *fakeEpochs) become(epoch uint64, holder string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.epoch, e.holder = epoch, holder
}

func (e *fakeEpochs) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *fakeEpochs) now() (epoch uint64, holder string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.epoch, e.holder
}

func (e *fakeEpochs) Claim(_ context.Context, atLeast uint64, instance string) (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return 0, e.err
	}
	e.epoch, e.holder = max(e.epoch+1, atLeast), instance
	return e.epoch, nil
}

func (e *fakeEpochs) Holder(context.Context) (string, uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	return e.holder, e.epoch, e.err
}
