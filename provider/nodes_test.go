package provider

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

func worker(name string, addresses ...string) *v1.Node {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{},
		Annotations: map[string]string{}}}
	for _, a := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: name})
	return node
}

func TestChoose(t *testing.T) {
	prefix := netip.MustParsePrefix
	internal := config.Nodes{AddressType: "InternalIP"}
	label := func(value string) *v1.Node {
		node := worker("c", "192.0.2.23")
		node.Labels[v1.LabelNodeExcludeBalancers] = value
		return node
	}
	tests := []struct {
		name   string
		config config.Nodes
		nodes  []*v1.Node
		want   []desired.Node
		// why is a part of what is told when nothing is eligible, or of the one unusable node.
		why string
	}{
		{"sorted, IPv4 first, one of each family", internal,
			[]*v1.Node{worker("b", "2001:db8::2", "192.0.2.2", "192.0.2.3"), worker("a", "192.0.2.1")},
			[]desired.Node{{Name: "a", Addresses: []netip.Addr{addr("192.0.2.1")}},
				{Name: "b", Addresses: []netip.Addr{addr("192.0.2.2"), addr("2001:db8::2")}}}, ""},
		{"configured", config.Nodes{AddressType: "InternalIP",
			Addresses: map[string][]netip.Addr{"a": {addr("198.51.100.1")}}, CIDRs: []netip.Prefix{
				prefix("192.0.2.0/24")}},
			[]*v1.Node{worker("a", "192.0.2.1")}, []desired.Node{{Name: "a",
				Addresses: []netip.Addr{addr("198.51.100.1")}}}, ""},
		{"inside cidrs", config.Nodes{AddressType: "InternalIP", CIDRs: []netip.Prefix{prefix("198.51.100.0/24")}},
			[]*v1.Node{worker("a", "192.0.2.1", "198.51.100.1")}, []desired.Node{{Name: "a",
				Addresses: []netip.Addr{addr("198.51.100.1")}}}, ""},
		{"outside cidrs", config.Nodes{AddressType: "InternalIP", CIDRs: []netip.Prefix{prefix("198.51.100.0/24")}},
			[]*v1.Node{worker("a", "192.0.2.1")}, nil,
			"node a has no InternalIP inside 198.51.100.0/24 (nodes.cidrs of the cloud configuration), only " +
				"InternalIP 192.0.2.1, Hostname a; name its address in nodes.addresses of the cloud configuration, " +
				"or start its kubelet with --node-ip"},
		{"kubelet's --node-ip", internal, []*v1.Node{func() *v1.Node {
			node := worker("a", "192.0.2.1", "192.0.2.9")
			node.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.9"
			return node
		}()}, []desired.Node{{Name: "a", Addresses: []netip.Addr{addr("192.0.2.9")}}}, ""},
		{"link-local only", internal, []*v1.Node{worker("a", "fe80::1", "127.0.0.1")}, nil,
			"node a has no InternalIP, only"},
		{"configured link-local only", config.Nodes{AddressType: "InternalIP",
			Addresses: map[string][]netip.Addr{"a": {addr("169.254.7.7")}}},
			[]*v1.Node{worker("a")}, nil, "node a has no InternalIP, only"},
		{"no node", internal, nil, nil, "the cluster has no node"},
		{"all labelled", internal, []*v1.Node{label("")}, nil,
			"1 of 1 nodes carry the label node.kubernetes.io/exclude-from-external-load-balancers, which kubeadm " +
				"sets on control-plane nodes; if they shall serve: kubectl label node NAME " +
				"node.kubernetes.io/exclude-from-external-load-balancers-"},
		{"label says false", internal, []*v1.Node{label("false")},
			[]desired.Node{{Name: "c", Addresses: []netip.Addr{addr("192.0.2.23")}}}, ""},
		{"not ready", internal, []*v1.Node{func() *v1.Node {
			node := worker("a", "192.0.2.1")
			node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
			return node
		}()}, []desired.Node{{Name: "a", Addresses: []netip.Addr{addr("192.0.2.1")}}}, ""},
		{"being deleted", internal, []*v1.Node{func() *v1.Node {
			node, now := worker("a", "192.0.2.1"), metav1.Now()
			node.DeletionTimestamp = &now
			return node
		}()}, nil, "none of 1 nodes can serve"},
		{"about to be scaled away", internal, []*v1.Node{func() *v1.Node {
			node := worker("a", "192.0.2.1")
			node.Spec.Taints = []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
			return node
		}()}, nil, "none of 1 nodes can serve"},
		{"two with one address", internal, []*v1.Node{worker("b", "192.0.2.1"), worker("a", "192.0.2.1")},
			[]desired.Node{{Name: "a", Addresses: []netip.Addr{addr("192.0.2.1")}}}, "node b: its address 192.0.2.1 " +
				"is that of node a"},
		{"a gateway's address", internal, []*v1.Node{worker("a", "192.0.2.100")}, nil,
			"node a: its address 192.0.2.100 is that of gateway gw1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := chooser{addresses: nodeAddresses{test.config},
				gateways: map[netip.Addr]string{addr("192.0.2.100"): "gw1"}}
			var before []*v1.Node
			for _, node := range test.nodes {
				before = append(before, node.DeepCopy())
			}
			got := c.choose(test.nodes)
			if diff := cmp.Diff(before, test.nodes); diff != "" {
				t.Errorf("the Nodes were written, or their order:\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got.eligible, equalAddresses); diff != "" {
				t.Errorf("eligible (-want +got):\n%s", diff)
			}
			if told := got.noneEligible(); !strings.Contains(told, test.why) {
				t.Errorf("told %q\nwant  %q in it", told, test.why)
			}
		})
	}
}

