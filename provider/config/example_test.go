package config

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/test/manual"
)

// poolsOfReadme are what somebody copies who has read nothing else.
const poolsOfReadme = `pools:
- name: main                                  # for everybody
  addresses: [192.0.2.64/26, "2001:db8::/64"]
  exclude: [192.0.2.70-192.0.2.79]            # somebody else uses these
- name: shop                                  # for namespace shop and those labelled team=shop, before main
  addresses: [198.51.100.10-198.51.100.20]
  namespaces: [shop]
  namespaceSelector: team=shop
- name: gold                                  # for who names it or one of its addresses
  addresses: [203.0.113.8/29]
  autoAssign: false
reservations:
  192.0.2.100: default/web                    # for Service web of namespace default alone
`

func TestExampleOfPools(t *testing.T) {
	head, _, _ := strings.Cut(base, "pools:\n")
	c, err := Decode([]byte(head + poolsOfReadme))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.AddressPools()) != 3 || !c.Pools[1].Pinned() || len(c.AddressReservations()) != 1 {
		t.Errorf("the example is not what its comments say: %+v", c)
	}
	manual.Hold(t, "example of pools", "```yaml\n"+poolsOfReadme+"```\n", "go test ./provider/config -run TestExampleOfPools", *update)
}
