package provider

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func ranges(texts ...string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = texts }
}

func TestTranslateSources(t *testing.T) {
	beta := func(value string) func(*v1.Service) { return annotate(v1.AnnotationLoadBalancerSourceRangesKey, value) }
	denying := func(value string) func(*v1.Service) {
		return annotate("cloud-provider-haproxy/deny-source-ranges", value)
	}
	dual := onlyIn(v1.IPv4Protocol, v1.IPv6Protocol)
	for _, test := range []struct {
		name        string
		svc         *v1.Service
		allow, deny []netip.Prefix
		warnings    []string
	}{
		{"everybody", web(), nil, nil, nil},
		{"field", web(ranges("10.0.0.0/8", "192.0.2.7/32")), prefixes("10.0.0.0/8", "192.0.2.7/32"), nil, nil},
		{"one inside another", web(ranges("10.1.0.0/16", "10.0.0.0/8", "10.9.8.7/8")),
			prefixes("10.0.0.0/8"), nil, nil},
		{"spaces, as the API server takes them", web(ranges(" 10.0.0.0/8 ")), prefixes("10.0.0.0/8"), nil, nil},
		{"annotation", web(beta(" 10.0.0.0/8, 192.0.2.0/24 ")), prefixes("10.0.0.0/8", "192.0.2.0/24"), nil, nil},
		{"empty annotation", web(beta(" ")), nil, nil, nil},
		{"the field wins", web(ranges("10.0.0.0/8"), beta("192.0.2.0/24")), prefixes("10.0.0.0/8"), nil, nil},
		{"the field wins over nonsense", web(ranges("10.0.0.0/8"), beta("nonsense")), prefixes("10.0.0.0/8"), nil, nil},
		{"everybody by name", web(ranges("0.0.0.0/0")), prefixes("0.0.0.0/0"), nil, nil},
		{"both families", web(dual, ranges("2001:db8::/32", "10.0.0.0/8")), prefixes("10.0.0.0/8", "2001:db8::/32"),
			nil, nil},
		{"denied", web(denying("10.66.0.0/16, 10.67.0.0/16,2001:db8::/32")), nil,
			prefixes("10.66.0.0/15", "2001:db8::/32"), nil},
		{"allowed and denied", web(ranges("10.0.0.0/8"), denying("10.66.0.0/16")), prefixes("10.0.0.0/8"),
			prefixes("10.66.0.0/16"), nil},
		{"a family that is not the Service's", web(ranges("2001:db8::/32", "10.0.0.0/8")),
			prefixes("10.0.0.0/8", "2001:db8::/32"), nil, nil},
		{"the other family only", web(ranges("2001:db8::/32")), prefixes("2001:db8::/32"), nil,
			[]string{`NoSourceAllowed: spec.loadBalancerSourceRanges "2001:db8::/32" has no IPv4 range, so ` +
				`connections to the Service's IPv4 address are refused; add the IPv4 ranges that may connect ` +
				`(0.0.0.0/0: all)`}},
		{"one of two families", web(dual, beta("0.0.0.0/0")), prefixes("0.0.0.0/0"), nil,
			[]string{`NoSourceAllowed: annotation service.beta.kubernetes.io/load-balancer-source-ranges "0.0.0.0/0" ` +
				`has no IPv6 range, so connections to the Service's IPv6 address are refused; add the IPv6 ranges ` +
				`that may connect (::/0: all)`}},
		{"all of a family denied", web(dual, denying("0.0.0.0/1,128.0.0.0/1")), nil, prefixes("0.0.0.0/0"),
			[]string{`NoSourceAllowed: annotation cloud-provider-haproxy/deny-source-ranges "0.0.0.0/1,128.0.0.0/1" ` +
				`denies every IPv4 client, so connections to the Service's IPv4 address are refused; remove it to ` +
				`let them in`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := test.svc.DeepCopy()
			got, err := testTranslator().translate(test.svc, among(twoNodes()))
			if err != nil {
				t.Fatal(err)
			}
			lb := got.service.LoadBalancer
			if !slices.Equal(lb.AllowSources, test.allow) || !slices.Equal(lb.DenySources, test.deny) {
				t.Errorf("allowed %v, denied %v; want %v, %v", lb.AllowSources, lb.DenySources, test.allow, test.deny)
			}
			if diff := cmp.Diff(&loadbalancer.Sources{Allow: test.allow, Deny: test.deny}, got.sources,
				equalAddresses); diff != "" {
				t.Errorf("sources (-want +got):\n%s", diff)
			}
			var warned []string
			for _, w := range got.warnings {
				warned = append(warned, w.reason+": "+w.message)
			}
			if diff := cmp.Diff(test.warnings, warned); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, test.svc); diff != "" {
				t.Errorf("the Service was written:\n%s", diff)
			}
			// Kubernetes' own reading is the same; of everybody it says IPv4 only.
			upstream, err := servicehelper.GetLoadBalancerSourceRanges(test.svc)
			if err != nil {
				t.Fatal(err)
			}
			if want := desired.MergePrefixes(prefixes(upstream.StringSlice()...)); test.allow != nil &&
				!slices.Equal(want, lb.AllowSources) {
				t.Errorf("allowed %v, Kubernetes' helper reads %v", lb.AllowSources, want)
			}
		})
	}
}

