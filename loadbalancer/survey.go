package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// sighting is what a gateway found out about one address.
type sighting struct {
	gateway string
	wire.ProbeAnswer
}

// surveyPatience is how long the other gateways are waited for when one could not ask for all addresses: it says so at
// once, and they may be half a second behind.
const surveyPatience = time.Second

// survey asks all these gateways at once who answers for the targets, and gives for each target what the first gateway says
// that could ask; nil when no gateway says anything. Who is late is left to end by itself: to break a call off costs the
// gateway's connection.
func (m *Manager) survey(ctx context.Context, gateways []*member, targets []wire.ProbeTarget) map[netip.Addr]sighting {
	type report struct {
		gateway string
		answers []wire.ProbeAnswer
	}
	reports := make(chan report, len(gateways)) // with room for those that come late
	for _, g := range gateways {
		m.surveys.Go(func() {
			answers, err := m.probe(ctx, g, targets)
			if err != nil && ctx.Err() == nil {
				m.log.Warn("addresses could not be looked for on the network", "gateway", g.name, "addresses", len(targets), "err", err)
			}
			reports <- report{g.name, answers}
		})
	}
	var found map[netip.Addr]sighting
	var patience <-chan time.Time
	for range gateways {
		select {
		case r := <-reports:
			if r.answers == nil {
				continue
			}
			if found == nil {
				found, patience = make(map[netip.Addr]sighting, len(targets)), time.After(surveyPatience)
			}
			for _, answer := range r.answers {
				if !found[answer.Address].Asked {
					found[answer.Address] = sighting{r.gateway, answer}
				}
			}
			if !slices.ContainsFunc(targets, func(t wire.ProbeTarget) bool { return !found[t.Address].Asked }) {
				return found
			}
		case <-patience:
			return found
		case <-ctx.Done():
			return nil
		}
	}
	return found
}

// probe asks one gateway.
func (m *Manager) probe(ctx context.Context, g *member, targets []wire.ProbeTarget) ([]wire.ProbeAnswer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.settings.AskTimeout, &noAnswerError{m.settings.AskTimeout})
	defer cancel()
	probed, err := g.Probe(ctx, targets)
	if err != nil {
		return nil, err
	}
	if len(probed.Answers) != len(targets) {
		return nil, fmt.Errorf("gateway %s answered %d of %d questions", g.name, len(probed.Answers), len(targets))
	}
	return probed.Answers, nil
}

// targetsOf are the questions for addresses, each on the interface of its pool. It is called with mu held.
func (m *Manager) targetsOf(addresses []netip.Addr) []wire.ProbeTarget {
	targets := make([]wire.ProbeTarget, len(addresses))
	for i, address := range addresses {
		targets[i] = wire.ProbeTarget{Address: address, Interface: m.pools.PoolInterface[m.poolFamily(address).pool]}
	}
	return targets
}

// strangers are the machines that answer and are no gateways; a node before others, because its name helps.
func strangers(found map[netip.Addr]sighting) map[netip.Addr]*ConflictError {
	conflicts := map[netip.Addr]*ConflictError{}
	for address, s := range found {
		for _, n := range s.Neighbors {
			if known := conflicts[address]; n.Gateway != "" || known != nil && (n.Node == "" || known.Node != "") {
				continue
			}
			conflicts[address] = &ConflictError{Address: address, Gateway: s.gateway, MAC: n.MAC, Node: n.Node}
		}
	}
	return conflicts
}
