package haproxy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// slotPrefix begins the name of every slot and of no other backend.
const slotPrefix = "slot-"

// maxSlots bounds the search for a free slot of one kind.
const maxSlots = 9999

// Slots says which slot serves which load balancer with a Pool. It is the agent's own and persisted; when it is lost,
// Running.Slots knows it too.
type Slots map[desired.Key]string

// slotKind is what a backend cannot change while it runs: how it checks and how it balances.
type slotKind struct {
	check     desired.CheckKind // CheckHTTP or CheckTCP
	algorithm desired.Algorithm
}

// slotKinds are all kinds that are prepared, in the order of the file.
func slotKinds() []slotKind {
	return []slotKind{
		{desired.CheckHTTP, desired.RoundRobin},
		{desired.CheckTCP, desired.RoundRobin},
	}
}

// kindOf gives the kind that a pool needs. Whether a server is checked at all, and over TLS or not, is the server's own,
// so that none needs no kind beside tcp, and https none beside http.
func kindOf(p *desired.Pool) (slotKind, error) {
	kind := slotKind{algorithm: p.Algorithm}
	switch p.Check.Kind {
	case desired.CheckHTTP, desired.CheckHTTPS:
		kind.check = desired.CheckHTTP
	case desired.CheckTCP, desired.CheckTLS, desired.CheckNone:
		kind.check = desired.CheckTCP
	default:
		return kind, fmt.Errorf("pool with check %q: there are no slots of that kind; none, tcp, tls, http and https have some", p.Check.Kind)
	}
	if !slices.Contains(slotKinds(), kind) {
		return kind, fmt.Errorf("pool with algorithm %q: there are no slots of that kind; %s has some", p.Algorithm, desired.RoundRobin)
	}
	return kind, nil
}

func (k slotKind) prefix() string {
	return slotPrefix + string(k.check) + "-" + string(k.algorithm) + "-"
}

// slot is the name of the n-th slot of a kind, counted from 1.
func (k slotKind) slot(n int) string { return k.prefix() + strconv.Itoa(n) }

// number is the slot's number, 0 when it is none of this kind.
func (k slotKind) number(slot string) int {
	digits, ok := strings.CutPrefix(slot, k.prefix())
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || k.slot(n) != slot {
		return 0
	}
	return n
}

// count is how many slots of a kind the file holds: whole blocks of SlotsPerKind, of which a fifth is spare, so that the
// reload that makes more comes before the last one is taken. Fewer needed slots give fewer in the file, and Compare
// does not mind that more of them run.
func (slots Slots) count(k slotKind, l Local) int {
	highest := 0
	for _, slot := range slots {
		highest = max(highest, k.number(slot))
	}
	blocks := (highest + l.SlotsPerKind/5 + l.SlotsPerKind - 1) / l.SlotsPerKind
	return max(blocks, 1) * l.SlotsPerKind
}

// Assign keeps what previous says for load balancers that still need it, and gives the free slot of the lowest number to
// each other. free asks the running HAProxy (Running.Free). short names the load balancers whose slot has to be made by
// a reload first, because all running ones are taken: Compare asks for that reload. An agent that cannot reload now
// deletes these keys from slots: Render then leaves their map entries out, and their ports refuse. A load balancer whose
// pool has no kind gets no slot; Render tells why.
func Assign(previous Slots, s *desired.State, free func(slot string) bool, l Local) (slots Slots, short []desired.Key) {
	slots = Slots{}
	taken := map[string]bool{}
	type need struct {
		key  desired.Key
		kind slotKind
	}
	var needs []need
	for _, lb := range pooled(s) {
		kind, err := kindOf(lb.Pool)
		if err != nil {
			continue
		}
		if slot := previous[lb.Key]; kind.number(slot) > 0 && !taken[slot] {
			slots[lb.Key], taken[slot] = slot, true
			continue
		}
		needs = append(needs, need{lb.Key, kind})
	}
	next, made := map[slotKind]int{}, map[slotKind]int{}
	for _, kind := range slotKinds() {
		made[kind] = previous.count(kind, l)
	}
	for _, n := range needs {
		number := next[n.kind] + 1
		for number <= maxSlots && (taken[n.kind.slot(number)] || !free(n.kind.slot(number))) {
			number++
		}
		next[n.kind] = number
		if number > maxSlots {
			short = append(short, n.key)
			continue
		}
		slot := n.kind.slot(number)
		slots[n.key], taken[slot] = slot, true
		if number > made[n.kind] {
			short = append(short, n.key)
		}
	}
	return slots, short
}

// pooled are the load balancers with a Pool, sorted by key.
func pooled(s *desired.State) []*desired.LoadBalancer {
	var lbs []*desired.LoadBalancer
	for i := range s.LoadBalancers {
		if s.LoadBalancers[i].Pool != nil {
			lbs = append(lbs, &s.LoadBalancers[i])
		}
	}
	slices.SortFunc(lbs, func(a, b *desired.LoadBalancer) int { return a.Key.Compare(b.Key) })
	return lbs
}
