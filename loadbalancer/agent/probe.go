package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Asker asks everybody on a link who has the addresses; see neighbor.Ask.
type Asker func(ctx context.Context, link neighbor.Link, addresses []netip.Addr, patience neighbor.Patience) (neighbor.Answers, error)

// probeLimit bounds the questions of one probe; what takes longer has not been asked. By their schedule they are done within
// a second: 0.5 s for a free address, 0.2 s more when somebody answers, 0.9 s for 1024 of them and 1000 nodes. The rest is for
// a machine that is short of processors, where no answer would be the worse one.
const probeLimit = 2 * time.Second

// patient is how the targets are asked, brisk how those who answered are told apart: they are there, and awake.
func patient() neighbor.Patience {
	return neighbor.Patience{Times: 3, Pause: 150 * time.Millisecond, Listen: 200 * time.Millisecond}
}

func brisk() neighbor.Patience {
	return neighbor.Patience{Times: 3, Pause: 50 * time.Millisecond, Listen: 100 * time.Millisecond}
}

// probe asks who on the networks of this gateway answers for the targets. One at a time: a key that is misused cannot make
// this machine flood a network. Nothing is changed, so it waits for no transaction.
func (a *Agent) probe(ctx context.Context, request *wire.Probe) (*wire.Probed, *wire.Refusal) {
	if request == nil {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: "probe carries no targets"}
	}
	if faults := request.Faults(); len(faults) > 0 {
		return nil, &wire.Refusal{Code: wire.CodeInvalid, Message: "these targets cannot be probed: " + faultList(faults), Faults: faults}
	}
	select {
	case a.probing <- struct{}{}:
		defer func() { <-a.probing }()
	case <-ctx.Done():
		return nil, &wire.Refusal{Code: wire.CodeInternal, Message: "the agent ends", Remedy: "ask again when it is back"}
	}
	links, err := a.links(ctx)
	if err != nil {
		return nil, &wire.Refusal{Code: wire.CodeInternal, Message: err.Error()}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, errLate)
	defer cancel()
	p := a.newProbe(request.Targets, links)
	return &wire.Probed{Answers: p.run(ctx)}, nil
}

// links are the networks of this machine.
func (a *Agent) links(ctx context.Context) ([]neighbor.Link, error) {
	output, err := a.host.Run(ctx, neighbor.AddressArgv(), nil)
	if err != nil {
		return nil, fmt.Errorf("reading the machine's links: %w", err)
	}
	return neighbor.ReadLinks(output.Stdout)
}

// probing is one probe under way.
type probing struct {
	asker    Asker
	targets  []wire.ProbeTarget
	problems []string // why a target is not asked for, "" when it is
	links    map[string]neighbor.Link
	own      map[string]bool // the MACs of this machine: one link may hear another one
	machines []namedMachine
}

// namedMachine is a peer or a node, and where State says it is.
type namedMachine struct {
	gateway, node string
	addresses     []netip.Addr
}

// newProbe finds out where each target is to be asked for, or why it cannot be.
func (a *Agent) newProbe(targets []wire.ProbeTarget, links []neighbor.Link) *probing {
	p := &probing{asker: a.asker, targets: slices.Clone(targets), links: map[string]neighbor.Link{}, own: map[string]bool{}}
	for _, l := range links {
		p.links[l.Name] = l
		p.own[l.MAC.String()] = true
	}
	gateway := ""
	if held := a.held(); held != nil {
		for _, g := range held.state.Gateways {
			if g.Name == a.config.Gateway {
				gateway = g.Interface
				continue
			}
			p.machines = append(p.machines, namedMachine{gateway: g.Name, addresses: []netip.Addr{g.VRRPAddress}})
		}
		for _, n := range held.state.Nodes {
			p.machines = append(p.machines, namedMachine{node: n.Name, addresses: n.Addresses})
		}
	}
	limits, err := a.readLimits()
	for n := range p.targets {
		t := &p.targets[n]
		if err != nil {
			p.problems = append(p.problems, err.Error())
			continue
		}
		if t.Interface = cmp.Or(t.Interface, gateway); t.Interface == "" && len(limits.Interfaces) == 1 {
			t.Interface = limits.Interfaces[0]
		}
		p.problems = append(p.problems, p.problem(*t, limits))
	}
	return p
}

