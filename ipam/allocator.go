package ipam

import (
	"net/netip"
	"slices"
)

// Allocator knows every address of the pools. It is not safe for concurrent use.
type Allocator struct {
	pools []string
	// byPool gives the blocks of a pool, IPv4 then IPv6, nil where it has none; blocks are all, in the order of the pools.
	byPool     map[string][2]*block
	blocks     []*block
	spans      []span
	exclusions []Exclusion
	marks      map[netip.Addr]mark
	// reservedFor are the reserved addresses of an owner, sorted.
	reservedFor map[Owner][]netip.Addr
	owners      owners
	// leavers are all who release something, in no order.
	leavers []leaver
	// outside are the cells of addresses in no pool: a pool that was removed, an edited status.
	outside map[netip.Addr]id
	// shared are the tenants of addresses whose cell is several: all but those that one owner holds or releases alone and
	// without a sharing key.
	shared map[netip.Addr][]tenant
	// keys are the addresses that are held with a sharing key, oldest first.
	keys map[string][]netip.Addr
	// regained are addresses that were releasing when their owner took them: Withdraw must not make them free.
	regained map[holding]struct{}
}

// holding is one owner's part in an address.
type holding struct {
	record  id
	address netip.Addr
}

func slot(f Family) int {
	if f == IPv4 {
		return 0
	}
	return 1
}

// asking is a request and who makes it; record is nil for an owner that has nothing.
type asking struct {
	owner   Owner
	record  *record
	request Request
	sharing Sharing
	// repeats says that owner claims what it had before.
	repeats bool
}

func (q *asking) holds(s seat) bool { return q.record != nil && q.record.holds(s.address) }

// Allocate gives owner addresses, one for each family of the request, in the order of its families. An owner that has
// an address keeps it, unless it requests another one or Moves; what it no longer asks for becomes releasing, and so do
// ports that its Sharing has no more. An owner that has none gets, in this order: one that it releases still, one that
// is reserved for it, one that it can share, the next free. On an error nothing changes. Errors: *ExhaustedError,
// *OutsideError, *ExcludedError, *TakenError, *SharingError, *ReservedError, *QuarantinedError, *RequestError.
func (a *Allocator) Allocate(owner Owner, request Request) ([]netip.Addr, error) {
	asked, err := a.families(&request)
	if err != nil {
		return nil, err
	}
	hash := a.owners.hash(owner)
	request.Sharing.Keyless = false
	q := asking{owner: owner, record: a.owners.get(owner, hash), request: request, sharing: request.Sharing.normal()}
	var wanted [2]seat
	addresses := make([]netip.Addr, 0, len(asked))
	for i, family := range asked {
		s, err := a.choose(&q, family)
		if err != nil {
			if _, exhausted := err.(*ExhaustedError); exhausted && i > 0 && request.FirstSuffices {
				continue
			}
			return nil, err
		}
		wanted[slot(family)] = s
		addresses = append(addresses, s.address)
	}
	if q.record == nil {
		q.record = a.owners.add(owner, hash)
	}
	for i, family := range [...]Family{IPv4, IPv6} {
		s := wanted[i]
		if held := q.record.held(family); held.IsValid() && held != s.address {
			a.depart(q.record, a.seat(held))
		}
		if s.address.IsValid() {
			a.hold(q.record, s, a.sharingAt(&q, s))
		}
	}
	return addresses, nil
}

// choose finds the address of one family without taking it.
func (a *Allocator) choose(q *asking, family Family) (seat, error) {
	var held netip.Addr
	if q.record != nil {
		held = q.record.held(family)
	}
	for _, address := range q.request.Addresses {
		if FamilyOf(address) != family {
			continue
		}
		s := a.seat(address)
		if address == held {
			return s, a.conflict(q, s)
		}
		return s, a.available(q, s)
	}
	if held.IsValid() {
		if s := a.seat(held); !a.moves(q, s) {
			return s, a.conflict(q, s)
		}
	}
	if s, ok := a.former(q, family); ok {
		return s, nil
	}
	if s, ok := a.reserved(q, family); ok {
		return s, nil
	}
	if s, ok := a.companion(q, family); ok {
		return s, nil
	}
	if s, ok := a.next(q, family); ok {
		return s, nil
	}
	return seat{}, a.exhausted(q, family)
}

// moves says whether what q holds is to be given up for an address of its pools.
func (a *Allocator) moves(q *asking, held seat) bool {
	return q.request.Moves && held.block != nil && !q.request.admits(held.block.pool) &&
		!slices.Contains(a.reservedFor[q.owner], held.address)
}

// former finds an address that q releases and may have back.
func (a *Allocator) former(q *asking, family Family) (seat, bool) {
	for _, d := range a.departures(q.record) {
		if FamilyOf(d.address) != family || q.record.holds(d.address) {
			continue
		}
		if s := a.seat(d.address); s.block != nil && q.request.admits(s.block.pool) && a.available(q, s) == nil {
			return s, true
		}
	}
	return seat{}, false
}

// reserved finds an address that is reserved for q.
func (a *Allocator) reserved(q *asking, family Family) (seat, bool) {
	if len(a.reservedFor) == 0 {
		return seat{}, false
	}
	for _, address := range a.reservedFor[q.owner] {
		if FamilyOf(address) == family {
			if s := a.seat(address); a.available(q, s) == nil {
				return s, true
			}
		}
	}
	return seat{}, false
}

// available says why q cannot have an address that it does not hold.
func (a *Allocator) available(q *asking, s seat) error {
	if err := a.conflict(q, s); err != nil {
		return err
	}
	if err := a.Check(s.address); err != nil {
		return err
	}
	if err := a.Reserved(q.owner, s.address); err != nil {
		return err
	}
	if m := a.marks[s.address]; m.quarantined {
		return &QuarantinedError{Address: s.address, By: m.by}
	}
	return nil
}

// next finds the free address of q's pools that is first in turn. A full pool costs a look at its block.
func (a *Allocator) next(q *asking, family Family) (seat, bool) {
	if q.request.Pools == nil {
		for _, b := range a.blocks {
			if b.family == family {
				if n, ok := b.candidate(); ok {
					return seat{b.address(n), b, n}, true
				}
			}
		}
		return seat{}, false
	}
	for _, name := range q.request.Pools {
		if b := a.byPool[name][slot(family)]; b != nil {
			if n, ok := b.candidate(); ok {
				return seat{b.address(n), b, n}, true
			}
		}
	}
	return seat{}, false
}

func (a *Allocator) exhausted(q *asking, family Family) error {
	e := &ExhaustedError{Family: family, Asked: slices.Clone(q.request.Pools), Note: q.request.Note}
	for _, b := range a.blocks {
		if b.family == family && q.request.admits(b.pool) {
			e.Pools = append(e.Pools, b.count())
		}
	}
	return e
}
