package provider

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/manual"
)

// promise says what becomes of one field of a Service, and which tests show it in the lab, with traffic: nothing is to be shown when
// that is empty and not nil.
type promise struct {
	field, meaning string
	tests          []string
}

// promises are README.md's table of fields. A field that Kubernetes adds fails the test until somebody says what becomes of
// it.
func promises() []promise {
	notOurs := []string{}
	return []promise{
		{"spec.type", "`LoadBalancer` is served. With any other type the Service loses its address, unless `keep-ip` keeps it; " +
			"back again it is served anew.", []string{"e2e/testChanges", "e2e/testDeletedWhileAway"}},
		{"spec.loadBalancerClass", "The configured class (`loadBalancerClass`) is ours, no other one is; without a class as " +
			"`serveUnclassed` says.", []string{"e2e/testClasses", "e2e/testClassChanges"}},
		{"spec.ports", "All are open on all addresses of the Service. They change without a reload, and connections of other " +
			"ports do not notice.", []string{"e2e/testServes", "e2e/testChanges"}},
		{"spec.ports[].name", "By it annotations name the port.", []string{"e2e/testChanges", "e2e/testKnobs"}},
		{"spec.ports[].protocol", "TCP through HAProxy, UDP and SCTP through the gateways' kernel.",
			[]string{"e2e/testProtocols", "integration/TestDatagrams"}},
		{"spec.ports[].appProtocol", "Not used: the gateways forward bytes and look at none.", notOurs},
		{"spec.ports[].port", "Open on the address. Two Services that share an address cannot have the same one of a protocol.",
			[]string{"e2e/testServes", "e2e/testSharing"}},
		{"spec.ports[].targetPort", "kube-proxy's, behind the NodePort. Where pods serve themselves, their port, by the " +
			"EndpointSlices.", []string{"e2e/testServes", "e2e/testPodTargets"}},
		{"spec.ports[].nodePort", "Where the gateways reach the workers. When it changes, new connections go to the new one at " +
			"once.", []string{"e2e/testChanges"}},
		{"spec.allocateLoadBalancerNodePorts", "With `false` the ports that have no nodePort are served by the pods themselves, if " +
			"the configuration says where these are (`nodes.podCIDRs`); if not, an Event says what to do.",
			[]string{"e2e/testPodTargets", "integration/testPods"}},
		{"spec.selector", "The endpoint controller's.", notOurs},
		{"spec.clusterIP", "Not used: kube-proxy's.", notOurs},
		{"spec.clusterIPs", "Not used: kube-proxy's.", notOurs},
		{"spec.externalIPs", "Not used: whoever routes these addresses to the workers is not us. No gateway claims them.", notOurs},
		{"spec.externalName", "Has no meaning for this type.", notOurs},
		{"spec.sessionAffinity", "`ClientIP`: a client goes where it went before, also after a failover or a reload; see \"Limits\".",
			[]string{"e2e/testAffinity"}},
		{"spec.sessionAffinityConfig", "`clientIP.timeoutSeconds`: for so long after its last connection began.",
			[]string{"e2e/testKnobs", "integration/testAffinity"}},
		{"spec.loadBalancerIP", "Requests this address, as annotation `load-balancer-ips` does (which knows two).",
			[]string{"e2e/testRequested"}},
		{"spec.loadBalancerSourceRanges", "Who may connect, enforced by the gateways for all protocols. The older annotation " +
			"`service.beta.kubernetes.io/load-balancer-source-ranges` counts without the field.", []string{"e2e/testSourceRanges"}},
		{"spec.externalTrafficPolicy", "`Cluster`: all workers. `Local`: those with a pod of the Service, each by the number of " +
			"its ready pods. Means nothing to ports without a nodePort: all pods serve.",
			[]string{"e2e/testLocalPolicy", "e2e/testOnlyPodMoves", "e2e/testPolicyFlips", "e2e/testPodTargets"}},
		{"spec.healthCheckNodePort", "What HAProxy asks with policy `Local`.", []string{"e2e/testLocalPolicy", "e2e/testPolicyFlips"}},
		{"spec.publishNotReadyAddresses", "With policy `Local`, nodes whose pods are not ready get connections too: Kubernetes " +
			"calls these endpoints ready then.", []string{"e2e/testKnobs"}},
		{"spec.ipFamilies", "An address of each.", []string{"e2e/testFamiliesChange", "e2e/testOneFamilyNodes", "e2e/TestIPv6Only"}},
		{"spec.ipFamilyPolicy", "`PreferDualStack`: a second address if there is one. `RequireDualStack`: two or none.",
			[]string{"e2e/testFamiliesChange", "e2e/testOneFamilyPool"}},
		{"spec.internalTrafficPolicy", "Not used: it is about clients inside the cluster.", notOurs},
		{"spec.trafficDistribution", "kube-proxy's: a worker that got a connection from a gateway prefers near pods as this says " +
			"(KEP-4444), with policy `Cluster`. The gateways spread connections over workers all the same.", []string{"e2e/testKnobs"}},
		{"status.loadBalancer.ingress[].ip", "Each address of the Service, when a gateway holds it.", []string{"e2e/testServes"}},
		{"status.loadBalancer.ingress[].ipMode", "`VIP`, or `Proxy` as configured (`ipMode`) or with annotation `proxy-protocol` " +
			"(KEP-1860).", []string{"e2e/testKnobs"}},
		{"status.loadBalancer.ingress[].hostname", "The value of annotation `hostname`, instead of the addresses.", []string{"e2e/testHostname"}},
		{"status.loadBalancer.ingress[].ports", "Every port (KEP-1435). A port that no worker can serve at this address has an " +
			"error: `cloud-provider-haproxy/NoIPv6Node`, `cloud-provider-haproxy/NoIPv4Node`.", []string{"e2e/testProtocols", "e2e/testOneFamilyNodes"}},
	}
}