// problem says why a target cannot be asked for.
func (p *probing) problem(t wire.ProbeTarget, limits *Limits) string {
	link, exists := p.links[t.Interface]
	switch {
	case t.Interface == "":
		return "no interface is named, and this gateway has no State yet that names its own"
	case !slices.Contains(limits.Interfaces, t.Interface):
		return fmt.Sprintf("%q is not in interfaces of the gateway's limits.yaml (%s)", t.Interface, list(limits.Interfaces))
	case !exists:
		return fmt.Sprintf("there is no interface %s", t.Interface)
	case link.Problem != "":
		return fmt.Sprintf("interface %s %s", t.Interface, link.Problem)
	case !link.OnLink(t.Address):
		return fmt.Sprintf("%s is in no network of interface %s (%s)", t.Address, t.Interface, list(link.Prefixes))
	}
	return ""
}

// run asks on all links at the same time.
func (p *probing) run(ctx context.Context) []wire.ProbeAnswer {
	byLink := map[string][]int{}
	for n, t := range p.targets {
		if p.problems[n] == "" {
			byLink[t.Interface] = append(byLink[t.Interface], n)
		}
	}
	answers := make([]wire.ProbeAnswer, len(p.targets))
	for n, t := range p.targets {
		answers[n] = wire.ProbeAnswer{Address: t.Address, Problem: p.problems[n]}
	}
	var group errgroup.Group
	for name, targets := range byLink {
		group.Go(func() error {
			p.askOn(ctx, p.links[name], targets, answers)
			return nil
		})
	}
	_ = group.Wait() // what went wrong stands in the answers
	return answers
}

// askOn fills in the answers of the targets on one link. Who answered is told with a name or not at all: a peer that could
// not be told from a stranger would be taken for one.
func (p *probing) askOn(ctx context.Context, link neighbor.Link, targets []int, answers []wire.ProbeAnswer) {
	var addresses []netip.Addr
	for _, n := range targets {
		addresses = append(addresses, p.targets[n].Address)
	}
	found, err := p.asker(ctx, link, addresses, patient())
	if err != nil {
		p.fail(targets, answers, err)
		return
	}
	known := map[string]wire.Neighbor{}
	if p.somebody(found) {
		if known, err = p.whoIsWho(ctx, link); err != nil {
			p.fail(targets, answers, fmt.Errorf("finding out who answers: %w", err))
			return
		}
	}
	for _, n := range targets {
		answers[n].Asked = true
		for _, mac := range found[answers[n].Address] {
			if !p.own[mac] {
				who := known[mac]
				answers[n].Neighbors = append(answers[n].Neighbors, wire.Neighbor{MAC: mac, Gateway: who.Gateway, Node: who.Node})
			}
		}
	}
}

func (p *probing) fail(targets []int, answers []wire.ProbeAnswer, err error) {
	for _, n := range targets {
		answers[n].Problem = err.Error()
	}
}

// somebody says whether anybody but this gateway answered.
func (p *probing) somebody(found neighbor.Answers) bool {
	for _, macs := range found {
		if slices.ContainsFunc(macs, func(mac string) bool { return !p.own[mac] }) {
			return true
		}
	}
	return false
}

// whoIsWho finds the MACs of the peers and the nodes by asking for their addresses on the link where somebody answered, also
// for those that do not belong there: a Linux machine answers ARP for any address of its own on any link. A MAC that has the
// addresses of two peers or of two nodes is none of them; it answers for others.
func (p *probing) whoIsWho(ctx context.Context, link neighbor.Link) (map[string]wire.Neighbor, error) {
	var addresses []netip.Addr
	for _, m := range p.machines {
		addresses = append(addresses, m.addresses...)
	}
	if len(addresses) == 0 {
		return nil, nil
	}
	found, err := p.asker(ctx, link, addresses, brisk())
	if err != nil {
		return nil, err
	}
	known, proxies := map[string]wire.Neighbor{}, map[string]bool{}
	for _, m := range p.machines {
		for _, address := range m.addresses {
			for _, mac := range found[address] {
				who := known[mac]
				if m.gateway != "" && who.Gateway != "" && who.Gateway != m.gateway || m.node != "" && who.Node != "" && who.Node != m.node {
					proxies[mac] = true
				}
				known[mac] = wire.Neighbor{Gateway: cmp.Or(m.gateway, who.Gateway), Node: cmp.Or(m.node, who.Node)}
			}
		}
	}
	for mac := range proxies {
		delete(known, mac)
	}
	return known, nil
}
