package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testExcludedNodes: when a label excludes every node the Event names the label, and a client is refused at once instead of
// hanging.
func testExcludedNodes(t *testing.T, s *site) {
	s.create(t, service("nowhere"))
	at := target(s.addresses(t, "nowhere")[0], 80)
	s.reaches(t, at)
	label := corev1.LabelNodeExcludeBalancers
	_, err := s.Kubectl(t.Context(), "label", "node", "--all", label+"=")
	must(t, err)
	t.Cleanup(func() {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "label", "node", "--all", label+"-")
		must(t, err)
		s.reaches(t, at)
	})
	t.Log(s.expectEvent(t, "Service", "nowhere", "Warning", label, "kubectl label node", "3 of 3 nodes"))
	s.await(t, "the client to be refused at once", func(context.Context) error {
		begun := time.Now()
		_, err := s.client.Ask(at, 5*time.Second)
		switch {
		case err == nil:
			return errors.New("it is served")
		case !strings.Contains(err.Error(), "refused"):
			return err
		case time.Since(begun) > time.Second:
			return fmt.Errorf("refused after %v", time.Since(begun))
		}
		return nil
	})
}

// testExternalNode: a Node of a kubelet with --cloud-provider=external waits, tainted, for its addresses. It gets those that its
// kubelet was told by --node-ip, loses the taint, and serves.
func testExternalNode(t *testing.T, s *site) {
	s.create(t, service("external"))
	at := target(s.addresses(t, "external")[0], 80)
	s.reaches(t, at)
	worker := s.Lab.Workers[len(s.Lab.Workers)-1]
	nodes := s.Client.CoreV1().Nodes()
	must(t, nodes.Delete(t.Context(), worker.Name, metav1.DeleteOptions{}))
	s.await(t, "the gateways to drop "+worker.Name, func(ctx context.Context) error { return s.nodesUp(ctx, len(s.Lab.Workers)-1) })
	s.end(t, worker, "-TERM", "kube-proxy") // it ends by itself when its Node is gone, soon or late
	now := metav1.Now()
	_, err := nodes.Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: worker.Name, Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": worker.Addr4.String()}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: worker.Name}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	s.await(t, worker.Name+" to lose its taint", func(ctx context.Context) error {
		node, err := nodes.Get(ctx, worker.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		want := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: worker.Addr4.String()}
		switch {
		case slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return strings.HasSuffix(taint.Key, "/uninitialized") }):
			return fmt.Errorf("taints %v", node.Spec.Taints)
		case !slices.Contains(node.Status.Addresses, want):
			return fmt.Errorf("addresses %v", node.Status.Addresses)
		case node.Spec.ProviderID != "haproxy://"+worker.Name:
			return fmt.Errorf("provider ID %q", node.Spec.ProviderID)
		}
		return nil
	})
	must(t, s.StartKubeProxy(worker))
	s.await(t, "the gateways to use "+worker.Name, func(ctx context.Context) error { return s.nodesUp(ctx, len(s.Lab.Workers)) })
	s.reaches(t, at)
}

// nodesUp is nil when every gateway has exactly so many nodes, all UP.
func (s *site) nodesUp(ctx context.Context, want int) error {
	all, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.Status == nil {
			return fmt.Errorf("%s cannot be asked: %s", g.Gateway, g.Error)
		}
		up := 0
		for _, n := range g.Status.Nodes {
			if n.State == "UP" {
				up++
			}
		}
		if up != want || len(g.Status.Nodes) != want {
			return fmt.Errorf("%s has %v, want %d nodes UP", g.Gateway, g.Status.Nodes, want)
		}
	}
	return nil
}
