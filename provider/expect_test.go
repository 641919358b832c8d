package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// eventsOf gives "Reason: message" of the events of one type about an object, sorted.
func (c *cluster) eventsOf(name, kind string) []string {
	c.t.Helper()
	list, err := c.client.CoreV1().Events("").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	told := map[string]bool{}
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name && e.Type == kind {
			told[e.Reason+": "+e.Message] = true
		}
	}
	return slices.Sorted(maps.Keys(told))
}

// events gives "Reason: message" of the Warning events about an object, sorted.
func (c *cluster) events(name string) []string {
	c.t.Helper()
	return c.eventsOf(name, v1.EventTypeWarning)
}

// countTries gives how often the service controller has tried the Service.
func (c *cluster) countTries(name string) int {
	c.t.Helper()
	list, err := c.client.CoreV1().Events("").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	tries := 0
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name && e.Reason == "EnsuringLoadBalancer" {
			tries += int(e.Count)
		}
	}
	return tries
}

func (c *cluster) wantNormalEvent(name, part string) {
	c.t.Helper()
	all := c.eventsOf(name, v1.EventTypeNormal)
	if !slices.ContainsFunc(all, func(e string) bool { return strings.Contains(e, part) }) {
		c.t.Errorf("no event of %s says %q; there are:\n%s", name, part, strings.Join(all, "\n"))
	}
}

// series gives the value of a metric of ours with these labels, in any order of the registry's.
func (c *cluster) series(name, labels string) (value float64, found bool) {
	c.t.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "cloud_provider_haproxy_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			var pairs []string
			for _, l := range m.GetLabel() {
				pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if strings.Join(pairs, ",") == labels {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

func (c *cluster) wantMetric(name, labels string, want float64) {
	c.t.Helper()
	if got, found := c.series(name, labels); !found || got != want {
		c.t.Errorf("metric %s{%s} is %v (there: %v), want %v", name, labels, got, found, want)
	}
}

func (c *cluster) wantEvent(name, part string) {
	c.t.Helper()
	all := c.events(name)
	if !slices.ContainsFunc(all, func(e string) bool { return strings.Contains(e, part) }) {
		c.t.Errorf("no event of %s says %q; there are:\n%s", name, part, strings.Join(all, "\n"))
	}
}

func (c *cluster) wantAddress(name, want string) {
	c.t.Helper()
	if got := fmt.Sprint(published(c.get(name))); got != "["+want+"]" {
		c.t.Errorf("%s has addresses %s, want [%s]", name, got, want)
	}
}

func (c *cluster) wantFinalizer(name string, want bool) {
	c.t.Helper()
	if got := hasFinalizer(c.get(name)); got != want {
		c.t.Errorf("%s has the cleanup finalizer: %v, want %v", name, got, want)
	}
}

// wantUnwritten compares what the informers hold with what the API server has: nobody wrote to an object that others
// read (invariant 9).
func (c *cluster) wantUnwritten() {
	c.t.Helper()
	held := map[string]any{}
	for kind, store := range map[string]cache.Store{
		"Service": c.cloud.services.real.Informer().GetStore(),
		"Node":    c.cloud.nodesOf.Informer().GetStore(), "Namespace": c.cloud.namespaces.Informer().GetStore(),
	} {
		for _, object := range store.List() {
			held[kind+" "+object.(metav1.Object).GetNamespace()+"/"+object.(metav1.Object).GetName()] = object
		}
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		var current any
		var err error
		switch object := held[name].(type) {
		case *v1.Service:
			current, err = c.client.CoreV1().Services(object.Namespace).Get(c.t.Context(), object.Name,
				metav1.GetOptions{})
		case *v1.Node:
			current, err = c.client.CoreV1().Nodes().Get(c.t.Context(), object.Name, metav1.GetOptions{})
		case *v1.Namespace:
			current, err = c.client.CoreV1().Namespaces().Get(c.t.Context(), object.Name, metav1.GetOptions{})
		}
		if err != nil {
			c.t.Error(err)
		} else if diff := cmp.Diff(current, held[name]); diff != "" {
			c.t.Errorf("%s was written in the informer's store (-API server +informer):\n%s", name, diff)
		}
	}
}
