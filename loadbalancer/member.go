package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// member is what Manager knows of one gateway. Manager.mu guards it.
type member struct {
	Gateway
	name string
	// away says why rounds leave this gateway out, nil while they do not: it could not be asked, or it failed for a
	// reason of its own.
	away error
	// failures counts why it is away since it last confirmed: those that fail more often are tried later.
	failures int
	// silent is set when away is because the agent could not be asked at all: it may be back any second.
	silent bool
	// back is set when a silent one answered again: the next round has it.
	back bool
	// until is how long it is left alone after it fell silent over a State, pause how long it will be the next time. It
	// doubles each time: a gateway that answers but no State costs the round that has it an ApplyTimeout.
	pause time.Duration
	until time.Time
	// confirmed is the fence of the newest State that it confirmed to this Manager.
	confirmed desired.Fence
	// offered is the fence of the newest State that it may have heard of, whether it answered or not.
	offered desired.Fence
	// unread is set while it is known to hold a State of another controller that it has not told us yet.
	unread bool
	// told is the fence of the State that it said it holds, or a peer said of it; nil when nobody has since it fell silent.
	told *desired.Fence
	held map[netip.Addr]bool
	// peers are what it knows of the others, which it may reach and we do not.
	peers []wire.PeerStatus
	// absurd are the epochs that nobody can have claimed, by the peer that tells of one, as told last.
	absurd map[string]uint64
	// inspected is the last of the VIPs that the newest patrol looked at.
	inspected netip.Addr
	links     []wire.Link
	warnings  []wire.Warning
	// warned are the warnings to everybody of the last status, and lastDifference is when the newest one was found that was told.
	warned         map[WarningError]bool
	lastDifference time.Time
	inSync         bool
	drift          []string
	drain          *wire.DrainStatus
}

// newMembers matches the described gateways and those that can be asked.
func newMembers(described []desired.Gateway, gateways []Gateway) ([]*member, error) {
	var members []*member
	for _, d := range described {
		i := slices.IndexFunc(gateways, func(g Gateway) bool { return g.Name() == d.Name })
		if i < 0 {
			return nil, fmt.Errorf("gateway %s is configured, but there is no client for it", d.Name)
		}
		members = append(members, &member{Gateway: gateways[i], name: d.Name, inSync: true})
	}
	if len(gateways) != len(described) {
		return nil, fmt.Errorf("%d gateways are configured, but there are %d clients", len(described), len(gateways))
	}
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	return members, nil
}

func (g *member) status() GatewayStatus {
	s := GatewayStatus{
		Name: g.name, Err: g.away, Confirmed: g.confirmed, InSync: g.inSync, Drain: g.drain,
		Warnings: slices.Clone(g.warnings), Drift: slices.Clone(g.drift),
	}
	for address := range g.held {
		s.Held = append(s.Held, address)
	}
	slices.SortFunc(s.Held, netip.Addr.Compare)
	return s
}

// hear notes what a gateway says it holds and warns of.
func (g *member) hear(held []netip.Addr, warnings []wire.Warning) {
	g.held = make(map[netip.Addr]bool, len(held))
	for _, address := range held {
		g.held[address] = true
	}
	g.warnings = warnings
}

// serialObserver calls an Observer one call at a time.
type serialObserver struct {
	mu sync.Mutex
	to Observer
}

func (o *serialObserver) tell(f func(Observer)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o.to)
}
