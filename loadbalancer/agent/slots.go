package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// previousSlots is the assignment that this machine made last. Where the file is lost, or nobody can read it, the installed haproxy.cfg
// has it too.
func (a *Agent) previousSlots() (haproxy.Slots, error) {
	text, err := a.host.ReadFile(a.config.Paths.slotsFile())
	if err == nil {
		var slots haproxy.Slots
		if err = json.Unmarshal(text, &slots); err == nil {
			return slots, nil
		}
		a.log.Warn("reading the slots from haproxy.cfg, since their own file cannot be read", "file", a.config.Paths.slotsFile(), "error", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the slots: %w", err)
	}
	file, err := a.host.ReadFile(a.config.Paths.HAProxy)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the slots from haproxy.cfg: %w", err)
	}
	return haproxy.SlotsIn(file), nil
}

func encodeSlots(slots haproxy.Slots) ([]byte, error) {
	text, err := json.Marshal(slots) // JSON sorts the keys of a map
	if err != nil {
		return nil, fmt.Errorf("encoding the slots: %w", err)
	}
	return text, nil
}
