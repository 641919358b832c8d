package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// drainable is a gateway that can be drained; *gateway.Client is one.
type drainable interface {
	statusSource
	Drain(context.Context, wire.Drain) (*wire.Drained, error)
	Undrain(context.Context) (*wire.Drained, error)
}

// whichGateway are the flags that choose one gateway.
type whichGateway struct {
	cloudConfig string
	local       bool
	socket      string
}

func (w *whichGateway) register(command *cobra.Command) {
	command.Flags().StringVar(&w.cloudConfig, "cloud-config", "", "the controller's configuration, which names the gateway")
	command.Flags().BoolVar(&w.local, "local", false, "this machine, as root")
	command.Flags().StringVar(&w.socket, "socket", agent.Socket, "the agent's socket, for --local")
	command.MarkFlagsOneRequired("cloud-config", "local")
	command.MarkFlagsMutuallyExclusive("cloud-config", "local")
}

// with lets use have the gateway.
func (w *whichGateway) with(names []string, use func(drainable) error) error {
	switch {
	case w.local && len(names) > 0:
		return fmt.Errorf("--local is this machine: give no name beside it")
	case w.local:
		return use(localAgent{w.socket})
	case len(names) != 1:
		return fmt.Errorf("name one gateway, as it is called in %s", w.cloudConfig)
	}
	c, err := loadController(w.cloudConfig)
	if err != nil {
		return err
	}
	defer c.close()
	clients, err := c.named(names)
	if err != nil {
		return err
	}
	return use(clients[0])
}

// withAll lets use have all gateways of the cloud configuration.
func (w *whichGateway) withAll(names []string, use func([]drainable) error) error {
	if len(names) > 0 {
		return fmt.Errorf("--all is every gateway of %s: give no name beside it", w.cloudConfig)
	}
	c, err := loadController(w.cloudConfig)
	if err != nil {
		return err
	}
	defer c.close()
	var gateways []drainable
	for _, client := range c.clients {
		gateways = append(gateways, client)
	}
	return use(gateways)
}

func newDrainCommand() *cobra.Command {
	var which whichGateway
	var drain wire.Drain
	var wait, all bool
	command := &cobra.Command{
		Use:   "drain (--local | --cloud-config FILE {GATEWAY | --all}) [-- COMMAND...]",
		Short: "Hand a gateway's addresses to the others, before it is restarted, upgraded or switched off",
		Long: `Hand all addresses of one gateway to the others, and keep it away from them, over reboots too, until undrain. It is refused
when no other gateway can take over. The command returns when the addresses have moved, which takes three seconds.

New connections go to the other gateways at once. Connections that are established through this gateway live on until --grace is
over, for the other gateways hand their packets on to it; those that are left then are reset. Wait for that (--wait) before you
switch it off. A drained gateway serves all the same when no other one is left.

With a COMMAND, which runs on this machine, the gateway is drained while it runs, and undrained when it has succeeded and the
gateway is well again: HAProxy answers, keepalived runs, everything is in sync. Else it stays drained. In the COMMAND {} is the
gateway's name.

With --all that is done to every gateway, one after the other, the one that holds the fewest addresses first. It does not begin
unless all are well, and stops at the first failure: those that come after it are left as they are.

Who drained it, since when, why, and how many connections are left, stands in gatewayctl status.`,
		Example: `  gatewayctl drain --cloud-config cloud.yaml gw1 --reason 'new kernel'
  gatewayctl drain --local --wait -- apt-get --yes upgrade
  gatewayctl drain --cloud-config cloud.yaml gw1 -- ssh root@gw1 systemctl restart haproxy keepalived
  gatewayctl drain --cloud-config cloud.yaml --all --wait -- ssh root@{} apt-get --yes upgrade`,
		RunE: func(cmd *cobra.Command, names []string) error {
			var argv []string
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				names, argv = names[:dash], names[dash:]
			}
			do := func(gateway string) func(context.Context) error {
				return running(addressed(argv, gateway), cmd.OutOrStdout())
			}
			if all {
				if len(argv) == 0 {
					return errors.New("--all drains one gateway after the other and undrains it again: say behind -- what is to be done meanwhile")
				}
				return which.withAll(names, func(gateways []drainable) error {
					return inTurn(cmd.Context(), gateways, drain, wait, do, cmd.OutOrStdout())
				})
			}
			return which.with(names, func(g drainable) error {
				if len(argv) > 0 {
					return whileDrained(cmd.Context(), g, drain, wait, do(g.Name()), cmd.OutOrStdout())
				}
				_, err := startDrain(cmd.Context(), g, drain, wait, cmd.OutOrStdout())
				return err
			})
		},
	}
	which.register(command)
	command.Flags().StringVar(&drain.Reason, "reason", "", "why, for those who look at status")
	command.Flags().DurationVar(&drain.Grace, "grace", 30*time.Second, "how long connections of addresses that have moved are left alone before they are reset")
	command.Flags().BoolVar(&drain.Force, "force", false, "drain also when no other gateway can take over; an address that nobody takes stays")
	command.Flags().BoolVar(&all, "all", false, "every gateway of the cloud configuration in turn, each for as long as the COMMAND runs")
	command.MarkFlagsMutuallyExclusive("all", "local")
	command.Flags().BoolVar(&wait, "wait", false, "return when no connection is left, which takes no longer than --grace")
	return command
}

