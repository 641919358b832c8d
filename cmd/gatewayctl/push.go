package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/provider/config"
)

// pushTarget is a gateway that can be given a State.
type pushTarget interface {
	Name() string
	Hello(ctx context.Context) (*wire.Hello, error)
	State(ctx context.Context) (*desired.Signed, error) // nil: it holds none
	Apply(ctx context.Context, signed desired.Signed) (*wire.Result, error)
	Plan(ctx context.Context, signed desired.Signed) (*wire.Result, error)
}

type pushFlags struct {
	file         string
	controlPlane bool
	cloudConfig  string
	epoch        uint64
	forced       bool // --force-epoch was given
	gateways     []string
	dryRun       bool
}

func newPushCommand() *cobra.Command {
	flags := pushFlags{}
	command := &cobra.Command{
		Use:   "push {-f STATE.yaml --force-epoch N | --control-plane} --cloud-config FILE",
		Short: "Send a State written by hand, or the control plane alone, to the gateways",
		Long: `Send a State that was written by hand to the gateways, one after the other, and stop at the first failure. This is a tool
for development and for the day on which no controller can run; in daily work the controller does it.

The file is YAML with the field names of State. What it leaves out is filled in: schema, gateways, vrrp, instances,
nodeCheck and controlPlane from the cloud configuration, vips from the addresses of its load balancers and of the control
plane, and fence.clusterUID from what the gateways hold.

It replaces all that the gateways hold: a Service or node that the file does not list is taken off them. --dry-run shows it.

The State needs an epoch that is higher than every gateway's: give it with --force-epoch. Without the flag, nothing is
sent and the least number that will do is told. An epoch is how gateways know that a new controller has taken over; pushing takes over, too.

A RUNNING CONTROLLER WILL UNDO THIS: its next State is refused as older, so it claims a still higher epoch and replaces
yours with what the cluster's Services say. To keep what you push, stop the controller first; when it starts again it takes over again.

--control-plane needs no file and no epoch: it is for bare gateways, BEFORE THE CLUSTER EXISTS. It sends what controlPlane of
the cloud configuration says and nothing else, so that kubeadm init and join find the API server's address served. It may be
given again, also with other endpoints; what is held already is left alone. The cluster's first controller takes the gateways
over without touching the address. From then on --control-plane is refused: the controller reads the same configuration.

The private key of the cloud configuration signs the State, so its public key must stand in each gateway's
/etc/gatewayctl/signers. The exit status is 1 unless every gateway made the State true.`,
		Example: `  # Serve the API server's address before there is a cluster.
  gatewayctl push --control-plane --cloud-config cloud.yaml
  # What would change, on each gateway?
  gatewayctl push -f state.yaml --cloud-config cloud.yaml --dry-run
  # Do it on one gateway, look, then on the other.
  gatewayctl push -f state.yaml --cloud-config cloud.yaml --force-epoch 8 --gateway gw1
  gatewayctl push -f state.yaml --cloud-config cloud.yaml --force-epoch 9`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags.forced = cmd.Flags().Changed("force-epoch")
			return runPush(cmd.Context(), flags, cmd.OutOrStdout())
		},
	}
	command.Flags().StringVarP(&flags.file, "filename", "f", "", "the State, in YAML")
	command.Flags().BoolVar(&flags.controlPlane, "control-plane", false, "send the control plane of the cloud configuration alone, before the cluster exists")
	command.Flags().StringVar(&flags.cloudConfig, "cloud-config", "", "the controller's configuration")
	command.Flags().Uint64Var(&flags.epoch, "force-epoch", 0, "the State's epoch, higher than that of every gateway")
	command.Flags().StringSliceVar(&flags.gateways, "gateway", nil, "send to these gateways only, in this order (default all)")
	command.Flags().BoolVar(&flags.dryRun, "dry-run", false, "tell what would change, and change nothing")
	_ = command.MarkFlagRequired("cloud-config") // it fails for a flag that is not defined above, and a test would see that
	command.MarkFlagsOneRequired("filename", "control-plane")
	command.MarkFlagsMutuallyExclusive("filename", "control-plane")
	command.MarkFlagsMutuallyExclusive("force-epoch", "control-plane")
	return command
}

