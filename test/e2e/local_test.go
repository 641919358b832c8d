package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

func local(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// inFrontOf selects pods by their label app.
func inFrontOf(app string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.Selector = map[string]string{"app": app} }
}

// pods runs one pod on each named worker until the test ends.
func (s *site) pods(t *testing.T, app string, workers ...string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "delete", "pod", "--selector=app="+app, "--grace-period=0", "--force")
		must(t, err)
	})
	must(t, s.RunPods(t.Context(), namespace, app, podPort, workers...))
}

// asks opens connections one after another and counts who answers; each has to.
func (s *site) asks(t *testing.T, at string, count int) map[string]int {
	t.Helper()
	report, err := s.client.Flow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Count: count, Timeout: 5 * time.Second})
	must(t, err)
	if report.Failed > 0 {
		t.Errorf("%v; want none failed", report)
	}
	return report.By
}

// awaitAnswers waits until exactly these pods answer, and every one of them.
func (s *site) awaitAnswers(t *testing.T, at string, pods ...string) {
	t.Helper()
	s.await(t, fmt.Sprintf("%q to answer at %s", pods, at), func(ctx context.Context) error {
		report, err := s.client.Flow(ctx, traffic.Flow{Targets: []string{at}, Rate: 100, Count: 30, Timeout: time.Second})
		if err != nil {
			return err
		}
		if got := slices.Sorted(maps.Keys(report.By)); report.Failed > 0 || !slices.Equal(got, pods) {
			return errors.New(report.String())
		}
		return nil
	})
}

