package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/provider/config"
)

// tiers has a pool of every kind. Nobody in it shares an address range.
const tiers = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: 198.51.100.2, interface: eth0}
ssh: {privateKeyFile: /key, knownHostsFile: /known_hosts}
pools:
- {name: main, addresses: [192.0.2.16-192.0.2.31]}
- {name: big, addresses: [192.0.2.32-192.0.2.47], priority: 5}
- {name: last, addresses: [192.0.2.48-192.0.2.63]}
- {name: gold, addresses: [192.0.2.64-192.0.2.79], namespaces: [a, b]}
- {name: team, addresses: [192.0.2.80-192.0.2.95], namespaceSelector: team=web, priority: 1}
- {name: front, addresses: [192.0.2.96-192.0.2.111], namespaces: [a], namespaceSelector: "stage in (prod)",
  serviceSelector: tier=front, priority: -1}
- {name: edge, addresses: [192.0.2.112-192.0.2.127], serviceSelector: tier=edge}
- {name: spare, addresses: [192.0.2.128-192.0.2.143], autoAssign: false, priority: 9}
- {name: vault, addresses: [192.0.2.144-192.0.2.159], autoAssign: false, namespaces: [a]}
reservations:
  192.0.2.65: c/web
`

func policyOf(t *testing.T, yaml string) *policy {
	t.Helper()
	c, err := config.Decode([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return newPolicy(c)
}

func in(namespace string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Namespace = namespace }
}

func labelled(key, value string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Labels = map[string]string{key: value} }
}

func TestPoolsAreAskedInOrder(t *testing.T) {
	tests := []struct {
		name      string
		svc       *v1.Service
		namespace labels.Set
		want      []string
		// left out, and why
		note string
	}{
		{"nothing special: by priority, then as in the file", web(in("c")), nil, []string{"big", "main", "last"},
			`pool spare has autoAssign: false, so that Services have to name it; pool team serves namespaces ` +
				`labelled "team=web" only; ` +
				`pool gold serves namespaces a, b only; pool edge serves Services labelled "tier=edge" only; pool ` +
				`vault serves namespace a only; ` +
				`pool front serves Services labelled "tier=front" of namespace a and namespaces labelled "stage in ` +
				`(prod)" only`},
		{"pinned by the namespace's name", web(in("b")), nil, []string{"gold", "big", "main", "last"}, ""},
		{"by its labels too, and that pool has priority", web(in("b")), labels.Set{"team": "web"},
			[]string{"team", "gold", "big", "main", "last"}, ""},
		{"by the namespace's name and the Service's label", web(in("a"), labelled("tier", "front")), nil,
			[]string{"gold", "front", "big", "main", "last"}, ""},
		{"by the labels of both", web(in("c"), labelled("tier", "front")), labels.Set{"stage": "prod"},
			[]string{"front", "big", "main", "last"}, ""},
		{"the Service's label in another namespace", web(in("c"), labelled("tier", "front")),
			labels.Set{"stage": "test"}, []string{"big", "main", "last"}, ""},
		{"by the Service's label in any namespace", web(in("c"), labelled("tier", "edge")), nil,
			[]string{"edge", "big", "main", "last"}, ""},
		{"the Service's label does not choose namespaces", web(in("c"), labelled("team", "web")), nil,
			[]string{"big", "main", "last"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, note := policyOf(t, tiers).unasked(test.svc, test.namespace)
			if !slices.Equal(got, test.want) {
				t.Errorf("pools %q, want %q", got, test.want)
			}
			if test.note != "" && note != test.note {
				t.Errorf("note %q\nwant %q", note, test.note)
			}
			for _, name := range append(policyOf(t, tiers).names(), "nowhere") {
				if explained := strings.Contains(note, "pool "+name+" "); explained == slices.Contains(got, name) &&
					name != "nowhere" {
					t.Errorf("pool %s is asked: %v, and its absence is explained: %v", name,
						slices.Contains(got, name), explained)
				}
			}
		})
	}
}

// Nobody may use any pool: that is an empty list, which is not the nil that means all.
func TestNoPoolIsNotEveryPool(t *testing.T) {
	only := strings.Replace(testConfig, "name: main,", "name: main, namespaces: [a],", 1)
	got, note := policyOf(t, only).unasked(web(), nil)
	if got == nil || len(got) > 0 {
		t.Errorf("pools %#v, want an empty list", got)
	}
	if want := "pool main serves namespace a only"; note != want {
		t.Errorf("note %q, want %q", note, want)
	}
}

// A site with a pool for every team does not tell each Service of all.
func TestNoteIsShort(t *testing.T) {
	yaml := testConfig
	for i := range 20 {
		yaml += fmt.Sprintf("- {name: team%d, addresses: [198.51.100.%d], namespaces: [team%d]}\n", i, i+10, i)
	}
	pools, note := policyOf(t, yaml).unasked(web(), nil)
	if want := "pool team7 serves namespace team7 only; and 12 more pools do not serve it unasked"; !strings.HasSuffix(
		note, want) || !slices.Equal(pools, []string{"main"}) {
		t.Errorf("pools %q, note %q", pools, note)
	}
}

func TestPoolsRefuse(t *testing.T) {
	p := policyOf(t, tiers)
	for _, test := range []struct {
		name string
		svc  *v1.Service
		want string
	}{
		{"main", web(), ""},
		{"spare", web(), ""}, // named, so autoAssign does not matter
		{"gold", web(in("a")), ""},
		{"gold", web(), "pool gold serves namespaces a, b only"},
		{"vault", web(), "pool vault serves namespace a only"},
		{"edge", web(), `pool edge serves Services labelled "tier=edge" only`},
		{"silver", web(),
			`there is no pool "silver"; there are big, edge, front, gold, last, main, spare, team, vault`},
	} {
		if got := p.refuse(test.name, test.svc, nil); got != test.want {
			t.Errorf("%s for %s: %q, want %q", test.name, keyOf(test.svc), got, test.want)
		}
	}
}

func TestPoolOfAddress(t *testing.T) {
	p := policyOf(t, tiers)
	got := map[string]string{}
	for _, text := range []string{"192.0.2.15", "192.0.2.16", "192.0.2.31", "192.0.2.79", "192.0.2.80", "2001:db8::1"} {
		got[text] = p.poolOf(addr(text))
	}
	want := map[string]string{"192.0.2.15": "", "192.0.2.16": "main", "192.0.2.31": "main", "192.0.2.79": "gold",
		"192.0.2.80": "team", "2001:db8::1": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pools of addresses (-want +got):\n%s", diff)
	}
}
