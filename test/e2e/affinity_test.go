package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/lab/traffic"
)

// sticky asks for sessionAffinity ClientIP with a timeout.
func sticky(seconds int32) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

// testAffinity: with sessionAffinity ClientIP one client meets one Pod, over TCP and UDP; it is switched on and off while the Service is
// served, and the Pod is the same when another gateway serves. With externalTrafficPolicy Local each node has one Pod, so that the
// gateways alone decide; with Cluster kube-proxy keeps to a Pod for as long as the gateway keeps to a node. ("should have session
// affinity work for LoadBalancer service with Local [Cluster] traffic policy" and "should be able to switch session affinity".)
func testAffinity(t *testing.T, s *site) {
	const long = 3600
	s.create(t, service("sticky", withDNS, sticky(long)))
	s.create(t, service("sticky-local", withDNS, sticky(long), local))
	for _, name := range []string{"sticky", "sticky-local"} {
		at := s.addresses(t, name)[0]
		s.awaitOne(t, target(at, 80))
		who := s.only(t, target(at, 80))
		by := map[string]int{}
		for range 20 {
			got, err := s.datagram(target(at, 53))
			must(t, err)
			by[got]++
		}
		if len(by) != 1 {
			t.Errorf("%s: datagrams are answered by %v, want one Pod", name, by)
		}
		s.change(t, name, func(svc *corev1.Service) {
			svc.Spec.SessionAffinity, svc.Spec.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
		})
		s.awaitAnswers(t, target(at, 80), "web-0", "web-1", "web-2")
		s.change(t, name, sticky(long))
		s.awaitOne(t, target(at, 80))
		t.Logf("%s: all by %s, then by %s", name, who, s.only(t, target(at, 80)))
	}

	at := s.addresses(t, "sticky-local")[0]
	who := s.only(t, target(at, 80))
	holder, err := s.SettledHolder(t.Context(), at)
	must(t, err)
	must(t, holder.PowerOff())
	t.Cleanup(func() {
		must(t, holder.Boot(context.WithoutCancel(t.Context())))
		s.awaitInSync(t)
	})
	s.reaches(t, target(at, 80))
	if now := s.only(t, target(at, 80)); now != who {
		t.Errorf("%s answered, and when %s lost its power %s did", who, holder.Name, now)
	}
}

// only gives the one Pod that answers.
func (s *site) only(t *testing.T, at string) string {
	t.Helper()
	by := s.asks(t, at, 20)
	if len(by) != 1 {
		t.Errorf("%s is answered by %v, want one Pod", at, by)
	}
	for who := range by {
		return who
	}
	return ""
}

// awaitOne waits until all of many connections are answered by one Pod.
func (s *site) awaitOne(t *testing.T, at string) {
	t.Helper()
	s.await(t, "one Pod to answer at "+at, func(ctx context.Context) error {
		report, err := s.client.Flow(ctx, traffic.Flow{Targets: []string{at}, Rate: 100, Count: 30, Timeout: time.Second})
		if err == nil && (report.Failed > 0 || len(report.By) != 1) {
			err = fmt.Errorf("answered by %v, %d failed", slices.Sorted(maps.Keys(report.By)), report.Failed)
		}
		return err
	})
}
