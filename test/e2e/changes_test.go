package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// neighbour is a Service that nobody touches: a client connects to it every ten milliseconds, and has connections that stay.
type neighbour struct {
	flow    *lab.Running[traffic.Report]
	held    *lab.Running[traffic.HoldReport]
	reloads uint64
}

func (s *site) neighbour(t *testing.T, targets ...string) *neighbour {
	t.Helper()
	for _, at := range targets {
		_, err := s.SettledHolder(t.Context(), netip.MustParseAddrPort(at).Addr())
		must(t, err)
		s.awaitAnswers(t, at, "web-0", "web-1", "web-2")
	}
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: targets, Rate: 100, Timeout: 5 * time.Second})
	must(t, err)
	return &neighbour{flow: flow, held: s.hold(t, 10, targets...), reloads: s.count(t).reloads}
}

// unharmed ends it: nothing failed, nothing was cut, HAProxy was not reloaded.
func (n *neighbour) unharmed(t *testing.T, s *site) {
	t.Helper()
	report, err := n.flow.Stop()
	must(t, err)
	t.Logf("the neighbour meanwhile: %v", report)
	if report.Failed > 0 {
		t.Errorf("the neighbour noticed: %v", report)
	}
	uncut(t, n.held)
	if reloads := s.count(t).reloads - n.reloads; reloads != 0 {
		t.Errorf("HAProxy was reloaded %d times, want 0", reloads)
	}
}

// testChanges: a Service lives through every change that its owner can make of it; what the change leaves alone stays: other Services,
// its address, its connections. The changes are those of "should be able to change the type and ports of a TCP [UDP] service" of
// Kubernetes' own tests, of TCP and UDP at once, and more.
func testChanges(t *testing.T, s *site) {
	s.create(t, service("neighbour", families(corev1.IPFamilyPolicyRequireDualStack)))
	var theirs []string
	for _, a := range s.addresses(t, "neighbour") {
		theirs = append(theirs, target(a, 80))
	}
	neighbour := s.neighbour(t, theirs...)
	c := &changed{site: s, name: "changes"}
	c.becomesLoadBalancer(t)
	c.portsChange(t)
	c.nodePortsChange(t)
	c.addressChanges(t)
	c.losesPods(t)
	c.leaves(t)
	neighbour.unharmed(t, s)
}

// changed is a Service of TCP port 80 and UDP port 53 in both families.
type changed struct {
	*site
	name   string
	v4, v6 netip.Addr
}

func (c *changed) get(t *testing.T) *corev1.Service {
	t.Helper()
	svc, err := c.Client.CoreV1().Services(namespace).Get(t.Context(), c.name, metav1.GetOptions{})
	must(t, err)
	return svc
}

func (c *changed) web() []string { return []string{target(c.v4, 80), target(c.v6, 80)} }

const chosen4, other4, chosen6 = "192.0.2.150", "192.0.2.151", "2001:db8::1:150"

// becomesLoadBalancer: type ClusterIP, then NodePort, then LoadBalancer at the address that it asks for, with the NodePorts that it had.
func (c *changed) becomesLoadBalancer(t *testing.T) {
	c.create(t, service(c.name, families(corev1.IPFamilyPolicyRequireDualStack), func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
		svc.Spec.Ports = append(svc.Spec.Ports, port("dns", corev1.ProtocolUDP, 53))
	}))
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeNodePort })
	before := c.get(t)
	c.reaches(t, target(c.Lab.Workers[0].Addr4, uint16(before.Spec.Ports[0].NodePort)))
	if got := ingress(before); len(got) != 0 || len(before.Finalizers) != 0 {
		t.Errorf("with type NodePort it has addresses %v and finalizers %v", got, before.Finalizers)
	}
	c.change(t, c.name, func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Annotations = map[string]string{requestAnnotation: chosen4 + "," + chosen6}
	})
	c.isServed(t, chosen4, chosen6)
	for i, p := range c.get(t).Spec.Ports {
		if p.NodePort != before.Spec.Ports[i].NodePort {
			t.Errorf("NodePort of %s was %d and is %d", p.Name, before.Spec.Ports[i].NodePort, p.NodePort)
		}
	}
}

