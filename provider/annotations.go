package provider

import (
	"slices"
	"strings"
)

// Prefix begins the key of every annotation that we read.
const Prefix = "cloud-provider-haproxy/"

// Annotation is the key of a Service's annotation. The doc comment of each constant is its manual: README.md's table is
// made from them, see reference_test.go.
type Annotation string

const (
	// LoadBalancerIPs requests addresses by name: one IPv4 address, one IPv6 address, or both with a comma between
	// (`192.0.2.70` or `192.0.2.70,2001:db8::70`). They must lie in a pool that admits the Service, and be free. A
	// changed value moves the Service. The older field `spec.loadBalancerIP` does the same for one address; if both are
	// set they must agree. Default: an address of the first pool that has one.
	LoadBalancerIPs Annotation = Prefix + "load-balancer-ips"
	// AddressPool names the pools that addresses are taken from: one, or several with commas between, in the order in
	// which they are asked (`gold` or `gold,silver`). Each must exist and admit the Service. When the annotation is
	// changed, a Service whose address lies in none of them gets another one; when the pools are changed it keeps the
	// address, and an Event says so. Default: first the pools that choose their Services and admit this one,
	// then the others that assign addresses unasked, each by priority.
	AddressPool Annotation = Prefix + "address-pool"
	// AllowSharedIP lets Services share an address: those that say the same key here, any text (`frontend`), while no
	// two of them have the same port of the same protocol. Only Services of one namespace share, unless the address'
	// pool has `shareAcrossNamespaces: true`. The key can be changed while nobody else has the address. Default: the
	// Service's addresses are its own.
	AllowSharedIP Annotation = Prefix + "allow-shared-ip"
	// DenySourceRanges names clients that may not connect, whatever `spec.loadBalancerSourceRanges` allows: IPv4 and
	// IPv6 ranges with commas between (`198.51.100.0/24,2001:db8:66::/48`). The gateways refuse their connections at
	// once; those that are established are reset after 30 seconds. Pods of the cluster are refused only if `ipMode` is
	// `Proxy`: else kube-proxy answers them, which knows `spec.loadBalancerSourceRanges` alone. Default: nobody is
	// denied.
	DenySourceRanges Annotation = Prefix + "deny-source-ranges"
	// KeepIP with `true` keeps the Service's addresses for it when it is deleted, or is no longer of type LoadBalancer:
	// only a Service of the same namespace and name gets them, until somebody deletes their entries in the ConfigMap
	// `kube-system/cloud-provider-haproxy-addresses`. `true` or `false`. Default `false`.
	KeepIP Annotation = Prefix + "keep-ip"
	// NodeSelector names the nodes that get the Service's connections by their labels, written as for `kubectl get nodes
	// -l` (`zone=a,disk in (ssd, nvme),!legacy`). Labels of nodes are followed: a node that matches no longer gets no new
	// connection at once. If no node matches, connections are refused; so they are when none of those that match passes
	// the health check. Default: all nodes.
	NodeSelector Annotation = Prefix + "node-selector"
)

// annotations gives every key that we read, sorted.
func annotations() []Annotation {
	return []Annotation{AddressPool, AllowSharedIP, DenySourceRanges, KeepIP, LoadBalancerIPs, NodeSelector}
}

// unknownAnnotations gives the keys with our prefix that nobody reads, sorted.
func unknownAnnotations(all map[string]string) []string {
	var unknown []string
	for key := range all {
		if strings.HasPrefix(key, Prefix) && !slices.Contains(annotations(), Annotation(key)) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// nearest gives the known key with the fewest edits to key.
func nearest(key string) Annotation {
	return slices.MinFunc(annotations(), func(a, b Annotation) int {
		return edits(key, string(a)) - edits(key, string(b))
	})
}

// edits is Levenshtein's distance: how many letters must be added, removed or replaced to make a into b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
