package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What is kept and can be had by nobody is told when it is read, again when that has changed, and not at each resync.
func TestLedgerEntriesThatDoNothing(t *testing.T) {
	configuration := strings.Replace(testConfig, "[192.0.2.64/26]",
		"[192.0.2.0/27, 192.0.2.64/26], exclude: [192.0.2.80]", 1)
	narrow, wide := policyOf(t, configuration), policyOf(t,
		configuration+"- {name: more, addresses: [192.0.2.192/28]}\n")
	const (
		slip = "kept:\n- {address: 192.0.2.70, service: default/fine}\n- {address: 192.0.2.200, service: " +
			"default/slip}\n"
		more = "- {address: 192.0.2.2, service: default/a}\n- {address: 192.0.2.80, service: default/b}\n- {address: " +
			"192.0.2.127, service: default/c}\n"
	)
	many, idle := "kept:\n", []string{}
	for i := range 10 {
		many += fmt.Sprintf("- {address: 198.51.100.%d, service: default/web}\n", i)
		idle = append(idle, fmt.Sprintf("198.51.100.%d for default/web, which lies in no pool", i))
	}
	var told []string
	store := &ledgerStore{notice: func(text string) { told = append(told, text) }}
	for _, step := range []struct {
		name    string
		policy  *policy
		content string
		want    string // the entries that are told; empty: nothing is told
	}{
		{"a fault comes first", narrow, strings.Replace(slip, "192.0.2.70", "192.0.2.700", 1), ""},
		{"a slip", narrow, slip, "192.0.2.200 for default/slip, which lies in no pool"},
		{"the same", narrow, slip, ""},
		{"more", narrow, slip + more, "192.0.2.2 for default/a, which is excluded: VRRP address of gateway gw1; " +
			"192.0.2.80 for default/b, which is excluded: exclude of pool main; " +
			"192.0.2.127 for default/c, which is excluded: broadcast address of 192.0.2.64/26; " +
			"192.0.2.200 for default/slip, which lies in no pool"},
		{"a pool of that", wide, slip, ""},
		{"the pool is gone", narrow, slip, "192.0.2.200 for default/slip, which lies in no pool"},
		{"deleted", narrow, "", ""},
		{"the slip again", narrow, slip, "192.0.2.200 for default/slip, which lies in no pool"},
		{"many", narrow, many, strings.Join(idle[:8], "; ") + "; and 2 more"},
	} {
		store.client, store.never, told = swapping(ledgerObject(step.content)), step.policy.never, nil
		if _, err := store.Read(t.Context()); (err != nil) != strings.Contains(step.content, "700") {
			t.Errorf("%s: %v", step.name, err)
		}
		var want []string
		if step.want != "" {
			want = []string{"ConfigMap kube-system/cloud-provider-haproxy-addresses, addresses.yaml: what is kept " +
				"here is of no use, for no " +
				"Service can have it: " + step.want + "; delete the entries (kubectl -n kube-system edit configmap " +
				"cloud-provider-haproxy-addresses), or give the addresses to a pool"}
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// It is told as an Event, of the pools as they are now.
func TestLedgerEntriesThatLoseTheirPool(t *testing.T) {
	object := ledgerObject("kept:\n- {address: 192.0.2.130, service: default/web}\n")
	inCluster(t, withGold, nil, []runtime.Object{object}, func(c *cluster) {
		read := func() {
			t.Helper()
			if _, err := c.ledger.Read(t.Context()); err != nil {
				t.Error(err)
			}
			c.settle()
		}
		read()
		for _, event := range c.events(EpochName) {
			if strings.HasPrefix(event, "AddressLedger") {
				t.Errorf("of an address of pool gold: %s", event)
			}
		}
		c.reload(testConfig)
		read()
		c.wantEvent(EpochName, "AddressLedger: ConfigMap "+metav1.NamespaceSystem+"/"+LedgerName+", addresses.yaml: "+
			"what is kept here is of no use, "+
			"for no Service can have it: 192.0.2.130 for default/web, which lies in no pool; delete the entries")
	})
}
