package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// stateSource is who can be asked for its State.
type stateSource interface {
	Name() string
	State(ctx context.Context) (*desired.Signed, error)
}

type poolsFlags struct {
	cloudConfig string
	output      string
}

func newPoolsCommand() *cobra.Command {
	flags := poolsFlags{}
	command := &cobra.Command{
		Use:   "pools --cloud-config FILE",
		Short: "Show how full the address pools are, and who has which address",
		Long: `Show the address pools and who has which address, as the newest State says that the gateways hold. All gateways of the
cloud configuration are asked at once, with the controller's key; the cluster is not.

The first table counts: USED is what is not free, so assigned, releasing, reserved and quarantined; each address is counted
once. The second table names who has an address: a Service, with its ports where it shares the address; a Service that gave
it up and the gateways that have not confirmed to be without it (releasing); the one Service that can get it, by the
configuration (reserved) or since it was deleted with annotation keep-ip (kept); the stranger on the network that answered
for it (quarantined). Free addresses are not listed. In which pool an address lies is told by FILE, not by the State; one
in none, or excluded there, stays with the Service that has it until that goes or asks for another one.

With -o json: an object with "state" (where it comes from: gateway, clusterUID, epoch, sequence; null if nobody has one),
"gateways" (gateway, and error, remedy or difference), "pools" (name, family, size, assigned, releasing, reserved,
quarantined, free, usedPercent) and "addresses" (address, pool, controlPlane, services, releasing, reserved, kept,
quarantined; what does not apply is left out). Services are {namespace, name, ports: [{protocol, port}]}; of releasing ones
waitsFor names gateways, and ports are there only when the address was shared. "otherPools" is there when FILE has other
pools than the controller.

The exit status is 1 when a gateway cannot be asked or holds another State, for then a newer one may be somewhere.`,
		Example: `  gatewayctl pools --cloud-config cloud.yaml
  gatewayctl pools --cloud-config cloud.yaml -o json | jq '.pools[] | select(.usedPercent >= 90)'
  gatewayctl pools --cloud-config cloud.yaml -o json | jq '.addresses[] | select(.address == "192.0.2.70")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPools(cmd.Context(), flags, cmd.OutOrStdout()) },
	}
	command.Flags().StringVar(&flags.cloudConfig, "cloud-config", "", "the controller's configuration")
	command.Flags().StringVarP(&flags.output, "output", "o", "table", "table or json")
	_ = command.MarkFlagRequired("cloud-config") // it fails for a flag that is not defined above, and a test would see that
	return command
}

func runPools(ctx context.Context, flags poolsFlags, out io.Writer) error {
	if !slices.Contains([]string{"table", "json"}, flags.output) {
		return fmt.Errorf("--output %q: give table or json", flags.output)
	}
	c, err := loadController(flags.cloudConfig)
	if err != nil {
		return err
	}
	defer c.close()
	var sources []stateSource
	for _, client := range c.clients {
		sources = append(sources, client)
	}
	return showPools(ctx, sources, c.config.AddressPools(), flags.output, out)
}

// showPools prints the report, then says in its error what is wrong with it.
func showPools(ctx context.Context, sources []stateSource, pools []ipam.Pool, output string, out io.Writer) error {
	report := newPoolReport(askStates(ctx, sources), pools)
	text := report.tables()
	if output == "json" {
		bytes, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the pools: %w", err)
		}
		text = string(bytes) + "\n"
	}
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("printing the pools: %w", err)
	}
	return report.verdict()
}

// askedState is what one gateway answered; both are nil when it never got a State.
type askedState struct {
	gateway string
	state   *desired.State
	err     error
}

// askStates asks all at once, so that one that hangs costs no more than its own deadline.
func askStates(ctx context.Context, sources []stateSource) []askedState {
	asked := make([]askedState, len(sources))
	var asking sync.WaitGroup
	for i, source := range sources {
		asking.Go(func() {
			asked[i].gateway = source.Name()
			signed, err := source.State(ctx)
			if err == nil && signed != nil {
				asked[i].state, err = desired.Decode(signed.State)
			}
			asked[i].err = err
		})
	}
	asking.Wait()
	return asked
}

// verdict is the command's exit status in words.
func (r *poolReport) verdict() error {
	var unasked, apart, faults []string
	for _, g := range r.Gateways {
		switch {
		case g.Error != "":
			unasked = append(unasked, g.Gateway)
		case g.Difference != "":
			apart = append(apart, g.Gateway)
		}
	}
	if len(unasked) > 0 {
		faults = append(faults, "cannot be asked: "+strings.Join(unasked, ", "))
	}
	if len(apart) > 0 {
		faults = append(faults, "hold another State: "+strings.Join(apart, ", "))
	}
	if r.State == nil && len(unasked) == 0 {
		faults = append(faults, "no gateway ever got a State")
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

func (r *poolReport) tables() string {
	var below notes
	for _, g := range r.Gateways {
		if problem := cmp.Or(g.Error, g.Difference); problem != "" {
			below.add(g.Gateway, "%s", problem)
		}
	}
	if r.State == nil {
		return strings.Join(append([]string{"no State, so nothing is known of pools and addresses"}, below...), "\n") + "\n"
	}
	if r.OtherPools != "" {
		below.add("configuration", "%s", r.OtherPools)
	}
	text := ""
	if len(r.Pools) > 0 {
		t := newTable("pool", "family", "size", "assigned", "releasing", "reserved", "quarantined", "free", "used")
		for _, p := range r.Pools {
			t.AppendRow([]any{p.Name, p.Family, p.Size, p.Assigned, p.Releasing, p.Reserved, p.Quarantined, p.Free, p.used()})
		}
		text = t.Render() + "\n\n"
	} else {
		below.add(r.State.Gateway, "its State was not made by a controller, so it does not count the pools")
	}
	t := newTable("address", "pool", "who")
	for _, a := range r.Addresses {
		t.AppendRow([]any{a.Address, cmp.Or(a.Pool, "-"), strings.Join(a.who(), "\n")})
	}
	if slices.ContainsFunc(r.Addresses, func(a addressUse) bool { return a.Pool == "" && !a.ControlPlane }) {
		below.add("pool -", "the address is in no pool of this configuration, or excluded there; the Service that has it keeps it until it goes "+
			"or asks for another one, and no Service gets it after that")
	}
	return text + below.under(t)
}

// used shows how much of the pool is not free. It is 100% only when nothing is.
func (p poolCount) used() string {
	if p.UsedPercent == 0 && p.Free < p.Size {
		return "<1%"
	}
	return fmt.Sprintf("%d%%", p.UsedPercent)
}

// who tells who has an address, a line each.
func (a addressUse) who() []string {
	var lines []string
	if a.ControlPlane {
		lines = append(lines, "control plane")
	}
	shared := len(a.Services)+len(a.Releasing) > 1
	for _, s := range a.Services {
		line := s.String()
		if shared {
			line += " " + s.ports()
		}
		lines = append(lines, line)
	}
	for _, d := range a.Releasing {
		what := "releasing"
		if len(d.Ports) > 0 {
			what += " " + d.ports()
		}
		lines = append(lines, fmt.Sprintf("%s (%s; waits for %s)", what, d, cmp.Or(strings.Join(d.WaitsFor, ", "), "the controller alone")))
	}
	if a.Reserved != nil {
		lines = append(lines, "reserved for "+a.Reserved.String())
	}
	for _, kept := range a.Kept {
		lines = append(lines, "kept for "+kept.String())
	}
	if a.Quarantined != "" {
		lines = append(lines, "quarantined: "+a.Quarantined)
	}
	return lines
}