// isServed waits until the Service is served at these addresses, by all Pods, over TCP and UDP.
func (c *changed) isServed(t *testing.T, addresses ...string) {
	t.Helper()
	c.await(t, fmt.Sprintf("%s to have %v", c.name, addresses), func(context.Context) error {
		if got := c.addresses(t, c.name); fmt.Sprint(got) != fmt.Sprint(addresses) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
	c.v4, c.v6 = netip.MustParseAddr(addresses[0]), netip.MustParseAddr(addresses[1])
	for _, a := range []netip.Addr{c.v4, c.v6} {
		c.awaitAnswers(t, target(a, 80), "web-0", "web-1", "web-2")
		c.awaitDatagrams(t, target(a, 53), "web-0", "web-1", "web-2")
	}
	if finalizers := c.get(t).Finalizers; len(finalizers) != 1 {
		t.Errorf("finalizers %v, want that of the load balancer", finalizers)
	}
}

// portsChange: ports are renamed, added and removed; who uses another port of the same address notices nothing.
func (c *changed) portsChange(t *testing.T) {
	held, flow, datagrams := c.hold(t, 12, c.web()...), c.flow(t), c.sends(t, target(c.v6, 53), true)
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.Ports[0].Name, svc.Spec.Ports[1].Name = "web", "names" })
	c.change(t, c.name, func(svc *corev1.Service) {
		svc.Spec.Ports = append(svc.Spec.Ports, port("more", corev1.ProtocolTCP, 81), port("dns-tcp", corev1.ProtocolTCP, 53))
	})
	c.awaitServed(t, c.client, target(c.v4, 81), target(c.v6, 81), target(c.v4, 53))
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.Ports = svc.Spec.Ports[:2] })
	c.awaitRefused(t, c.client, target(c.v4, 81), target(c.v6, 81), target(c.v4, 53))
	c.undisturbed(t, "ports renamed, added and removed", held, flow)
	if d := datagrams.stop(); d.lost > 0 || len(d.by) != 1 {
		t.Errorf("a flow of UDP while other ports changed: %v; want none lost, and one Pod", d)
	}
}

func (c *changed) flow(t *testing.T) *lab.Running[traffic.Report] {
	t.Helper()
	flow, err := c.client.StartFlow(t.Context(), traffic.Flow{Targets: c.web(), Rate: 40, Timeout: 5 * time.Second})
	must(t, err)
	return flow
}

// undisturbed: no connection to the Service failed, none was cut.
func (c *changed) undisturbed(t *testing.T, what string, held *lab.Running[traffic.HoldReport], flow *lab.Running[traffic.Report]) {
	t.Helper()
	report, err := flow.Stop()
	must(t, err)
	t.Logf("%s: %v", what, report)
	if report.Failed > 0 {
		t.Errorf("%s: %v; want none failed", what, report)
	}
	uncut(t, held)
}

// testPolicyFlips: from Cluster to Local and back, without a connection lost, new or old: the nodes are the same. healthCheckNodePort
// answers while it is Local.
func testPolicyFlips(t *testing.T, s *site) {
	c := &changed{site: s, name: "flips"}
	c.becomesLoadBalancer(t)
	held, flow := c.hold(t, 12, c.web()...), c.flow(t)
	c.change(t, c.name, local)
	c.awaitRoute(t, c.v4, "slot-")
	health := c.healthCheckNodePort(t, c.name)
	for _, w := range c.Lab.Workers {
		c.await(t, "healthCheckNodePort of "+w.Name+" to answer", func(ctx context.Context) error { return c.healthy(ctx, w, health) })
	}
	c.awaitAnswers(t, target(c.v6, 80), "web-0", "web-1", "web-2")
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	c.awaitRoute(t, c.v4, "nodes|")
	c.awaitAnswers(t, target(c.v6, 80), "web-0", "web-1", "web-2")
	for _, w := range c.Lab.Workers {
		c.await(t, "healthCheckNodePort of "+w.Name+" to be closed", func(ctx context.Context) error {
			if err := c.healthy(ctx, w, health); err == nil {
				return errors.New("it still answers")
			}
			return nil
		})
	}
	c.undisturbed(t, "externalTrafficPolicy Local, then Cluster", held, flow)
}

