package provider

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func local(svc *v1.Service) {
	svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
}

func selecting(selector string) func(*v1.Service) { return annotate(string(NodeSelector), selector) }

// A selector is what kubectl takes; a Service without one, or without policy Local, is in the shared pool.
func TestPoolByNodeSelector(t *testing.T) {
	around := among(twoNodes())
	around.nodeLabels = map[string]labels.Set{"a": {"zone": "a", "disk": "ssd"}, "b": {"zone": "b", "legacy": ""}}
	delete(around.endpoints, place{"b", false})
	const elsewhere = "EndpointsElsewhere: spec.externalTrafficPolicy is Local, and all endpoints are on nodes that get no connections (a)"
	for name, test := range map[string]struct {
		svc     *v1.Service
		shared  bool
		check   uint16
		want    []string
		warning string
	}{
		"neither":              {svc: web(), shared: true},
		"equality":             {web(selecting("zone=a")), false, 10250, []string{"a"}, ""},
		"set":                  {web(selecting("zone in (a, b)")), false, 10250, []string{"a", "b"}, ""},
		"absence":              {web(selecting("!legacy,zone notin (c)")), false, 10250, []string{"a"}, ""},
		"existence":            {web(selecting("legacy")), false, 10250, []string{"b"}, ""},
		"of one family":        {web(selecting("zone"), onlyIn(v1.IPv6Protocol)), false, 10250, []string{"a"}, ""},
		"nothing":              {web(selecting("zone=c")), false, 10250, nil, `NoNodeSelected: annotation cloud-provider-haproxy/node-selector "zone=c" matches none of the eligible nodes, so connections are refused`},
		"local":                {web(local), false, 32000, []string{"a"}, ""},
		"local of all":         {web(local, selecting("zone")), false, 32000, []string{"a"}, ""},
		"local, no pod there":  {web(local, selecting("zone=b")), false, 32000, nil, elsewhere},
		"local, no node there": {web(local, selecting("zone=c")), false, 32000, nil, "NoNodeSelected: "},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := testTranslator().translate(test.svc, around)
			if err != nil {
				t.Fatal(err)
			}
			pool := got.service.LoadBalancer.Pool
			if pool == nil || test.shared {
				if pool != nil || !test.shared {
					t.Errorf("pool %+v", pool)
				}
				return
			}
			var names []string
			for _, server := range pool.Servers {
				names = append(names, server.Name)
			}
			if !slices.Equal(names, test.want) || pool.Check.Port != test.check || pool.Algorithm != desired.RoundRobin {
				t.Errorf("servers %q, %+v; want %q", names, pool, test.want)
			}
			told := ""
			for _, w := range got.warnings {
				told += w.reason + ": " + w.message
			}
			if !strings.HasPrefix(told, test.warning) || test.warning == "" && told != "" {
				t.Errorf("told %q, want %q", told, test.warning)
			}
		})
	}
}

func TestWrongNodeSelector(t *testing.T) {
	for selector, want := range map[string]string{
		"":                `annotation cloud-provider-haproxy/node-selector is empty; allowed is a label selector`,
		"zone==a=b":       `annotation cloud-provider-haproxy/node-selector "zone==a=b" is no label selector (`,
		"zone in a":       `"zone in a" is no label selector (`,
		"zone=" + "é":     `is no label selector (`,
		"zone=a;rm -rf /": "allowed is what `kubectl get nodes -l` takes, as in zone=a,disk in (ssd, nvme),!legacy",
	} {
		got, err := testTranslator().translate(web(selecting(selector)), among(twoNodes()))
		if err == nil || !strings.Contains(err.Error(), want) || causeOf(err) != correction {
			t.Errorf("%q: %v", selector, err)
		}
		if got.service.LoadBalancer.Pool != nil {
			t.Errorf("%q: it has a pool %+v", selector, got.service.LoadBalancer.Pool)
		}
	}
}
