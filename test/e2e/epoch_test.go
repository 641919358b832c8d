package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// epoch is that of the State which all gateways hold.
func (s *site) epoch(t *testing.T) uint64 {
	t.Helper()
	s.awaitInSync(t)
	all, err := s.Status(t.Context())
	must(t, err)
	epoch := all[0].Status.Fence.Epoch
	for _, g := range all {
		if g.Status.Fence.Epoch != epoch {
			t.Errorf("%s holds epoch %d, %s holds %d", g.Gateway, g.Status.Fence.Epoch, all[0].Gateway, epoch)
		}
	}
	return epoch
}

// awaitEpoch waits until all gateways hold a State of an epoch above one.
func (s *site) awaitEpoch(t *testing.T, above uint64) {
	t.Helper()
	s.await(t, fmt.Sprintf("all gateways to hold an epoch above %d", above), func(ctx context.Context) error {
		all, err := s.Status(ctx)
		if err != nil {
			return err
		}
		for _, g := range all {
			if g.Status == nil || g.Status.Fence.Epoch <= above {
				return fmt.Errorf("%s holds %s", g.Gateway, fenceOf(g))
			}
		}
		return nil
	})
}

// testEtcdRestored: etcd comes back from a backup in which the gateways' epoch is that of two controllers ago. The next controller
// is not locked out, what the backup has keeps its address and its clients, and what it does not have goes.
func testEtcdRestored(t *testing.T, s *site) {
	s.create(t, service("saved"))
	saved := s.addresses(t, "saved")[0]
	_, err := s.SettledHolder(t.Context(), saved)
	must(t, err)
	held := s.hold(t, 20, target(saved, 80))
	must(t, s.SaveEtcd(t.Context()))
	before := s.epoch(t)
	for range 2 {
		s.restart(t)
		s.awaitEpoch(t, before)
		before = s.epoch(t)
	}
	s.create(t, service("later"))
	later := s.addresses(t, "later")[0]
	s.reaches(t, target(later, 80))

	must(t, s.controller.Stop())
	must(t, s.RestoreEtcd(t.Context()))
	begun := time.Now()
	s.start(t)
	s.awaitEpoch(t, before)
	s.awaitReleased(t, later)
	t.Logf("led again, from epoch %d to %d, %v after the controller's start", before, s.epoch(t), time.Since(begun).Round(time.Millisecond))
	if now := s.addresses(t, "saved")[0]; now != saved {
		t.Errorf("the Service of the backup had %v and has %v now", saved, now)
	}
	s.create(t, service("next"))
	s.reaches(t, target(s.addresses(t, "next")[0], 80))
	s.reaches(t, target(saved, 80))
	uncut(t, held)
}

// testEpochObjectDeleted: somebody deletes the object that says who leads. Who leads goes on; the next one makes it anew above what
// the gateways hold; and the one before, which lives on, ends.
func testEpochObjectDeleted(t *testing.T, s *site) {
	s.create(t, service("before"))
	at := s.addresses(t, "before")[0]
	_, err := s.SettledHolder(t.Context(), at)
	must(t, err)
	held := s.hold(t, 10, target(at, 80))
	epoch := s.epoch(t)
	deleted := func() {
		_, err = s.Kubectl(t.Context(), "delete", "configmap", "--namespace=kube-system", epochObject)
		must(t, err)
	}
	deleted()
	s.create(t, service("meanwhile"))
	s.reaches(t, target(s.addresses(t, "meanwhile")[0], 80))
	if now := s.epoch(t); now != epoch {
		t.Errorf("who led with epoch %d claimed %d", epoch, now)
	}
	first := s.controller
	s.start(t, "--leader-elect=false", "--secure-port=10260")
	s.awaitEpoch(t, epoch)
	deleted() // and once more, while the first may not have noticed yet
	select {
	case <-first.Done():
		if first.Wait() == nil {
			t.Error("the first controller ended well, want an error for its supervisor")
		}
	case <-time.After(90 * time.Second): // a resync brings it to the gateways
		t.Error("the first controller still runs after the second claimed the gateways")
		must(t, first.Stop())
	}
	select {
	case <-s.controller.Done():
		t.Error("the second controller ended, too", s.controller.Wait())
	default:
	}
	s.create(t, service("by-the-second"))
	s.reaches(t, target(s.addresses(t, "by-the-second")[0], 80))
	if now := s.addresses(t, "before")[0]; now != at {
		t.Errorf("the Service had %v and has %v now", at, now)
	}
	uncut(t, held)
	s.restart(t)
	s.awaitEpoch(t, epoch+1)
	if _, err := s.Kubectl(t.Context(), "get", "configmap", "--namespace=kube-system", epochObject); err != nil {
		t.Error(err)
	}
}
