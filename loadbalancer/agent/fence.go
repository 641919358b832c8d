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

// checkRead compares before it swaps: a controller whose State was made without having read what another one has had committed
// here would take back what that one told people. read is the newest State that it knew of; nil: the sender does not say.
func checkRead(held, offered *revision, read *desired.Fence) *wire.Refusal {
	if held == nil || read == nil {
		return nil
	}
	have := held.state.Fence
	if have.Instance == offered.state.Fence.Instance || !have.NewTo(*read) {
		return nil
	}
	return fenced(wire.CodeUnread, have, fmt.Sprintf("this gateway holds a State of controller instance %q (%s) that the sender has not read; "+
		"the newest that it has read is %s", have.Instance, have, *read), "the controller has to read the gateways again")
}

func refuseCluster(have, got desired.Fence) *wire.Refusal {
	message := fmt.Sprintf("this gateway belongs to the cluster %s, and the State comes from the cluster %s", have.ClusterUID, got.ClusterUID)
	if got.ClusterUID == "" {
		message = fmt.Sprintf("this gateway belongs to the cluster %s, and the State was made before any cluster existed", have.ClusterUID)
	}
	return fenced(wire.CodeCluster, have, message,
		"if the cluster was rebuilt, hand the gateways over to it: `gatewayctl adopt --cloud-config FILE`, or as root on each `gatewayctl adopt --local`")
}

func fenced(code wire.Code, have desired.Fence, message, remedy string) *wire.Refusal {
	return &wire.Refusal{Code: code, Message: message, Remedy: remedy, Fence: &have}
}

// standing is how the State that a peer tells of stands to ours.
type standing int

const (
	noNewer standing = iota // older than ours, ours, or none
	ahead                   // newer: it would replace ours
	apart                   // another cluster's, or of a controller that claimed the same epoch: it says nothing about ours
)

// compareFences is checkFence without the contents: a fence is all that hello tells.
func compareFences(held, told *desired.Fence) standing {
	switch {
	case told == nil:
		return noNewer
	case held == nil:
		return ahead
	case held.ClusterUID == "" && told.ClusterUID != "":
		return ahead
	case held.ClusterUID != told.ClusterUID:
		return apart
	case held.Epoch == told.Epoch && held.Instance != told.Instance:
		return apart
	case told.Compare(*held) > 0:
		return ahead
	}
	return noNewer
}

// maxEpochJump is the farthest that an epoch may lie above ours when a peer hands the State on: a takeover every half
// minute for a year. Controllers have to claim above the highest epoch that they find, so one that is near the end of the
// numbers, by a bug or by malice, would lock every later controller out of each gateway that has it. Who is told it by a
// controller has to believe it; that it spreads from there by itself is what this stops.
const maxEpochJump = 1 << 20

// jumps says whether the epoch of a State that is told of lies absurdly far above that of the State that is held; nil: none is.
func jumps(held *desired.Fence, told desired.Fence) bool {
	epoch := uint64(0)
	if held != nil {
		epoch = held.Epoch
	}
	return told.Epoch > epoch && told.Epoch-epoch > maxEpochJump
}

// checkHandedOver refuses a State that a peer hands on although it is not newer than ours, or newer than any cluster can
// have become meanwhile.
func checkHandedOver(held, offered *revision) *wire.Refusal {
	have, got := desired.Fence{}, offered.state.Fence
	if held != nil {
		have = held.state.Fence
		if compareFences(&have, &got) != ahead {
			return fenced(wire.CodeSequence, have, fmt.Sprintf("the peer told of a newer State than ours (%s) and handed over %s", have, got),
				"nothing, unless it stays so: then look at the peer's agent")
		}
	}
	if jumps(&have, got) {
		return fenced(wire.CodeEpoch, have, fmt.Sprintf("the State is of epoch %d and this gateway is at epoch %d: no cluster claims more than %d epochs "+
			"while a gateway is away", got.Epoch, have.Epoch, maxEpochJump),
			"if that epoch is real, let the controller send the State itself; if not, find out who pushed it")
	}
	return nil
}
