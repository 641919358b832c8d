package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// censusPause lies between the two looks that it takes to believe that a VIP is held twice or by nobody. The answers of one
// look are not of one moment, a VIP may be on its way (less than a second for 1000), and the resync that goes on beside the
// first look undoes what an agent can undo.
const censusPause = 5 * time.Second

// takeCensus compares, at every resync, what the gateways say they hold, until ctx ends. No gateway can see by itself that
// it is not the only one.
func (m *Manager) takeCensus(ctx context.Context) {
	for sleep(ctx, m.settings.Resync) {
		wrong := m.misheld(ctx)
		if len(wrong) > 0 {
			if !sleep(ctx, censusPause) {
				return
			}
			again := m.misheld(ctx)
			maps.DeleteFunc(wrong, func(address netip.Addr, holders string) bool {
				now, still := again[address]
				return !still || now != holders
			})
		}
		m.tellHolders(wrong)
	}
}

// misheld asks all gateways and gives the VIPs that several hold, with their names, or that nobody holds (""). Nobody is
// said to hold a VIP only when every gateway answered.
func (m *Manager) misheld(ctx context.Context) map[netip.Addr]string {
	m.mu.Lock()
	vips := vipsOf(m.good)
	m.mu.Unlock()
	var mu sync.Mutex
	holders := make(map[netip.Addr][]string)
	answers := 0
	m.ask(ctx, m.members, m.settings.AskTimeout, func(ctx context.Context, g *member) {
		status := m.readStatus(ctx, g)
		if status == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		answers++
		for _, address := range status.Held {
			holders[address] = append(holders[address], g.name)
		}
	})
	wrong := make(map[netip.Addr]string)
	for _, vip := range vips {
		by := holders[vip.Address]
		if len(by) > 1 || len(by) == 0 && answers == len(m.members) {
			slices.Sort(by)
			wrong[vip.Address] = strings.Join(by, " ")
		}
	}
	return wrong
}

func vipsOf(s *desired.State) []desired.VIP {
	if s == nil {
		return nil
	}
	return s.VIPs
}

// tellHolders tells what is wrong and was not before, those with the same holders together, and counts.
func (m *Manager) tellHolders(wrong map[netip.Addr]string) {
	m.mu.Lock()
	news := make(map[string][]netip.Addr)
	for address, holders := range wrong {
		if was, known := m.wrongHolders[address]; !known || was != holders {
			news[holders] = append(news[holders], address)
		}
	}
	for address := range m.wrongHolders {
		if _, still := wrong[address]; !still {
			m.log.Info("VIP is held by one gateway again, or gone", "vip", address)
		}
	}
	m.wrongHolders = wrong
	m.mu.Unlock()
	for _, holders := range slices.Sorted(maps.Keys(news)) {
		addresses := news[holders]
		slices.SortFunc(addresses, netip.Addr.Compare)
		err := &HoldersError{Addresses: addresses, Gateways: strings.Fields(holders)}
		m.log.Warn("VIPs are not held by one gateway", "vips", fmt.Sprint(addresses), "holders", holders)
		m.observer.tell(func(o Observer) { o.Notice(err) })
	}
}

// countMisheld counts the VIPs that were found held twice and by nobody. It is called with mu held.
func (m *Manager) countMisheld() (twice, nobody int) {
	for _, holders := range m.wrongHolders {
		if holders == "" {
			nobody++
		} else {
			twice++
		}
	}
	return twice, nobody
}

// findings are what a gateway found, or warns everybody of, that nobody was told yet. It is called with mu held.
func (g *member) findings(s *wire.Status) (news []error) {
	for _, d := range s.Differences {
		if d.Found.After(g.lastDifference) {
			g.lastDifference = d.Found
			news = append(news, &DriftError{g.name, d.Found, d.Changes, d.Left, d.Problem})
		}
	}
	warned := make(map[WarningError]bool, len(s.Warnings))
	for _, w := range s.Warnings {
		e := WarningError{g.name, w.Reason, w.Message}
		if len(w.LoadBalancers) > 0 {
			continue
		}
		if warned[e] = true; !g.warned[e] {
			news = append(news, &e)
		}
	}
	g.warned = warned
	return news
}
