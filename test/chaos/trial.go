package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// fault is one line of the table.
type fault struct {
	name string
	// does says what is done, for people.
	does string
	// before is done while nobody looks; nil: nothing.
	before act
	// strike does it, and returns when it is done.
	strike act
	// lasts is how long the fault stays before it is undone.
	lasts time.Duration
	// undo repairs what nobody else repairs; nil: the product has to.
	undo act
	// after looks at what came of it, once both gateways are well again; nil: that they are is enough.
	after act
	// goal is what a client of the gateway that is struck is promised, beside what one of the other gateway is.
	goal, beside goal
	// slow is for what takes minutes: it is done once, however often the others are.
	slow bool
}

// act is what is done in a trial.
type act func(context.Context, *trial) error

// trial is one fault, once: what it has to work with, and what came of it.
type trial struct {
	*pair
	struck, spared *lab.Host

	through, beside view // of VIPs that struck and spared hold
	// healed is how long it took after all was undone until both gateways were well.
	healed time.Duration
	// newest is of the State that both gateways have to hold at the end, where the fault says so.
	newest desired.Fence
}

// calm is how long traffic is watched before and after.
const calm = 500 * time.Millisecond

// run does a fault to a gateway of a pair that is well, and returns when the pair is well again.
func (p *pair) run(ctx context.Context, f fault, struck *lab.Host) (*trial, error) {
	t := &trial{pair: p, struck: struck, spared: p.other(struck)}
	if f.before != nil {
		if err := f.before(ctx, t); err != nil {
			return nil, fmt.Errorf("preparing it: %w", err)
		}
	}
	if err := p.rest(ctx); err != nil {
		return nil, err
	}
	through, err := open(ctx, p.Client, p.watched(t.struck), p.patience)
	if err != nil {
		return nil, err
	}
	beside, err := open(ctx, p.Client, p.watched(t.spared), p.patience)
	if err != nil {
		return nil, err
	}
	err = t.do(ctx, f)
	var unseen, unseenBeside error
	t.through, unseen = through.close()
	t.beside, unseenBeside = beside.close()
	return t, errors.Join(err, unseen, unseenBeside)
}

func (t *trial) do(ctx context.Context, f fault) error {
	if err := pass(ctx, calm); err != nil {
		return err
	}
	if err := f.strike(ctx, t); err != nil {
		return fmt.Errorf("doing it: %w", err)
	}
	if err := pass(ctx, f.lasts); err != nil {
		return err
	}
	if f.undo != nil {
		if err := f.undo(ctx, t); err != nil {
			return fmt.Errorf("undoing it: %w", err)
		}
	}
	begun := time.Now()
	if err := t.settle(ctx); err != nil {
		return err
	}
	t.healed = time.Since(begun)
	if f.after != nil {
		if err := f.after(ctx, t); err != nil {
			return fmt.Errorf("looking at what came of it: %w", err)
		}
	}
	return pass(ctx, calm)
}
