package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"cloud-provider-haproxy/test/lab"
)

func powerOff(_ context.Context, t *trial) error { return t.struck.PowerOff() }

func boot(ctx context.Context, t *trial) error { return t.struck.Boot(ctx) }

func powerOffBoth(_ context.Context, t *trial) error {
	return errors.Join(t.struck.PowerOff(), t.spared.PowerOff())
}

func bootBoth(ctx context.Context, t *trial) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range t.Gateways {
		group.Go(func() error { return g.Boot(ctx) })
	}
	return group.Wait()
}

func cutOff(ctx context.Context, t *trial) error { return t.struck.CutOff(ctx) }

func reconnect(ctx context.Context, t *trial) error { return t.struck.Reconnect(ctx) }

func part(ctx context.Context, t *trial) error { return t.Cut(ctx, t.struck, t.spared) }

func mend(ctx context.Context, t *trial) error { return t.Mend(ctx, t.struck, t.spared) }

// run runs a command on the gateway.
func run(argv ...string) act {
	return func(ctx context.Context, t *trial) error {
		_, err := t.struck.Run(ctx, argv...)
		return err
	}
}

// sendSignal sends a signal to all processes of that name.
func sendSignal(signal, name string) act { return run("pkill", signal, "-x", name) }

// kill returns when nothing is left of all processes of that name.
func kill(name string) act {
	return func(ctx context.Context, t *trial) error {
		if err := sendSignal("-KILL", name)(ctx, t); err != nil {
			return err
		}
		return eventually(ctx, settleLimit, name+" to be gone", func(ctx context.Context) error {
			if pids, err := t.struck.Run(ctx, "pgrep", "-x", name); err == nil {
				return fmt.Errorf("it runs as %s", pids)
			}
			return nil
		})
	}
}

func startAgent(ctx context.Context, t *trial) error {
	_, err := t.struck.StartAgent(ctx)
	return err
}

func startSSHD(_ context.Context, t *trial) error {
	_, err := t.struck.Start("sshd", "/usr/sbin/sshd", "-D", "-e")
	return err
}

// drain is what an operator does before an upgrade.
func drain(ctx context.Context, t *trial) error {
	return t.command(ctx, "drain", t.struck.Name, "--reason", "chaos", "--grace", "6s")
}

func undrain(ctx context.Context, t *trial) error { return t.command(ctx, "undrain", t.struck.Name) }

// comeAgain lets the client use each of its ports for one more connection, when the hop of the hand-over is gone too; see
// reusePorts.
func comeAgain(ctx context.Context, _ *trial) error { return pass(ctx, 25*time.Second) }

// command runs gatewayctl on the controller's host.
func (t *trial) command(ctx context.Context, verb string, arguments ...string) error {
	argv := append([]string{"gatewayctl", verb, "--cloud-config", lab.CloudConfigFile}, arguments...)
	_, err := t.Controller.Run(ctx, argv...)
	return err
}
