package provider

import (
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/provider/config"
)

// reload hands over another configuration as the watch of the file does.
func (c *cluster) reload(yaml string) {
	c.t.Helper()
	next, err := config.Decode([]byte(yaml))
	if err != nil {
		c.cloud.RefuseConfig(err)
	} else {
		c.cloud.Reload(next)
	}
	c.settle()
}

// ensured gives how often each Service was ensured.
func (c *cluster) ensured(names ...string) []int {
	c.manager.mu.Lock()
	defer c.manager.mu.Unlock()
	times := make([]int, len(names))
	for i, name := range names {
		times[i] = c.manager.ensured[key(name)]
	}
	return times
}

func (c *cluster) wantEnsured(want []int, names ...string) {
	c.t.Helper()
	if got := c.ensured(names...); !slices.Equal(got, want) {
		c.t.Errorf("%q were ensured %d times, want %d", names, got, want)
	}
}

const withGold = testConfig + "- {name: gold, addresses: [192.0.2.128/26], autoAssign: false}\n"

// A new pool serves who waited for it; who named pools is asked again; nobody else is touched.
func TestReload(t *testing.T) {
	dual := named("dual", stack(v1.IPFamilyPolicyPreferDualStack, v1.IPv4Protocol, v1.IPv6Protocol))
	objects := []runtime.Object{
		worker("a", "192.0.2.21"), named("plain"), named("plain2", annotate("metallb.io/address-pool", "x")), dual,
		named("names", annotate(string(AddressPool), "main")), named("waits", annotate(string(AddressPool), "gold")),
		named("elsewhere", class("example.com/other"), annotate(string(AddressPool), "gold")),
	}
	names := []string{"plain", "plain2", "dual", "names", "waits", "elsewhere"}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.wantEnsured([]int{1, 1, 1, 1, 0, 0}, names...)
		c.wantEvent("waits", `annotation cloud-provider-haproxy/address-pool "gold": there is no pool "gold"; there `+
			`are main`)
		c.wantMetric("config_valid", "", 1)

		c.reload(withGold + "reservations: {192.0.2.70: default/x}\n")
		c.wantEnsured([]int{1, 1, 2, 2, 1, 0}, names...)
		if got := c.manager.held[key("waits")].Request; !slices.Equal(got.Pools, []string{"gold"}) || !got.Moves {
			t.Errorf("request %+v, want pool gold", got)
		}
		if told := c.manager.pools[len(c.manager.pools)-1]; len(c.manager.pools) != 2 || len(told.Pools) != 2 ||
			len(told.Reservations) != 1 {
			t.Errorf("Manager was told %+v, want two pools and a reservation", c.manager.pools)
		}
		c.wantNormalEvent(EpochName, "ConfigReloaded: the changed configuration is in effect: pools gold, main; "+
			"reservations: 1")
		c.wantMetric("config_reloads_total", `result="success"`, 1)

		// What cannot change while we run is told.
		c.reload(strings.Replace(withGold, "kind: CloudConfig\n", "kind: CloudConfig\nipMode: Proxy\nresyncInterval: "+
			"7s\n", 1))
		c.wantEvent(EpochName, "ConfigNeedsRestart: ipMode, resyncInterval changed in the configuration and takes "+
			"effect at the next start of the controller")
		c.create(named("late"))
		if mode := c.get("late").Status.LoadBalancer.Ingress[0].IPMode; *mode != v1.LoadBalancerIPModeVIP {
			t.Errorf("ipMode %s is in effect already", *mode)
		}

		// Others' annotations count from now on.
		before := c.ensured(names...)
		c.reload(withGold + "readForeignAnnotations: true\n")
		if after := c.ensured(names...); after[0] != before[0] || after[1] != before[1]+1 || after[5] != 0 {
			t.Errorf("ensured %d before and %d after; only plain2 has an annotation of others", before, after)
		}
		c.wantEvent("plain2", `UnusablePool: annotation metallb.io/address-pool "x": there is no pool "x"`)
	})
}