func newUndrainCommand() *cobra.Command {
	var which whichGateway
	command := &cobra.Command{
		Use:   "undrain --local | --cloud-config FILE GATEWAY",
		Short: "Let a drained gateway have its addresses back",
		Long: `Take away what drain has set. The gateway takes its addresses back within seconds, once its HAProxy answers and its State is
known to be the newest. What is established through the other gateways to these addresses lives on as long as drain's --grace was.`,
		Example: `  gatewayctl undrain --cloud-config cloud.yaml gw1`,
		RunE: func(cmd *cobra.Command, names []string) error {
			return which.with(names, func(g drainable) error {
				drained, err := g.Undrain(cmd.Context())
				if err != nil {
					return err
				}
				text := "no longer drained; its addresses return within seconds"
				if !drained.Changed {
					text = "was not drained"
				}
				return say(cmd.OutOrStdout(), "%s: %s\n", g.Name(), text)
			})
		},
	}
	which.register(command)
	return command
}

// startDrain drains a gateway and says so.
func startDrain(ctx context.Context, g drainable, drain wire.Drain, wait bool, out io.Writer) (*wire.Drained, error) {
	drained, err := g.Drain(ctx, drain)
	if err != nil {
		return nil, err
	}
	verb := "drained"
	if !drained.Changed {
		verb = "is drained already"
	}
	text := "it holds no address"
	if n := len(drained.Held); n > 0 {
		text = fmt.Sprintf("nobody took %d of its addresses, which it goes on serving", n)
	}
	if err := say(out, "%s: %s; %s\n%s: %s\n", g.Name(), verb, text, g.Name(), drainText(drained.Drain)); err != nil || !wait {
		return drained, err
	}
	return drained, awaitConnections(ctx, g, drained.Drain, out)
}

// waitEvery is how often --wait looks, waitLonger how long it does so after the agent should have ended the last connection.
const (
	waitEvery  = time.Second
	waitLonger = 30 * time.Second
)

// awaitConnections waits until the drain has left no connection.
func awaitConnections(ctx context.Context, g drainable, left *wire.DrainStatus, out io.Writer) error {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	// By this machine's clock: the gateway's may differ, so what counts is how long there was left by its own.
	for begun, patience := time.Now(), max(0, left.Until.Sub(left.Since))+waitLonger; left.Connections > 0; {
		if time.Since(begun) > patience {
			return fmt.Errorf("gateway %s: %d connections are left, and its agent should have ended them; look at its log", g.Name(), left.Connections)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d connections to end; the gateway stays drained: %w", left.Connections, context.Cause(ctx))
		}
		status, err := g.Status(ctx)
		if err != nil {
			return err
		}
		if status.Drain == nil {
			return fmt.Errorf("gateway %s: somebody has undrained it meanwhile", g.Name())
		}
		left = status.Drain
	}
	return say(out, "%s: no connection is left\n", g.Name())
}

// drainText says what there is to know of a drained gateway.
func drainText(d *wire.DrainStatus) string {
	text := fmt.Sprintf("drained since %s by %s", moment(d.Since, "an unknown time"), cmp.Or(string(d.By), "nobody known"))
	if d.Reason != "" {
		text += fmt.Sprintf(" (%s)", d.Reason)
	}
	if d.Connections == 0 {
		return text + "; no connection of an address that it handed over is left"
	}
	return text + fmt.Sprintf("; %d connections of addresses that it handed over are left, reset at %s", d.Connections, moment(d.Until, "once"))
}

func say(out io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(out, format, args...); err != nil {
		return fmt.Errorf("printing what was done: %w", err)
	}
	return nil
}
