package haproxy

import (
	"maps"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Slots says which slot serves which tenant. It is the agent's own and persisted; when it is lost, SlotsIn finds it again.
type Slots map[Tenant]string

// SlotsIn reads which slot serves whom from a haproxy.cfg that Render made: each slot's name is followed by its tenant.
func SlotsIn(file []byte) Slots {
	slots := Slots{}
	for line := range strings.Lines(string(file)) {
		slot, text, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "backend ")), " # ")
		var tenant Tenant
		if _, n := parseSlot(slot); ok && n > 0 && tenant.UnmarshalText([]byte(text)) == nil {
			slots[tenant] = slot
		}
	}
	return slots
}

// Of gives the slot of a frontend, empty when none serves it.
func (slots Slots) Of(lb *desired.LoadBalancer, f desired.Frontend) string {
	tenant, ok := TenantOf(lb, f)
	if !ok {
		return ""
	}
	return slots.of(tenant)
}

// of is the tenant's slot, or the one of which it is not known how its servers are checked.
func (slots Slots) of(t Tenant) string {
	if slot, ok := slots[t]; ok {
		return slot
	}
	t.Check = ""
	return slots[t]
}

// At gives the slot of a load balancer's port, or with 0 that of its frontends without one of their own; empty when there is none.
func (slots Slots) At(key desired.Key, port uint16) string {
	for tenant, slot := range slots {
		if tenant.Key == key && tenant.Port == port && tenant.Client == noClients {
			return slot
		}
	}
	return ""
}

// Left says who was served last by slots that serve nobody now. There connections may go on, so nobody else gets the slot; who has left
// it may return: its own servers are there, checked as it wants them to be.
type Left map[string]Tenant

// Assign is Left.Assign where nobody has left a slot.
func Assign(previous Slots, s *desired.State, free func(slot string) bool, l Local) (slots Slots, short []Tenant) {
	return Left{}.Assign(previous, s, free, l)
}

// Assign keeps what previous says for tenants that still need a slot of that kind, lets others return to one of that kind that they have
// left, and gives the free slot of the lowest number to each other; what previous gives to somebody is not free, so that there is a way
// back to it. free asks the running HAProxy (Running.Free). short names the tenants whose slot has to be made by a reload
// first, because all running ones are taken or it has timeouts of its own: Compare asks for that reload. A tenant whose pool has no
// kind, or for whom none of maxSlots is left, gets no slot; Render tells why. Nor does one that is to connect from clients' addresses
// where Local allows none: its ports refuse.
func (left Left) Assign(previous Slots, s *desired.State, free func(slot string) bool, l Local) (slots Slots, short []Tenant) {
	slots = Slots{}
	taken := map[string]bool{}
	type want struct {
		Tenant
		kind slotKind
	}
	var wants []want
	for _, n := range needs(s) {
		kind, err := n.kind()
		if err != nil || !l.allows(kind) {
			continue
		}
		if slot := previous.of(n.Tenant); kind.number(slot) > 0 && !taken[slot] {
			slots[n.Tenant], taken[slot] = slot, true
			continue
		}
		wants = append(wants, want{n.Tenant, kind})
	}
	for _, slot := range previous {
		taken[slot] = true
	}
	returns := map[Tenant][]string{}
	for _, slot := range slices.Sorted(maps.Keys(left)) {
		returns[left[slot]] = append(returns[left[slot]], slot)
	}
	next, made := map[slotKind]int{}, map[slotKind][]string{}
	for _, w := range wants {
		usable := func(slot string) bool { return w.kind.number(slot) > 0 && !taken[slot] }
		if i := slices.IndexFunc(returns[w.Tenant], usable); i >= 0 {
			slot := returns[w.Tenant][i]
			slots[w.Tenant], taken[slot] = slot, true
			continue
		}
		if made[w.kind] == nil {
			made[w.kind] = previous.names(w.kind, l)
		}
		number := next[w.kind] + 1
		for number <= maxSlots && (taken[w.kind.slot(number)] || !free(w.kind.slot(number))) {
			number++
		}
		next[w.kind] = number
		if number > maxSlots {
			short = append(short, w.Tenant)
			continue
		}
		slot := w.kind.slot(number)
		slots[w.Tenant], taken[slot] = slot, true
		if !slices.Contains(made[w.kind], slot) {
			short = append(short, w.Tenant)
		}
	}
	return slots, short
}
