package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// nextEpoch is the value of --force-epoch that asks the gateways.
const nextEpoch = "next"

func newPushCommand() *cobra.Command {
	var file, epoch string
	var plan bool
	command := &cobra.Command{
		Use:   "push -f STATE --cloud-config FILE --force-epoch=next|N",
		Short: "Send a hand-written State to the gateways, past the controller",
		Long: `Push sends a hand-written State to all gateways of the configuration, one after the other. It is for development and for
the day when there is no controller: what it sends counts as newer than the controller's State until the controller claims
another epoch, which it does by itself when its next round is refused.

The State is YAML or JSON. What the configuration knows may be left out: schema, gateways, vrrp, instances, nodeCheck,
controlPlane; vips are then those of the load balancers and of the control plane. fence is made here.`,
		Args: cobra.NoArgs,
	}
	flags := newSiteFlags(command)
	command.Flags().StringVarP(&file, "filename", "f", "", "the State; - for standard input")
	command.Flags().StringVar(&epoch, "force-epoch", "", "epoch of the State: a number, or next for one above the highest that a reachable gateway holds")
	command.Flags().BoolVar(&plan, "plan", false, "tell what would change and change nothing")
	command.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := flags.check(); err != nil {
			return err
		}
		text, err := readInput(file, cmd.InOrStdin())
		if err != nil {
			return err
		}
		s, err := openSite(flags.cloudConfig)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		state, err := s.complete(text)
		if err != nil {
			return err
		}
		if state.Fence, err = s.fence(cmd.Context(), state.Fence.ClusterUID, epoch); err != nil {
			return err
		}
		signed, err := s.sign(state)
		if err != nil {
			return err
		}
		return s.push(cmd.Context(), signed, plan, flags.output, cmd.OutOrStdout())
	}
	return command
}

func readInput(file string, stdin io.Reader) ([]byte, error) {
	switch file {
	case "":
		return nil, errors.New("no State is given: name its file with -f, or - for standard input")
	case "-":
		return io.ReadAll(stdin)
	default:
		return os.ReadFile(file)
	}
}

// complete reads a State and fills in what the configuration knows.
func (s *site) complete(text []byte) (*desired.State, error) {
	state := &desired.State{}
	if err := yaml.UnmarshalStrict(text, state); err != nil {
		return nil, fmt.Errorf("reading the State: %w", err)
	}
	if state.Schema == 0 {
		state.Schema = desired.Schema
	}
	if state.Gateways == nil {
		state.Gateways = s.config.DesiredGateways()
	}
	if state.VRRP == (desired.VRRP{}) {
		state.VRRP = s.config.DesiredVRRP()
	}
	if state.NodeCheck == (desired.Check{}) {
		state.NodeCheck = s.config.NodeCheck()
	}
	if state.ControlPlane == nil {
		state.ControlPlane = s.config.DesiredControlPlane()
	}
	if state.Instances == nil {
		instances, err := desired.Instances(state.Gateways, s.config.VRRP.FirstRouterID)
		if err != nil {
			return nil, err
		}
		state.Instances = instances
	}
	if state.VIPs == nil {
		state.VIPs = vipsOf(state)
	}
	state.Normalize()
	return state, nil
}

// vipsOf gives every address of the State, each once, to the instance that a controller would choose.
func vipsOf(state *desired.State) []desired.VIP {
	var vips []desired.VIP
	seen := map[string]bool{}
	for _, lb := range state.LoadBalancers {
		for _, address := range lb.Addresses {
			if !seen[address.String()] {
				seen[address.String()] = true
				vips = append(vips, desired.VIP{Address: address, RouterID: desired.Spread(address, state.Instances)})
			}
		}
	}
	if cp := state.ControlPlane; cp != nil {
		vips = append(vips, desired.VIP{Address: cp.Address, RouterID: desired.Spread(cp.Address, state.Instances)})
	}
	return vips
}

