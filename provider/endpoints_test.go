package provider

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is a pod's endpoint as the endpoint slice controller writes it; a pod that terminates is never ready.
func pod(address, node string, serves, terminates bool) discoveryv1.Endpoint {
	ready := serves && !terminates
	return discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serves, Terminating: &terminates}}
}

// podsOf is an EndpointSlice of a Service, of IPv4 addresses.
func podsOf(service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service + "-x7k2p", Labels: map[string]string{
			discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
	}
}

func TestRankOf(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		ready, serving, terminating *bool
		want                        endpointRank
	}{
		{&yes, &yes, &no, readyEndpoint},
		{nil, nil, nil, readyEndpoint},     // EndpointConditions: nil is to be taken for ready
		{&yes, &yes, &yes, readyEndpoint},  // publishNotReadyAddresses
		{&no, &yes, &yes, servingEndpoint}, // KEP-1672
		{&no, nil, &yes, servingEndpoint},
		{&no, &no, &yes, otherEndpoint},
		{&no, &no, &no, otherEndpoint},
		{&no, &yes, nil, otherEndpoint},
		{&no, &yes, &no, otherEndpoint},
	} {
		if got := rankOf(discoveryv1.EndpointConditions{Ready: test.ready, Serving: test.serving, Terminating: test.terminating}); got != test.want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
}

func TestCountEndpoints(t *testing.T) {
	nowhere := pod("10.1.0.9", "", true, false)
	nowhere.NodeName = nil
	six := podsOf("web", pod("fd00:1::1", "a", true, false))
	six.AddressType = discoveryv1.AddressTypeIPv6
	names := podsOf("web", pod("pod.example.net", "a", true, false))
	names.AddressType = discoveryv1.AddressTypeFQDN
	got := countEndpoints([]*discoveryv1.EndpointSlice{
		podsOf("web", pod("10.1.0.1", "a", true, false), pod("10.1.0.2", "a", true, true), pod("10.1.0.3", "b", true, true),
			pod("10.1.0.4", "c", false, false), pod("10.1.0.5", "d", false, true), nowhere, discoveryv1.Endpoint{}),
		podsOf("web", pod("10.1.0.1", "a", true, false), pod("10.1.0.6", "a", true, false), // the first one moves to another slice
			pod("10.1.0.4", "c", true, false)), // and this slice is the newer one
		six, names,
	})
	want := localEndpoints{
		{"a", false}: {ready: 2, serving: 1}, {"a", true}: {ready: 1}, {"b", false}: {serving: 1}, {"c", false}: {ready: 1},
		{"d", false}: {others: 1},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(place{}, podCounts{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServersByEndpoints(t *testing.T) {
	at := func(counts map[string]podCounts) localEndpoints {
		all := localEndpoints{}
		for node, c := range counts {
			all[place{node, false}] = c
		}
		return all
	}
	for name, test := range map[string]struct {
		endpoints localEndpoints
		want      []string
	}{
		"none":                      {nil, nil},
		"one each":                  {at(map[string]podCounts{"a": {ready: 1}, "b": {ready: 1}}), []string{"a 1", "b 1"}},
		"uneven":                    {at(map[string]podCounts{"a": {ready: 3, serving: 2}, "b": {ready: 1}}), []string{"a 3", "b 1"}},
		"the last of a node leaves": {at(map[string]podCounts{"a": {serving: 2, others: 1}, "b": {ready: 1}}), []string{"a 2 backup", "b 1"}},
		"all leave":                 {at(map[string]podCounts{"a": {serving: 2}, "b": {serving: 1}}), []string{"a 2 backup", "b 1 backup"}},
		"not ready":                 {at(map[string]podCounts{"a": {others: 4}, "b": {ready: 2}}), []string{"a 1 drains", "b 2"}},
		"256 is the most":           {at(map[string]podCounts{"a": {ready: 256}, "b": {ready: 255}}), []string{"a 256", "b 255"}},
		"scaled":                    {at(map[string]podCounts{"a": {ready: 1000}, "b": {ready: 500}}), []string{"a 256", "b 128"}},
		"never nothing":             {at(map[string]podCounts{"a": {ready: 5000}, "b": {ready: 1}}), []string{"a 256", "b 1"}},
		"a node that gets none":     {at(map[string]podCounts{"z": {ready: 5}, "b": {ready: 2}}), []string{"b 2"}},
		"the other family":          {localEndpoints{{"a", true}: {ready: 1}, {"b", false}: {ready: 1}}, []string{"b 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, server := range test.endpoints.servers(twoNodes(), 0) {
				text := fmt.Sprintf("%s %d", server.Name, server.Weight)
				if server.Backup {
					text += " backup"
				}
				if server.Drains {
					text += " drains"
				}
				got = append(got, text)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