// A wrong configuration is refused as a whole.
func TestReloadRefused(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("web"),
		named("waits", annotate(string(AddressPool), "gold"))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.reload(withGold + "- {name: gold, addresses: [192.0.2.90-192.0.2.80]}\n")
		c.wantEvent(EpochName, "ConfigRefused: the changed configuration is wrong and not used, the former one stays "+
			"in effect: "+
			`pools[2].name: gold is pools[1].name too; each may be there once; pools[2].addresses[0]: address range `+
			`"192.0.2.90-192.0.2.80": is upside down`)
		if len(c.manager.pools) != 1 {
			t.Errorf("Manager was told %+v", c.manager.pools)
		}
		c.wantMetric("config_valid", "", 0)
		c.wantMetric("config_reloads_total", `result="failure"`, 1)
		c.wantEnsured([]int{1, 0}, "web", "waits")

		c.manager.wrong = errors.New("pools gold and main overlap")
		c.reload(withGold)
		c.wantEvent(EpochName, "pools gold and main overlap")
		c.create(named("late", annotate(string(AddressPool), "gold")))
		c.wantEvent("late", `there is no pool "gold"`)

		c.manager.wrong = nil
		c.reload(withGold)
		c.wantMetric("config_valid", "", 1)
		c.wantEnsured([]int{1, 1, 1}, "web", "waits", "late")
	})
}

// An Ensure that began under a former configuration is done again under the new one.
func TestReloadDuringEnsure(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21")}, func(c *cluster) {
		during := func() {
			next, err := config.Decode([]byte(testConfig +
				"- {name: more, addresses: [192.0.2.128/26], priority: 1}\n"))
			if err != nil {
				t.Error(err)
			}
			c.cloud.Reload(next)
		}
		c.manager.during = &during
		c.create(named("web"))
		if got := c.manager.held[key("web")].Request.Pools; !slices.Equal(got, []string{"more", "main"}) {
			t.Errorf("pools %q, want those of the new configuration", got)
		}
	})
}

// Labels decide for those that wait, and for nobody else.
func TestLabelsWakeWhoWaits(t *testing.T) {
	const pinned = testConfig + `- {name: web, addresses: [192.0.2.128/26], namespaceSelector: team=web}
- {name: front, addresses: [2001:db8::/120], serviceSelector: tier=front}
`
	labelSpace := func(c *cluster, name, team string) {
		c.t.Helper()
		namespace := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
		if _, err := c.client.CoreV1().Namespaces().Update(c.t.Context(), namespace,
			metav1.UpdateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		c.settle()
	}
	namespace := func(name string) *v1.Namespace { return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	far := named("far", annotate(string(AddressPool), "web"))
	far.Namespace = "far"
	objects := []runtime.Object{
		namespace("default"), namespace("far"), worker("a", "192.0.2.21"),
		named("served"), named("wrong", annotate(string(AddressPool), "web")), far,
	}
	inCluster(t, pinned, nil, objects, func(c *cluster) {
		c.manager.failing(&ipam.ExhaustedError{Family: ipam.IPv4})
		c.create(named("empty"))
		c.manager.failing(errAway)
		c.create(named("away"))
		c.manager.failing(nil)
		names := []string{"served", "wrong", "empty", "away"}
		c.wantEnsured([]int{1, 0, 1, 1}, names...)
		c.wantEvent("wrong", `pool web serves namespaces labelled "team=web" only`)
		farTries := c.countTries("far")

		labelSpace(c, "default", "web")
		c.wantEnsured([]int{1, 1, 2, 1}, names...)
		if got := c.manager.held[key("wrong")].Request.Pools; !slices.Equal(got, []string{"web"}) {
			t.Errorf("pools %q, want web", got)
		}
		if tries := c.countTries("far"); tries != farTries {
			t.Errorf("a Service of another namespace was tried %d times", tries-farTries)
		}
		labelSpace(c, "default", "none")
		c.wantEnsured([]int{1, 1, 2, 1}, names...) // nobody waits for it, and who has an address keeps it

		labelSpace(c, "far", "web")
		if _, held := c.manager.Has(desiredKey("far", "far")); !held {
			t.Error("the Service was not tried when its namespace got the label")
		}

		c.create(named("front", annotate(string(AddressPool), "front")))
		c.wantEvent("front", `pool front serves Services labelled "tier=front" only`)
		for _, name := range []string{"front", "served"} {
			c.change(name, labelled("tier", "front"))
		}
		c.wantEnsured([]int{1, 1}, "front", "served")
		c.change("front", labelled("tier", "none"))
		c.change("front", annotate("example.com/x", "1")) // the library calls us
		c.wantEvent("front", "UnusablePool: ")
		c.wantEnsured([]int{2}, "front")
		if got := c.manager.held[key("front")].Request; got.Pools == nil || len(got.Pools) > 0 || got.Moves {
			t.Errorf("request %+v: it must stay where it is", got)
		}
	})
}

// A burst of label changes is one look.
func TestLabelChangesAreTakenTogether(t *testing.T) {
	waits := named("waits", annotate(string(AddressPool), "gold"))
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), waits}, func(c *cluster) {
		before := len(c.events("waits"))
		translations := c.countTries("waits")
		for i := range 20 {
			svc := c.get("waits")
			svc.Labels = map[string]string{"n": string(rune('a' + i))}
			if _, err := c.client.CoreV1().Services("default").Update(t.Context(), svc,
				metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		if tries := c.countTries("waits") - translations; tries < 1 || tries > 2 {
			t.Errorf("tried %d times (%d events before), want once or twice", tries, before)
		}
	})
}

// The library does not look at a policy that changes nothing else.
func TestFamilyPolicyChanges(t *testing.T) {
	prefers := named("web", stack(v1.IPFamilyPolicyPreferDualStack, v1.IPv4Protocol, v1.IPv6Protocol))
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), prefers}, func(c *cluster) {
		first := func() ipam.Request { return c.manager.held[key("web")].Request }
		if !first().FirstSuffices {
			t.Fatalf("request %+v", first())
		}
		c.change("web", stack(v1.IPFamilyPolicyRequireDualStack, v1.IPv4Protocol, v1.IPv6Protocol))
		if first().FirstSuffices {
			t.Error("nobody noticed that both families are required now")
		}
		c.change("web", stack(v1.IPFamilyPolicySingleStack, v1.IPv4Protocol))
		if got := first().Families; len(got) != 1 {
			t.Errorf("families %v, want IPv4 only", got)
		}
		c.wantEnsured([]int{3}, "web")
	})
}

