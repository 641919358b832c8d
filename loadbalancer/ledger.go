package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// ledgerObject is the ledger in the API server: what it says is remembered in Manager's own maps, saved is what the object says.
type ledgerObject struct {
	store LedgerStore
	// turn is held by whoever reads or writes the object.
	turn chan struct{}
	// saved is what was read or written last. Guarded by turn.
	saved Ledger
	// recalled is what was on its way back when it was read at the start; missing says that there was no object. Guarded by
	// Manager.mu.
	recalled []desired.Releasing
	missing  bool
	// given is what the object says of holds. Guarded by Manager.mu.
	given map[hold]extent
	// crowded are the owners of holds for which it had no room at the last look. Guarded by Manager.mu.
	crowded map[desired.Key]bool
	// failed is set while the object cannot be written, so that it is told once. Guarded by turn.
	failed bool
}

func newLedgerObject(store LedgerStore) *ledgerObject {
	return &ledgerObject{store: store, turn: make(chan struct{}, 1)}
}

// openLedger reads the ledger at the start. It must succeed before addresses are given: one that is kept for somebody would
// be given away.
func (m *Manager) openLedger(ctx context.Context) error {
	m.ledger.turn <- struct{}{}
	defer func() { <-m.ledger.turn }()
	ctx, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	ledger, err := m.ledger.store.Read(ctx)
	if err == nil && ledger != nil {
		err = ledger.Validate()
	}
	if err != nil {
		return fmt.Errorf("read which addresses are kept and quarantined: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ledger.missing = ledger == nil; m.ledger.missing {
		return nil
	}
	m.ledger.saved = *ledger
	clear(m.kept) // what an earlier try read
	clear(m.quarantined)
	for _, r := range ledger.Kept {
		m.kept[hold{r.Address, desired.Key(r.Owner)}] = true
	}
	for _, q := range ledger.Quarantined {
		m.quarantined[q.Address] = q
	}
	m.ledger.recalled, m.ledger.given = ledger.Releasing, extentsOf(ledger.Given)
	m.reserve()
	return nil
}

// toRemember is what the object is to say. It is called with the turn and mu held.
func (m *Manager) toRemember() (l Ledger) {
	for _, h := range sortedHolds(m.kept) {
		l.Kept = append(l.Kept, ipam.Reservation{Address: h.address, Owner: ipam.Owner(h.owner)})
	}
	for _, address := range sortedAddresses(m.quarantined) {
		l.Quarantined = append(l.Quarantined, m.quarantined[address])
	}
	l.Given = m.given()
	if m.target == nil || m.good != m.target.state {
		l.Releasing = m.ledger.saved.Releasing // a round runs or is tried again: most of what it releases is free at its end
		return l
	}
	for _, r := range m.target.state.Releasing {
		if _, still := m.since[hold{r.Address, r.Owner}]; still { // else it is free, and the next State says so
			l.Releasing = append(l.Releasing, r)
		}
	}
	return l
}

// Validate says what is wrong with it for State, which repeats it for people: a bad entry there would stop every round.
// Fields are named as they are written for people.
func (l Ledger) Validate() error {
	var faults desired.Faults
	judge := func(field, problem string) {
		if problem != "" {
			faults = append(faults, desired.Fault{Field: field, Problem: problem})
		}
	}
	seen := map[ipam.Reservation]bool{}
	for i, r := range l.Kept {
		judge(fmt.Sprintf("kept[%d].address", i), desired.AddressProblem(r.Address))
		judge(fmt.Sprintf("kept[%d].service", i), desired.KeyProblem(desired.Key(r.Owner)))
		if seen[r] {
			judge(fmt.Sprintf("kept[%d]", i), fmt.Sprintf("%s is there twice for %s", r.Address, r.Owner))
		}
		seen[r] = true
	}
	for i, g := range l.Given {
		judge(fmt.Sprintf("given[%d].address", i), desired.AddressProblem(g.Address))
		judge(fmt.Sprintf("given[%d].service", i), desired.KeyProblem(g.Owner))
	}
	for i, r := range l.Releasing {
		judge(fmt.Sprintf("releasing[%d].service", i), desired.KeyProblem(r.Owner))
	}
	if len(faults) == 0 { // the rest has the same names in a State
		s := desired.State{Releasing: l.Releasing}
		for _, q := range l.Quarantined {
			s.Quarantined = append(s.Quarantined, desired.Quarantined{Address: q.Address, By: desired.Description(q.By)})
		}
		errors.As(s.ValidateAddresses(), &faults)
	}
	if len(faults) == 0 {
		return nil
	}
	texts := make([]string, len(faults))
	for i, fault := range faults {
		texts[i] = fault.String()
	}
	return errors.New(strings.Join(texts, "; "))
}

func sameLedger(a, b Ledger) bool {
	return slices.Equal(a.Kept, b.Kept) &&
		slices.EqualFunc(a.Given, b.Given, func(a, b Given) bool {
			return a.Address == b.Address && a.Owner == b.Owner && slices.Equal(a.Ports, b.Ports)
		}) &&
		slices.EqualFunc(a.Quarantined, b.Quarantined, sameQuarantine) &&
		slices.EqualFunc(a.Releasing, b.Releasing, func(a, b desired.Releasing) bool {
			return a.Address == b.Address && a.Owner == b.Owner && a.SinceEpoch == b.SinceEpoch && a.SinceSequence == b.SinceSequence &&
				slices.Equal(a.Ports, b.Ports)
		})
}

func sameQuarantine(a, b Quarantine) bool {
	return a.Address == b.Address && a.By == b.By && a.Until.Equal(b.Until)
}

// keepLedger writes the ledger when it has changed, until ctx ends. A failure is tried again.
func (m *Manager) keepLedger(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.noted:
		}
		for pause := retryMin; ; pause = min(2*pause, retryMax) {
			err := m.writeLedger(ctx)
			if err == nil {
				m.failCrowded()
				break
			}
			m.failUngiven(err, func(key desired.Key) bool { return m.services[key].ungiven })
			if !sleep(ctx, pause) {
				return
			}
		}
	}
}

