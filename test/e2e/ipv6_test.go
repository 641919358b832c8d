package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// TestIPv6Only is a cluster in which no machine, Pod or Service has an IPv4 address: Services that say nothing of families get a
// VIP that is served by all nodes, or by those that have their Pods, over TCP and UDP; and it outlives its gateway.
func TestIPv6Only(t *testing.T) {
	s := newSite(t, lab.Options{Workers: 2, IPv6Only: true})
	s.create(t, service("plain", withDNS))
	s.create(t, service("both", withDNS, families(corev1.IPFamilyPolicyPreferDualStack)))
	s.pods(t, "one", s.Lab.Workers[1].Name)
	s.create(t, service("local", withDNS, inFrontOf("one"), local))
	for name, pods := range map[string][]string{"plain": {"web-0", "web-1"}, "both": {"web-0", "web-1"}, "local": {"one-0"}} {
		addresses := s.addresses(t, name)
		if len(addresses) != 1 || !addresses[0].Is6() {
			t.Fatalf("Service %s got %v, want one IPv6 address", name, addresses)
		}
		s.awaitAnswers(t, target(addresses[0], 80), pods...)
		s.awaitDatagrams(t, target(addresses[0], 53), pods...)
	}

	at := s.addresses(t, "plain")[0]
	holder, err := s.SettledHolder(t.Context(), at)
	must(t, err)
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: []string{target(at, 80)}, Rate: 200, Timeout: time.Second})
	must(t, err)
	must(t, holder.PowerOff())
	s.await(t, "the other gateway to serve", func(ctx context.Context) error {
		_, held := s.Holder(ctx, at)
		_, asked := s.client.Ask(target(at, 80), time.Second)
		return errors.Join(held, asked)
	})
	report, err := flow.Stop()
	must(t, err)
	t.Logf("%s, which held %v, lost its power: %v", holder.Name, at, report)
	if report.LongestGap > longestGap {
		t.Errorf("nobody answered for %v", report.LongestGap)
	}
	s.create(t, service("meanwhile"))
	s.reaches(t, target(s.addresses(t, "meanwhile")[0], 80))
	must(t, holder.Boot(t.Context()))
	s.awaitInSync(t)
}

// awaitDatagrams waits until exactly these pods answer datagrams, each sent from a port of its own.
func (s *site) awaitDatagrams(t *testing.T, at string, pods ...string) {
	t.Helper()
	s.await(t, fmt.Sprintf("%q to answer datagrams at %s", pods, at), func(context.Context) error {
		by := map[string]bool{}
		for range 16 {
			who, err := s.datagram(at)
			if err != nil {
				return err
			}
			by[who] = true
		}
		for who := range by {
			if !slices.Contains(pods, who) {
				return fmt.Errorf("answered by %v", by)
			}
		}
		if len(by) != len(pods) {
			return fmt.Errorf("answered by %v", by)
		}
		return nil
	})
}
