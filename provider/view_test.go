package provider

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// us is how managedFields name this program in these tests.
const us = "haproxy-cloud-controller-manager"

// addedBy says in managedFields, in the form of a real API server, who added the cleanup finalizer; statusBy who wrote
// the addresses.
func addedBy(manager string) func(*v1.Service) {
	return writtenBy(manager,
		`{"f:metadata":{"f:finalizers":{".":{},"v:\"service.kubernetes.io/load-balancer-cleanup\"":{}}}}`)
}

func statusBy(manager string) func(*v1.Service) {
	return writtenBy(manager, `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`)
}

func writtenBy(manager, fields string) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.ManagedFields = append(svc.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: "Update",
			APIVersion: "v1",
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields), Subresource: "status"})
	}
}

// A Service that the configuration gave to us once and does not any more loses what we wrote to it, and nothing else.
func TestNoLongerOurs(t *testing.T) {
	const others = "example-controller"
	old, other := class("cloud-provider-haproxy/old"), keeping(finalizer)
	for name, test := range map[string]struct {
		svc     *v1.Service
		address string
		keeps   bool // the finalizer
	}{
		"another class": {named("web", old, other, publishing("192.0.2.70"), addedBy(us), statusBy(us)),
			"", false},
		"no class": {named("web", other, publishing("192.0.2.70"), addedBy(us), statusBy(us)), "",
			false},
		"no class, being deleted": {named("web", other, deleting, publishing("192.0.2.70"), addedBy(us),
			statusBy(us)), "", false},
		"the finalizer is another's": {named("web", old, other, publishing("192.0.2.70"),
			addedBy(others), statusBy(us)), "", false},
		"never served": {named("web", old, other, addedBy(us)), "", false},
		"another serves it now": {named("web", old, other, publishing("198.51.100.7"), addedBy(us),
			statusBy(others)), "198.51.100.7", false},
		"all of it is another's": {named("web", old, other, publishing("198.51.100.7"), addedBy(others),
			statusBy(others)), "198.51.100.7", true},
		"all of it, without a class": {named("web", other, publishing("198.51.100.7"), addedBy(others),
			statusBy(others)), "198.51.100.7", true},
	} {
		t.Run(name, func(t *testing.T) {
			// Manager withdraws it, perhaps before the service controller comes to it.
			for _, held := range []bool{true, false} {
				prepare := func(m *manager) {
					if held {
						m.held[key("web")] = loadbalancer.Service{LoadBalancer: desired.LoadBalancer{Key: key("web")}}
					}
				}
				inCluster(t, testConfig+"serveUnclassed: false\n", prepare, []runtime.Object{worker("a", "192.0.2.21"),
					test.svc.DeepCopy()}, func(c *cluster) {
					c.wantAddress("web", test.address)
					c.wantFinalizer("web", test.keeps)
					if spec := c.get("web").Spec; spec.Type != v1.ServiceTypeLoadBalancer {
						t.Errorf("the spec was written: %+v", spec)
					}
					if ensures, _ := c.manager.counted(); ensures > 0 {
						t.Error("it was served")
					}
				})
			}
		})
	}
}

// A Service that is being deleted gets no finalizer: the API server forbids it, and nothing is to be served.
func TestDeletingWithoutOurFinalizer(t *testing.T) {
	const foreground = "foregroundDeletion"
	t.Run("from the beginning", func(t *testing.T) {
		for _, svc := range []*v1.Service{
			named("web", keeping(foreground), deleting),
			named("web", keeping(foreground), deleting, class("cloud-provider-haproxy/gateway")),
		} {
			inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), svc}, func(c *cluster) {
				c.change("web", annotate("example.com/x", "y"))
				time.Sleep(time.Hour)
				synctest.Wait()
				if n, _ := c.manager.counted(); n != 0 {
					t.Errorf("it was served %d times", n)
				}
				c.wantFinalizer("web", false)
			})
		}
	})
	t.Run("after we cleaned up", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web", keeping(foreground))},
			func(c *cluster) {
				c.wantServed("web", true)
				c.change("web", deleting)
				c.change("web", annotate("example.com/x", "y"))
				c.wantServed("web", false)
				c.wantAddress("web", "")
				if got := c.get("web").Finalizers; !slices.Equal(got, []string{foreground}) {
					t.Errorf("finalizers %q", got)
				}
			})
	})
	t.Run("after somebody stripped ours", func(t *testing.T) {
		inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web", keeping(foreground))},
			func(c *cluster) {
				c.manager.failing(errAway)
				c.change("web", deleting)
				c.change("web", keeping(foreground))
				c.wantServed("web", true)
				c.manager.failing(nil)
				c.manager.observer.RoundDone(loadbalancer.Round{Reason: "repair"})
				c.settle()
				c.wantServed("web", false)
			})
	})
}

// The finalizer of a Service that another controller served before becomes ours too, so that it is known as such
// whatever happens.
func TestFinalizerIsClaimed(t *testing.T) {
	taken := named("taken", keeping(finalizer, "example.com/x"), addedBy("example-controller"))
	own := named("own", keeping(finalizer), addedBy(us))
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), taken, own, named("new")},
		func(c *cluster) {
			var claimed []string
			for _, action := range c.client.Actions() {
				patch, ok := action.(clienttesting.PatchAction)
				if !ok || patch.GetPatchType() != types.ApplyPatchType {
					continue
				}
				claimed = append(claimed, patch.GetName())
				want := `{"kind":"Service","apiVersion":"v1","metadata":{"name":"taken","namespace":"default",` +
					`"uid":"uid-uid-web","finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`
				if got := string(patch.GetPatch()); got != want || patch.GetSubresource() != "status" {
					t.Errorf("%s of %q, want %s of the status", got, patch.GetSubresource(), want)
				}
			}
			if !slices.Equal(claimed, []string{"taken"}) {
				t.Errorf("claimed the finalizers of %q, want that of taken", claimed)
			}
			c.wantServed("taken", true)
		})
}