type resolver map[string][]netip.Addr

func (r resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if found, known := r[host]; known {
		return found, nil
	}
	return nil, errors.New("no such host")
}

func TestInstanceMetadata(t *testing.T) {
	tainted := func(node *v1.Node) *v1.Node {
		node.Spec.Taints = []v1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized"}}
		return node
	}
	inside := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	tests := []struct {
		name   string
		config config.Nodes
		node   *v1.Node
		want   []string
		err    string
	}{
		{"host name only, looked up", config.Nodes{AddressType: "InternalIP", CIDRs: inside}, tainted(worker("known")),
			[]string{"InternalIP 192.0.2.5", "Hostname known"}, ""},
		{"host name only, configured", config.Nodes{AddressType: "ExternalIP",
			Addresses: map[string][]netip.Addr{"a": {addr("192.0.2.9")}}}, tainted(worker("a")),
			[]string{"ExternalIP 192.0.2.9", "Hostname a"}, ""},
		{"kubelet's --node-ip", config.Nodes{AddressType: "InternalIP"}, tainted(func() *v1.Node {
			node := worker("a")
			node.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.8"
			return node
		}()), []string{"InternalIP 192.0.2.8", "Hostname a"}, ""},
		{"configured and --node-ip", config.Nodes{AddressType: "InternalIP",
			Addresses: map[string][]netip.Addr{"a": {addr("192.0.2.9")}}}, tainted(func() *v1.Node {
			node := worker("a")
			node.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.8"
			return node
		}()), []string{"InternalIP 192.0.2.9", "InternalIP 192.0.2.8", "Hostname a"}, ""},
		{"a kubelet that keeps its own list", config.Nodes{AddressType: "InternalIP",
			Addresses: map[string][]netip.Addr{"a": {addr("192.0.2.9")}}}, worker("a", "192.0.2.1"),
			[]string{"InternalIP 192.0.2.1", "Hostname a"}, ""},
		{"another --node-ip than before", config.Nodes{AddressType: "InternalIP"}, func() *v1.Node {
			node := worker("a", "192.0.2.1")
			node.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.8"
			node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP,
				Address: "198.51.100.1"})
			return node
		}(), []string{"InternalIP 192.0.2.8", "Hostname a", "ExternalIP 198.51.100.1"}, ""},
		{"the --node-ip of before", config.Nodes{AddressType: "InternalIP"}, func() *v1.Node {
			node := worker("a", "192.0.2.1", "192.0.2.8")
			node.Annotations["alpha.kubernetes.io/provided-node-ip"] = "192.0.2.8"
			return node
		}(), []string{"InternalIP 192.0.2.1", "InternalIP 192.0.2.8", "Hostname a"}, ""},
		{"nothing known, no network named", config.Nodes{AddressType: "InternalIP"}, tainted(worker("known")), nil,
			"node known has no InternalIP, only Hostname known; name its address in nodes.addresses of the cloud " +
				"configuration, or start its kubelet with --node-ip, or name the node's network in nodes.cidrs, so " +
				"that its host name may be looked up"},
		{"unknown host", config.Nodes{AddressType: "InternalIP", CIDRs: inside}, tainted(worker("stranger")), nil,
			"looking up stranger: no such host"},
		{"host outside", config.Nodes{AddressType: "InternalIP", CIDRs: inside}, tainted(worker("outside")), nil,
			"DNS says outside is 198.51.100.1, which is outside"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			recorder := record.NewFakeRecorder(1)
			i := &instances{config: test.config, recorder: recorder, resolver: resolver{
				"known": {addr("198.51.100.5"), addr("192.0.2.5")}, "outside": {addr("198.51.100.1")}}}
			got, err := i.InstanceMetadata(t.Context(), test.node)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v\nwant %s", err, test.err)
				}
				if event := <-recorder.Events; !strings.HasPrefix(event, "Warning NoNodeAddress") ||
					!strings.Contains(event, test.err) {
					t.Errorf("event %q", event)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var addresses []string
			for _, a := range got.NodeAddresses {
				addresses = append(addresses, string(a.Type)+" "+a.Address)
			}
			if !slices.Equal(addresses, test.want) {
				t.Errorf("addresses %q, want %q", addresses, test.want)
			}
			if want := "haproxy://" + test.node.Name; got.ProviderID != want {
				t.Errorf("provider ID %s, want %s", got.ProviderID, want)
			}
		})
	}
}
