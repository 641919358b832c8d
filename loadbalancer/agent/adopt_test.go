package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const orphanFile = "/var/lib/gatewayctl/orphaned"

// ofCluster makes a State another cluster's.
func ofCluster(s *desired.State, uid string, epoch, sequence uint64) *desired.State {
	s = s.Clone()
	s.Fence = desired.Fence{ClusterUID: uid, Epoch: epoch, Instance: "of-" + uid, Sequence: sequence}
	return s
}

// An orphan goes on as it was, for its old cluster too, and takes the first State of another one, whatever its epoch. Then it
// is no orphan any more.
func TestAdopt(t *testing.T) {
	m := holding(t, sample(5, web, db))
	a := started(t, m)
	old := a.held().state.Fence.ClusterUID
	rebuilt := ofCluster(sample(5, web), "rebuilt", 1, 1)
	if _, refusal := a.apply(t.Context(), sign(t, rebuilt)); refusal == nil || refusal.Code != wire.CodeCluster {
		t.Fatalf("before it was handed over: %v", refusal)
	}
	for _, changed := range []bool{true, false} {
		if got, refusal := a.adopt(t.Context()); refusal != nil || got.Changed != changed || got.ClusterUID != old {
			t.Fatalf("adopt: %+v, %v", got, refusal)
		}
	}
	for role, empty := range map[wire.Role]bool{wire.RoleController: true, wire.RoleOperator: true, wire.RolePeer: false} {
		request := wire.Request{Version: wire.Version, Verb: wire.VerbState}
		reply := a.reply(t.Context(), a.log, role, &request)
		hello := a.hello(t.Context(), role)
		if reply.Empty != empty || (hello.Fence == nil) != empty {
			t.Errorf("%s is told of a State: %t, of its fence: %v", role, !reply.Empty, hello.Fence)
		}
	}
	if warnings := a.doubts(a.held()); len(warnings) != 1 || warnings[0].Reason != "HandedOver" {
		t.Errorf("it warns %+v", warnings)
	}
	// The old cluster may still be there.
	result, refusal := a.apply(t.Context(), sign(t, sample(6, web, db)))
	if refusal != nil || result.Fence.Sequence != 6 || !a.orphan() {
		t.Fatalf("the old cluster: %+v, %v, orphan %t", result, refusal, a.orphan())
	}
	// A new agent knows it.
	a = started(t, m)
	if !a.orphan() {
		t.Fatal("an agent that was restarted does not know that it was handed over")
	}
	result, refusal = a.apply(t.Context(), sign(t, rebuilt))
	if refusal != nil || result.Fence != rebuilt.Fence || a.orphan() || m.file(orphanFile) != "" {
		t.Fatalf("the rebuilt cluster: %+v, %v, orphan %t, file %q", result, refusal, a.orphan(), m.file(orphanFile))
	}
	if _, refusal := a.apply(t.Context(), sign(t, sample(7, web, db))); refusal == nil || refusal.Code != wire.CodeCluster {
		t.Errorf("the old cluster afterwards: %v", refusal)
	}
}

// A State before any cluster is taken, too: the control plane comes first when a cluster is rebuilt.
func TestAdoptBeforeTheCluster(t *testing.T) {
	a := started(t, holding(t, sample(5, web)))
	if _, refusal := a.adopt(t.Context()); refusal != nil {
		t.Fatal(refusal)
	}
	before := sample(5)
	before.Fence = desired.Fence{Sequence: 1}
	before.Nodes = nil
	if result, refusal := a.apply(t.Context(), sign(t, before)); refusal != nil || result.Fence != before.Fence {
		t.Errorf("%+v, %v", result, refusal)
	}
	if got, refusal := a.adopt(t.Context()); refusal != nil || got.Changed {
		t.Errorf("a gateway without a cluster needs no handing over: %+v, %v", got, refusal)
	}
}

// A mark about another cluster than the one held means nothing and goes.
func TestStaleOrphanFile(t *testing.T) {
	m := holding(t, sample(5, web))
	m.files[orphanFile] = "cluster-of-before\n"
	a := started(t, m)
	if a.orphan() || m.file(orphanFile) != "" {
		t.Errorf("orphan %t, the file says %q", a.orphan(), m.file(orphanFile))
	}
}

// A peer of the old cluster is no news to an orphan, one of the new cluster is; one from before the old cluster is neither.
func TestOrphanAndPeers(t *testing.T) {
	for name, test := range map[string]struct {
		peer  *desired.State
		taken bool
	}{
		"old cluster, newer": {sample(9, web, db), true},
		"old cluster, same":  {sample(5, web, db), false},
		"rebuilt":            {ofCluster(sample(5, web), "rebuilt", 1, 1), true},
		"before any":         {ofCluster(sample(5), "", 0, 3), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.peer.Fence.ClusterUID == "" {
					test.peer.Fence.Instance, test.peer.Nodes = "", nil
				}
				west := &fakePeer{}
				west.holds(t, test.peer)
				a, _ := peered(t, sample(5, web, db), west)
				if _, refusal := a.adopt(t.Context()); refusal != nil {
					t.Fatal(refusal)
				}
				a.peers.meet(a.peerAddresses())
				a.peers.ask(t.Context(), time.Second)
				if taken := a.takeNewest(t.Context(), time.Second); taken != test.taken {
					t.Errorf("taken: %t; it holds %v", taken, a.heldFence())
				}
			})
		})
	}
}
