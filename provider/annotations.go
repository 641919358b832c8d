package provider

import (
	"slices"
	"strings"
)

// Prefix begins the key of every annotation that we read.
const Prefix = "cloud-provider-haproxy/"

// Annotation is the key of a Service's annotation. The doc comment of each constant is its manual: README.md's table is made
// from them, see reference_test.go.
type Annotation string

const (
	// LoadBalancerIPs requests addresses by name: one IPv4 address, one IPv6 address, or both with a comma between (`192.0.2.70` or `192.0.2.70,2001:db8::70`). They must lie in a pool and be free. The older field `spec.loadBalancerIP` does the same for one address; if both are set they must agree. Default: an address of the first pool that has one.
	LoadBalancerIPs Annotation = Prefix + "load-balancer-ips"
)

// annotations gives every key that we read, sorted.
func annotations() []Annotation { return []Annotation{LoadBalancerIPs} }

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
