package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/provider"
	"cloud-provider-haproxy/test/lab"
)

const (
	cloudConfigFile = lab.CloudConfigFile
	// configTaken is in the Event, and so in the log, of a configuration that took effect.
	configTaken = "ConfigReloaded"
)

// testPoolsChange: pools change under the running controller. What is in use stays, with a word to its owner; a faulty
// configuration changes nothing and is told with all its faults.
func testPoolsChange(t *testing.T, s *site) {
	s.withPools(t, `- {name: extra, addresses: [192.0.2.242-192.0.2.243], autoAssign: false}`)
	s.create(t, service("settled", annotated(poolAnnotation, "extra")))
	address := s.addresses(t, "settled")[0]
	s.reaches(t, target(address, 80))
	held := s.hold(t, 10, target(address, 80))

	faulty := strings.Replace(s.Lab.CloudConfig(), "pools:\n", "pools:\n- {name: extra, addresses: [192.0.2.70-192.0.2.60]}\n- {name: other, addresses: [192.0.2.250], exclude: [198.51.100.1]}\n", 1)
	must(t, s.Lab.Controller.WriteFile(cloudConfigFile, []byte(faulty), 0o644))
	t.Log(s.expectEvent(t, "ConfigMap", provider.EpochName, "Warning", "pools[0].addresses[0]", "pools[1].exclude[0]"))
	s.create(t, service("still", annotated(poolAnnotation, "extra")))
	s.reaches(t, target(s.addresses(t, "still")[0], 80))

	s.reconfigure(t, s.smallerPool()) // without the pool extra
	t.Log(s.expectEvent(t, "Service", "settled", "Warning", address.String(), "no pool"))
	if got := s.addresses(t, "settled")[0]; got != address {
		t.Errorf("it moved from %s to %s", address, got)
	}
	s.reaches(t, target(address, 80))
	uncut(t, held)
}

// testWhoMayTake: pools for some namespaces or Services only.
func testWhoMayTake(t *testing.T, s *site) {
	s.withPools(t, `- {name: gold, addresses: [192.0.2.244-192.0.2.245], serviceSelector: "tier=gold"}
- {name: theirs, addresses: [192.0.2.246], namespaces: [kube-public]}
- {name: team, addresses: [192.0.2.247], namespaceSelector: "team=web"}`)
	s.create(t, service("golden", func(svc *corev1.Service) { svc.Labels = map[string]string{"tier": "gold"} }))
	if got := s.addresses(t, "golden")[0].String(); !strings.HasPrefix(got, "192.0.2.24") {
		t.Errorf("golden has %s, want one of gold, which is pinned to it", got)
	}
	s.create(t, service("named", annotated(poolAnnotation, "theirs")))
	t.Log(s.expectEvent(t, "Service", "named", "Warning", "theirs", "kube-public"))
	s.create(t, service("asks", annotated(requestAnnotation, "192.0.2.246")))
	t.Log(s.expectEvent(t, "Service", "asks", "Warning", "192.0.2.246", "theirs"))
	s.create(t, service("teamwork", annotated(poolAnnotation, "team")))
	t.Log(s.expectEvent(t, "Service", "teamwork", "Warning", "team"))
	label := func(value string) {
		t.Helper()
		_, err := s.Kubectl(t.Context(), "label", "namespace", namespace, "team"+value)
		must(t, err)
	}
	label("=web") // the waiting Service is served at once
	if got := s.addresses(t, "teamwork")[0].String(); got != "192.0.2.247" {
		t.Errorf("teamwork has %s", got)
	}
	label("-") // and keeps what it has
	s.restart(t)
	if got := s.addresses(t, "teamwork")[0].String(); got != "192.0.2.247" {
		t.Errorf("teamwork was moved to %s", got)
	}
	s.reaches(t, "192.0.2.247:80")
}

// testOtherControllersAnnotations: a site moves from another load balancer without changing a manifest or an address.
func testOtherControllersAnnotations(t *testing.T, s *site) {
	s.create(t, service("before", annotated("metallb.io/loadBalancerIPs", "192.0.2.155")))
	if got := s.addresses(t, "before")[0].String(); got == "192.0.2.155" {
		t.Error("another controller's annotation was read without being told to")
	}
	s.reconfigure(t, s.Lab.CloudConfig()+"readForeignAnnotations: true\n")
	t.Cleanup(func() { s.reconfigure(t, s.Lab.CloudConfig()) })
	for name, annotation := range map[string]string{"metallb": "metallb.io/loadBalancerIPs", "kube-vip": "kube-vip.io/loadbalancerIPs"} {
		want := map[string]string{"metallb": "192.0.2.156", "kube-vip": "192.0.2.157"}[name]
		s.create(t, service(name, annotated(annotation, want)))
		if got := s.addresses(t, name)[0].String(); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
		s.reaches(t, want+":80")
	}
	// One that the other controller has served, and that asks for nothing.
	must(t, s.controller.Stop())
	s.create(t, service("adopted"))
	_, err := s.Kubectl(t.Context(), "patch", "service", "adopted", "--subresource=status", "--type=merge", "-p",
		`{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.158"}]}}}`)
	must(t, err)
	s.start(t)
	s.reaches(t, "192.0.2.158:80")
	if got := s.addresses(t, "adopted")[0].String(); got != "192.0.2.158" {
		t.Errorf("adopted has %s", got)
	}
}

// testPoolsCommand: an administrator sees who has which address.
func testPoolsCommand(t *testing.T, s *site) {
	s.create(t, service("seen"))
	address := s.addresses(t, "seen")[0].String()
	s.awaitInSync(t)
	table, err := s.Lab.Controller.Run(t.Context(), "gatewayctl", "pools", "--cloud-config="+cloudConfigFile)
	must(t, err)
	t.Log("\n" + table)
	for _, word := range []string{"default", "IPv4", address, namespace + "/seen"} {
		if !strings.Contains(table, word) {
			t.Errorf("the table does not say %s", word)
		}
	}
	object, err := s.Lab.Controller.Run(t.Context(), "gatewayctl", "pools", "--cloud-config="+cloudConfigFile, "-o", "json")
	must(t, err)
	var any map[string]any
	if err := json.Unmarshal([]byte(object), &any); err != nil || len(any) == 0 || !strings.Contains(object, address) {
		t.Errorf("%v: %s", err, object)
	}
}
