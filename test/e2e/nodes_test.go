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

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab/traffic"
)

// testExcludedNodes: a node that a label excludes gets no new connection, and finishes those that it has; others serve meanwhile. When
// the label excludes every node the Event names it, and a client is refused at once instead of hanging.
func testExcludedNodes(t *testing.T, s *site) {
	s.create(t, service("nowhere"))
	at := target(s.addresses(t, "nowhere")[0], 80)
	s.reaches(t, at)
	label := corev1.LabelNodeExcludeBalancers
	excluded := func(node, change string) {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "label", "node", node, label+change)
		must(t, err)
	}
	t.Cleanup(func() {
		excluded("--all", "-")
		s.reaches(t, at)
	})
	left := s.leaves(t, s.Lab.Workers[2].Name, at)
	excluded(s.Lab.Workers[2].Name, "=")
	left()
	excluded("--all", "=")
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

// leaves opens connections by way of all nodes, and has more of them come all the time. What is given waits until none comes by way of
// the leaver any more: none has failed, and those that were open can go on, also at the leaver, until their client ends them.
func (s *site) leaves(t *testing.T, leaver, at string) (left func()) {
	t.Helper()
	u := &turned{site: s, at: at}
	u.await(t, "all nodes to serve", func(context.Context) error { return u.reachesNodes(workers(s.Lab)...) })
	open, err := s.keepMany(at, 9)
	t.Cleanup(open.close)
	must(t, err)
	theirs, _ := open.by(leaver)
	if len(theirs) == 0 {
		t.Fatalf("nine connections are %v", open.nodes())
	}
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	return func() {
		t.Helper()
		stay := slices.DeleteFunc(workers(s.Lab), func(name string) bool { return name == leaver })
		u.await(t, leaver+" to get no new connection", func(context.Context) error { return u.reachesNodes(stay...) })
		report, err := flow.Stop()
		must(t, err)
		t.Logf("%s left, with %d connections: %v", leaver, len(theirs), report)
		if report.Failed > 0 {
			t.Errorf("%s left: %v; want none failed", leaver, report)
		}
		for _, l := range open {
			if err := l.says(); err != nil {
				t.Errorf("%s left, and a connection by way of %s: %v", leaver, l.node, err)
			}
		}
	}
}

// testUnhealthyNodes: when every node fails its check, a wrong check must not black out the site: all nodes serve on, and that is
// told, in an Event of a Service that is looked at meanwhile.
func testUnhealthyNodes(t *testing.T, s *site) {
	s.create(t, service("open"))
	at := target(s.addresses(t, "open")[0], 80)
	s.reaches(t, at)
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	signal := func(name string) {
		for _, w := range s.Lab.Workers { // what it has programmed goes on without it
			s.run(t, w, "pkill", name, "-f", "kube-proxy")
		}
	}
	signal("-STOP")
	t.Cleanup(func() { signal("-CONT") })
	s.await(t, "every check to fail", func(ctx context.Context) error { return s.nodesAre(ctx, "DOWN", len(s.Lab.Workers)) })
	s.create(t, service("told"))
	t.Log(s.expectEvent(t, "Service", "told", "Warning", "AllNodesDown"))
	signal("-CONT")
	s.await(t, "every check to succeed", func(ctx context.Context) error { return s.nodesAre(ctx, "UP", len(s.Lab.Workers)) })
	report, err := flow.Stop()
	must(t, err)
	t.Log(report)
	// In the moment in which the last node falls, HAProxy may have chosen the pool and not yet the server: that connection is
	// lost. On a machine with nothing else to do it was never seen.
	if report.Failed > report.Opened/100 {
		t.Errorf("%d of %d connections failed", report.Failed, report.Opened)
	}
}

// testExternalNode: a Node of a kubelet with --cloud-provider=external waits, tainted, for its addresses. It gets those that its
// kubelet was told by --node-ip, loses the taint, and serves. Before, the Node is deleted under traffic.
func testExternalNode(t *testing.T, s *site) {
	s.create(t, service("external"))
	at := target(s.addresses(t, "external")[0], 80)
	s.reaches(t, at)
	worker := s.Lab.Workers[len(s.Lab.Workers)-1]
	nodes := s.Client.CoreV1().Nodes()
	left := s.leaves(t, worker.Name, at)
	_, err := s.Kubectl(t.Context(), "delete", "node", worker.Name)
	must(t, err)
	left()
	s.await(t, "the gateways to drop "+worker.Name, func(ctx context.Context) error { return s.nodesAre(ctx, "UP", len(s.Lab.Workers)-1) })
	s.end(t, worker, "-TERM", "kube-proxy") // it ends by itself when its Node is gone, soon or late
	now := metav1.Now()
	_, err = nodes.Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: worker.Name, Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": worker.Addr4.String()},
			Labels: map[string]string{corev1.LabelFailureDomainBetaZone: "a"}, // of an old kubelet; the node controller adds today's
		},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}},
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
		case node.Labels[corev1.LabelTopologyZone] != "a":
			return fmt.Errorf("labels %v", node.Labels)
		}
		return nil
	})
	must(t, s.StartKubeProxy(worker))
	s.await(t, "the gateways to use "+worker.Name, func(ctx context.Context) error { return s.nodesAre(ctx, "UP", len(s.Lab.Workers)) })
	s.reaches(t, at)
}

// nodesAre is nil when every gateway has exactly so many nodes, all in this state.
func (s *site) nodesAre(ctx context.Context, state string, want int) error {
	all, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.Status == nil {
			return fmt.Errorf("%s cannot be asked: %s", g.Gateway, g.Error)
		}
		others := slices.ContainsFunc(g.Status.Nodes, func(n wire.NodeStatus) bool { return n.State != state })
		if others || len(g.Status.Nodes) != want {
			return fmt.Errorf("%s has %v, want %d nodes %s", g.Gateway, g.Status.Nodes, want, state)
		}
	}
	return nil
}
