package simulation

import (
	"context"
	"errors"
	"slices"

	"cloud-provider-haproxy/loadbalancer"
)

// epochs is the epoch object as one controller reaches it.
type epochs struct{ of *controller }

// Claim implements loadbalancer.EpochStore.
func (e epochs) Claim(ctx context.Context, atLeast uint64, instance string) (epoch uint64, err error) {
	c := e.of.world.cluster
	err = c.ask(ctx, e.of, func() error {
		c.epoch, c.instance = max(c.epoch+1, atLeast), instance
		epoch = c.epoch
		return nil
	})
	if err == nil {
		e.of.claimed(epoch, instance)
	}
	return epoch, err
}

// Holder implements loadbalancer.EpochStore.
func (e epochs) Holder(ctx context.Context) (instance string, epoch uint64, err error) {
	c := e.of.world.cluster
	err = c.ask(ctx, e.of, func() error { instance, epoch = c.instance, c.epoch; return nil })
	return instance, epoch, err
}

// ledger is the ledger's object as one controller reaches it. seen is what it read or wrote last.
type ledger struct {
	of   *controller
	seen *loadbalancer.Ledger
}

// Name implements loadbalancer.LedgerStore.
func (l *ledger) Name() string { return "the ledger" }

// Read implements loadbalancer.LedgerStore.
func (l *ledger) Read(ctx context.Context) (*loadbalancer.Ledger, error) {
	c := l.of.world.cluster
	err := c.ask(ctx, l.of, func() error { l.seen = c.ledger; return nil })
	if err != nil || l.seen == nil {
		return nil, err
	}
	return cloneLedger(*l.seen), nil
}

// Write implements loadbalancer.LedgerStore.
func (l *ledger) Write(ctx context.Context, written loadbalancer.Ledger) error {
	c := l.of.world.cluster
	return c.ask(ctx, l.of, func() error {
		if c.ledger != l.seen {
			return &loadbalancer.LedgerChangedError{Err: errConflict}
		}
		c.ledger = cloneLedger(written)
		l.seen = c.ledger
		return nil
	})
}

func cloneLedger(l loadbalancer.Ledger) *loadbalancer.Ledger {
	return &loadbalancer.Ledger{Kept: slices.Clone(l.Kept), Quarantined: slices.Clone(l.Quarantined), Given: slices.Clone(l.Given), Releasing: slices.Clone(l.Releasing)}
}

// epochForgotten deletes the epoch object.
func (c *cluster) epochForgotten() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch, c.instance = 0, ""
}

var errConflict = errors.New("somebody else wrote it")
