package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// counters is what the gateway has done since the agent was installed. It decides nothing: an unreadable or lost file
// starts from zero, loudly.
type counters struct {
	mu    sync.Mutex
	tally tally
}

type tally struct {
	Reloads        map[string]uint64       `json:"reloads"`
	Rounds         map[wire.Outcome]uint64 `json:"rounds"`
	RuntimeUpdates uint64                  `json:"runtimeUpdates"`
	// Applied is when the State that is held was made true.
	Applied time.Time `json:"applied"`
}

// load reads what an agent before us counted.
func (c *counters) load(host Host, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally = tally{}
	text, err := host.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &c.tally)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if c.tally.Reloads == nil {
		c.tally.Reloads = make(map[string]uint64)
	}
	if c.tally.Rounds == nil {
		c.tally.Rounds = make(map[wire.Outcome]uint64)
	}
	if err != nil {
		return fmt.Errorf("reading the counters: %w", err)
	}
	return nil
}

// count adds what one transaction did and keeps it.
func (c *counters) count(host Host, path string, add func(*tally)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.tally)
	text, err := json.Marshal(c.tally)
	if err == nil {
		err = host.WriteFile(path, text, 0o640)
	}
	if err != nil {
		return fmt.Errorf("keeping the counters: %w", err)
	}
	return nil
}

func (c *counters) snapshot() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tally
	t.Reloads, t.Rounds = maps.Clone(t.Reloads), maps.Clone(t.Rounds)
	return t
}
