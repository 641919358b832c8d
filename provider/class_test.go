package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// balanced makes a Service one of type LoadBalancer of a class; "": of none. The API server allows a class only together
// with a change of the type (spec.loadBalancerClass is immutable), and clears class and status when the type goes.
func balanced(of string) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.Type, svc.Spec.LoadBalancerClass = v1.ServiceTypeLoadBalancer, nil
		if of != "" {
			svc.Spec.LoadBalancerClass = &of
		}
	}
}

// TestClass lets one Service go through types and classes: it is served when its class is ours, or it has none and the
// configuration says so, and never else; and whenever it is not any more, it is cleaned up.
func TestClass(t *testing.T) {
	const ours, others = "cloud-provider-haproxy/gateway", "example.com/other"
	for _, test := range []struct {
		name, yaml string
		// path has a class for each step, "ClusterIP" for another type; served says for which steps it is served.
		path   []string
		served []bool
	}{
		{"set at creation", testConfig, []string{ours, "ClusterIP", ours, "ClusterIP"}, []bool{true, false, true, false}},
		{"away and back without one", testConfig, []string{ours, "ClusterIP", "", "ClusterIP", ours}, []bool{true, false, true, false, true}},
		{"to another controller and back", testConfig, []string{ours, "ClusterIP", others, "ClusterIP", ours},
			[]bool{true, false, false, false, true}},
		{"from another controller", testConfig, []string{others, "ClusterIP", ours}, []bool{false, false, true}},
		{"created without, which is ours", testConfig, []string{"", "ClusterIP", ours}, []bool{true, false, true}},
		{"created without, which is not ours", testConfig + "serveUnclassed: false\n", []string{"", "ClusterIP", ours, "ClusterIP", ""},
			[]bool{false, false, true, false, false}},
		{"a class of the configuration", testConfig + "loadBalancerClass: example.com/mine\n",
			[]string{ours, "ClusterIP", "example.com/mine"}, []bool{false, false, true}},
		{"to another controller in one look", testConfig, []string{ours, others, ours}, []bool{true, false, true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mine := ours
			if strings.Contains(test.yaml, "mine") {
				mine = "example.com/mine"
			}
			inCluster(t, test.yaml, nil, []runtime.Object{worker("a", "192.0.2.21"), named("other", balanced(mine))}, func(c *cluster) {
				turn := func(of string) func(*v1.Service) {
					if of == "ClusterIP" {
						return clusterIP
					}
					return balanced(of)
				}
				for i, of := range test.path {
					if i == 0 {
						c.create(named("web", turn(of)))
					} else {
						c.change("web", func(svc *v1.Service) {
							if hasFinalizer(svc) { // the API server's note of who wrote it, which the fake one does not make
								addedBy(us)(svc)
								statusBy(us)(svc)
							}
							turn(of)(svc)
						})
					}
					where := fmt.Sprintf("step %d, %q", i, of)
					if _, served := c.manager.Has(key("web")); served != test.served[i] {
						t.Errorf("%s: served: %v, want %v", where, served, test.served[i])
					}
					if got := hasFinalizer(c.get("web")); got != test.served[i] {
						t.Errorf("%s: it has the cleanup finalizer: %v, want %v", where, got, test.served[i])
					}
					if got := len(published(c.get("web"))) > 0; got != test.served[i] {
						t.Errorf("%s: it has an address in its status: %v, want %v", where, got, test.served[i])
					}
					if class := c.get("web").Spec.LoadBalancerClass; of != "ClusterIP" && of != "" && (class == nil || *class != of) {
						t.Errorf("%s: its class was written: %v", where, class)
					}
				}
				c.wantServed("other", true)
				c.wantEnsured([]int{1}, "other")
			})
		})
	}
}

// Another controller of the library's kind uses the same cleanup finalizer. Whatever happens to a Service of its class while
// we run, it is the other one's to take off.
func TestFinalizerOfAnotherClassStays(t *testing.T) {
	foreign := func(changes ...func(*v1.Service)) *v1.Service {
		return named("web", append([]func(*v1.Service){class("example.com/other"), keeping(finalizer),
			addedBy("example-controller"), statusBy("example-controller"), publishing("198.51.100.7")}, changes...)...)
	}
	for name, changes := range map[string][]func(*v1.Service){
		"deleted":                       {deleting},
		"changed, then deleted":         {annotate(string(Algorithm), "source"), deleting},
		"its type changed":              {clusterIP},
		"its type changed, and deleted": {clusterIP, deleting},
		"its status overwritten":        {publishing("198.51.100.8"), deleting},
	} {
		for _, yaml := range []string{testConfig, testConfig + "serveUnclassed: false\n"} {
			t.Run(name, func(t *testing.T) {
				inCluster(t, yaml, nil, []runtime.Object{worker("a", "192.0.2.21"), foreign()}, func(c *cluster) {
					for _, change := range changes {
						c.change("web", change)
						want := slices.Clone(published(c.get("web")))
						c.settle()
						c.wantFinalizer("web", true)
						if got := published(c.get("web")); !slices.Equal(got, want) {
							t.Errorf("status %v, want %v as the other controller left it", got, want)
						}
					}
					if n, _ := c.manager.counted(); n > 0 {
						t.Error("it was served")
					}
					if told := c.events("web"); len(told) > 0 {
						t.Errorf("it was told of: %q", told)
					}
				})
			})
		}
	}
}
