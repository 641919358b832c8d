package provider

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// TestKnobsAreValid: whatever annotations say, what is taken here a State takes too. Else the Service's owner would be told a field
// of the State, and not which annotation is wrong (invariant 7).
func TestKnobsAreValid(t *testing.T) {
	// Words that some annotation takes, so that values are often nearly right.
	values := []string{"", "0", "1", "80", "100", "101", "65535", "65536", "10000000", "10000001", "true", "tcp", "http", "https", "none", "source",
		"leastconn", "v1", "443=v2", "http=v1,443=v2", "1ms", "50ms", "100ms", "500ms", "1.5s", "1s", "30s", "1m", "1h", "24h", "25h", "168h", "/", "/a b",
		"/live;deep", "/x#y", "/a?b=c,d", "lb.example.com", "192.0.2.70", "2001:db8::/32", "0.0.0.0/0", "10.0.0.0/8,10.1.0.0/16", "::ffff:10.0.0.0/104", "x in (y)"}
	forms := []func(*v1.Service){
		func(*v1.Service) {}, localAt(32000), noNodePorts, ported(map[int32]v1.Protocol{53: v1.ProtocolUDP}),
		ported(map[int32]v1.Protocol{53: v1.ProtocolUDP, 80: v1.ProtocolTCP, 99: v1.ProtocolSCTP}),
	}
	for _, key := range annotations() {
		t.Run(strings.TrimPrefix(string(key), Prefix), func(t *testing.T) {
			taken := 0
			rapid.Check(t, func(r *rapid.T) {
				svc := web(rapid.SampledFrom(forms).Draw(r, "form"))
				others := rapid.SliceOfNDistinct(rapid.SampledFrom(annotations()), 0, 1, rapid.ID).Draw(r, "others")
				for _, key := range slices.Compact(append(others, key)) {
					word := rapid.SampledFrom(values)
					value := rapid.OneOf(word, word, word, rapid.String(), rapid.StringMatching(`/[!-~]{0,300}`)).Draw(r, string(key))
					annotate(string(key), value)(svc)
				}
				translator := testTranslator()
				translator.pods = testPods()
				translator.nodeCheck = desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3}
				got, err := translator.translate(svc, among(twoNodes()))
				if err != nil {
					return
				}
				taken++
				if err := stateOf(t, got.service.LoadBalancer).Validate(); err != nil {
					r.Errorf("annotations %q are taken, and no State takes what they mean: %v", svc.Annotations, err)
				}
			})
			t.Logf("%d were taken", taken)
		})
	}
}