func runPush(ctx context.Context, flags pushFlags, out io.Writer) error {
	c, err := loadController(flags.cloudConfig)
	if err != nil {
		return err
	}
	defer c.close()
	state, err := toPush(flags, c.config)
	if err != nil {
		return err
	}
	clients, err := c.named(flags.gateways)
	if err != nil {
		return err
	}
	var targets []pushTarget
	for _, client := range clients {
		targets = append(targets, client)
	}
	return push(ctx, state, c.key, targets, flags, out)
}

// toPush is the State that the flags ask for, without its fence.
func toPush(flags pushFlags, c *config.Config) (*desired.State, error) {
	if flags.controlPlane {
		return controlPlaneOnly(c)
	}
	text, err := os.ReadFile(flags.file)
	if err != nil {
		return nil, fmt.Errorf("reading the State: %w", err)
	}
	state, err := handwritten(text, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flags.file, err)
	}
	return state, nil
}

// push gives state its fence, signs it and hands it to the targets.
func push(ctx context.Context, state *desired.State, key ssh.Signer, targets []pushTarget, flags pushFlags, out io.Writer) error {
	if err := mark(ctx, state, targets, flags); err != nil {
		return err
	}
	if err := state.Validate(); err != nil {
		return fmt.Errorf("%s is not sent: %w", cmp.Or(flags.file, "the control plane"), err)
	}
	bytes, err := state.Canonical()
	if err != nil {
		return err
	}
	signed, err := gateway.Sign(key, bytes)
	if err != nil {
		return err
	}
	outcomes := send(ctx, signed, targets, flags.dryRun)
	if _, err := io.WriteString(out, outcomeTable(outcomes, flags.dryRun)); err != nil {
		return fmt.Errorf("printing the outcomes: %w", err)
	}
	return verdict(outcomes)
}

// mark gives state a fence that the targets accept. Nothing is changed there.
func mark(ctx context.Context, state *desired.State, targets []pushTarget, flags pushFlags) error {
	if flags.controlPlane {
		return markBeforeCluster(ctx, state, targets)
	}
	held, err := askFences(ctx, targets)
	if err != nil {
		return err
	}
	return held.mark(state, flags)
}

// fences is what the targets hold before the push.
type fences struct {
	highest    uint64
	clusterUID string
	told       []string // "gw1 holds epoch 3, sequence 17"
}

// askFences asks every target before the first one is changed: a push that would stop half-way does not begin.
func askFences(ctx context.Context, targets []pushTarget) (*fences, error) {
	held := &fences{}
	var owner string
	var faults []error
	for _, target := range targets {
		hello, err := target.Hello(ctx)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		f := hello.Fence
		if f == nil {
			held.told = append(held.told, target.Name()+" holds no State")
			continue
		}
		held.told = append(held.told, fmt.Sprintf("%s holds %s", target.Name(), f))
		held.highest = max(held.highest, f.Epoch)
		switch {
		case f.ClusterUID == "":
		case owner == "":
			owner, held.clusterUID = target.Name(), f.ClusterUID
		case f.ClusterUID != held.clusterUID:
			faults = append(faults, fmt.Errorf("%s belongs to the cluster %s and %s to %s; choose with --gateway",
				owner, held.clusterUID, target.Name(), f.ClusterUID))
		}
	}
	return held, unasked(faults)
}

// unasked tells of gateways that did not answer, or not as they should, before anything was sent; nil for none.
func unasked(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("nothing was changed; push to the other gateways with --gateway NAME, if you must: %w", errors.Join(faults...))
}

// mark makes state the first of a forced epoch. A dry run without one takes the least that would do.
func (f *fences) mark(state *desired.State, flags pushFlags) error {
	epoch := flags.epoch
	least := f.highest + 1
	switch {
	case !flags.forced && flags.dryRun:
		epoch = least
	case !flags.forced:
		return fmt.Errorf("nothing was sent: %s; give --force-epoch %d to replace that, or --dry-run to see what would change "+
			"(a running controller will claim a higher epoch and replace yours)", strings.Join(f.told, ", "), least)
	case epoch < least:
		return fmt.Errorf("nothing was sent: --force-epoch %d is not higher than what is held: %s; give %d or more",
			epoch, strings.Join(f.told, ", "), least)
	}
	uid := state.Fence.ClusterUID
	if uid == "" {
		uid = f.clusterUID
	}
	if uid == "" {
		return fmt.Errorf("nothing was sent: %s, so the cluster's UID is unknown; write fence.clusterUID into the State "+
			"(kubectl get namespace kube-system -o jsonpath='{.metadata.uid}')", strings.Join(f.told, ", "))
	}
	state.Fence = desired.Fence{ClusterUID: uid, Epoch: epoch, Instance: "push-" + strings.ToLower(rand.Text()[:10]), Sequence: 1}
	return nil
}

