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
	// releasing are the records with departures.
	releasing map[*record]struct{}
	// outside are the cells of addresses in no pool: a pool that was removed, an edited status.
	outside map[netip.Addr]*record
	// shared are the tenants of addresses whose cell is several: all but those that one owner holds or releases alone and
	// without a sharing key.
	shared  map[netip.Addr][]tenant
	several *record
	// keys are the addresses that are held with a sharing key, oldest first.
	keys map[string][]netip.Addr
	// regained are addresses that were releasing when their owner took them: Withdraw must not make them free.
	regained map[holding]struct{}
}

// holding is one owner's part in an address.
type holding struct {
	record  *record
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
	request *Request
	sharing Sharing
}

// Allocate gives owner addresses, one for each family of the request, in the order of its families. An owner that has
// an address keeps it, unless it requests another one or Moves; what it no longer asks for becomes releasing, and so do
// ports that its Sharing has no more. An owner that has none gets, in this order: one that it releases still, one that
// is reserved for it, one that it can share, the next free. On an error nothing changes. Errors: *ExhaustedError,
// *OutsideError, *ExcludedError, *TakenError, *SharingError, *ReservedError, *QuarantinedError, *RequestError.
func (a *Allocator) Allocate(owner Owner, request Request) ([]netip.Addr, error) {
	families, err := a.families(&request)
	if err != nil {
		return nil, err
	}
	q := asking{owner: owner, record: a.owners.get(owner), request: &request, sharing: request.Sharing.normal()}
	var wanted [2]netip.Addr
	addresses := make([]netip.Addr, 0, len(families))
	for i, family := range families {
		address, err := a.choose(&q, family)
		if err != nil {
			if _, exhausted := err.(*ExhaustedError); exhausted && i > 0 && request.FirstSuffices {
				continue
			}
			return nil, err
		}
		wanted[slot(family)] = address
		addresses = append(addresses, address)
	}
	if q.record == nil {
		q.record = a.owners.add(owner)
	}
	for i, address := range wanted {
		if held := q.record.addresses[i]; held.IsValid() && held != address {
			a.depart(q.record, i)
		}
		if address.IsValid() {
			a.hold(q.record, a.seat(address), q.sharing)
		}
	}
	return addresses, nil
}

// choose finds the address of one family without taking it.
func (a *Allocator) choose(q *asking, family Family) (netip.Addr, error) {
	var held netip.Addr
	if q.record != nil {
		held = q.record.addresses[slot(family)]
	}
	for _, address := range q.request.Addresses {
		if FamilyOf(address) != family {
			continue
		}
		if address == held {
			return held, a.conflict(q.owner, q.record, a.seat(held), q.sharing)
		}
		return address, a.available(q, address)
	}
	if held.IsValid() && !a.moves(q, held) {
		return held, a.conflict(q.owner, q.record, a.seat(held), q.sharing)
	}
	if address, ok := a.former(q, family); ok {
		return address, nil
	}
	for _, address := range a.reservedFor[q.owner] {
		if FamilyOf(address) == family && a.available(q, address) == nil {
			return address, nil
		}
	}
	if address, ok := a.companion(q, family); ok {
		return address, nil
	}
	if address, ok := a.next(q, family); ok {
		return address, nil
	}
	return netip.Addr{}, a.exhausted(q, family)
}

// moves says whether what q holds is to be given up for an address of its pools.
func (a *Allocator) moves(q *asking, held netip.Addr) bool {
	if !q.request.Moves {
		return false
	}
	pool, pooled := a.PoolOf(held)
	return pooled && !q.request.admits(pool) && !slices.Contains(a.reservedFor[q.owner], held)
}

// former finds an address that q releases and may have back.
func (a *Allocator) former(q *asking, family Family) (netip.Addr, bool) {
	if q.record == nil {
		return netip.Addr{}, false
	}
	for _, d := range q.record.departures {
		if FamilyOf(d.address) != family || q.record.holds(d.address) {
			continue
		}
		if s := a.seat(d.address); s.block != nil && q.request.admits(s.block.pool) && a.available(q, d.address) == nil {
			return d.address, true
		}
	}
	return netip.Addr{}, false
}

// available says why q cannot have an address that it does not hold.
func (a *Allocator) available(q *asking, address netip.Addr) error {
	if err := a.conflict(q.owner, q.record, a.seat(address), q.sharing); err != nil {
		return err
	}
	if err := a.Check(address); err != nil {
		return err
	}
	m := a.marks[address]
	if len(m.reserved) > 0 && !slices.Contains(m.reserved, q.owner) {
		return &ReservedError{Address: address, Owner: m.reserved[0]}
	}
	if m.quarantined {
		return &QuarantinedError{Address: address, By: m.by}
	}
	return nil
}

// next finds the free address of q's pools that is first in turn. A full pool costs a look at its block.
func (a *Allocator) next(q *asking, family Family) (netip.Addr, bool) {
	if q.request.Pools == nil {
		for _, b := range a.blocks {
			if b.family == family {
				if n, ok := b.candidate(); ok {
					return b.address(n), true
				}
			}
		}
		return netip.Addr{}, false
	}
	for _, name := range q.request.Pools {
		if b := a.byPool[name][slot(family)]; b != nil {
			if n, ok := b.candidate(); ok {
				return b.address(n), true
			}
		}
	}
	return netip.Addr{}, false
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
