package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Verifier believes a State's signature or says why not. It is asked for each State, so that an edited signers file
// needs no restart.
type Verifier interface {
	Verify(signed desired.Signed) error
}

// Parts are what an Agent works with.
type Parts struct {
	Config   Config
	Version  string // of this binary
	Host     Host
	HAProxy  HAProxy
	TryBind  func(netip.AddrPort) error
	Ask      Asker
	Verifier Verifier
	// DialPeer gives a client of another gateway's agent; it need not connect. nil: this gateway asks nobody.
	DialPeer func(PeerAddress) (Peer, error)
	Log      *slog.Logger
	// FirewallEvents sends whenever the kernel's nftables change; nil: nobody can tell.
	FirewallEvents func(context.Context) (<-chan struct{}, error)
	// NotifySocket is systemd's, from the environment; empty without systemd.
	NotifySocket string
}

// Agent is the only writer on one gateway.
type Agent struct {
	config   Config
	version  string
	host     Host
	haproxy  HAProxy
	tryBind  func(netip.AddrPort) error
	asker    Asker
	verifier Verifier
	log      *slog.Logger
	notify   string

	firewallEvents func(context.Context) (<-chan struct{}, error)

	// writing has room for one: whoever fills it may change the machine.
	writing chan struct{}
	// probing has room for one, too: whoever fills it may ask on the networks.
	probing  chan struct{}
	draining chan struct{}
	// drains is full when the mark may have changed.
	drains   chan struct{}
	counters counters
	peers    *peers
	// places has room for the sessions of each role.
	places map[wire.Role]chan struct{}
	// admission has room for one: it is full when connections may have to end that were welcome before.
	admission chan struct{}
	// looks is full when it is to be looked which VIPs are held.
	looks chan struct{}
	// rules are the rules of our nftables table as this machine's nft spells them; guarded by writing.
	rules []byte
	// rulesOf is what they depend on.
	rulesOf rulesShape
	// granted bounds the reloads of HAProxy that load balancers' wishes cause; guarded by writing.
	granted bucket
	// leavers are who was served last by slots that nobody has; guarded by writing.
	leavers map[string]leaver

	// telling is held from the decision what the ready file says, of ready and drained, until it says so. Who has it may take mu.
	telling sync.Mutex

	// mu is held for memory alone: who takes it must not wait for a disk, a program or the log.
	mu sync.Mutex
	// current is what is committed, as rendered for this machine; nil before the first State.
	current *rendering
	// committed is the State that is held. It is known before current is: a machine may be unable to render it.
	committed *revision
	versions  versions
	// foreign are the warnings about other people's firewalls, looked for once in a while.
	foreign []wire.Warning
	// fault is why what runs is known to differ from the State that is held; nil when it does not.
	fault error
	ready bool
	// differences are the last ones that nobody had asked for, left the one that is reported only and stands.
	differences []wire.Difference
	left        []string
	// drained is the mark that this gateway has handed its VIPs over; nil: it has not. draining guards it beside mu: it is held
	// from the decision to the end of the move.
	drained *mark
	// health is what HAProxy's checks said of the servers when they were looked at last, and routes says whether this machine is
	// a router on purpose, IPv4 and IPv6. Our nftables table depends on both; they change under writing.
	health health
	routes [2]bool
	hop    hop
	// clients is what Services need whose servers see their clients' addresses.
	clients clientSource
	// orphaned is the cluster that is gone although its State may still be held; empty: none.
	orphaned string
	// shared is true when somebody else seemed to listen on HAProxy's ports, rivals is the warning about it.
	shared bool
	rivals []wire.Warning
	// hanging says that HAProxy hangs and what to do; empty: it does not.
	hanging string
	// troubles are errors that come again and again, by what was being done.
	troubles map[trouble]string
	// worker is the process of HAProxy's that was compared last; 0: none yet.
	worker int
	// former is what left the State and counts still.
	former formerly
	// seenHeld are the VIPs that were held when it was looked last.
	seenHeld []netip.Addr
	// leftover is true while servers that were removed wait for their last connections.
	leftover bool
}

// New makes an Agent; nothing is read or written before Run.
func New(p Parts) (*Agent, error) {
	if err := p.Config.validate(); err != nil {
		return nil, fmt.Errorf("the agent's configuration: %w", err)
	}
	return &Agent{
		config:   p.Config,
		version:  p.Version,
		host:     bounded{p.Host},
		haproxy:  p.HAProxy,
		tryBind:  p.TryBind,
		asker:    p.Ask,
		verifier: p.Verifier,
		log:      p.Log,
		notify:   p.NotifySocket,

		firewallEvents: p.FirewallEvents,
		writing:        make(chan struct{}, 1),
		admission:      make(chan struct{}, 1),
		looks:          make(chan struct{}, 1),
		probing:        make(chan struct{}, 1),
		draining:       make(chan struct{}, 1),
		drains:         make(chan struct{}, 1),
		peers:          &peers{dial: p.DialPeer, log: p.Log},
		hop:            hop{hurry: make(chan struct{}, 1)},
		leavers:        map[string]leaver{},
		places: map[wire.Role]chan struct{}{
			wire.RoleController: make(chan struct{}, maxOfRole),
			wire.RolePeer:       make(chan struct{}, maxOfRole),
			wire.RoleOperator:   make(chan struct{}, maxOfRole),
		},
	}, nil
}