func TestTranslateRefusesSources(t *testing.T) {
	const (
		field   = "spec.loadBalancerSourceRanges"
		beta    = "annotation " + v1.AnnotationLoadBalancerSourceRangesKey
		deny    = "annotation cloud-provider-haproxy/deny-source-ranges"
		allowed = " is not a range; allowed are IPv4 and IPv6 ranges with commas between, as in " +
			"192.0.2.0/24,2001:db8::/32; " +
			"until that is mended, who may connect stays as it was, and nobody may if the Service is new"
	)
	denying := func(value string) func(*v1.Service) { return annotate(string(DenySourceRanges), value) }
	for _, test := range []struct {
		name string
		svc  *v1.Service
		want string
	}{
		{"address", web(ranges("10.0.0.0/8", "192.0.2.7")), field + ` "10.0.0.0/8,192.0.2.7": "192.0.2.7"` + allowed},
		{"name", web(ranges("office")), field + ` "office": "office"` + allowed},
		{"length", web(ranges("10.0.0.0/33")), field + ` "10.0.0.0/33": "10.0.0.0/33"` + allowed},
		{"leading zero, octal to some", web(ranges("010.0.0.0/8")), field + ` "010.0.0.0/8": "010.0.0.0/8"` + allowed},
		{"IPv4 in IPv6 form", web(ranges("::ffff:10.0.0.0/104")), field +
			` "::ffff:10.0.0.0/104": "::ffff:10.0.0.0/104"` + allowed},
		{"zone", web(ranges("fe80::%eth0/64")), field + ` "fe80::%eth0/64": "fe80::%eth0/64"` + allowed},
		{"comma at the end", web(annotate(v1.AnnotationLoadBalancerSourceRangesKey, "10.0.0.0/8,")), beta +
			` "10.0.0.0/8,": ""` + allowed},
		{"empty", web(denying("")), deny + ` "": ""` + allowed},
		{"range with a dash", web(denying("10.0.0.1-10.0.0.9")), deny + ` "10.0.0.1-10.0.0.9": "10.0.0.1-10.0.0.9"` +
			allowed},
		{"one of two", web(ranges("10.0.0.0/8"), denying("x")), deny + ` "x": "x"` + allowed},
		{"both", web(ranges("y"), denying("x")), field + ` "y": "y"` + allowed + "; " + deny + ` "x": "x"` + allowed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := testTranslator().translate(test.svc, among(twoNodes()))
			if err == nil || err.Error() != test.want {
				t.Errorf("error %q\nwant  %q", err, test.want)
			}
			if causeOf(err) != correction {
				t.Error("the error is not known as one that somebody has to mend")
			}
			if got.sources != nil {
				t.Errorf("%+v may connect", got.sources)
			}
		})
	}
}

// wantAdmitted fails unless Manager serves a Service to these sources; none: to everybody.
func (c *cluster) wantAdmitted(name string, allow ...string) {
	c.t.Helper()
	if got, _ := c.manager.admitted(key(name)); !slices.Equal(got, prefixes(allow...)) {
		c.t.Errorf("%s is served to %v, want %v", name, got, allow)
	}
}