// pushed is what became of one target.
type pushed struct {
	gateway string
	result  *wire.Result // nil: err, or not tried
	err     error
	took    time.Duration
}

// good tells whether the State is true there, or would be.
func (p pushed) good() bool {
	if p.result == nil {
		return false
	}
	switch p.result.Outcome {
	case wire.Unchanged, wire.Runtime, wire.Reloaded:
		return true
	}
	return false
}

// send hands signed to one target after the other; after a failure the others are left alone (a dry run asks them all).
func send(ctx context.Context, signed desired.Signed, targets []pushTarget, dryRun bool) []pushed {
	outcomes := make([]pushed, len(targets))
	for i, target := range targets {
		outcomes[i].gateway = target.Name()
	}
	for i, target := range targets {
		p := &outcomes[i]
		began := time.Now()
		if dryRun {
			p.result, p.err = target.Plan(ctx, signed)
		} else {
			p.result, p.err = target.Apply(ctx, signed)
		}
		p.took = time.Since(began)
		if !dryRun && !p.good() {
			break
		}
	}
	return outcomes
}

// verdict is the command's exit status in words; what went wrong stands below the table.
func verdict(outcomes []pushed) error {
	var failed, untried []string
	for _, p := range outcomes {
		switch {
		case p.good():
		case p.result == nil && p.err == nil:
			untried = append(untried, p.gateway)
		default:
			failed = append(failed, p.gateway)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	message := "failed on " + strings.Join(failed, ", ")
	if len(untried) > 0 {
		message += "; not tried: " + strings.Join(untried, ", ")
	}
	return errors.New(message)
}

// outcomeTable shows a line for each gateway, and below it what changed and what went wrong.
func outcomeTable(outcomes []pushed, dryRun bool) string {
	t := newTable("gateway", "outcome", "epoch/seq", "vips", "took")
	did := "changed"
	if dryRun {
		t = newTable("gateway", "would be", "epoch/seq", "vips", "took")
		did = "would change"
	}
	var below notes
	for _, p := range outcomes {
		switch {
		case p.err != nil:
			t.AppendRow([]any{p.gateway, "failed", "", "", p.took.Round(time.Millisecond)})
			below.add(p.gateway, "%v", p.err)
			below.refused(p.gateway, p.err)
			continue
		case p.result == nil:
			t.AppendRow([]any{p.gateway, "not tried"})
			continue
		}
		r := p.result
		t.AppendRow([]any{p.gateway, string(r.Outcome), fence(r.Fence), addresses(r.Held, 3), p.took.Round(time.Millisecond)})
		for _, reason := range r.Reasons {
			below.add(p.gateway, "reload of HAProxy: %s", reason)
		}
		for _, change := range r.Changes {
			below.add(p.gateway, "%s: %s", did, change)
		}
		below.faults(p.gateway, r.Faults)
		if r.Outcome == wire.Stuck {
			below.add(p.gateway, "the way back failed, too: look at `journalctl -u gatewayctl-agent` on the gateway")
		}
		below.warnings(p.gateway, r.Warnings)
	}
	return below.under(t)
}

// refused tells the single faults of a refusal.
func (n *notes) refused(gateway string, err error) {
	var refusal *wire.Refusal
	if errors.As(err, &refusal) {
		n.faults(gateway, refusal.Faults)
	}
}

func (n *notes) faults(gateway string, faults []wire.Fault) {
	for _, f := range faults {
		where := f.Field
		if f.LoadBalancer != nil {
			where = strings.TrimSpace(f.LoadBalancer.String() + " " + f.Field)
		}
		n.add(gateway, "fault: %s", strings.TrimPrefix(where+": "+f.Message, ": "))
	}
}