// testFlipsWhileWrong: a Service becomes wrong in the same moment in which its policy flips. An Event says what is wrong, and what it asks
// for beside waits; but the policy is followed, for kube-proxy follows it too: only nodes with a ready pod serve, and none of the
// connections, new or old, is lost.
func testFlipsWhileWrong(t *testing.T, s *site) {
	names := workers(s.Lab)
	s.pods(t, "half", names[0], names[1])
	s.create(t, service("wrong", inFrontOf("half")))
	address := s.addresses(t, "wrong")[0]
	at := target(address, 80)
	s.awaitAnswers(t, at, "half-0", "half-1")
	held := s.hold(t, 12, at)
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{at}, Rate: 40, Timeout: 5 * time.Second})
	must(t, err)
	s.change(t, "wrong", func(svc *corev1.Service) {
		local(svc)
		svc.Annotations = map[string]string{requestAnnotation: "nonsense"}
		svc.Spec.Ports = append(svc.Spec.Ports, port("more", corev1.ProtocolTCP, 81))
	})
	t.Log(s.expectEvent(t, "Service", "wrong", "Warning", requestAnnotation, `"nonsense" is not an address`))
	s.awaitRoute(t, address, "slot-")
	s.awaitAnswers(t, at, "half-0", "half-1")
	all, err := s.meetings(at, 12)
	must(t, err)
	for _, m := range all {
		if m.took > 900*time.Millisecond {
			t.Errorf("a connection took %v, as if a node without a pod were tried first", m.took)
		}
	}
	refused(t, s.client, target(address, 81))
	s.readiness(t, "half-1", corev1.ConditionFalse)
	s.awaitAnswers(t, at, "half-0")
	s.readiness(t, "half-1", corev1.ConditionTrue)
	s.awaitAnswers(t, at, "half-0", "half-1")
	s.change(t, "wrong", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	s.await(t, names[2]+", which has no pod, to serve again", func(context.Context) error {
		all, err := s.meetings(at, 12)
		if by := nodesOf(all); err == nil && by[names[2]] == 0 {
			err = fmt.Errorf("they come by way of %v", by)
		}
		return err
	})
	s.change(t, "wrong", func(svc *corev1.Service) { svc.Annotations = nil })
	s.awaitRoute(t, address, "nodes|")
	s.awaitServed(t, s.client, target(address, 81))
	if now := s.addresses(t, "wrong"); now[0] != address {
		t.Errorf("it had %v and has %v", address, now)
	}
	report, err := flow.Stop()
	must(t, err)
	t.Logf("wrong, and flipped twice: %v", report)
	if report.Failed > 0 {
		t.Errorf("%v; want none failed", report)
	}
	uncut(t, held)
}

// awaitRoute waits until every gateway sends what comes to port 80 of an address where it should.
func (s *site) awaitRoute(t *testing.T, at netip.Addr, to string) {
	t.Helper()
	line := fmt.Sprintf("\n%s:80 %s", at, to)
	for _, g := range s.Lab.Gateways {
		s.await(t, fmt.Sprintf("%s to send port 80 of %s to %s", g.Name, at, to), func(context.Context) error {
			routes, err := g.ReadFile("/etc/haproxy/services.map")
			if err != nil {
				return err
			}
			if !strings.Contains("\n"+string(routes), line) {
				return fmt.Errorf("the map is\n%s", routes)
			}
			return nil
		})
	}
}

func (s *site) healthCheckNodePort(t *testing.T, name string) int32 {
	t.Helper()
	svc, err := s.Client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	if svc.Spec.HealthCheckNodePort == 0 {
		t.Fatalf("Service %s has no healthCheckNodePort", name)
	}
	return svc.Spec.HealthCheckNodePort
}

