package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/loadbalancer/agent"
)

// newBootstrapLocalCommand is what bootstrap runs on a machine, as root. People have no use for it.
func newBootstrapLocalCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bootstrap-local",
		Short:  "Carry out a plan of bootstrap on this machine: JSON in, JSON out",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("this is for root; see `gatewayctl bootstrap --help`")
			}
			var plan prepare.Plan
			decoder := json.NewDecoder(cmd.InOrStdin())
			decoder.DisallowUnknownFields() // an operator of another version
			if err := decoder.Decode(&plan); err != nil {
				return fmt.Errorf("reading the plan: %w", err)
			}
			report := prepare.Run(cmd.Context(), plan, prepare.Parts{
				Machine: prepare.Local{Owner: prepare.RootOwner, Machine: agent.Machine{}},
				Links:   prepare.KernelLinks,
				Self:    func() ([]byte, error) { return os.ReadFile("/proc/self/exe") },
				Forget: func(ctx context.Context) (bool, error) {
					adopted, err := localAgent{agent.Socket}.Adopt(ctx)
					return err == nil && adopted.Changed, err
				},
				Now: time.Now,
			})
			return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
		},
	}
}
