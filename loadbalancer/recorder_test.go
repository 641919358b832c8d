package loadbalancer_test

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing/synctest"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// recorder remembers what it is told.
type recorder struct {
	mu      sync.Mutex
	rounds  []loadbalancer.Round
	changes []loadbalancer.GatewayStatus
	freed   []netip.Addr
	notices map[desired.Key]error
	told    []error
}

func (r *recorder) RoundDone(round loadbalancer.Round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds = append(r.rounds, round)
}

func (r *recorder) GatewayChanged(s loadbalancer.GatewayStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, s)
}

func (r *recorder) AddressFreed(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freed = append(r.freed, a)
}

func (r *recorder) ServiceNotice(k desired.Key, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.notices == nil {
		r.notices = map[desired.Key]error{}
	}
	r.notices[k] = err
}

func (r *recorder) Notice(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, err)
}

// forget drops what Services were told.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notices = nil
}

// toldOf gives what was told that concerns no single Service, and forgets it.
func (r *recorder) toldOf() []error {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told
	r.told = nil
	return told
}

// seen is everything told until nothing moves any more: a call is answered before the observer is told.
func (r *recorder) seen() (rounds []loadbalancer.Round, freed []netip.Addr, notices map[desired.Key]error) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rounds), slices.Clone(r.freed), maps.Clone(r.notices)
}
