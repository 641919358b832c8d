package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// town is who lives on the links: by "link address" the MACs that claim it.
type town struct {
	claims map[string][]string
	// fails says why something cannot be asked.
	fails func(link string, addresses []netip.Addr) error
	// takes is how long one question takes.
	takes time.Duration

	mu     sync.Mutex
	asked  []string // "link address..." of each call
	busy   int
	crowds int // calls while another one was under way on the same link
}

func (w *town) ask(ctx context.Context, link neighbor.Link, addresses []netip.Addr, _ neighbor.Patience) (neighbor.Answers, error) {
	words := []string{link.Name}
	answers := neighbor.Answers{}
	for _, address := range addresses {
		words = append(words, address.String())
		if macs := w.claims[link.Name+" "+address.String()]; len(macs) > 0 {
			answers[address] = macs
		}
	}
	w.mu.Lock()
	w.asked = append(w.asked, strings.Join(words, " "))
	if w.busy++; w.busy > 1 {
		w.crowds++
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.busy--
	}()
	if w.fails != nil {
		if err := w.fails(link.Name, addresses); err != nil {
			return nil, err
		}
	}
	select {
	case <-time.After(w.takes):
		return answers, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// inTown is an agent that holds the sample State with change applied, in a town.
func inTown(t *testing.T, w *town, change ...func(*desired.State)) *Agent {
	t.Helper()
	a := started(t, holding(t, sample(1, change...)))
	a.asker = w.ask
	return a
}

func targets(words ...string) []wire.ProbeTarget {
	var all []wire.ProbeTarget
	for _, word := range words {
		address, on, _ := strings.Cut(word, "%")
		all = append(all, wire.ProbeTarget{Address: addr(address), Interface: on})
	}
	return all
}

func ask(t *testing.T, a *Agent, targets []wire.ProbeTarget) []wire.ProbeAnswer {
	t.Helper()
	reply := a.reply(t.Context(), slog.New(slog.DiscardHandler), wire.RoleController,
		&wire.Request{Version: wire.Version, Verb: wire.VerbProbe, Probe: &wire.Probe{Targets: targets}})
	if reply.Refusal != nil {
		t.Fatal(reply.Refusal)
	}
	return reply.Probed.Answers
}

// shown are answers in words, one line each.
func shown(answers []wire.ProbeAnswer) string {
	var lines strings.Builder
	for _, a := range answers {
		fmt.Fprintf(&lines, "%s asked=%t", a.Address, a.Asked)
		for _, n := range a.Neighbors {
			fmt.Fprintf(&lines, " [%s]", strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", n.MAC, n.Gateway, n.Node)), " "))
		}
		if a.Problem != "" {
			fmt.Fprintf(&lines, " (%s)", a.Problem)
		}
		lines.WriteString("\n")
	}
	return lines.String()
}

func expectShown(t *testing.T, answers []wire.ProbeAnswer, want ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", shown(answers)); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// Everybody has a name: a peer, a node, one that is both, a stranger, nobody; and this gateway itself is not told, on
// whichever of its cards it answers.
func TestProbeNames(t *testing.T) {
	w := &town{claims: map[string][]string{
		"eth0 192.0.2.70": {"02:00:00:00:00:30"},
		"eth0 192.0.2.71": {"02:00:00:00:00:20"},
		"eth0 192.0.2.72": {"02:00:00:00:00:10", "02:00:00:00:00:99"},
		"eth0 192.0.2.73": {"02:00:00:00:00:99"},
		"eth0 192.0.2.74": {ownSecondMAC},
		// West is a worker too; worker-2 has an address that is on no network of eth0.
		"eth0 10.0.0.3": {"02:00:00:00:00:30"},
		"eth0 10.0.2.3": {"02:00:00:00:00:30"},
		"eth0 10.0.2.1": {"02:00:00:00:00:10"},
		"eth0 10.7.0.1": {"02:00:00:00:00:20"},
	}}
	a := inTown(t, w, node("west", "10.0.2.3"), func(s *desired.State) { s.Nodes[1].Addresses = []netip.Addr{addr("10.7.0.1")} })
	expectShown(t, ask(t, a, targets("192.0.2.75", "192.0.2.70", "192.0.2.71%eth0", "192.0.2.72", "192.0.2.73", "192.0.2.74")),
		"192.0.2.75 asked=true",
		"192.0.2.70 asked=true [02:00:00:00:00:30 west west]",
		"192.0.2.71 asked=true [02:00:00:00:00:20 worker-2]",
		"192.0.2.72 asked=true [02:00:00:00:00:10 worker-1] [02:00:00:00:00:99]",
		"192.0.2.73 asked=true [02:00:00:00:00:99]",
		"192.0.2.74 asked=true")
	if len(w.asked) != 2 || strings.Contains(w.asked[1], "10.0.0.2") {
		t.Errorf("asked %q: want the targets, then the others' addresses", w.asked)
	}
}

// Nobody is asked for a name when nobody else answered.
func TestProbeOfFreeAddressesIsShort(t *testing.T) {
	w := &town{claims: map[string][]string{"eth0 192.0.2.70": {ownSecondMAC}}}
	expectShown(t, ask(t, inTown(t, w), targets("192.0.2.70", "192.0.2.71")), "192.0.2.70 asked=true", "192.0.2.71 asked=true")
	if want := []string{"eth0 192.0.2.70 192.0.2.71"}; !slices.Equal(w.asked, want) {
		t.Errorf("asked %q, want %q", w.asked, want)
	}
}

// A machine that has the addresses of two nodes, or of two peers, answers for others; it is none of them.
func TestProbeNamesNoProxy(t *testing.T) {
	const proxy, second = "02:00:00:00:00:99", "02:00:00:00:00:20"
	w := &town{claims: map[string][]string{
		"eth0 192.0.2.70": {second, proxy},
		"eth0 10.0.2.1":   {proxy},
		"eth0 10.0.2.2":   {second, proxy},
	}}
	expectShown(t, ask(t, inTown(t, w), targets("192.0.2.70")), "192.0.2.70 asked=true ["+second+" worker-2] ["+proxy+"]")
}

func TestProbeProblems(t *testing.T) {
	w := &town{claims: map[string][]string{}}
	a := inTown(t, w)
	a.config.Paths.Limits = "/limits"
	machineOf(a).files["/limits"] = strings.Replace(openLimits, "[eth0]", "[eth0, eth1, eth2, eth9, lo]", 1)
	const outside = `"docker0" is not in interfaces of the gateway's limits.yaml (eth0, eth1, eth2, eth9, lo)`
	expectShown(t, ask(t, a, targets("203.0.113.9", "203.0.113.9%eth2", "192.0.2.70%eth9", "192.0.2.70%docker0", "192.0.2.70%lo", "192.0.2.70", "198.51.100.7%eth1", "192.0.2.70%eth1")),
		"203.0.113.9 asked=false (203.0.113.9 is in no network of interface eth0 (10.0.0.0/16, 192.0.2.0/24, 2001:db8::/64))",
		"203.0.113.9 asked=false (interface eth2 is down)",
		"192.0.2.70 asked=false (there is no interface eth9)",
		"192.0.2.70 asked=false ("+outside+")",
		"192.0.2.70 asked=false (there is no interface lo)",
		"192.0.2.70 asked=true",
		"198.51.100.7 asked=true",
		"192.0.2.70 asked=false (192.0.2.70 is in no network of interface eth1 (198.51.100.0/24))")
	slices.Sort(w.asked)
	if want := []string{"eth0 192.0.2.70", "eth1 198.51.100.7"}; !slices.Equal(w.asked, want) {
		t.Errorf("asked %q, want %q", w.asked, want)
	}
}

// Before the first State the one interface that the owner allows is the gateway's own; nobody has a name yet.
func TestProbeBeforeTheFirstState(t *testing.T) {
	w := &town{claims: map[string][]string{"eth0 192.0.2.70": {"02:00:00:00:00:30"}}}
	m := newMachine()
	a := started(t, m)
	a.asker = w.ask
	expectShown(t, ask(t, a, targets("192.0.2.70")), "192.0.2.70 asked=true [02:00:00:00:00:30]")
	m.files["/etc/gatewayctl/limits.yaml"] = strings.Replace(openLimits, "[eth0]", "[eth0, eth1]", 1)
	expectShown(t, ask(t, a, targets("192.0.2.70", "192.0.2.70%eth0")),
		"192.0.2.70 asked=false (no interface is named, and this gateway has no State yet that names its own)",
		"192.0.2.70 asked=true [02:00:00:00:00:30]")
	delete(m.files, "/etc/gatewayctl/limits.yaml")
	if answers := ask(t, a, targets("192.0.2.70")); answers[0].Asked || !strings.Contains(answers[0].Problem, "limits.yaml does not exist") {
		t.Errorf("without limits: %s", shown(answers))
	}
}

// A question that failed is not "nobody", and somebody whose name could not be found out is not a stranger.
func TestProbeFailures(t *testing.T) {
	broken := errors.New("the socket broke")
	w := &town{claims: map[string][]string{"eth0 192.0.2.70": {"02:00:00:00:00:30"}}}
	a := inTown(t, w)
	w.fails = func(_ string, addresses []netip.Addr) error {
		if slices.Contains(addresses, addr("10.0.0.3")) {
			return broken
		}
		return nil
	}
	expectShown(t, ask(t, a, targets("192.0.2.70")), "192.0.2.70 asked=false (finding out who answers: the socket broke)")
	a.config.Paths.Limits = "/limits"
	machineOf(a).files["/limits"] = strings.Replace(openLimits, "[eth0]", "[eth0, eth1]", 1)
	w.fails = func(link string, _ []netip.Addr) error {
		if link == "eth0" {
			return broken
		}
		return nil
	}
	expectShown(t, ask(t, a, targets("192.0.2.70", "198.51.100.7%eth1")),
		"192.0.2.70 asked=false (the socket broke)", "198.51.100.7 asked=true")
}

func TestProbeRefusals(t *testing.T) {
	a := inTown(t, &town{})
	for name, test := range map[string]struct {
		role  wire.Role
		probe *wire.Probe
		want  wire.Code
	}{
		"no question": {wire.RoleController, nil, wire.CodeMalformed},
		"bad target":  {wire.RoleOperator, &wire.Probe{Targets: targets("192.0.2.70", "224.0.0.1")}, wire.CodeInvalid},
		"a peer":      {wire.RolePeer, &wire.Probe{Targets: targets("192.0.2.70")}, wire.CodeRole},
	} {
		reply := a.reply(t.Context(), slog.New(slog.DiscardHandler), test.role, &wire.Request{Version: wire.Version, Verb: wire.VerbProbe, Probe: test.probe})
		if reply.Probed != nil || reply.Refusal == nil || reply.Refusal.Code != test.want {
			t.Errorf("%s: %+v, want a refusal with code %s", name, reply, test.want)
		}
	}
	machineOf(a).strike = func(_ int, operation string) strike {
		if strings.HasPrefix(operation, "run ip") {
			return failsBefore
		}
		return passes
	}
	if _, refusal := a.probe(t.Context(), &wire.Probe{Targets: targets("192.0.2.70")}); refusal == nil || refusal.Code != wire.CodeInternal {
		t.Errorf("links that cannot be read: %+v", refusal)
	}
}

// However many sessions ask, one question is under way; and none takes for ever.
func TestProbesWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{takes: 600 * time.Millisecond}
		a := inTown(t, w)
		var sessions sync.WaitGroup
		for range 5 {
			sessions.Go(func() { expectShown(t, ask(t, a, targets("192.0.2.70")), "192.0.2.70 asked=true") })
		}
		sessions.Wait()
		if w.crowds != 0 {
			t.Errorf("%d questions at the same time", w.crowds)
		}
		w.takes = time.Hour
		begun := time.Now()
		expectShown(t, ask(t, a, targets("192.0.2.70")), "192.0.2.70 asked=false (it took too long)")
		if took := time.Since(begun); took != probeLimit {
			t.Errorf("a probe took %v", took)
		}
	})
}

// By their schedule a probe of as many addresses as there may be, and the names of 1000 machines, are done within a second.
func TestProbeSchedule(t *testing.T) {
	if one := patient().Takes(1); one != 500*time.Millisecond {
		t.Errorf("one free address takes %v", one)
	}
	if name := brisk().Takes(3); name > 200*time.Millisecond {
		t.Errorf("the names of three machines take %v", name)
	}
	if most := patient().Takes(wire.MaxProbeTargets) + brisk().Takes(1000); most > 900*time.Millisecond {
		t.Errorf("the largest probe takes %v", most)
	}
}

// An agent that is told to end does not wait for its turn.
func TestProbeOfAnAgentThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := inTown(t, &town{})
		a.probing <- struct{}{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if _, refusal := a.probe(ctx, &wire.Probe{Targets: targets("192.0.2.70")}); refusal == nil || refusal.Code != wire.CodeInternal {
			t.Errorf("got %+v", refusal)
		}
	})
}

func TestHelloTellsLinks(t *testing.T) {
	a := started(t, newMachine())
	want := []wire.Link{
		{Interface: "eth0", Prefixes: prefixes("10.0.0.0/16", "192.0.2.0/24", "2001:db8::/64"), Routers: []netip.Addr{addr("192.0.2.254"), addr("2001:db8::1")}},
		{Interface: "eth1", Prefixes: prefixes("198.51.100.0/24"), Routers: []netip.Addr{addr("198.51.100.9")}},
		{Interface: "eth2", Prefixes: prefixes("203.0.113.0/24")},
	}
	if diff := cmp.Diff(want, a.hello(t.Context(), wire.RoleController).Links, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	machineOf(a).strike = func(_ int, operation string) strike {
		if strings.HasPrefix(operation, "run ip") {
			return failsBefore
		}
		return passes
	}
	if hello := a.hello(t.Context(), wire.RoleController); hello.Gateway != "east" || hello.Links != nil {
		t.Errorf("when the links cannot be read: %+v", hello)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
