package machine

import "sync"

// Texts remembers what texts mean, for all machines of many simulations: most are read again and again.
type Texts struct {
	mu      sync.Mutex
	tables  map[string]*table
	configs map[string]*config
}

// most bounds what is remembered.
const most = 2000

func (t *Texts) table(script string) *table {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.tables[script]
	if !ok {
		if t.tables == nil || len(t.tables) > most {
			t.tables = map[string]*table{}
		}
		known = makeTable(script)
		t.tables[script] = known
	}
	return known
}

func (t *Texts) config(text string) *config {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.configs[text]
	if !ok {
		if t.configs == nil || len(t.configs) > most {
			t.configs = map[string]*config{}
		}
		known = readConfig(text)
		t.configs[text] = known
	}
	return known
}
