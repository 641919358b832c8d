package loadbalancer

import (
	"context"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
)

// adoptEdits reads the object and takes over what a person changed in it since it was read or written: an entry that was
// removed is released, one that was added is kept. That an address is on its way back is no matter of opinion, and an
// object that is gone as a whole was not edited: both are written again. It is called with the turn held.
func (m *Manager) adoptEdits(ctx context.Context) error {
	found, err := m.ledger.store.Read(ctx)
	if err != nil {
		return err
	}
	before := m.ledger.saved
	if found == nil {
		m.ledger.saved = Ledger{}
		m.mu.Lock()
		m.ledger.given = nil
		m.mu.Unlock()
		return nil
	}
	if err := found.Validate(); err != nil {
		return err
	}
	m.ledger.saved = *found
	m.mu.Lock()
	m.adoptGiven(extentsOf(found.Given))
	m.mu.Unlock()
	if sameLedger(*found, before) {
		return nil
	}
	m.mu.Lock()
	released, idle := m.adoptKept(holdsOf(found.Kept), holdsOf(before.Kept))
	released = append(released, m.adoptQuarantined(byAddress(found.Quarantined), byAddress(before.Quarantined))...)
	m.reserve()
	m.revision++
	m.mu.Unlock()
	slices.SortFunc(released, netip.Addr.Compare)
	m.log.Info("ledger was edited", "released", released)
	for _, e := range idle {
		m.tellNotices([]notice{{e.Owner, e}})
		m.observer.tell(func(o Observer) { o.Notice(e) })
	}
	for _, address := range released {
		m.observer.tell(func(o Observer) { o.AddressFreed(address) })
	}
	signal(m.wake)
	return nil
}

// adoptKept gives the addresses that are kept no more, and the entries that change nothing. It is called with mu held.
func (m *Manager) adoptKept(kept, before map[hold]bool) (released []netip.Addr, idle []*IdleEntryError) {
	for h := range before {
		if !kept[h] && m.kept[h] {
			delete(m.kept, h)
			released = append(released, h.address)
		}
	}
	for _, h := range sortedHolds(kept) {
		if before[h] {
			continue
		}
		m.kept[h] = true
		if entry := m.services[h.owner]; entry != nil && entry.settled { // claimKept drops it
			idle = append(idle, &IdleEntryError{Address: h.address, Owner: h.owner, Ledger: m.ledger.store.Name(),
				Has: m.addresses.Addresses(ipam.Owner(h.owner))})
		}
	}
	return released, idle
}

// adoptQuarantined gives the addresses that may be tried at once. It is called with mu held.
func (m *Manager) adoptQuarantined(quarantined, before map[netip.Addr]Quarantine) (released []netip.Addr) {
	for address := range before {
		if _, still := quarantined[address]; !still {
			delete(m.quarantined, address)
			released = append(released, address)
		}
	}
	for address, q := range quarantined {
		if !sameQuarantine(q, before[address]) {
			if former := m.quarantined[address]; former.By == q.By {
				q.Node = former.Node
			}
			m.quarantined[address] = q
		}
	}
	return released
}
