package provider

import (
	"net/netip"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// server is a Node as kubeadm labels those with an API server.
func server(name string, addresses ...string) *v1.Node {
	node := worker(name, addresses...)
	node.Labels[controlPlaneLabel], node.Labels[v1.LabelNodeExcludeBalancers] = "", ""
	return node
}

func endpoints(texts ...string) (all []netip.AddrPort) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

func TestAPIServers(t *testing.T) {
	internal := config.Nodes{AddressType: "InternalIP"}
	with := func(node *v1.Node, change func(*v1.Node)) *v1.Node {
		change(node)
		return node
	}
	for _, test := range []struct {
		name   string
		config config.Nodes
		static []netip.AddrPort
		nodes  []*v1.Node
		want   []netip.AddrPort
	}{
		{"with the label, sorted, at the endpoints' port", internal, endpoints("192.0.2.11:7443"),
			[]*v1.Node{server("b", "192.0.2.13"), worker("w", "192.0.2.21"), server("a", "192.0.2.12")}, endpoints("192.0.2.12:7443", "192.0.2.13:7443")},
		{"not ready", internal, endpoints("192.0.2.11:6443"), []*v1.Node{with(server("a", "192.0.2.12"), func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}
		})}, endpoints("192.0.2.12:6443")},
		{"being deleted", internal, endpoints("192.0.2.11:6443"), []*v1.Node{with(server("a", "192.0.2.12"), func(n *v1.Node) {
			now := metav1.Now()
			n.DeletionTimestamp = &now
		})}, nil},
		{"named in the configuration by another address", internal, endpoints("[2001:db8::11]:6443"), []*v1.Node{server("a", "192.0.2.11", "2001:db8::11")}, nil},
		{"of the endpoints' family", internal, endpoints("[2001:db8::11]:6443"), []*v1.Node{server("a", "192.0.2.12", "2001:db8::12")}, endpoints("[2001:db8::12]:6443")},
		{"of the other family alone", internal, endpoints("[2001:db8::11]:6443"), []*v1.Node{server("a", "192.0.2.12")}, endpoints("192.0.2.12:6443")},
		{"at the configured address", config.Nodes{AddressType: "InternalIP", Addresses: map[string][]netip.Addr{"a": {addr("198.51.100.12")}}},
			endpoints("192.0.2.11:6443"), []*v1.Node{server("a", "192.0.2.12")}, endpoints("198.51.100.12:6443")},
		{"without an address", internal, endpoints("192.0.2.11:6443"), []*v1.Node{server("a")}, nil},
		{"at the floating address", internal, endpoints("192.0.2.11:6443"), []*v1.Node{server("a", "192.0.2.9")}, nil},
		{"at a gateway's address", internal, endpoints("192.0.2.11:6443"), []*v1.Node{server("a", "192.0.2.100")}, nil},
		{"two with one address", internal, endpoints("192.0.2.11:6443"), []*v1.Node{server("a", "192.0.2.12"), server("b", "192.0.2.12")}, endpoints("192.0.2.12:6443")},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := chooser{addresses: nodeAddresses{test.config}, gateways: map[netip.Addr]string{addr("192.0.2.100"): "gw1"},
				controlPlane: &desired.ControlPlane{Address: addr("192.0.2.9"), Endpoints: test.static}}
			if got := c.choose(test.nodes); !slices.Equal(got.apiServers, test.want) || len(got.eligible) > 0 && got.eligible[0].Name != "w" {
				t.Errorf("API servers %v, want %v; eligible %v", got.apiServers, test.want, got.eligible)
			}
			c.controlPlane = nil
			if got := c.choose(test.nodes); got.apiServers != nil {
				t.Errorf("nobody asked for API servers, and there are %v", got.apiServers)
			}
		})
	}
}

// Manager is told of API servers before it is told of nodes, which lets rounds begin, and again when their Nodes change.
func TestAPIServersFollowTheNodes(t *testing.T) {
	const from = testConfig + "controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.11], endpointsFromNodes: true}\n"
	inCluster(t, from, nil, []runtime.Object{worker("w", "192.0.2.21"), server("a", "192.0.2.12")}, func(c *cluster) {
		if s := c.manager.settings; !s.EndpointsFromNodes || !slices.Equal(s.ControlPlane.Endpoints, endpoints("192.0.2.11:6443")) {
			t.Errorf("settings: %+v", s)
		}
		told := func() []netip.AddrPort {
			c.settle()
			c.manager.mu.Lock()
			defer c.manager.mu.Unlock()
			return c.manager.endpoints[len(c.manager.endpoints)-1]
		}
		if got := told(); !slices.Equal(got, endpoints("192.0.2.12:6443")) {
			t.Errorf("told %v", got)
		}
		nodes := c.client.CoreV1().Nodes()
		if _, err := nodes.Create(t.Context(), server("b", "192.0.2.13"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := told(); !slices.Equal(got, endpoints("192.0.2.12:6443", "192.0.2.13:6443")) {
			t.Errorf("told %v", got)
		}
		if err := nodes.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := told(); !slices.Equal(got, endpoints("192.0.2.13:6443")) {
			t.Errorf("told %v", got)
		}
		c.manager.mu.Lock()
		defer c.manager.mu.Unlock()
		if n := len(c.manager.nodes); n != 1 {
			t.Errorf("nodes were told %d times, and the workers did not change", n)
		}
	})
}
