package simulation

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/simulation/machine"
)

// advert is VRRP's interval, and how often the world looks at itself.
const advert = 100 * time.Millisecond

// world is everything in which one history happens.
type world struct {
	ctx   context.Context
	group sync.WaitGroup
	log   *slog.Logger
	seed  uint64
	trace bool

	cluster   *cluster
	described []desired.Gateway
	gateways  []*gateway
	segment   machine.Segment
	checks    *checks

	controllers int // that were ever started
	leaders     []*controller

	mu         sync.Mutex
	begun      time.Time
	draws      map[string]uint64
	cuts       map[string]int // "a>b": how many faults cut it
	lies       map[string]int // gateways that lie to their peers
	undo       []func()       // what ends the faults that last
	disturbed  time.Time      // when something was last done to gateways or their network
	moved      time.Time      // when anything was last done
	violations []Violation
	told       []string
}

// Violation is an invariant that does not hold, by its number in DESIGN.md section 5; 0: traffic.
type Violation struct {
	Invariant int
	At        time.Duration
	Message   string
}

func (v Violation) String() string {
	return fmt.Sprintf("invariant %d at %s: %s", v.Invariant, v.At, v.Message)
}

func newWorld(ctx context.Context, h History, texts *machine.Texts, trace bool) *world {
	w := &world{ctx: ctx, seed: h.Seed, trace: trace, log: quiet(), cluster: newCluster(), begun: time.Now(),
		draws: map[string]uint64{}, cuts: map[string]int{}, lies: map[string]int{}}
	if trace {
		w.log = slog.New(slog.NewTextHandler(teller{w}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
	}
	for i := range h.Gateways {
		name := string(rune('a'+i)) + "-gate"
		address := netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})
		w.described = append(w.described, desired.Gateway{Name: name, SSHAddress: name + ":22", VRRPAddress: address, Interface: "eth0"})
		g := &gateway{world: w, name: name, power: make(chan struct{}, 1)}
		g.machine = machine.New(name, address, limits, texts, w.cluster.healthy)
		g.machine.PowerOn()
		w.gateways = append(w.gateways, g)
		w.segment.Machines = append(w.segment.Machines, g.machine)
	}
	w.segment.Cut = func(from, to string) bool { return w.cut("vrrp "+from, to) }
	w.checks = newChecks(w)
	return w
}

// teller takes the log's lines.
type teller struct{ w *world }

func (t teller) Write(line []byte) (int, error) {
	t.w.note("  log %s", line[:len(line)-1])
	return len(line), nil
}

// note remembers a line of what happened, when somebody wants to read it.
func (w *world) note(format string, args ...any) {
	if !w.trace {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprintf("%10s  ", time.Since(w.begun))+fmt.Sprintf(format, args...))
}

// fail notes that an invariant does not hold.
func (w *world) fail(invariant int, format string, args ...any) {
	v := Violation{invariant, time.Since(w.begun), fmt.Sprintf(format, args...)}
	w.note("VIOLATION %s", v)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < 5 {
		w.violations = append(w.violations, v)
	}
}

func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// wait lets time pass.
func (w *world) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// latency is drawn from the seed for each use of a line, so that it does not depend on which goroutine comes first.
func (w *world) latency(line string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draws[line]++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", w.seed, line, w.draws[line])
	return time.Millisecond + time.Duration(h.Sum64()%12_000)*time.Microsecond
}

// cut says whether nothing gets from one to the other. Faults name both ends, or leave one out.
func (w *world) cut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.cuts) == 0 {
		return false
	}
	if gateway, advertises := strings.CutPrefix(from, "vrrp "); advertises {
		return w.cuts["vrrp>"+to] > 0 || w.cuts["vrrp>"+gateway] > 0
	}
	if strings.HasPrefix(from, "controller-") {
		return w.cuts["controllers>"+to] > 0
	}
	return w.cuts["peers>"+to] > 0 || w.cuts["peers>"+from] > 0
}

// disturb notes that something was done to gateways or networks now.
func (w *world) disturb() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disturbed = time.Now()
}

// calm says for how long nobody has done anything to gateways and networks, and for how long nothing at all.
func (w *world) calm() (gateways, all time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.disturbed), time.Since(w.moved)
}

// lasts does something now and its contrary after a while, or when the faults are ended.
func (w *world) lasts(d time.Duration, undo func()) {
	once := sync.OnceFunc(undo)
	w.mu.Lock()
	w.undo = append(w.undo, once)
	w.mu.Unlock()
	w.group.Go(func() {
		if w.wait(w.ctx, d) == nil {
			once()
		}
	})
}

// heal ends all faults.
func (w *world) heal() {
	w.mu.Lock()
	undo := w.undo
	w.undo = nil
	w.mu.Unlock()
	for _, f := range undo {
		f()
	}
	for _, g := range w.gateways {
		g.machine.Arm(machine.Strike{})
		g.powerOnNow()
	}
	w.disturb()
	w.note("healed")
}

// cutFor cuts lines for a while.
func (w *world) cutFor(d time.Duration, name string) {
	w.countFor(d, w.cuts, name)
}

// countFor counts a name in a map for a while.
func (w *world) countFor(d time.Duration, in map[string]int, name string) {
	change := func(n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if in[name] += n; in[name] == 0 {
			delete(in, name)
		}
	}
	change(1)
	w.lasts(d, func() { change(-1); w.disturb() })
}

// heard is called with each answer that an agent gives.
func (w *world) heard(l *line, verb wire.Verb, reply *wire.Reply) { w.checks.heard(l, verb, reply) }

// applying is called around each Apply of a controller.
func (w *world) applying(l *line) (done func()) { return w.checks.applying(l) }

// ensured is called when Manager says that a Service is served.
func (w *world) ensured(c *controller, o *object, addresses []netip.Addr) {
	w.checks.ensured(c, o, addresses)
}
