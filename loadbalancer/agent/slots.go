package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// assignment is which slot serves whom, the content of slots.json. It is swapped before the State is committed that it is made for, so it
// has beside it what the State has that was held then: whichever of the two is held after a crash finds its own slots, and no other ones.
type assignment struct {
	// Slots are those of the newest State that was tried.
	Slots haproxy.Slots `json:"slots"`
	// Before are those of the State with the digest BeforeOf. While that one is held, Slots was not taken.
	Before   haproxy.Slots `json:"before,omitempty"`
	BeforeOf string        `json:"beforeOf,omitempty"`
}

// of gives the slots of the State that is held, or is about to be.
func (s assignment) of(r *revision) haproxy.Slots {
	if r != nil && s.BeforeOf == r.digest {
		return s.Before
	}
	return s.Slots
}

// next is the assignment with which offered gets these slots and held keeps what it has.
func (s assignment) next(held, offered *revision, slots haproxy.Slots) assignment {
	switch {
	case maps.Equal(s.of(offered), slots):
		return s
	case held == nil || held.digest == offered.digest:
		return assignment{Slots: slots}
	}
	return assignment{Slots: slots, Before: s.of(held), BeforeOf: held.digest}
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
