package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// The numbers that keepalived adds to its priority (DESIGN.md section 7).
const (
	aliveWeight = 100
	readyWeight = 50
	// leaveWeight is no sum but an order: leave every instance now, and take none.
	leaveWeight = -254
	// drainWeight is taken from what the ready file says: one file more would be one reload of keepalived more.
	drainWeight = -25
)

// openTrack makes the track files, on tmpfs, before keepalived needs them. What an agent before this one wrote since the
// boot stands: to restart the agent, for an upgrade, must move no VIP. The mark of a drain is known already.
func (a *Agent) openTrack() error {
	value, found, err := a.readTrack(a.config.Paths.readyFile())
	if err != nil {
		return err
	}
	ready := value >= readyWeight+drainWeight
	a.mu.Lock()
	a.ready = ready
	a.mu.Unlock()
	if want := readiness(ready, a.drainMark() != nil); !found || value != want {
		if err := a.writeTrack(a.config.Paths.readyFile(), want); err != nil {
			return err
		}
	}
	_, found, err = a.readTrack(a.config.Paths.aliveFile())
	if err == nil && !found {
		err = a.writeTrack(a.config.Paths.aliveFile(), 0)
	}
	return err
}

// readiness is what the ready file says.
func readiness(ready, drained bool) int {
	value := 0
	if ready {
		value += readyWeight
	}
	if drained {
		value += drainWeight
	}
	return value
}

// tellReadiness writes the ready file: what is so, or for a moment the order to leave.
func (a *Agent) tellReadiness(leave bool) error {
	a.telling.Lock()
	defer a.telling.Unlock()
	value := readiness(a.isCurrent(), a.drainMark() != nil)
	if leave {
		value = leaveWeight
	}
	return a.writeTrack(a.config.Paths.readyFile(), value)
}

// readTrack finds nothing when there is no such file, or no number in it.
func (a *Agent) readTrack(path string) (value int, found bool, err error) {
	text, err := a.host.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("reading a track file: %w", err)
	}
	value, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, false, nil
	}
	return value, true, nil
}

func (a *Agent) writeTrack(path string, value int) error {
	// keepalived drops its rights for nothing here, but a person may want to look.
	if err := a.host.WriteFile(path, []byte(strconv.Itoa(value)+"\n"), 0o644); err != nil {
		return fmt.Errorf("writing a track file: %w", err)
	}
	return nil
}

// confirm tells keepalived that the State that is held is current.
func (a *Agent) confirm(why string) {
	a.telling.Lock()
	defer a.telling.Unlock()
	if a.isCurrent() || a.held() == nil {
		return
	}
	if err := a.writeTrack(a.config.Paths.readyFile(), readiness(true, a.drainMark() != nil)); err != nil {
		a.log.Error("telling keepalived that this gateway is current", "error", err)
		return
	}
	a.mu.Lock()
	a.ready = true
	a.mu.Unlock()
	a.log.Info("this gateway is current", "because", why)
}

// isCurrent is false from a boot until the State that is held was confirmed.
func (a *Agent) isCurrent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}
