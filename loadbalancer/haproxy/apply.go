package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Apply makes the change at run time; it leaves d.Reload to its caller. It stops at the first command that fails: what
// was done until then is part of what the next Compare finds. A server that still has connections is no failure; that
// Compare names it in Deferred.
//
// The order keeps each connection right at every step: where a check asks, the servers, the map entries that lead to
// them; then the entries that nobody wants, the servers behind them, where their checks asked.
func (r *Runtime) Apply(ctx context.Context, d Diff) error {
	grow, shrink := d.Grow(), d.Shrink()
	if err := r.changeMap(ctx, grow.checks); err != nil {
		return err
	}
	if err := r.orders(ctx, grow.add); err != nil {
		return err
	}
	if err := r.changeMap(ctx, d.services); err != nil {
		return err
	}
	if err := r.orders(ctx, shrink.remove); err != nil {
		return err
	}
	return r.changeMap(ctx, shrink.checks)
}

// stillConnected is what `del server` answers while connections remain (src/server.c, cli_parse_delete_server).
const stillConnected = "Server still has connections attached to it, cannot remove it."

// Connections that were shut end when their tasks run next. insistLimit is how long that may take, on a busy machine, for all servers of
// an Apply together; who is left is named by the next Compare.
const (
	insistEvery = 5 * time.Millisecond
	insistLimit = 500 * time.Millisecond
)

func (r *Runtime) orders(ctx context.Context, commands []command) error {
	var until time.Time
	for _, c := range commands {
		err := r.order(ctx, c.line)
		if c.insists {
			if until.IsZero() {
				until = time.Now().Add(insistLimit)
			}
			err = r.insist(ctx, c.line, err, time.Until(until))
		}
		if c.patient && isConnected(err) {
			continue
		}
		if err != nil {
			return err
		}
		if c.then == "" {
			continue
		}
		if err := r.order(ctx, c.then); err != nil {
			return err
		}
	}
	return nil
}

func isConnected(err error) bool {
	var refused *CommandError
	return errors.As(err, &refused) && refused.Answer == stillConnected
}

// insist repeats a command that was refused for connections which are about to end.
func (r *Runtime) insist(ctx context.Context, line string, err error, most time.Duration) error {
	limit := time.NewTimer(most)
	defer limit.Stop()
	ticker := time.NewTicker(insistEvery)
	defer ticker.Stop()
	for isConnected(err) {
		select {
		case <-ticker.C:
			err = r.order(ctx, line)
		case <-limit.C:
			return err
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of connections, to %s: %w", line, context.Cause(ctx))
		}
	}
	return err
}

// lineLimit keeps a command with its payload below tune.bufsize (16384), which HAProxy reads it into.
const lineLimit = 12 << 10

func (r *Runtime) changeMap(ctx context.Context, m mapChange) error {
	if m.empty() {
		return nil
	}
	if m.replace {
		return r.replaceMap(ctx, m)
	}
	var lines []string
	for _, e := range m.put {
		verb := "set"
		if m.fresh[e.Key] {
			verb = "add"
		}
		lines = append(lines, fmt.Sprintf("%s map %s %s %s", verb, m.file, e.Key, e.Value))
	}
	for _, e := range m.drop {
		lines = append(lines, fmt.Sprintf("del map %s %s", m.file, e.Key))
	}
	return batches(lines, ";", func(batch string) error { return r.order(ctx, batch) })
}

// replaceMap fills a new version of the map and lets it take the old one's place at once.
func (r *Runtime) replaceMap(ctx context.Context, m mapChange) error {
	answer, err := r.ask(ctx, "prepare map "+m.file)
	if err != nil {
		return err
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(answer), "New version created: ")
	if !ok {
		return &CommandError{"prepare map " + m.file, strings.TrimSpace(answer)}
	}
	lines := make([]string, len(m.want))
	for i, e := range m.want {
		lines[i] = e.Key + " " + e.Value
	}
	err = batches(lines, "\n", func(batch string) error {
		return r.order(ctx, fmt.Sprintf("add map @%s %s <<\n%s\n", version, m.file, batch))
	})
	if err == nil {
		err = r.order(ctx, fmt.Sprintf("commit map @%s %s", version, m.file))
	}
	if err != nil {
		// No lookup sees the half-filled version; it only takes memory.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		cleared := r.order(last, fmt.Sprintf("clear map @%s %s", version, m.file))
		return errors.Join(fmt.Errorf("replacing map %s: %w", m.file, err), cleared)
	}
	return nil
}

// batches joins lines into as few commands as fit.
func batches(lines []string, separator string, send func(batch string) error) error {
	for len(lines) > 0 {
		size, n := len(lines[0]), 1
		for n < len(lines) && size+len(separator)+len(lines[n]) <= lineLimit {
			size += len(separator) + len(lines[n])
			n++
		}
		if err := send(strings.Join(lines[:n], separator)); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}
