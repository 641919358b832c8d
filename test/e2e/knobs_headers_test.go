package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
)

// headedPort is where workers answer with what a header of the PROXY protocol says, as its library reads it.
const headedPort = 9000

// behindHeaders is a Service of ports 80 (named http) and 81 (plain) in front of workers that tell which header they got.
func (s *site) behindHeaders(t *testing.T, name string) *corev1.Service {
	t.Helper()
	for _, w := range s.Lab.Workers {
		listener, err := w.Listen(t.Context(), "tcp", fmt.Sprintf("0.0.0.0:%d", headedPort))
		must(t, err)
		serve(t, &proxyproto.Listener{Listener: listener, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			return proxyproto.USE, nil
		}}, func(conn net.Conn) { tellHeader(w.Name, conn) })
	}
	s.slice(t, name, []string{"http", "plain"}, headedPort, s.Lab.Workers...)
	return service(name, func(svc *corev1.Service) {
		svc.Spec.Selector = nil
		svc.Spec.Ports = append(svc.Spec.Ports, port("plain", corev1.ProtocolTCP, 81))
	})
}

// slice makes an EndpointSlice by hand, of these ports on these machines. It goes when the test ends.
func (s *site) slice(t *testing.T, service string, ports []string, number int32, machines ...*lab.Host) {
	t.Helper()
	ready := true
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		ObjectMeta: metav1.ObjectMeta{Name: service + "-by-hand", Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
	for _, name := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &number})
	}
	for _, m := range machines {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{m.Addr4.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	slices := s.Client.DiscoveryV1().EndpointSlices(namespace)
	_, err := slices.Create(t.Context(), slice, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, slices.Delete(context.WithoutCancel(t.Context()), slice.Name, metav1.DeleteOptions{})) })
}

// tellHeader answers "NAME PEER VERSION SOURCE DESTINATION", the last three of the header, 0 for none.
func tellHeader(name string, conn net.Conn) {
	headed, ok := conn.(*proxyproto.Conn)
	if !ok {
		return
	}
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return // a check
	}
	answer := "0 - -"
	if h := headed.ProxyHeader(); h != nil {
		answer = fmt.Sprintf("%d %s %s", h.Version, h.SourceAddr, h.DestinationAddr)
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\n\r\n%s %s %s\n", name, headed.Raw().RemoteAddr(), answer)
}

// heading are the knobs of the PROXY protocol, of ports 80 and 81.
func (u *turned) heading() []knob {
	const none = 0
	shows := func(of80, of81 int) func(*testing.T) {
		return func(t *testing.T) { u.expectHeaders(t, of80, of81) }
	}
	return []knob{
		{key: "cloud-provider-haproxy/proxy-protocol", steps: []step{
			{value: "v2", shows: shows(2, 2)},
			{value: "v1", shows: shows(1, 1)},
			{value: "http=v2", shows: shows(2, none)},
			{value: "81=v1", shows: shows(none, 1)},
			{shows: shows(none, none)},
		}},
		{key: "status.loadBalancer.ingress[].ipMode", steps: []step{
			{shows: func(t *testing.T) { u.answersPods(t, corev1.LoadBalancerIPModeVIP, none) }},
			{change: annotated("cloud-provider-haproxy/proxy-protocol", "v2"),
				shows: func(t *testing.T) { u.answersPods(t, corev1.LoadBalancerIPModeProxy, 2) }},
			{shows: func(t *testing.T) { u.answersPods(t, corev1.LoadBalancerIPModeVIP, none) }},
		}},
	}
}

// header is nil when a connection has a header of this version, which names the client and what it connected to.
func (u *turned) header(from *lab.Host, at string, version int) error {
	m, err := u.meet(from, at)
	if err != nil {
		return err
	}
	return headerSays(m.words, from, at, version)
}

// headerSays is header of a pod's answer.
func headerSays(words []string, from *lab.Host, at string, version int) error {
	if len(words) != 5 || words[2] != fmt.Sprint(version) {
		return fmt.Errorf("at %s a pod got %q, want version %d", at, words, version)
	}
	if version == 0 {
		return nil
	}
	source, err := netip.ParseAddrPort(words[3])
	if err != nil || source.Addr() != from.Addr4 || words[4] != at {
		return fmt.Errorf("the header says %q, want client %s and %s", words[3:], from.Addr4, at)
	}
	return nil
}

// expectHeaders waits until new connections to both ports have these headers, by way of every node.
func (u *turned) expectHeaders(t *testing.T, of80, of81 int) {
	t.Helper()
	address := netip.MustParseAddrPort(u.at).Addr()
	u.await(t, fmt.Sprintf("headers of versions %d and %d", of80, of81), func(context.Context) error {
		for range 2 * len(u.Lab.Workers) {
			if err := u.header(u.client, u.at, of80); err != nil {
				return err
			}
			if err := u.header(u.client, target(address, 81), of81); err != nil {
				return err
			}
		}
		return nil
	})
}

// answersPods: with ipMode VIP nodes answer for the address themselves, to their pods too; with Proxy both come by way of the gateways
// like others.
func (u *turned) answersPods(t *testing.T, mode corev1.LoadBalancerIPMode, version int) {
	t.Helper()
	defer u.hidesPods(t)()
	u.await(t, fmt.Sprintf("ipMode %s, for people and for nodes", mode), func(ctx context.Context) error {
		svc, err := u.Client.CoreV1().Services(namespace).Get(ctx, u.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, i := range svc.Status.LoadBalancer.Ingress {
			if i.IPMode == nil || *i.IPMode != mode {
				return fmt.Errorf("the status says %v", i)
			}
		}
		for i, w := range u.Lab.Workers {
			if err := u.header(w, u.at, version); err != nil {
				return err
			}
			pod, err := u.Client.CoreV1().Pods(namespace).Get(ctx, fmt.Sprintf("%s-%d", app, i), metav1.GetOptions{})
			if err != nil {
				return err
			}
			answer, err := w.Run(ctx, "curl", "--silent", "--show-error", "--max-time", "2", "--interface", pod.Status.PodIP, "http://"+u.at)
			if err != nil {
				return err
			}
			if err := headerSays(strings.Fields(answer), w, u.at, version); err != nil {
				return fmt.Errorf("asked by pod %s: %w", pod.Name, err)
			}
		}
		return nil
	})
}

// hidesPods has nodes put their own address in the place of their pods' when these leave the pods' network, as those of most sites
// do, until shown is called: gateways have no route to pods.
func (s *site) hidesPods(t *testing.T) (shown func()) {
	t.Helper()
	for _, w := range s.Lab.Workers {
		s.run(t, w, "nft", "add table ip hides; add chain ip hides c { type nat hook postrouting priority srcnat; }; "+
			"add rule ip hides c ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade")
	}
	return func() {
		for _, w := range s.Lab.Workers {
			s.run(t, w, "nft", "delete table ip hides")
		}
	}
}
