package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/cmd/gatewayctl/bootstrap"
	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/loadbalancer/agent"
)

type adoptFlags struct {
	siteFlags
	loginFlags
	local  bool
	socket string
	dryRun bool
}

func newAdoptCommand() *cobra.Command {
	flags := adoptFlags{}
	command := &cobra.Command{
		Use:   "adopt {--cloud-config FILE [GATEWAY...] | --local}",
		Short: "Hand gateways over to a rebuilt cluster",
		Long: `Hand gateways over to a cluster that was built anew. A gateway belongs to the cluster whose controller came first, known by
the UID of its namespace kube-system, and refuses every other one. After this command it goes on serving what it serves, and the
first State of another cluster replaces that: its controller's, or that of ` + "`gatewayctl push --control-plane`" + `, when the
control plane has to be served before the new cluster exists. Services that the new cluster does not have are gone then.

With --cloud-config it logs in with your own key or password, as ` + "`gatewayctl bootstrap`" + ` does, and also makes the new
controller's key the one that is let in and believed: that of ssh.privateKeyFile, or those of --signer. It replaces the keys of all
other controllers, also those that somebody wrote there, and keeps a copy of the files; the gateways' own keys stay. With --local, as
root on a gateway, all keys stay as they are.

Hand over all gateways of a site. As long as the old cluster's controller runs and its key is believed, its States are still taken:
stop it first.`,
		Example: `  gatewayctl adopt --cloud-config cloud.yaml --login root
  gatewayctl adopt --cloud-config cloud.yaml --login root --signer new-controller.pub
  gatewayctl adopt --local`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if flags.local {
				if len(names) > 0 {
					return fmt.Errorf("adopt --local hands this gateway over and takes no names; to hand over %s, use --cloud-config", strings.Join(names, ", "))
				}
				return adoptLocal(cmd.Context(), localAgent{flags.socket}, cmd.OutOrStdout())
			}
			return flags.run(cmd.Context(), names, cmd.OutOrStdout())
		},
	}
	flags.siteFlags.add(command, "signer")
	flags.loginFlags.add(command)
	command.Flags().BoolVar(&flags.local, "local", false, "hand over this gateway itself, as root on it")
	command.Flags().StringVar(&flags.socket, "socket", agent.Socket, "with --local, the agent's socket")
	command.Flags().BoolVar(&flags.dryRun, "dry-run", false, "tell what would be done, with differences, and change nothing")
	for _, remote := range []string{"cloud-config", "dry-run", "signer", "login", "identity", "binary"} {
		command.MarkFlagsMutuallyExclusive("local", remote)
	}
	command.MarkFlagsOneRequired("local", "cloud-config")
	return command
}

func adoptLocal(ctx context.Context, local localAgent, out io.Writer) error {
	adopted, err := local.Adopt(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s is handed over: it serves the State of cluster %s until another cluster's controller comes\n", local.Name(), adopted.ClusterUID)
	if adopted.ClusterUID == "" {
		text = local.Name() + " belongs to no cluster: the first controller that comes has it\n"
	}
	_, err = io.WriteString(out, text)
	return err
}

func (f *adoptFlags) run(ctx context.Context, names []string, out io.Writer) error {
	l, err := f.load()
	if err != nil {
		return err
	}
	gateways, err := l.chosen(names)
	if err != nil {
		return err
	}
	order, err := l.order(gateways, f.loginFlags, prepare.Options{DryRun: f.dryRun})
	if err != nil {
		return err
	}
	results, err := bootstrap.Adopt(ctx, order)
	text := resultTable(results, f.dryRun)
	if len(gateways) < len(l.site.Gateways) {
		text += "\nhand the other gateways over as well: they refuse the new cluster until then\n"
	}
	if _, printing := io.WriteString(out, text); printing != nil {
		return errors.Join(err, fmt.Errorf("printing the results: %w", printing))
	}
	return err
}