// fence makes the State newer than what the gateways hold, as its sender has forced.
func (s *site) fence(ctx context.Context, clusterUID, epoch string) (desired.Fence, error) {
	if epoch == "" {
		return desired.Fence{}, errors.New("no epoch is forced: what is pushed replaces the controller's State on the gateways; " +
			"if that is meant, give --force-epoch=" + nextEpoch)
	}
	fence := desired.Fence{ClusterUID: clusterUID, Instance: "push-" + rand.Text()[:8], Sequence: 1}
	var highest uint64
	var faults []error
	for _, g := range s.gateways {
		hello, err := g.Hello(ctx)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if hello.Fence == nil {
			continue
		}
		highest = max(highest, hello.Fence.Epoch)
		if fence.ClusterUID == "" {
			fence.ClusterUID = hello.Fence.ClusterUID
		}
	}
	if len(faults) == len(s.gateways) {
		return fence, fmt.Errorf("no gateway answers: %w", errors.Join(faults...))
	}
	if epoch == nextEpoch {
		fence.Epoch = highest + 1
		return fence, nil
	}
	var err error
	if fence.Epoch, err = strconv.ParseUint(epoch, 10, 64); err != nil {
		return fence, fmt.Errorf("--force-epoch is %q; give a number or %s", epoch, nextEpoch)
	}
	return fence, nil
}

func (s *site) sign(state *desired.State) (desired.Signed, error) {
	if err := state.Validate(); err != nil {
		return desired.Signed{}, err
	}
	canonical, err := state.Canonical()
	if err != nil {
		return desired.Signed{}, err
	}
	return gateway.Sign(s.key, canonical)
}

// pushed is what one gateway answered.
type pushed struct {
	Gateway string       `json:"gateway"`
	Error   string       `json:"error,omitempty"`
	Result  *wire.Result `json:"result,omitempty"`
}

// push goes from gateway to gateway: past one that is silent, but not past one that could not make the State true, which the
// next would fail at too. The error says which gateways do not hold it.
func (s *site) push(ctx context.Context, signed desired.Signed, plan bool, output string, out io.Writer) error {
	var answers []pushed
	var faults []error
	for _, g := range s.gateways {
		ask := g.Apply
		if plan {
			ask = g.Plan
		}
		result, err := ask(ctx, signed)
		if err == nil && !made(result.Outcome) {
			err = fmt.Errorf("gateway %s: %s%s", g.Name(), result.Outcome, faultText(result.Faults))
		}
		answer := pushed{Gateway: g.Name(), Result: result}
		if err != nil {
			answer.Error = err.Error()
			faults = append(faults, err)
		}
		answers = append(answers, answer)
		var silent *gateway.UnreachableError
		if err != nil && !errors.As(err, &silent) {
			break
		}
	}
	if err := printPushed(out, output, answers); err != nil {
		return err
	}
	return errors.Join(faults...)
}

// made tells an outcome with the State true on the machine.
func made(o wire.Outcome) bool {
	return o == wire.Unchanged || o == wire.Runtime || o == wire.Reloaded
}

func faultText(faults []wire.Fault) string {
	var text string
	for _, f := range faults {
		text += "; "
		if f.LoadBalancer != nil {
			text += f.LoadBalancer.String() + ": "
		}
		if f.Field != "" {
			text += f.Field + ": "
		}
		text += f.Message
	}
	return text
}

func printPushed(out io.Writer, output string, answers []pushed) error {
	if output == "json" {
		return printJSON(out, answers)
	}
	for _, a := range answers {
		if a.Result == nil {
			fmt.Fprintf(out, "%s: not changed\n", a.Gateway)
			continue
		}
		fmt.Fprintf(out, "%s: %s, %s\n", a.Gateway, a.Result.Outcome, a.Result.Fence)
		for _, r := range a.Result.Reasons {
			fmt.Fprintf(out, "  reloaded HAProxy: %s\n", r)
		}
		for _, c := range a.Result.Changes {
			fmt.Fprintf(out, "  %s\n", c)
		}
		for _, w := range a.Result.Warnings {
			fmt.Fprintf(out, "  warning %s: %s\n", w.Reason, w.Message)
		}
	}
	return nil
}

func printJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