// The ConfigMap's UID is how `kubectl describe` finds its Events.
func TestEventsAreFoundByUID(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		if uid := c.cloud.subject.reference().UID; uid != "" {
			t.Errorf("UID %q before there is an object", uid)
		}
		if _, err := c.epochs.Claim(t.Context(), 1, "we"); err != nil {
			t.Fatal(err)
		}
		object, err := c.client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), EpochName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		object.UID = "uid-of-the-map" // the API server's work
		if _, err := c.client.CoreV1().ConfigMaps("kube-system").Update(t.Context(), object,
			metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if holder, _, err := c.epochs.Holder(t.Context()); err != nil || holder != "we" {
			t.Fatal(holder, err)
		}
		c.manager.observer.Notice(&loadbalancer.ProxyARPError{Pool: "main", MAC: "52:54:00:00:00:01", Gateway: "gw1"})
		c.settle()
		list, err := c.client.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].InvolvedObject.UID != "uid-of-the-map" {
			t.Errorf("events %+v, %v; want one with the UID", list.Items, err)
		}
	})
}

// A pool that is there no more may stand in what Manager knows of any Service.
func TestReloadWithoutAPool(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("web"), named("elsewhere", class("example.com/other"))}
	inCluster(t, testConfig+"- {name: more, addresses: [192.0.2.128/26]}\n", nil, objects, func(c *cluster) {
		c.reload(testConfig)
		c.wantEnsured([]int{2, 0}, "web", "elsewhere")
		if got := c.manager.held[key("web")].Request.Pools; !slices.Equal(got, []string{"main"}) {
			t.Errorf("pools %q, want main", got)
		}
	})
}

// A node's address is no Service's, also when the node gets no connections and also after a reload.
func TestNodesAreExcludedFromPools(t *testing.T) {
	excluded := func(address string) *v1.Node {
		node := worker("control", address)
		node.Labels[v1.LabelNodeExcludeBalancers] = ""
		return node
	}
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), excluded("192.0.2.100")},
		func(c *cluster) {
			has := func(want string) {
				t.Helper()
				var reasons []string
				for _, e := range c.manager.pools[len(c.manager.pools)-1].Exclusions {
					if e.Range.From() == addr("192.0.2.100") || e.Range.From() == addr("192.0.2.101") {
						reasons = append(reasons, e.Range.From().String()+" "+e.Reason)
					}
				}
				if got := strings.Join(reasons, "; "); got != want {
					t.Errorf("excluded %q, want %q", got, want)
				}
			}
			has("192.0.2.100 address of node control")
			c.reload(withGold)
			has("192.0.2.100 address of node control")
			told := len(c.manager.pools)
			for _, address := range []string{"192.0.2.101", "192.0.2.101"} { // the second is a heartbeat
				if _, err := c.client.CoreV1().Nodes().Update(t.Context(), excluded(address),
					metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				c.settle()
			}
			has("192.0.2.101 address of node control")
			if len(c.manager.pools) != told+1 {
				t.Errorf("told %d times, want once", len(c.manager.pools)-told)
			}
			if _, err := c.client.CoreV1().Nodes().Update(t.Context(), excluded("198.51.100.1"),
				metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.settle()
			has("")
		})
}