// shownBy are the lab tests of annotations.
func shownBy() map[Annotation][]string {
	return map[Annotation][]string{
		LoadBalancerIPs:  {"e2e/testRequested"},
		AddressPool:      {"e2e/testPoolsChange", "e2e/testWhoMayTake"},
		AllowSharedIP:    {"e2e/testSharing"},
		DenySourceRanges: {"e2e/testSourceRanges"},
		KeepIP:           {"e2e/testKeptAddress"},
		NodeSelector:     {"e2e/testNodeSelector"},
		Hostname:         {"e2e/testHostname"},
		PreferredGateway: {"e2e/testPreferredGateway"},
		SourceAddress:    {"e2e/testSourceAddress", "integration/TestClientSource"},
		ProxyProtocol:    {"e2e/testKnobs"},
		Algorithm:        {"e2e/testKnobs"},

		ConnectionLimit:     {"e2e/testKnobs"},
		ConnectionRateLimit: {"e2e/testKnobs"},
		DrainTimeout:        {"e2e/testKnobs"},
		Log:                 {"e2e/testKnobs"},
		TimeoutConnect:      {"e2e/testKnobs"},
		TimeoutIdle:         {"e2e/testKnobs"},

		HealthCheckHealthyThreshold:   {"e2e/testKnobs"},
		HealthCheckInterval:           {"e2e/testKnobs"},
		HealthCheckPath:               {"e2e/testKnobs"},
		HealthCheckPort:               {"e2e/testKnobs"},
		HealthCheckProtocol:           {"e2e/testKnobs"},
		HealthCheckTimeout:            {"e2e/testKnobs"},
		HealthCheckUnhealthyThreshold: {"e2e/testKnobs"},
	}
}

// TestPromises holds README.md to what becomes of each field: every one of a ServiceSpec, of its ports and of a status'
// ingress is told, every lab test that is named is there and run, and has the field in it.
func TestPromises(t *testing.T) {
	inLab := labTests(t)
	var table strings.Builder
	table.WriteString("| Field | What becomes of it | Lab test |\n|---|---|---|\n")
	told := map[string][]string{}
	for _, p := range promises() {
		told[p.field] = p.tests
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", p.field, p.meaning, shown(t, p.field, p.tests, inLab))
	}
	for prefix, of := range map[string]reflect.Type{
		"spec.": reflect.TypeFor[v1.ServiceSpec](), "spec.ports[].": reflect.TypeFor[v1.ServicePort](),
		"status.loadBalancer.ingress[].": reflect.TypeFor[v1.LoadBalancerIngress](),
	} {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			tests, isTold := told[prefix+name]
			names := func(test string) bool {
				return inLab[test] != nil && (inLab[test].names[of.Field(i).Name] || inLab[test].words[prefix+name])
			}
			switch {
			case !isTold:
				t.Errorf("nobody says what becomes of %s%s", prefix, name)
			case len(tests) > 0 && !slices.ContainsFunc(tests, names):
				t.Errorf("%s%s is nowhere in %v", prefix, name, tests)
			}
			delete(told, prefix+name)
		}
	}
	for field := range told {
		t.Errorf("Kubernetes has no field %s", field)
	}
	manual.Hold(t, "field reference", table.String(), "go test ./provider -run TestPromises", *update)
}

// shown names lab tests in a table, and fails when one is not there, is not run, or has nothing to do with what it shows: an
// annotation's key has to stand in it.
func shown(t *testing.T, what string, tests []string, inLab map[string]*labTest) string {
	t.Helper()
	var names []string
	for _, name := range tests {
		switch test := inLab[name]; {
		case test == nil:
			t.Errorf("%s: there is no test %s in the lab", what, name)
		case !test.runs:
			t.Errorf("%s: nobody runs %s", what, name)
		case strings.HasPrefix(what, Prefix) && !test.has(what):
			t.Errorf("%s is nowhere in %s", what, name)
		}
		names = append(names, "`"+name+"`")
	}
	switch {
	case tests == nil:
		t.Errorf("no lab test shows %s", what)
	case len(tests) == 0:
		return "not ours"
	}
	return strings.Join(names, ", ")
}