// healthy is nil when a worker answers 200 at a healthCheckNodePort.
func (s *site) healthy(ctx context.Context, worker *lab.Host, port int32) error {
	url := fmt.Sprintf("http://%s/healthz", target(worker.Addr(), uint16(port)))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.Lab.Gateways[0].Dial(ctx, network, address)
		}}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return nil
}

// nodePortsChange: the Service gets other NodePorts. kube-proxy closes the old ones before anybody can know, so that a moment is lost
// of new connections; those that are established are in the nodes' connection tracking and live.
func (c *changed) nodePortsChange(t *testing.T) {
	held, flow := c.hold(t, 12, c.web()...), c.flow(t)
	before := c.get(t).Spec.Ports
	c.change(t, c.name, func(svc *corev1.Service) {
		// Where the API server chooses none until all others are taken.
		svc.Spec.Ports[0].NodePort, svc.Spec.Ports[1].NodePort = 30001, 30002
	})
	if after := c.get(t).Spec.Ports; after[0].NodePort == before[0].NodePort || after[1].NodePort == before[1].NodePort {
		t.Fatalf("NodePorts were %d and %d and are %d and %d", before[0].NodePort, before[1].NodePort, after[0].NodePort, after[1].NodePort)
	}
	c.awaitRefused(t, c.client, target(c.Lab.Workers[0].Addr4, uint16(before[0].NodePort)))
	c.isServed(t, chosen4, chosen6)
	report, err := flow.Stop()
	must(t, err)
	t.Logf("other NodePorts: %v", report)
	if report.LongestGap > 2*time.Second {
		t.Errorf("other NodePorts: %v; want it served again within two seconds", report)
	}
	uncut(t, held)
}

// addressChanges: one of the addresses is asked to be another. The other one, and who is connected to it, stays.
func (c *changed) addressChanges(t *testing.T) {
	held, datagrams := c.hold(t, 12, target(c.v6, 80)), c.sends(t, target(c.v6, 53), true)
	flow, err := c.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{target(c.v6, 80)}, Rate: 40, Timeout: 5 * time.Second})
	must(t, err)
	c.change(t, c.name, func(svc *corev1.Service) { svc.Annotations[requestAnnotation] = other4 + "," + chosen6 })
	c.isServed(t, other4, chosen6)
	c.awaitReleased(t, netip.MustParseAddr(chosen4))
	c.undisturbed(t, "the other address while one changed", held, flow)
	if d := datagrams.stop(); d.lost > 0 || len(d.by) != 1 {
		t.Errorf("a flow of UDP to the other address: %v; want none lost, and one Pod", d)
	}
}

// losesPods: without a Pod nobody answers; when one is back, it does.
func (c *changed) losesPods(t *testing.T) {
	c.change(t, c.name, inFrontOf("nobody"))
	for _, at := range c.web() {
		c.await(t, "nobody to answer at "+at, func(context.Context) error {
			if who, err := c.client.Ask(at, 5*time.Second); err == nil {
				return fmt.Errorf("%s answers", who)
			}
			return nil
		})
	}
	c.change(t, c.name, inFrontOf(app))
	c.isServed(t, other4, chosen6)
}

// leaves: what is no load balancer any more has no address, no NodePort and no finalizer, and is served again when it is one again.
func (c *changed) leaves(t *testing.T) {
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
	c.awaitReleased(t, c.v4, c.v6)
	c.await(t, "the Service to be none of ours", func(context.Context) error {
		if svc := c.get(t); len(ingress(svc)) > 0 || len(svc.Finalizers) > 0 || svc.Spec.Ports[0].NodePort != 0 {
			return fmt.Errorf("addresses %v, finalizers %v, NodePort %d", ingress(svc), svc.Finalizers, svc.Spec.Ports[0].NodePort)
		}
		return nil
	})
	c.change(t, c.name, func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeLoadBalancer })
	c.isServed(t, other4, chosen6)
}