// writeLedger makes the object say what is so now, and leaves what others removed from it removed.
func (m *Manager) writeLedger(ctx context.Context) error {
	return m.withLedger(ctx, func(ctx context.Context) (asked bool, err error) {
		asked, err = m.write(ctx)
		var changed *LedgerChangedError
		for errors.As(err, &changed) && ctx.Err() == nil {
			if err = m.adoptEdits(ctx); err == nil {
				_, err = m.write(ctx)
			}
		}
		return asked, err
	})
}

// readLedger takes over what somebody changed in the object, and writes what is missing in it.
func (m *Manager) readLedger(ctx context.Context) {
	err := m.withLedger(ctx, func(ctx context.Context) (bool, error) { return true, m.adoptEdits(ctx) })
	if err == nil {
		signal(m.noted)
	}
}

// withLedger does something with the object; asked says whether the API server was asked for it. That it fails is told once,
// until it succeeds.
func (m *Manager) withLedger(ctx context.Context, do func(context.Context) (asked bool, err error)) error {
	select {
	case m.ledger.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.ledger.turn }()
	timed, cancel := context.WithTimeout(ctx, m.settings.AskTimeout)
	defer cancel()
	asked, err := do(timed)
	if ctx.Err() != nil || !asked {
		return err // who waited gave up, or there was nothing to do
	}
	news := (err != nil) != m.ledger.failed
	if m.ledger.failed = err != nil; news && err != nil {
		m.log.Warn("ledger", "err", err)
		m.observer.tell(func(o Observer) { o.Notice(&LedgerError{err}) })
	}
	return err
}

// write writes what is so now, unless the object says that already. It is called with the turn held.
func (m *Manager) write(ctx context.Context) (asked bool, err error) {
	m.mu.Lock()
	ledger, known, unwritten := m.toRemember(), m.replayed, slices.Collect(maps.Keys(m.unwritten))
	m.mu.Unlock()
	if !known {
		return false, nil // before the first round nobody knows what is on its way back
	}
	if !sameLedger(ledger, m.ledger.saved) {
		asked = true
		if err := m.ledger.store.Write(ctx, ledger); err != nil {
			return asked, err
		}
		m.ledger.saved = ledger
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range unwritten {
		delete(m.unwritten, key)
	}
	if asked {
		m.settleGiven(extentsOf(ledger.Given))
	}
	return asked, nil
}

func holdsOf(reservations []ipam.Reservation) map[hold]bool {
	all := make(map[hold]bool, len(reservations))
	for _, r := range reservations {
		all[hold{r.Address, desired.Key(r.Owner)}] = true
	}
	return all
}

func byAddress(quarantines []Quarantine) map[netip.Addr]Quarantine {
	all := make(map[netip.Addr]Quarantine, len(quarantines))
	for _, q := range quarantines {
		all[q.Address] = q
	}
	return all
}

// keep reserves what a Service has for the next Service of its name. It is called with mu held, before the Service
// departs.
func (m *Manager) keep(key desired.Key) {
	owner := ipam.Owner(key)
	addresses := m.addresses.Addresses(owner)
	if len(addresses) == 0 { // it departed before: we were started after its deletion had begun
		for _, r := range m.addresses.Releasing() {
			if r.Owner == owner {
				addresses = append(addresses, r.Address)
			}
		}
	}
	for _, address := range addresses {
		m.kept[hold{address, key}] = true
	}
	m.reserve()
}

// recallKept takes over what the State says is kept and the ledger does not, when there is no ledger, and for Services that
// are there: a controller may have ended before it could write it down. It is called with mu held.
func (m *Manager) recallKept() {
	if m.good == nil {
		return
	}
	for _, r := range m.good.Reserved {
		if r.Kept && (m.ledger.missing || m.services[r.Owner] != nil || m.keeping[r.Owner]) {
			m.kept[hold{r.Address, r.Owner}] = true
		}
	}
}

// unkeep takes back that a Service is to be kept, as long as nobody was told that it is. It is called with mu held.
func (m *Manager) unkeep(key desired.Key) {
	delete(m.keeping, key)
	delete(m.unwritten, key)
	maps.DeleteFunc(m.kept, func(h hold, _ bool) bool { return h.owner == key })
	m.reserve()
}

// claimKept drops what was kept for Services that are there again and served: they have taken what they want of it. It is
// called with mu held.
func (m *Manager) claimKept() (freed []netip.Addr) {
	claimed := false
	for _, h := range sortedHolds(m.kept) {
		if entry := m.services[h.owner]; entry == nil || !entry.settled {
			continue
		}
		delete(m.kept, h)
		claimed = true
		if !m.addresses.Has(ipam.Owner(h.owner), h.address) {
			freed = append(freed, h.address)
		}
	}
	if claimed {
		m.reserve()
	}
	return freed
}
