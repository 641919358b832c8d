package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// wellLimit is how long a gateway may take to be well again after what was done to it: a reboot of a big machine.
const wellLimit = 5 * time.Minute

// whileDrained does something to a gateway that is drained, and lets it have its addresses back when it is well again. Whatever
// fails leaves it drained, which costs nobody anything; so does a drain that somebody else made.
func whileDrained(ctx context.Context, g drainable, drain wire.Drain, wait bool, do func(context.Context) error, out io.Writer) error {
	drained, err := startDrain(ctx, g, drain, wait, out)
	if err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		return fmt.Errorf("gateway %s stays drained: %w", g.Name(), err)
	}
	if !drained.Changed {
		return say(out, "%s: stays drained, as it was before\n", g.Name())
	}
	if err := awaitWell(ctx, g); err != nil {
		return fmt.Errorf("gateway %s stays drained, for it is not well again: %w", g.Name(), err)
	}
	if _, err := g.Undrain(ctx); err != nil {
		return err
	}
	return say(out, "%s: well again and no longer drained\n", g.Name())
}

// awaitWell waits until the gateway could serve. Its agent may be down for a while: it may be what is upgraded.
func awaitWell(ctx context.Context, g statusSource) error {
	ctx, cancel := context.WithTimeout(ctx, wellLimit)
	defer cancel()
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for {
		status, err := g.Status(ctx)
		if err == nil {
			err = unwell(status)
		}
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// unwell says why a gateway should not have its addresses yet.
func unwell(s *wire.Status) error {
	switch {
	case s.HAProxyUp.IsZero():
		return errors.New("HAProxy does not answer")
	case !s.KeepalivedUp:
		return errors.New("keepalived does not run")
	case !s.InSync:
		return fmt.Errorf("what runs is not what should: %s", strings.Join(s.Drift, "; "))
	case !s.Current:
		return errors.New("its State is not confirmed to be the newest")
	}
	return nil
}

// running runs a program with this command's own input and output.
func running(argv []string, out io.Writer) func(context.Context) error {
	return func(ctx context.Context) error {
		command := exec.CommandContext(ctx, argv[0], argv[1:]...)
		command.Stdin, command.Stdout, command.Stderr = os.Stdin, out, os.Stderr
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
		return nil
	}
}
