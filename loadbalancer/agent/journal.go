package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// journal is what stood on a machine before its very first State. Later transactions need none: the State that is held
// tells everything. It is written before the first change and removed after the commit.
type journal struct {
	// Files are the contents that the transaction replaces, by path; null when there was no file.
	Files map[string][]byte `json:"files"`
	// HAProxy and Keepalived tell whether the daemon ran.
	HAProxy    bool `json:"haproxy"`
	Keepalived bool `json:"keepalived"`
}

// dropFront removes our table, whether it is there or not, in one nft transaction.
const dropFront = "table inet cloud_provider_haproxy\ndelete table inet cloud_provider_haproxy\n"

// writeJournal remembers what the first transaction replaces, unless an earlier try has done so. A configuration that
// somebody else wrote is also saved aside for good, once, where its owner finds it.
func (a *Agent) writeJournal(seen *observation, want *rendering) error {
	earlier, err := a.readJournal()
	if err != nil || earlier != nil {
		return err
	}
	j := journal{Files: make(map[string][]byte), HAProxy: seen.haproxy != nil, Keepalived: seen.keepalived != nil}
	for _, f := range want.files {
		j.Files[f.path] = seen.files[f.path]
	}
	for _, path := range []string{a.config.Paths.HAProxy, a.config.Paths.Keepalived} {
		if err := a.saveAside(path, seen.files[path]); err != nil {
			return err
		}
	}
	text, err := json.Marshal(j)
	if err == nil {
		err = a.host.WriteFile(a.config.Paths.journalFile(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing down what the first State replaces: %w", err)
	}
	return nil
}

func (a *Agent) saveAside(path string, content []byte) error {
	if content == nil {
		return nil
	}
	_, err := a.host.ReadFile(savedAside(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = a.host.WriteFile(savedAside(path), content, 0o640)
	}
	if err != nil {
		return fmt.Errorf("saving %s aside: %w", path, err)
	}
	return nil
}

// readJournal gives nil when no first transaction was begun.
func (a *Agent) readJournal() (*journal, error) {
	path := a.config.Paths.journalFile()
	text, err := a.host.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the first State replaced: %w", err)
	}
	j := &journal{}
	if err := json.Unmarshal(text, j); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", path, err)
	}
	return j, nil
}

// restore puts the machine back to what the journal says, in the order of a deletion, and forgets the journal.
func (a *Agent) restore(ctx context.Context, j *journal) error {
	var faults []error
	for _, path := range append(a.swapped(), j.more(a.swapped())...) {
		faults = append(faults, a.restoreFile(path, j.Files[path]))
	}
	faults = append(faults,
		a.restoreDaemon(ctx, a.config.Keepalived, j.Keepalived, func(ctx context.Context) error {
			_, err := a.host.Run(ctx, a.config.Keepalived.Reload, nil)
			return err
		}),
		a.host.Remove(a.config.Paths.loadedFile()),
		a.loadTable(ctx, []byte(dropFront)),
		a.restoreDaemon(ctx, a.config.HAProxy, j.HAProxy, func(ctx context.Context) error {
			whole := func(state []byte) ([]byte, error) { return state, nil }
			return a.reloadHAProxy(ctx, whole, isForeign)
		}))
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("restoring what ran before the first State: %w", err)
	}
	if err := a.host.Remove(a.config.Paths.journalFile()); err != nil {
		return fmt.Errorf("forgetting what ran before the first State: %w", err)
	}
	return nil
}

// more are the files of the journal besides these, sorted.
func (j *journal) more(besides []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(j.Files)), func(path string) bool { return slices.Contains(besides, path) })
}

func (a *Agent) restoreFile(path string, content []byte) error {
	if content == nil {
		return a.host.Remove(path)
	}
	return a.host.WriteFile(path, content, 0o644)
}

// restoreDaemon lets a daemon read its restored files when it ran before, and ends it when it did not.
func (a *Agent) restoreDaemon(ctx context.Context, d Daemon, ran bool, reload func(context.Context) error) error {
	running, err := a.alive(d)
	if err != nil {
		return err
	}
	switch {
	case running == nil && ran:
		_, err = a.host.Run(ctx, d.Start, nil)
	case running != nil && ran:
		return reload(ctx)
	case running != nil && !ran:
		_, err = a.host.Run(ctx, d.Stop, nil)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	err = poll(ctx, startLimit, func() (done bool, err error) {
		running, err = a.alive(d)
		return (running != nil) == ran, err
	})
	if err != nil {
		return fmt.Errorf("waiting for %s to start or stop: %w", d.Program, err)
	}
	return nil
}

// isForeign accepts a worker that runs somebody else's configuration, which may have no socket for us.
func isForeign(running *haproxy.Running, err error) string {
	if err == nil && running.Generation != "" {
		return "it still runs our configuration"
	}
	return ""
}
