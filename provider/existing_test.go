package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A few Services are asked for by name, many are looked for page by page: nobody asks an API server that has much to do for all at once.
func TestExistingServices(t *testing.T) {
	objects := []runtime.Object{worker("a", "192.0.2.21"), named("other", class("example.com/other")), named("going", keeping(finalizer), deleting)}
	for i := range 1200 { // most of a cluster's are somebody else's
		svc := named(fmt.Sprintf("web-%04d", i), class("example.com/other"))
		if i%100 == 7 {
			svc.Spec.LoadBalancerClass = nil
		}
		objects = append(objects, svc)
	}
	few := []desired.Key{key("gone"), key("going"), key("other"), key("web-0007")}
	var many []desired.Key
	for i := range 600 {
		many = append(many, key(fmt.Sprintf("web-%04d", i)), key(fmt.Sprintf("gone-%d", i)))
	}
	inCluster(t, testConfig, nil, objects, func(c *cluster) {
		var pages []int
		c.client.PrependReactor("list", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
			options := action.(clienttesting.ListActionImpl).GetListOptions()
			all, err := c.client.Tracker().List(action.GetResource(), v1.SchemeGroupVersion.WithKind("Service"), "")
			if err != nil {
				return true, nil, err
			}
			list := all.(*v1.ServiceList)
			var from int
			if options.Continue != "" {
				if _, err := fmt.Sscan(options.Continue, &from); err != nil {
					return true, nil, err
				}
			}
			if options.ResourceVersion != "" || options.Limit == 0 {
				return true, nil, errors.NewBadRequest("only pages of what etcd has now are asked for")
			}
			to := min(from+int(options.Limit), len(list.Items))
			if to < len(list.Items) {
				list.Continue = fmt.Sprint(to)
			}
			list.Items = list.Items[from:to]
			pages = append(pages, len(list.Items))
			return true, list, nil
		})
		for _, test := range []struct {
			keys        []desired.Key
			found       int
			gets, pages int
		}{{few, 1, len(few), 0}, {many, 6, 0, 3}} {
			c.client.ClearActions()
			pages = nil
			found, err := c.manager.settings.Existing(c.t.Context(), test.keys)
			if err != nil {
				t.Fatal(err)
			}
			gets := 0
			for _, action := range c.client.Actions() {
				if action.Matches("get", "services") {
					gets++
				}
			}
			if len(found) != test.found || gets != test.gets || len(pages) != test.pages {
				t.Errorf("of %d Services %d were found by %d questions and pages of %v; want %d by %d and %d pages", len(test.keys), len(found), gets,
					pages, test.found, test.gets, test.pages)
			}
			for _, r := range found {
				if !slices.Contains(test.keys, r.Key) || r.Service == nil {
					t.Errorf("found %+v", r)
				}
			}
		}
	})
}

// Who cannot be asked about is not taken for gone.
func TestExistingServicesOfAnAPIServerThatIsAway(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{named("web")}, func(c *cluster) {
		away := true
		defer func() { away = false }()
		for _, verb := range []string{"get", "list"} {
			c.client.PrependReactor(verb, "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				return away, nil, errors.NewServerTimeout(v1.Resource("services"), verb, 1)
			})
		}
		if found, err := c.manager.settings.Existing(c.t.Context(), []desired.Key{key("web")}); err == nil {
			t.Errorf("found %v", found)
		}
		if found, err := c.manager.settings.Existing(c.t.Context(), make([]desired.Key, getsMost+1)); err == nil {
			t.Errorf("found %v", found)
		}
	})
}

func (m *manager) Published(key desired.Key, addresses []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.published[key] = addresses
}

// What statuses say is told to Manager: the ledger need not remember it.
func TestStatusesAreTold(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web"), named("other", class("example.com/other"))}, func(c *cluster) {
		c.wantAddress("web", "192.0.2.64")
		time.Sleep(statusPatrol)
		synctest.Wait()
		if got := c.manager.published; len(got) != 1 || !slices.Equal(got[key("web")], addrs("192.0.2.64")) {
			t.Errorf("told %v", got)
		}
	})
}
