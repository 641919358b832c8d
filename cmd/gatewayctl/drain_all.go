package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// heirPatience is how long a gateway may refuse a drain because no other one can take over: the one before it has just come
// back, and gateways ask each other every two seconds.
const heirPatience = 15 * time.Second

// inTurn does something to all gateways, one after the other, each drained meanwhile: first the one that holds the fewest
// addresses. It does not begin unless all are well, and it stops at the first failure: the others stay as they are.
func inTurn(ctx context.Context, gateways []drainable, drain wire.Drain, wait bool, do func(gateway string) func(context.Context) error, out io.Writer) error {
	order, err := byAddresses(ctx, gateways)
	if err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	for i, g := range order {
		if err := awaitHeir(ctx, g, drain, wait, do(g.Name()), out); err != nil {
			if rest := order[i+1:]; len(rest) > 0 {
				names := make([]string, len(rest))
				for n, other := range rest {
					names[n] = other.Name()
				}
				err = fmt.Errorf("%w; left as they were: %s", err, strings.Join(names, ", "))
			}
			return err
		}
	}
	return nil
}

// byAddresses sorts gateways by how many addresses they hold; all have to be well.
func byAddresses(ctx context.Context, gateways []drainable) ([]drainable, error) {
	held := map[string]int{}
	var faults []error
	for _, g := range gateways {
		status, err := g.Status(ctx)
		switch {
		case err != nil:
		case status.Drain != nil:
			err = fmt.Errorf("gateway %s is drained already; `gatewayctl undrain` first", g.Name())
		default:
			if err = unwell(status); err != nil {
				err = fmt.Errorf("gateway %s: %w", g.Name(), err)
			}
			held[g.Name()] = len(status.Held)
		}
		faults = append(faults, err)
	}
	order := slices.Clone(gateways)
	slices.SortStableFunc(order, func(a, b drainable) int { return cmp.Compare(held[a.Name()], held[b.Name()]) })
	return order, errors.Join(faults...)
}

// awaitHeir is whileDrained for a gateway whose heir may have come back just now.
func awaitHeir(ctx context.Context, g drainable, drain wire.Drain, wait bool, do func(context.Context) error, out io.Writer) error {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		err := whileDrained(ctx, g, drain, wait, do, out)
		refusal, refused := errors.AsType[*wire.Refusal](err)
		if !refused || refusal.Code != wire.CodeNoHeir || time.Since(begun) > heirPatience {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// addressed puts the gateway's name into a command, for {}.
func addressed(argv []string, gateway string) []string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = strings.ReplaceAll(word, "{}", gateway)
	}
	return words
}
