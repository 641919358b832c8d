package agent

import (
	"bytes"
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// checkFence refuses a State that must not replace the one held (DESIGN.md invariant 4). The same State once more is
// welcome: its sender may not have got the answer.
func checkFence(held, offered *revision) *wire.Refusal {
	if held == nil {
		return nil
	}
	have, got := held.state.Fence, offered.state.Fence
	if have.ClusterUID != got.ClusterUID {
		if have.ClusterUID == "" {
			return nil // made before the cluster existed; the first controller claims it
		}
		return refuseCluster(have, got)
	}
	switch {
	case got.Epoch > have.Epoch:
		return nil
	case got.Epoch < have.Epoch:
		return fenced(wire.CodeEpoch, have, fmt.Sprintf("the State is of epoch %d and this gateway holds one of epoch %d: "+
			"another controller has taken over", got.Epoch, have.Epoch),
			"the controller has to claim a newer epoch, or to stop if another one leads")
	case got.Instance != have.Instance:
		return fenced(wire.CodeEpoch, have, fmt.Sprintf("epoch %d belongs to controller instance %q, and the State comes from %q",
			have.Epoch, have.Instance, got.Instance),
			"the controller has to claim a newer epoch, or to stop if another one leads")
	case got.Sequence > have.Sequence:
		return nil
	case got.Sequence < have.Sequence:
		return fenced(wire.CodeSequence, have, fmt.Sprintf("the State has sequence %d of epoch %d and this gateway holds sequence %d",
			got.Sequence, got.Epoch, have.Sequence), "send the newest State")
	case !bytes.Equal(held.signed.State, offered.signed.State):
		return fenced(wire.CodeSequence, have, fmt.Sprintf("this gateway holds another State under the same epoch %d and sequence %d",
			have.Epoch, have.Sequence), "a changed State needs the next sequence")
	}
	return nil
}

func refuseCluster(have, got desired.Fence) *wire.Refusal {
	message := fmt.Sprintf("this gateway belongs to the cluster %s, and the State comes from the cluster %s", have.ClusterUID, got.ClusterUID)
	if got.ClusterUID == "" {
		message = fmt.Sprintf("this gateway belongs to the cluster %s, and the State was made before any cluster existed", have.ClusterUID)
	}
	return fenced(wire.CodeCluster, have, message,
		"if the cluster was rebuilt, hand the gateway over as root on it: stop gatewayctl-agent, remove /var/lib/gatewayctl/state.json, start it again")
}

func fenced(code wire.Code, have desired.Fence, message, remedy string) *wire.Refusal {
	return &wire.Refusal{Code: code, Message: message, Remedy: remedy, Fence: &have}
}
