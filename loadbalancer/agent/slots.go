package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// assignment is which slot serves whom, the content of slots.json. It is swapped before the State is committed that it is made for, so it
// has beside it what the State has that was held then: whichever of the two is held after a crash finds its own slots, and no other ones.
type assignment struct {
	// Slots are those of the newest State that was tried.
	Slots haproxy.Slots `json:"slots"`
	// Before are those of the State BeforeOf (revision.name). While that one is held, Slots was not taken.
	Before   haproxy.Slots `json:"before,omitempty"`
	BeforeOf string        `json:"beforeOf,omitempty"`
}

// of gives the slots of the State that is held, or is about to be.
func (s assignment) of(r *revision) haproxy.Slots {
	if r != nil && s.BeforeOf == r.name() {
		return s.Before
	}
	return s.Slots
}

// next is the assignment with which offered gets these slots and held keeps what it has.
func (s assignment) next(held, offered *revision, slots haproxy.Slots) assignment {
	switch {
	case maps.Equal(s.of(offered), slots):
		return s
	case held == nil || held.name() == offered.name():
		return assignment{Slots: slots}
	}
	return assignment{Slots: slots, Before: s.of(held), BeforeOf: held.name()}
}

// assigned is the assignment that this machine made last. Where the file is lost, or nobody can read it, the installed haproxy.cfg
// has it too.
func (a *Agent) assigned() (assignment, error) {
	text, err := a.host.ReadFile(a.config.Paths.slotsFile())
	if err == nil {
		var found assignment
		if found, err = decodeSlots(text); err == nil {
			return found, nil
		}
		a.log.Warn("reading the slots from haproxy.cfg, since their own file cannot be read", "file", a.config.Paths.slotsFile(), "error", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return assignment{}, fmt.Errorf("reading the slots: %w", err)
	}
	file, err := a.host.ReadFile(a.config.Paths.HAProxy)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return assignment{}, fmt.Errorf("reading the slots from haproxy.cfg: %w", err)
	}
	return assignment{Slots: haproxy.SlotsIn(file)}, nil
}

// decodeSlots also reads what agents wrote that kept nothing but the slots themselves.
func decodeSlots(text []byte) (found assignment, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err = decoder.Decode(&found); err == nil {
		return found, nil
	}
	found = assignment{}
	return found, json.Unmarshal(text, &found.Slots)
}

func (s assignment) encode() ([]byte, error) {
	text, err := json.Marshal(s) // JSON sorts the keys of a map
	if err != nil {
		return nil, fmt.Errorf("encoding the slots: %w", err)
	}
	return text, nil
}

// leaver is who was served by a slot that nobody has now. A Service made anew under an old name is another one.
type leaver struct {
	tenant haproxy.Tenant
	uid    string
}

// noteLeft remembers who has a slot, or leaves it. An agent that starts anew knows nobody, so that the next move takes one slot more.
func (a *Agent) noteLeft(before, now *rendering) {
	if before == nil || maps.Equal(before.slots, now.slots) {
		return
	}
	uids := map[desired.Key]string{}
	for _, lb := range before.served.LoadBalancers {
		uids[lb.Key] = lb.UID
	}
	for tenant, slot := range before.slots {
		a.leavers[slot] = leaver{tenant, uids[tenant.Key]}
	}
}

// slotsLeft are those that only the one can have who has left them: its connections are there. Else whoever changes an annotation to and
// fro would use up one slot after the other, and have HAProxy reloaded for more.
func (a *Agent) slotsLeft(s *desired.State, running *haproxy.Running) haproxy.Left {
	if running == nil || len(a.leavers) == 0 {
		return nil
	}
	uids := map[desired.Key]string{}
	for _, lb := range s.LoadBalancers {
		uids[lb.Key] = lb.UID
	}
	left, free := haproxy.Left{}, running.Free(a.haproxyLocal())
	for slot, who := range a.leavers {
		uid, there := uids[who.tenant.Key]
		switch {
		case free(slot):
			delete(a.leavers, slot)
		case there && uid == who.uid:
			left[slot] = who.tenant
		}
	}
	return left
}