// readiness says whether a pod is ready, as its kubelet would.
func (s *site) readiness(t *testing.T, name string, ready corev1.ConditionStatus) {
	t.Helper()
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q},{"type":"ContainersReady","status":%q}]}}`, ready, ready)
	_, err := s.Kubectl(t.Context(), "patch", "pod", name, "--subresource=status", "--patch="+patch)
	must(t, err)
}

// testLocalPolicy: with externalTrafficPolicy Local each pod, not each node, gets an equal share; a node whose last pod is not
// ready any more gets nothing, and no connection fails for it; without a ready pod the VIP refuses at once.
func testLocalPolicy(t *testing.T, s *site) {
	names := workers(s.Lab)
	s.pods(t, "uneven", names[0], names[0], names[0], names[1])
	s.create(t, service("uneven", inFrontOf("uneven"), local))
	at := target(s.addresses(t, "uneven")[0], 80)
	s.awaitAnswers(t, at, "uneven-0", "uneven-1", "uneven-2", "uneven-3")
	before := s.count(t)
	for n, worker := range s.Lab.Workers { // pods and nodes are served too, by kube-proxy, also where no pod is
		if _, err := worker.Ask(at, 5*time.Second); err != nil {
			t.Errorf("%s reaches no pod through the VIP: %v", worker.Name, err)
		}
		if err := s.healthy(t.Context(), worker, s.healthCheckNodePort(t, "uneven")); (err == nil) != (n < 2) {
			t.Errorf("healthCheckNodePort of %s, which is number %d and the first two have pods: %v", worker.Name, n, err)
		}
	}

	by := s.asks(t, at, 400)
	t.Logf("400 connections, three pods on one node and one on another: %v", by)
	// HAProxy shares by weight, 3 to 1; kube-proxy throws a die for each of the three (9 is one standard deviation).
	if alone := by["uneven-3"]; alone < 97 || alone > 103 {
		t.Errorf("the pod that is alone on its node got %d of 400, want its quarter", alone)
	}
	for _, pod := range []string{"uneven-0", "uneven-1", "uneven-2"} {
		if by[pod] < 60 || by[pod] > 140 {
			t.Errorf("%s got %d of 400, want about a quarter", pod, by[pod])
		}
	}

	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	held := s.hold(t, 8, at)
	s.readiness(t, "uneven-3", corev1.ConditionFalse)
	s.awaitAnswers(t, at, "uneven-0", "uneven-1", "uneven-2")
	s.readiness(t, "uneven-3", corev1.ConditionTrue)
	s.awaitAnswers(t, at, "uneven-0", "uneven-1", "uneven-2", "uneven-3")
	report, err := flow.Stop()
	must(t, err)
	t.Logf("a node drained and added: %v", report)
	if report.Failed > 0 {
		t.Errorf("%v; want none failed", report)
	}
	uncut(t, held)

	for n := range 4 {
		s.readiness(t, fmt.Sprintf("uneven-%d", n), corev1.ConditionFalse)
	}
	s.awaitRefused(t, s.client, at)
	s.readiness(t, "uneven-1", corev1.ConditionTrue)
	s.awaitAnswers(t, at, "uneven-1")
	if done := s.count(t).since(before, len(s.Lab.Gateways)); done.reloads != 0 {
		t.Errorf("HAProxy was reloaded %d times", done.reloads)
	}
}

// testDefaultCheck: what depends on how long the check is patient. kube-proxy fails it, at healthCheckNodePort, as soon as the only pod
// terminates and when the policy is Local no more; with the lab's, which lasts half a second, it may be over before a busy machine
// has told the gateways what to do instead.
func testDefaultCheck(t *testing.T, s *site) {
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, "{interval: 250ms, rise: 2, fall: 2}", "{}", 1)
	})
	t.Run("only-pod-moves", func(t *testing.T) { testOnlyPodMoves(t, s) })
	t.Run("policy-flips", func(t *testing.T) { testPolicyFlips(t, s) })
	t.Run("flips-while-wrong", func(t *testing.T) { testFlipsWhileWrong(t, s) })
}

// testOnlyPodMoves: a Service's only pod moves to another node. It serves while it terminates (KEP-1669), so nobody notices.
func testOnlyPodMoves(t *testing.T, s *site) {
	names := workers(s.Lab)
	s.create(t, service("moves", inFrontOf("moves"), local))
	at := target(s.addresses(t, "moves")[0], 80)
	s.awaitRefused(t, s.client, at)
	s.removePods(t, "moves")
	s.runPod(t, "moves", "first", names[0], 10)
	s.awaitAnswers(t, at, "first")
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	// Its successor starts when it terminates already: for a moment no pod is ready.
	_, err = s.Kubectl(t.Context(), "delete", "pod", "first", "--wait=false")
	must(t, err)
	s.runPod(t, "moves", "second", names[2], 10)
	s.awaitAnswers(t, at, "second")
	s.await(t, "the first pod to be gone", func(ctx context.Context) error {
		_, err := s.Client.CoreV1().Pods(namespace).Get(ctx, "first", metav1.GetOptions{})
		if err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
	report, err := flow.Stop()
	must(t, err)
	t.Logf("the only pod moved: %v", report)
	if report.Failed > 0 {
		t.Errorf("%v; want none failed", report)
	}
}

// testNodeLeaves: a node with the autoscaler's taint gets no new connection at once; those that it has live until the drain time is
// over, in the shared pool and in a slot; then they are reset, and flows of UDP go to another node. Those of other nodes live on.
func testNodeLeaves(t *testing.T, s *site) {
	const drain = 10 * time.Second
	s.withConfig(t, func(config string) string {
		return strings.Replace(config, "nodes:\n", fmt.Sprintf("nodes:\n  drainTime: %s\n", drain), 1)
	})
	leaver := s.Lab.Workers[2].Name
	var addresses []netip.Addr
	for _, svc := range []*corev1.Service{service("stays", local, withDNS), service("shares")} {
		s.create(t, svc)
		addresses = append(addresses, s.addresses(t, svc.Name)[0])
	}
	own, shared := target(addresses[0], 80), target(addresses[1], 80)
	s.awaitAnswers(t, own, "web-0", "web-1", "web-2")
	s.awaitAnswers(t, shared, "web-0", "web-1", "web-2")
	heldOwn, heldShared := s.hold(t, 12, own), s.hold(t, 12, shared)
	datagrams := s.flowBy(t, "web-2", target(addresses[0], 53))
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{own, shared}, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)

	_, err = s.Kubectl(t.Context(), "taint", "node", leaver, "ToBeDeletedByClusterAutoscaler=1:NoSchedule")
	must(t, err)
	tainted := time.Now()
	t.Cleanup(func() {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "taint", "node", leaver, "ToBeDeletedByClusterAutoscaler-")
		must(t, err)
		s.await(t, "every node to serve again", func(ctx context.Context) error { return s.nodesAre(ctx, "UP", len(s.Lab.Workers)) })
	})
	s.awaitAnswers(t, own, "web-0", "web-1")
	s.awaitDatagrams(t, target(addresses[0], 53), "web-0", "web-1")
	t.Logf("no new connection to %s %v after its taint", leaver, time.Since(tainted).Round(time.Millisecond))
	s.await(t, "the connections to "+leaver+" to end", func(ctx context.Context) error {
		for _, a := range addresses {
			if n, err := s.connections(ctx, a); err != nil || n > 8 {
				return errors.Join(err, fmt.Errorf("%s has %d connections", a, n))
			}
		}
		return nil
	})
	took := time.Since(tainted)
	datagrams.moves(t, s, "web-2", drain)
	report, err := flow.Stop()
	must(t, err)
	t.Logf("those that it had were ended %v after it; meanwhile %v", took.Round(time.Millisecond), report)
	if report.Failed > 0 {
		t.Errorf("%v; want none failed", report)
	}
	s.cutAtLeaver(t, "web-2", drain, heldOwn)
	s.cutAtLeaver(t, "", drain, heldShared) // kube-proxy goes on to any Pod
}

// cutAtLeaver ends connections that were held: a third of them was cut, after so long a time, and all of these were at one Pod if it is
// named.
func (s *site) cutAtLeaver(t *testing.T, leaver string, drain time.Duration, held *lab.Running[traffic.HoldReport]) {
	t.Helper()
	report, err := held.Stop()
	must(t, err)
	if len(report.Cut) != report.Held/3 {
		t.Errorf("%d of %d held connections were cut, want a third: %v", len(report.Cut), report.Held, report.Cut)
	}
	for _, cut := range report.Cut {
		if cut.After < drain-2*time.Second || leaver != "" && cut.Who != leaver {
			t.Errorf("%s was cut after %v, want one of %s after %v", cut.Who, cut.After, leaver, drain)
		}
	}
}

// moves waits until a flow is answered by another Pod than the one that leaves, and wants it to have been there for about so long.
func (d *datagrams) moves(t *testing.T, s *site, leaver string, stayed time.Duration) {
	t.Helper()
	s.await(t, "a flow of UDP to move", func(context.Context) error {
		if who := d.last(); who == leaver {
			return errors.New("it is at " + leaver)
		}
		return nil
	})
	d.stop()
	t.Logf("a flow of UDP moved: %v", d)
	if there := time.Duration(d.by[leaver]) * everyDatagram; there < stayed-2*time.Second || d.longest > 2*time.Second {
		t.Errorf("a flow of UDP to %s: %v; want it there for %v, and answered all the time", leaver, d, stayed)
	}
}

// connections counts those that the client has open to port 80 of an address.
func (s *site) connections(ctx context.Context, a netip.Addr) (int, error) {
	out, err := s.client.Run(ctx, "ss", "--no-header", "--tcp", "--numeric", "state", "established", "dst", target(a, 80))
	return strings.Count(string(out), "\n"), err
}

// testNodeSelector: the annotation names nodes by their labels, which are followed live, with policy Local and Cluster, over TCP and UDP;
// when it matches none an Event says so, and the client is refused at once.
func testNodeSelector(t *testing.T, s *site) {
	names := workers(s.Lab)
	label := func(node, change string) {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "label", "node", node, change)
		must(t, err)
	}
	t.Cleanup(func() {
		for _, name := range names {
			label(name, "disk-")
		}
	})
	p := &picky{site: s}
	for _, svc := range []*corev1.Service{service("picky", local), service("picky-cluster", withDNS)} {
		svc.Annotations = map[string]string{selectorAnnotation: "disk in (ssd, nvme)"}
		s.create(t, svc)
		t.Log(s.expectEvent(t, "Service", svc.Name, "Warning", "NoNodeSelected", selectorAnnotation, "matches none of the eligible nodes"))
	}
	p.local, p.cluster = s.addresses(t, "picky")[0], s.addresses(t, "picky-cluster")[0]
	both := []string{target(p.local, 80), target(p.cluster, 80)}
	s.awaitRefused(t, s.client, append(both, overUDP+target(p.cluster, 53))...)
	label(names[0], "disk=ssd")
	p.awaitNodes(t, 0)
	label(names[1], "disk=nvme")
	p.awaitNodes(t, 0, 1)
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: both, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	label(names[0], "disk-")
	p.awaitNodes(t, 1)
	p.annotate(t, "=disk!=nvme")
	p.awaitNodes(t, 0, 2)
	report, err := flow.Stop()
	must(t, err)
	if report.Failed > 0 {
		t.Errorf("labels and annotation changed: %v; want none failed", report)
	}
	p.annotate(t, "=disk in ssd")
	t.Log(s.expectEvent(t, "Service", "picky", "Warning", `"disk in ssd" is no label selector`))
	p.awaitNodes(t, 0, 2)
	p.annotate(t, "-")
	p.awaitNodes(t, 0, 1, 2)
}

// picky are two Services that choose nodes in the same way.
type picky struct {
	*site
	local, cluster netip.Addr
}

func (p *picky) annotate(t *testing.T, change string) {
	t.Helper()
	_, err := p.Kubectl(t.Context(), "annotate", "--overwrite", "service", "picky", "picky-cluster", selectorAnnotation+change)
	must(t, err)
}

// awaitNodes waits until these workers serve both, and nobody else does: with policy Local by their own Pods, with Cluster by any.
func (p *picky) awaitNodes(t *testing.T, numbers ...int) {
	t.Helper()
	var nodes, pods []string
	for _, n := range numbers {
		nodes, pods = append(nodes, p.Lab.Workers[n].Name), append(pods, fmt.Sprintf("%s-%d", app, n))
	}
	p.awaitAnswers(t, target(p.local, 80), pods...)
	u := &turned{site: p.site, at: target(p.cluster, 80)}
	p.await(t, fmt.Sprintf("%q to serve with policy Cluster", nodes), func(context.Context) error {
		if err := u.reachesNodes(nodes...); err != nil {
			return err
		}
		by := map[string]bool{}
		for range 8 * len(nodes) {
			conn, err := p.client.Dial(t.Context(), "udp", target(p.cluster, 53))
			if err != nil {
				return err
			}
			who, saw, err := introduce(conn)
			_ = conn.Close()
			if err != nil {
				return err
			}
			peer, err := netip.ParseAddrPort(saw)
			if err != nil {
				return err
			}
			by[p.nodeOf(peer.Addr().Unmap(), who)] = true
		}
		if got := slices.Sorted(maps.Keys(by)); !slices.Equal(got, nodes) {
			return fmt.Errorf("datagrams come by way of %v", got)
		}
		return nil
	})
}
