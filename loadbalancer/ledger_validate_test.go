package loadbalancer_test

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// TestLedgerNamesItsFields as they are written for people, whatever State calls them.
func TestLedgerNamesItsFields(t *testing.T) {
	address := addresses("10.0.0.1")[0]
	good, bad := ipam.Owner(key("a")), ipam.Owner{Namespace: "default", Name: "A"}
	for want, ledger := range map[string]loadbalancer.Ledger{
		"": {Kept: []ipam.Reservation{{Address: address, Owner: good}}, Quarantined: []loadbalancer.Quarantine{{Address: address, By: "x"}},
			Releasing: []desired.Releasing{{Address: address, Owner: key("b"), SinceEpoch: 1}}},
		`kept[0].address: 127.0.0.1 is a loopback address`: {Kept: []ipam.Reservation{{Address: addresses("127.0.0.1")[0], Owner: good}}},
		`kept[1].service: "A" is no DNS label`: {Kept: []ipam.Reservation{{Address: address, Owner: good},
			{Address: address, Owner: bad}}},
		`kept[1]: 10.0.0.1 is there twice for default/a`: {Kept: []ipam.Reservation{{Address: address, Owner: good},
			{Address: address, Owner: good}}},
		`releasing[0].service: "A" is no DNS label`:                                 {Releasing: []desired.Releasing{{Address: address, Owner: desired.Key(bad), SinceEpoch: 1}}},
		`quarantined[1].address: 10.0.0.1 stands there twice; addresses are unique`: {Quarantined: []loadbalancer.Quarantine{{Address: address}, {Address: address}}},
	} {
		got := ""
		if err := ledger.Validate(); err != nil {
			got = err.Error()
		}
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