// Run makes the machine what the committed State says, then serves and watches until ctx ends. A transaction that runs
// when ctx ends is finished first.
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := lockMachine(a.config.Paths.Socket + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.open(ctx); err != nil {
		return err
	}
	listener, err := a.listen()
	if err != nil {
		return err
	}
	a.log.Info("serving", "gateway", a.config.Gateway, "socket", a.config.Paths.Socket)
	return a.live(ctx, func(ctx context.Context) error { return a.serve(ctx, listener) })
}

// live recovers, then serves and watches until ctx ends.
func (a *Agent) live(ctx context.Context, serve func(context.Context) error) error {
	// Sessions that come now wait for this first transaction.
	a.writing <- struct{}{}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer a.release()
		a.recover(ctx)
		return nil
	})
	group.Go(func() error { return serve(ctx) })
	group.Go(func() error { a.watchHAProxy(ctx); return nil })
	group.Go(func() error { a.watchDaemons(ctx); return nil })
	group.Go(func() error { a.watchDrift(ctx); return nil })
	group.Go(func() error { a.watchFirewall(ctx); return nil })
	group.Go(func() error { a.expelUnwelcome(ctx); return nil })
	group.Go(func() error { a.endStranded(ctx); return nil })
	group.Go(func() error { a.endDeparted(ctx); return nil })
	group.Go(func() error { a.followFlows(ctx); return nil })
	group.Go(func() error { a.followPeers(ctx); return nil })
	group.Go(func() error { a.followHeld(ctx); return nil })
	group.Go(func() error { a.keepClientSource(ctx); return nil })
	if err := notify(a.notify, "READY=1"); err != nil {
		a.log.Warn("telling systemd that the agent is ready", "error", err)
	}
	err := group.Wait()
	// Sessions end with serve, but a transaction begun by the watcher may be the last one.
	a.writing <- struct{}{}
	return err
}

// open reads what an agent before this one left.
func (a *Agent) open(ctx context.Context) error {
	if err := a.counters.load(a.host, a.config.Paths.countersFile()); err != nil {
		a.log.Warn("counting from zero", "error", err)
	}
	a.readVersions(ctx)
	held, err := a.loadRevision()
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.committed, a.fault = held, errUnseen
	a.mu.Unlock()
	if err := a.noticeRouting(ctx); err != nil {
		a.log.Warn("looking whether this machine is a router", "error", err)
	}
	a.forgetServersState()
	a.guard(ctx)
	a.readMark()
	a.readOrphan()
	return a.openTrack()
}

// errUnseen is the fault of an agent that has not looked at its machine yet.
var errUnseen = errors.New("the agent has just started and not compared yet what runs")

// lockMachine keeps a second agent away, also one that does not find our socket.
func lockMachine(path string) (unlock func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another agent runs on this machine: it holds %s", path)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return file.Close, nil
}

// acquire waits for the right to change the machine.
func (a *Agent) acquire(ctx context.Context) error {
	select {
	case a.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the transaction before this one: %w", ctx.Err())
	}
}

func (a *Agent) tryAcquire() bool {
	select {
	case a.writing <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *Agent) release() { <-a.writing }

// held is the State that this gateway holds, nil when it never had one.
func (a *Agent) held() *revision {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.committed
}

// rendered is what the State that is held means on this machine; nil when that is not known.
func (a *Agent) rendered() *rendering {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// hold makes r what this gateway holds, in memory; fault is nil when it also runs. The caller holds the right to change the machine.
func (a *Agent) hold(r *rendering, fault error) {
	a.mu.Lock()
	before, current, former := a.committed, a.current, a.former
	a.mu.Unlock()
	a.noteLeft(current, r)
	same := before == r.revision
	if before != nil && !same {
		same = sameConnections(before.state, r.revision.state)
		former = former.and(before.state)
	}
	a.mu.Lock()
	a.current, a.committed, a.fault, a.former = r, r.revision, fault, former
	a.health = a.health.moved(r.slots, r.config)
	a.mu.Unlock()
	if same && current != nil {
		return
	}
	select {
	case a.admission <- struct{}{}:
	default: // it is to be looked at already
	}
}

func (a *Agent) setFault(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = err
}

// transactionLimit bounds one transaction, and once more its way back.
const transactionLimit = time.Minute

// detached is a context for a transaction: it goes on when its session, or the agent's own life, ends.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), transactionLimit)
}
