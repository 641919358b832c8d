package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/lab"
)

const sourceAnnotation = prefix + "source-address"

// afar is a client that is not on the workers' network, and two addresses of a Service that it reaches.
type afar struct {
	*site
	name string
	vips []netip.Addr
	// clients are its addresses, of the families of vips.
	clients []netip.Addr
}

// fromAfar makes the client its own router: to these VIPs it comes from a network that only the gateways have a route to.
func (s *site) fromAfar(t *testing.T, name string) *afar {
	t.Helper()
	a := &afar{site: s, name: name,
		vips:    []netip.Addr{netip.MustParseAddr("192.0.2.152"), netip.MustParseAddr("2001:db8::1:152")},
		clients: []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:51::10")}}
	for i, vip := range a.vips {
		client := a.clients[i]
		undo := func(h *lab.Host, argv ...string) { t.Cleanup(func() { s.run(t, h, argv...) }) }
		s.run(t, s.client, "ip", "address", "add", single(client), "dev", "eth0", "nodad")
		undo(s.client, "ip", "address", "delete", single(client), "dev", "eth0")
		s.run(t, s.client, "ip", "route", "add", single(vip), "dev", "eth0", "src", client.String())
		undo(s.client, "ip", "route", "delete", single(vip), "dev", "eth0")
		for _, g := range s.Lab.Gateways {
			s.run(t, g, "ip", "route", "add", single(client), "via", s.client.Addresses()[i].String())
			undo(g, "ip", "route", "delete", single(client))
		}
	}
	return a
}

// consent is what the gateways' owner writes into limits.yaml, with an address of each family that nobody has.
const consent = "clientSourceProbes: [203.0.113.1, \"3fff::1\"]\n"

// limits adds a line to what the gateways' owner allows until the test ends.
func (s *site) limits(t *testing.T, line string) {
	t.Helper()
	for _, g := range s.Lab.Gateways {
		text, err := g.ReadFile(lab.LimitsFile)
		must(t, err)
		must(t, g.WriteFile(lab.LimitsFile, append(slices.Clone(text), line...), 0o644))
		t.Cleanup(func() { must(t, g.WriteFile(lab.LimitsFile, text, 0o644)) })
	}
}

// awaitUser waits until HAProxy's newest worker runs as this user.
func (s *site) awaitUser(t *testing.T, user string) {
	t.Helper()
	for _, g := range s.Lab.Gateways {
		s.await(t, fmt.Sprintf("HAProxy of %s to run as %s", g.Name, user), func(ctx context.Context) error {
			newest, err := g.Run(ctx, "pgrep", "--newest", "-x", "haproxy")
			if err != nil {
				return err
			}
			now, err := g.Run(ctx, "ps", "-o", "user=", "-p", strings.TrimSpace(newest))
			if err == nil && strings.TrimSpace(now) != user {
				err = fmt.Errorf("it runs as %s", now)
			}
			return err
		})
	}
}

// awaitSeen waits until all pods answer at both addresses, over TCP and UDP, and whom they see is right.
func (a *afar) awaitSeen(t *testing.T, what string, right func(network string, saw, client, vip netip.Addr) bool) {
	t.Helper()
	for i, vip := range a.vips {
		for network, meet := range map[string]func() (who, saw string, err error){
			"tcp": func() (string, string, error) {
				m, err := a.meet(a.client, target(vip, 80))
				if err != nil {
					return "", "", err
				}
				return m.pod, m.words[1], nil
			},
			"udp": func() (string, string, error) {
				conn, err := a.client.Dial(context.Background(), "udp", target(vip, 53))
				if err != nil {
					return "", "", err
				}
				defer conn.Close()
				return introduce(conn)
			},
		} {
			a.await(t, fmt.Sprintf("every pod to see %s at %s, over %s", what, vip, network), func(context.Context) error {
				by := map[string]int{}
				for range 15 {
					who, from, err := meet()
					if err != nil {
						return err
					}
					saw, err := netip.ParseAddrPort(from)
					if err != nil {
						return err
					}
					if !right(network, saw.Addr().Unmap(), a.clients[i], vip) {
						return fmt.Errorf("%s saw %s", who, from)
					}
					by[who]++
				}
				if len(by) != len(a.Lab.Workers) {
					return fmt.Errorf("answered by %v", by)
				}
				return nil
			})
		}
	}
}

// testSourceAddress: with annotation source-address: client pods see the client's address, over TCP and UDP of both families. Without
// the consent of the gateways' owner the Service stays as it is, and a new one waits; with it, but without workers' routes, it serves
// nobody; both times an Event says what to do, and doing just that helps. With policy Cluster kube-proxy hides the client, and an Event
// says so.
func testSourceAddress(t *testing.T, s *site) {
	a := s.fromAfar(t, "seeing")
	t.Cleanup(func() { // last
		s.awaitUser(t, "haproxy")
		s.awaitInSync(t)
	})
	s.create(t, service(a.name, local, withDNS, annotated(requestAnnotation, fmt.Sprintf("%s,%s", a.vips[0], a.vips[1])),
		families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)))
	a.awaitSeen(t, "a gateway", a.gatewayOrVIP)
	asks := func(value string) {
		s.change(t, a.name, func(svc *corev1.Service) { svc.Annotations[sourceAnnotation] = value })
	}
	asks("client")
	t.Log(s.expectEvent(t, "Service", a.name, "Warning", "source-address: client", "limits.yaml",
		"clientSourceProbes: [203.0.113.1]", "clientSourceProbes: [3fff::1]"))
	a.awaitSeen(t, "a gateway", a.gatewayOrVIP)
	s.create(t, service("unseen", annotated(sourceAnnotation, "client"), local))
	s.expectEvent(t, "Service", "unseen", "Warning", "source-address: client", "limits.yaml")
	s.pending(t, "unseen")
	s.remove(t, "unseen")

	s.limits(t, consent)
	// The Service is tried again within half a minute, or when it changes.
	s.change(t, a.name, func(svc *corev1.Service) { svc.Annotations["example.com/asked"] = "again" })
	s.awaitUser(t, "root")
	a.servesNobody(t)
	a.routed(t)
	before := s.count(t)
	client := func(_ string, saw, client, _ netip.Addr) bool { return saw == client }
	a.awaitSeen(t, "the client", client)

	s.change(t, a.name, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	t.Log(s.expectEvent(t, "Service", a.name, "Warning", "SourceAddressLost", "externalTrafficPolicy is Cluster", "set the policy to Local"))
	a.awaitSeen(t, "a node", func(_ string, saw, client, _ netip.Addr) bool {
		return saw == client || slices.ContainsFunc(s.Lab.Workers, func(w *lab.Host) bool { return slices.Contains(w.Addresses(), saw) })
	})
	s.change(t, a.name, local)
	a.awaitSeen(t, "the client", client)
	asks("gateway")
	a.awaitSeen(t, "a gateway", a.gatewayOrVIP)
	if reloads := s.count(t).reloads - before.reloads; reloads != 0 {
		t.Errorf("HAProxy was reloaded %d times after that for the consent, want 0", reloads)
	}
}

// gatewayOrVIP are what pods see otherwise: a gateway, over UDP the VIP.
func (a *afar) gatewayOrVIP(network string, saw, _, vip netip.Addr) bool {
	if network == "udp" {
		return saw == vip
	}
	return slices.ContainsFunc(a.Lab.Gateways, func(g *lab.Host) bool { return slices.Contains(g.Addresses(), saw) })
}

// servesNobody waits until nobody is served at any of the addresses; nothing hangs meanwhile.
func (a *afar) servesNobody(t *testing.T) {
	t.Helper()
	for _, vip := range a.vips {
		a.await(t, "nobody to be served at "+vip.String(), func(context.Context) error {
			begun := time.Now()
			who, err := a.client.Ask(target(vip, 80), 5*time.Second)
			if took := time.Since(begun); err == nil || took > time.Second {
				return fmt.Errorf("%q answers after %v: %w", who, took, err)
			}
			if who, err = a.datagram(target(vip, 53)); !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("%q answers over UDP, want it refused: %w", who, err)
			}
			return nil
		})
	}
}

// routed does on every worker what the Events say, until the test ends.
func (a *afar) routed(t *testing.T) {
	t.Helper()
	for i, vip := range a.vips {
		ip, probe := []string{"ip"}, "203.0.113.1"
		if vip.Is6() {
			ip, probe = []string{"ip", "-6"}, "3fff::1"
		}
		for _, w := range a.Lab.Workers {
			advice := strings.Join(ip, " ") + " route replace " + probe + " via " + vip.String()
			t.Log(a.expectEvent(t, "Service", a.name, "Warning", "NoReturnPath", "node "+w.Name+" ", advice))
			for _, to := range []string{probe, a.clients[i].String()} {
				a.run(t, w, slices.Concat(ip, []string{"route", "replace", to, "via", vip.String()})...)
				t.Cleanup(func() { a.run(t, w, slices.Concat(ip, []string{"route", "delete", to})...) })
			}
		}
	}
}
