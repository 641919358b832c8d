package main

import (
	"context"
	"errors"
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// controlPlaneOnly is the State of gateways whose cluster does not exist yet (DESIGN.md invariant 4): what the
// configuration says of the control plane, and of everything that the first controller will not change.
func controlPlaneOnly(c *config.Config) (*desired.State, error) {
	if c.ControlPlane == nil {
		return nil, errors.New("controlPlane is missing in the cloud configuration: there is nothing to serve before the cluster exists; " +
			"give its address and endpoints")
	}
	return complete(&desired.State{}, c)
}

// markBeforeCluster gives state epoch 0, no cluster and the sequence after the highest that is held; the held one when
// nothing changed, so that giving it once more leaves the gateways alone. It refuses gateways of a cluster: there the
// agents would refuse as well, but perhaps only after another one took the State.
func markBeforeCluster(ctx context.Context, state *desired.State, targets []pushTarget) error {
	wanted, err := state.Digest()
	if err != nil {
		return err
	}
	var faults []error
	highest, same := uint64(0), true // same: who holds the highest sequence holds this State
	for _, target := range targets {
		held, err := heldBy(ctx, target)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if held == nil || held.Fence.Sequence < highest {
			continue
		}
		digest, err := held.Digest()
		if err != nil {
			return err
		}
		same = digest == wanted && (same || held.Fence.Sequence > highest)
		highest = held.Fence.Sequence
	}
	if err := unasked(faults); err != nil {
		return err
	}
	state.Fence = desired.Fence{Sequence: highest}
	if highest == 0 || !same {
		state.Fence.Sequence++
	}
	return nil
}

// heldBy reads the State that a gateway without a cluster holds, nil for none.
func heldBy(ctx context.Context, target pushTarget) (*desired.State, error) {
	signed, err := target.State(ctx)
	if err != nil || signed == nil {
		return nil, err
	}
	held, err := desired.Decode(signed.State)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: read the State that it holds: %w", target.Name(), err)
	}
	if uid := held.Fence.ClusterUID; uid != "" {
		return nil, fmt.Errorf("gateway %s belongs to the cluster %s already (%s); its controller keeps the control plane as the cloud "+
			"configuration says: restart it with the new one, or push a whole State with -f", target.Name(), uid, held.Fence)
	}
	return held, nil
}