// Who may connect follows the Service: set, narrowed, wrong (nothing changes), mended, removed. A new one that is wrong
// is not served at all.
func TestSourceRanges(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("web"), named("wrong", ranges("nonsense"))}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		c.wantAddress("web", "192.0.2.64")
		c.wantAdmitted("web")
		if _, held := c.manager.Has(key("wrong")); held {
			t.Error("a Service that could never be served has an address")
		}
		c.wantEvent("wrong", `spec.loadBalancerSourceRanges "nonsense": "nonsense" is not a range; allowed are`)
		c.change("web", ranges("10.0.0.0/8", "10.1.0.0/16"))
		c.wantAdmitted("web", "10.0.0.0/8")
		c.change("web", ranges("10.1.0.0/16"))
		c.wantAdmitted("web", "10.1.0.0/16")
		c.change("web", ranges("10.1.0.0/16", "nonsense"))
		c.wantEvent("web", `spec.loadBalancerSourceRanges "10.1.0.0/16,nonsense": "nonsense" is not a range`)
		c.wantAdmitted("web", "10.1.0.0/16")
		c.wantAddress("web", "192.0.2.64")
		c.change("web", func(svc *v1.Service) { ranges()(svc); annotate(string(DenySourceRanges), "10.6.0.0/16")(svc) })
		c.wantAdmitted("web")
		if _, deny := c.manager.admitted(key("web")); !slices.Equal(deny, prefixes("10.6.0.0/16")) {
			t.Errorf("%v are denied", deny)
		}
		c.change("web", func(svc *v1.Service) { svc.Annotations = nil })
		if allow, deny := c.manager.admitted(key("web")); allow != nil || deny != nil {
			t.Errorf("%v are allowed and %v are denied, want everybody", allow, deny)
		}
		c.change("wrong", ranges("10.0.0.0/8"))
		c.wantAdmitted("wrong", "10.0.0.0/8")
		c.wantAddress("wrong", "192.0.2.65")
	})
}

// What is wrong elsewhere in a Service keeps its last form, but not for those who may not connect any more.
func TestSourceRangesNextToAnotherFault(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("open")}, func(c *cluster) {
		c.wantAddress("open", "192.0.2.64")
		c.change("open", func(svc *v1.Service) {
			ranges("10.0.0.0/8")(svc)
			annotate(string(LoadBalancerIPs), "nonsense")(svc)
		})
		c.wantEvent("open", `annotation cloud-provider-haproxy/load-balancer-ips "nonsense"`)
		c.wantAdmitted("open", "10.0.0.0/8")
		c.wantAddress("open", "192.0.2.64")
		c.change("open", ranges("nonsense"))
		c.wantAdmitted("open", "10.0.0.0/8")
		if told := c.manager.refusals[key("open")]; len(told) == 0 || told[len(told)-1] != nil {
			t.Errorf("Manager was told %+v, in the end that nobody knows who may connect", told)
		}
	})
}

// A Service whose spec became wrong is told to Manager whether it is served or waits: Manager would serve it later.
func TestRefusedServicesAreToldToManager(t *testing.T) {
	inCluster(t, testConfig, func(m *manager) { m.fail = errAway },
		[]runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
			c.change("web", ranges("nonsense"))
			if told := c.manager.refusals[key("web")]; len(told) == 0 || told[0] != nil {
				t.Errorf("Manager was told %v, want that nobody knows who may connect", told)
			}
			c.wantEvent("web", `"nonsense" is not a range`)
			c.wantEvent("web", errAway.Gateways[0].Err.Error())
		})
}

// After a restart it is the same: the last good form, open to whom the Service says if that can be read.
func TestReplayOfSources(t *testing.T) {
	wrong := annotate(string(LoadBalancerIPs), "nonsense")
	objects := []runtime.Object{
		worker("a", "192.0.2.21"),
		named("good", ranges("10.0.0.0/8"), publishing("192.0.2.90")),
		named("wrong", ranges("10.0.0.0/8"), wrong, publishing("192.0.2.91")),
		named("open-and-wrong", wrong, publishing("192.0.2.92")),
		named("wrong-ranges", ranges("nonsense"), publishing("192.0.2.93")),
	}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		var got []string
		for _, r := range c.manager.replays {
			line := r.Key.Name
			if r.Service != nil {
				line += " served to " + r.Service.LoadBalancer.AllowSources[0].String()
			}
			if r.Sources != nil {
				var allow []string
				for _, p := range r.Sources.Allow {
					allow = append(allow, p.String())
				}
				line += " open to [" + strings.Join(allow, " ") + "]"
			}
			got = append(got, line)
		}
		want := []string{"good served to 10.0.0.0/8", "open-and-wrong open to []", "wrong open to [10.0.0.0/8]",
			"wrong-ranges"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("replayed (-want +got):\n%s", diff)
		}
	})
}
