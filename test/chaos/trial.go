package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// fault is one line of the table.
type fault struct {
	name string
	// does says what is done, for people.
	does string
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
}

// goal is the worst that a client may see.
type goal struct {
	// gap is the longest time without an answer; 0: nothing is promised.
	gap time.Duration
	// failed and cut are how many connections may be lost; many: nothing is promised.
	failed, cut int
}

const many = -1

// untouched is promised to whoever is connected through a gateway that the fault does not touch: nothing fails, nothing is cut.
var untouched = goal{}

// missed says what of a view is worse than the goal.
func (g goal) missed(v view) []string {
	var missed []string
	if g.gap != 0 && v.gap > g.gap {
		missed = append(missed, fmt.Sprintf("no answer for %v, want at most %v", v.gap.Round(time.Millisecond), g.gap))
	}
	if g.failed != many && v.failed > g.failed {
		missed = append(missed, fmt.Sprintf("%d of %d connections failed, want at most %d", v.failed, v.opened, g.failed))
	}
	if g.cut != many && v.cut > g.cut {
		missed = append(missed, fmt.Sprintf("%d of %d long connections cut, want at most %d", v.cut, holdSize, g.cut))
	}
	return missed
}

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
	if err := p.rest(ctx); err != nil {
		return nil, err
	}
	through, err := open(ctx, p.Client, p.watched(t.struck))
	if err != nil {
		return nil, err
	}
	beside, err := open(ctx, p.Client, p.watched(t.spared))
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

// String is the goal as the table shows it.
func (g goal) String() string {
	var words []string
	if g.gap != 0 {
		words = append(words, fmt.Sprintf("gap %v", g.gap))
	}
	if g.failed != many {
		words = append(words, fmt.Sprintf("%d failed", g.failed))
	}
	if g.cut != many {
		words = append(words, fmt.Sprintf("%d cut", g.cut))
	}
	return strings.Join(words, ", ")
}
