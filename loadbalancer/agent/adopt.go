package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// An orphan is a gateway whose cluster is gone, as its operator says. It serves and repairs what it holds as before, and still takes
// its cluster's States, in case that was an error; but the first State of another one, believed and within the limits, replaces it
// whatever its epoch. Controllers are told that it holds none, as they are of a gateway that was installed anew, so that the next
// one does not take the Services of the last for its own.

// readOrphan learns which cluster is gone. A file about another cluster than the one held says nothing: a crash came between
// the commit and its removal.
func (a *Agent) readOrphan() {
	text, err := a.host.ReadFile(a.config.Paths.orphanFile())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("reading whether this gateway was handed over; run `gatewayctl adopt` again if it was", "error", err)
		}
		return
	}
	a.setOrphan(strings.TrimSpace(string(text)))
	a.settleOrphan()
}

func (a *Agent) setOrphan(clusterUID string) {
	a.mu.Lock()
	a.orphaned = clusterUID
	a.mu.Unlock()
	a.peers.mu.Lock()
	a.peers.orphaned = clusterUID
	a.peers.mu.Unlock()
}

// orphan says whether the cluster whose State is held is gone.
func (a *Agent) orphan() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orphaned != "" && a.committed != nil && a.committed.state.Fence.ClusterUID == a.orphaned
}

// settleOrphan forgets the old cluster once another one's State is held.
func (a *Agent) settleOrphan() {
	a.mu.Lock()
	stale := a.orphaned != "" && a.committed != nil && a.committed.state.Fence.ClusterUID != a.orphaned
	a.mu.Unlock()
	if !stale {
		return
	}
	if err := a.host.Remove(a.config.Paths.orphanFile()); err != nil {
		a.log.Warn("forgetting the old cluster", "error", err) // it means nothing beside another one's State
	}
	a.setOrphan("")
}

// adopt makes this gateway an orphan.
func (a *Agent) adopt(ctx context.Context) (*wire.Adopted, *wire.Refusal) {
	if err := a.acquire(ctx); err != nil {
		return nil, internal(err)
	}
	defer a.release()
	held := a.held()
	if held == nil || held.state.Fence.ClusterUID == "" {
		return &wire.Adopted{}, nil // the first controller that comes has it
	}
	uid := held.state.Fence.ClusterUID
	if a.orphan() {
		return &wire.Adopted{ClusterUID: uid}, nil
	}
	if err := a.host.WriteFile(a.config.Paths.orphanFile(), []byte(uid+"\n"), 0o600); err != nil {
		return nil, internal(fmt.Errorf("remembering that cluster %s is gone: %w", uid, err))
	}
	a.setOrphan(uid)
	a.log.Info("handed over: the first State of another cluster is taken", "cluster", uid)
	return &wire.Adopted{Changed: true, ClusterUID: uid}, nil
}

// fencing is the State that one with this fence must not be older than: none for another cluster's when ours is gone.
func (a *Agent) fencing(held *revision, offered desired.Fence) *revision {
	if held != nil && offered.ClusterUID != held.state.Fence.ClusterUID && a.orphan() {
		return nil
	}
	return held
}

// fencingPeer is fencing for what a peer tells. One that slept since before the old cluster has nothing for an orphan.
func fencingPeer(orphaned string, held, told *desired.Fence) *desired.Fence {
	if orphaned != "" && held != nil && told != nil && held.ClusterUID == orphaned && told.ClusterUID != orphaned && told.ClusterUID != "" {
		return nil
	}
	return held
}

// doubtOrphan is the warning of an orphan.
func (a *Agent) doubtOrphan(held *revision) []wire.Warning {
	if !a.orphan() {
		return nil
	}
	return []wire.Warning{{Reason: "HandedOver", Message: fmt.Sprintf("this gateway was handed over (`gatewayctl adopt`) and serves the State of cluster %s "+
		"until another cluster's controller comes", held.state.Fence.ClusterUID)}}
}
