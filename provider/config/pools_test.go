package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"cloud-provider-haproxy/ipam"
)

// onePool is the entry of base's only pool, which the tests replace.
const onePool = "- {name: main, addresses: [192.0.2.64/26]}\n"

func TestPoolFaults(t *testing.T) {
	const form = "; labels as for kubectl get -l (team=web,stage in (prod, test),!legacy) are allowed"
	tests := map[string]struct {
		pools string   // the lines below "pools:"
		want  []string // all faults
	}{
		"upside down, in both lists": {"- {name: main, addresses: [192.0.2.90-192.0.2.80], exclude: [192.0.2.86-192.0.2.85]}\n", []string{
			`pools[0].addresses[0]: address range "192.0.2.90-192.0.2.80": is upside down; did you mean 192.0.2.80-192.0.2.90?`,
			`pools[0].exclude[0]: address range "192.0.2.86-192.0.2.85": is upside down; did you mean 192.0.2.85-192.0.2.86?`}},
		"overlaps, in one pool and of two": {"- {name: main, addresses: [192.0.2.64/26, 192.0.2.70]}\n- {name: second, addresses: [192.0.2.60-192.0.2.64]}\n", []string{
			"pools[0].addresses[0]: 192.0.2.64/26 overlaps 192.0.2.60-192.0.2.64 of pools[1].addresses[0]; an address belongs to one pool only",
			"pools[0].addresses[1]: 192.0.2.70 overlaps 192.0.2.64/26 of pools[0].addresses[0]; an address belongs to one pool only"}},
		"exclude outside, nowhere and partly": {"- {name: main, addresses: [192.0.2.64/26], exclude: [198.51.100.1, 192.0.2.120-192.0.2.130, all]}\n", []string{
			"pools[0].exclude[0]: 198.51.100.1 is not wholly inside the pool's addresses; parts of those are allowed",
			"pools[0].exclude[1]: 192.0.2.120-192.0.2.130 is not wholly inside the pool's addresses; parts of those are allowed",
			`pools[0].exclude[2]: address range "all": "all" is not an IP address`}},
		"exclude inside another pool": {onePool + "- {name: second, addresses: [198.51.100.0/28], exclude: [192.0.2.70]}\n", []string{
			"pools[1].exclude[0]: 192.0.2.70 is not wholly inside the pool's addresses; parts of those are allowed"}},
		"exclude beside an address that cannot be read": {"- {name: main, addresses: [192.0.2.65/26], exclude: [192.0.2.70]}\n", []string{
			`pools[0].addresses[0]: address range "192.0.2.65/26": has host bits set; did you mean 192.0.2.64/26 or the single address 192.0.2.65?`}},
		"exclude that leaves nothing": {"- {name: main, addresses: [192.0.2.64/26], exclude: [192.0.2.64-192.0.2.100, 192.0.2.96/27]}\n", []string{
			"pools[0].exclude: leaves nothing of the pool's addresses; exclude less, or leave the pool out"}},
		"only network and broadcast left": {"- {name: main, addresses: [192.0.2.64/30], exclude: [192.0.2.65-192.0.2.66]}\n", []string{
			"pools[0].exclude: leaves only network and broadcast addresses; exclude less, or set avoidNetworkAndBroadcast to false if hosts may have those"}},
		"only gateways left": {"- {name: main, addresses: [192.0.2.0/29], exclude: [192.0.2.1, 192.0.2.4-192.0.2.6]}\n", []string{
			"pools[0].addresses: nothing is left for Services, the rest being: VRRP address of gateway gw1, VRRP address of gateway gw2; name further addresses"}},
		"larger than a /64": {`- {name: main, addresses: ["2001:db8::/63"]}` + "\n", []string{
			`pools[0].addresses: pool "main": has more than 2^64 IPv6 addresses; a /64 is the most that one pool can have`}},
		"no namespace at all": {"- {name: main, addresses: [192.0.2.64/26], namespaces: []}\n", []string{
			"pools[0].namespaces: is empty, which admits nobody; name namespaces, or leave the field out to admit all"}},
		"namespaces": {`- {name: main, addresses: [192.0.2.64/26], namespaces: [web, Team_A, "", web]}` + "\n", []string{
			`pools[0].namespaces[1]: "Team_A"; the name of a namespace, a DNS label (a-z, 0-9, -; at most 63), is allowed`,
			`pools[0].namespaces[2]: ""; the name of a namespace, a DNS label (a-z, 0-9, -; at most 63), is allowed`,
			"pools[0].namespaces[3]: web is pools[0].namespaces[0] too; each may be there once"}},
		"selectors": {`- {name: main, addresses: [192.0.2.64/26], namespaceSelector: "team in (", serviceSelector: "a=b=c"}` + "\n", []string{
			`pools[0].namespaceSelector: "team in (": unable to parse requirement: found '', expected: ',', ')' or identifier` + form,
			`pools[0].serviceSelector: "a=b=c": found '=', expected: ',' or 'end of string'` + form}},
		"blank selector": {`- {name: main, addresses: [192.0.2.64/26], serviceSelector: " "}` + "\n", []string{
			`pools[0].serviceSelector: " " is blank` + form + ", or leave the field out"}},
		"selector's value": {"- {name: main, addresses: [192.0.2.64/26], namespaceSelector: size > many}\n", []string{
			`pools[0].namespaceSelector: "size > many": unable to parse requirement: label.values[0]: Invalid value: "many": for 'Gt', 'Lt' operators, the value must be an integer` + form}},
		"priority that is no number": {"- {name: main, addresses: [192.0.2.64/26], priority: high, autoAssign: maybe}\n", []string{
			`pools[0].priority: line 8: is "high"; a whole number is allowed`,
			`pools[0].autoAssign: line 8: is "maybe"; true or false is allowed`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(edit(t, onePool, test.pools))
			if diff := cmp.Diff(test.want, told(t, err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// Addresses of machines that cannot be read are told where they stand, and not of every pool again.
func TestPoolsBesideUnreadableMachines(t *testing.T) {
	_, err := Decode(edit(t, "sshAddress: 192.0.2.2,", "sshAddress: 192.0.2.2, vrrpAddress: gw1,",
		"pools:\n", "nodes: {addresses: {worker: [w]}}\ncontrolPlane: {endpoints: [api]}\npools:\n"))
	for _, fault := range told(t, err) {
		if strings.HasPrefix(fault, "pools") {
			t.Errorf("told of the pool: %s", fault)
		}
	}
	if len(told(t, err)) < 4 {
		t.Errorf("faults %q, want those of the gateway, the node and the control plane", told(t, err))
	}
	_, err = Decode(edit(t, "pools:\n"+onePool, "nodes: {addresses: {worker: [w]}}\npools:\n- {name: main, addresses: [192.0.2.2-192.0.2.3]}\n"))
	if !strings.Contains(fmt.Sprint(err), "pools[0].addresses: nothing is left for Services") {
		t.Errorf("the unreadable node hides that nothing is left: %v", err)
	}
}

func TestReservationFaults(t *testing.T) {
	const pools = `controlPlane: {address: 192.0.2.9, endpoints: [192.0.2.72]}
nodes: {addresses: {worker: [192.0.2.71]}}
reservations:
  RESERVATIONS
pools:
- {name: main, addresses: [192.0.2.0/28, 192.0.2.64/26, "2001:db8::/64"], exclude: [192.0.2.80, 192.0.2.90-192.0.2.99]}
- {name: ends, addresses: [198.51.100.0/28], avoidNetworkAndBroadcast: false}
`
	tests := map[string]struct {
		reservations []string
		want         []string
	}{
		"allowed":                {[]string{"192.0.2.70: default/web", `"2001:DB8:0::70": default/web`, "198.51.100.15: a/b"}, nil},
		"no address":             {[]string{"web: default/web"}, []string{"reservations[web]: is for no address; one IP address (192.0.2.70 or 2001:db8::70) for each reservation is allowed"}},
		"a network":              {[]string{"192.0.2.70/32: default/web"}, []string{"reservations[192.0.2.70/32]: is for no address; one IP address (192.0.2.70 or 2001:db8::70) for each reservation is allowed"}},
		"mapped":                 {[]string{`"::ffff:192.0.2.70": a/b`}, []string{"reservations[::ffff:192.0.2.70]: is for no address; one IP address (192.0.2.70 or 2001:db8::70) for each reservation is allowed"}},
		"two spellings":          {[]string{`"2001:db8::70": a/b`, `"2001:DB8::70": a/c`}, []string{"reservations[2001:db8::70]: is 2001:db8::70, which stands there as 2001:DB8::70 too; each address may be there once"}},
		"a gateway's":            {[]string{"192.0.2.2: a/b"}, []string{"reservations[192.0.2.2]: is the VRRP address of gateway gw1; an address that Services can get is allowed"}},
		"a node's":               {[]string{"192.0.2.71: a/b"}, []string{"reservations[192.0.2.71]: is the address of node worker; an address that Services can get is allowed"}},
		"the control plane's":    {[]string{"192.0.2.9: a/b"}, []string{"reservations[192.0.2.9]: is the address of the control plane; an address that Services can get is allowed"}},
		"an API server's":        {[]string{"192.0.2.72: a/b"}, []string{"reservations[192.0.2.72]: is the address of an API server; an address that Services can get is allowed"}},
		"excluded":               {[]string{"192.0.2.95: a/b"}, []string{"reservations[192.0.2.95]: is excluded by pools[0].exclude[1] (192.0.2.90-192.0.2.99); an address that Services can get is allowed"}},
		"broadcast":              {[]string{"192.0.2.127: a/b"}, []string{"reservations[192.0.2.127]: is the broadcast address of 192.0.2.64/26; set pools[0].avoidNetworkAndBroadcast to false if Services may have it"}},
		"in no pool":             {[]string{"192.0.2.20: a/b"}, []string{"reservations[192.0.2.20]: is in no pool; an address of pools[].addresses is allowed"}},
		"no owner":               {[]string{"192.0.2.70:"}, []string{`reservations[192.0.2.70]: ""; the namespace and name of a Service (default/web) are allowed`}},
		"owner without a slash":  {[]string{"192.0.2.70: web"}, []string{`reservations[192.0.2.70]: "web"; the namespace and name of a Service (default/web) are allowed`}},
		"owner with two slashes": {[]string{"192.0.2.70: a/b/c"}, []string{`reservations[192.0.2.70]: "a/b/c"; the namespace and name of a Service (default/web) are allowed`}},
		"both wrong, and two": {[]string{"192.0.2.20: web", "192.0.2.21: a/b"}, []string{
			`reservations[192.0.2.20]: "web"; the namespace and name of a Service (default/web) are allowed`,
			"reservations[192.0.2.20]: is in no pool; an address of pools[].addresses is allowed",
			"reservations[192.0.2.21]: is in no pool; an address of pools[].addresses is allowed"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(pools, "RESERVATIONS", strings.Join(test.reservations, "\n  "), 1)
			_, err := Decode(edit(t, "pools:\n"+onePool, text))
			if diff := cmp.Diff(test.want, told(t, err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("no pool that can be read", func(t *testing.T) {
		_, err := Decode(edit(t, "pools:\n"+onePool, "reservations: {192.0.2.70: a/b}\npools:\n- {name: main, addresses: [192.0.2.64-26]}\n"))
		if got := told(t, err); len(got) != 1 || !strings.HasPrefix(got[0], "pools[0].addresses[0]: ") {
			t.Errorf("faults %q, want the pool's alone: the reservation may lie in it", got)
		}
	})
}

// What is accepted here, ipam accepts too: networks and ranges with excludes, however they lie.
func TestAcceptedPoolsConvert(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := func(what string) (first, last int) {
			first = rapid.IntRange(0, 40).Draw(t, what)
			return first, rapid.IntRange(first, 44).Draw(t, "last "+what)
		}
		var addresses, excluded []string
		for range rapid.IntRange(1, 3).Draw(t, "entries") {
			first, last := span("address")
			text := fmt.Sprintf("192.0.2.%d-192.0.2.%d", first, last)
			if rapid.Bool().Draw(t, "network") {
				text = fmt.Sprintf("192.0.2.%d/30", first/4*4)
			}
			addresses = append(addresses, text)
		}
		for range rapid.IntRange(0, 3).Draw(t, "excludes") {
			first, last := span("exclude")
			excluded = append(excluded, fmt.Sprintf("192.0.2.%d-192.0.2.%d", first, last))
		}
		pool := fmt.Sprintf("- {name: main, addresses: [%s], exclude: [%s]}\n", strings.Join(addresses, ", "), strings.Join(excluded, ", "))
		c, err := Decode([]byte(strings.Replace(base, onePool, pool, 1)))
		if err != nil {
			return
		}
		if _, err := ipam.New(c.AddressPools(), c.Exclusions()); err != nil {
			t.Fatalf("%s%v", pool, err)
		}
	})
}

// richPools has something in every field of a pool.
const richPools = `readForeignAnnotations: true
reservations: {"2001:DB8::70": default/web, 192.0.2.70: default/web}
pools:
- name: main
  addresses: [192.0.2.64/27, 192.0.2.100-192.0.2.120, 192.0.2.130, 192.0.2.132/31, "2001:db8::/64"]
  exclude: [192.0.2.80, 192.0.2.100-192.0.2.102]
- name: all
  addresses: [198.51.100.0/28]
  avoidNetworkAndBroadcast: false
  priority: -1
  probe: false
  autoAssign: false
- name: web
  addresses: [198.51.100.16/30]
  priority: 5
  shareAcrossNamespaces: true
  interface: eth1
`

func richConfig(t *testing.T) *Config {
	t.Helper()
	c, err := Decode(edit(t, "pools:\n"+onePool, richPools))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPoolConversions(t *testing.T) {
	c := richConfig(t)
	pools := c.AddressPools()
	var got []string
	for _, p := range pools {
		line := p.Name + ":"
		for _, r := range p.Ranges {
			line += " " + r.String()
		}
		for _, r := range p.Exclude {
			line += " -" + r.String()
		}
		if p.ShareAcrossNamespaces {
			line += " shared"
		}
		got = append(got, line)
	}
	want := []string{
		"main: 192.0.2.64-192.0.2.95 192.0.2.100-192.0.2.120 192.0.2.130-192.0.2.130 192.0.2.132-192.0.2.133 2001:db8::-2001:db8::ffff:ffff:ffff:ffff" +
			" -192.0.2.80-192.0.2.80 -192.0.2.100-192.0.2.102",
		"all: 198.51.100.0-198.51.100.15",
		"web: 198.51.100.16-198.51.100.19 shared",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	got = nil
	for _, e := range c.Exclusions()[2:] { // behind the gateways
		got = append(got, e.Range.From().String()+" "+e.Reason)
	}
	want = []string{
		"192.0.2.64 network address of 192.0.2.64/27", "192.0.2.95 broadcast address of 192.0.2.64/27",
		"2001:db8:: subnet-router anycast address of 2001:db8::/64",
		"198.51.100.16 network address of 198.51.100.16/30", "198.51.100.19 broadcast address of 198.51.100.16/30",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("exclusions (-want +got):\n%s", diff)
	}
	web := ipam.Owner{Namespace: "default", Name: "web"}
	reservations := []ipam.Reservation{{Address: netip.MustParseAddr("192.0.2.70"), Owner: web}, {Address: netip.MustParseAddr("2001:db8::70"), Owner: web}}
	if diff := cmp.Diff(reservations, c.AddressReservations(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("reservations (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"web": "eth1"}, c.PoolInterfaces()); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"all": true}, c.UnprobedPools()); diff != "" {
		t.Errorf("unprobed pools (-want +got):\n%s", diff)
	}
	var order []string
	for _, p := range c.PoolsByPriority() {
		order = append(order, p.Name)
	}
	if diff := cmp.Diff([]string{"web", "main", "all"}, order); diff != "" {
		t.Errorf("order by priority (-want +got):\n%s", diff)
	}
	if c.Pools[0].Name != "main" || !*c.Pools[0].AutoAssign || *c.Pools[1].AutoAssign || !c.ReadForeignAnnotations {
		t.Errorf("switches, or the order of the file: %+v", c)
	}
}

func TestWhomAPoolAdmits(t *testing.T) {
	team := labels.Set{"team": "web"}
	tests := map[string]struct {
		pool                    Pool
		pinned                  bool
		namespaceA, namespaceB  bool // a by its name, b by its labels team=web
		serviceOfTeam, anyOther bool
	}{
		"everybody":          {Pool{}, false, true, true, true, true},
		"by name":            {Pool{Namespaces: []string{"c", "a"}}, true, true, false, true, true},
		"by label":           {Pool{NamespaceSelector: "team in (web, mail)"}, true, false, true, true, true},
		"by name or label":   {Pool{Namespaces: []string{"a"}, NamespaceSelector: "team=web"}, true, true, true, true, true},
		"Services":           {Pool{ServiceSelector: "team=web,!internal"}, true, true, true, true, false},
		"Services, one name": {Pool{Namespaces: []string{"a"}, ServiceSelector: "team"}, true, true, false, true, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := test.pool
			admits := func(namespace string, set labels.Set) bool {
				return slices.Contains(p.Namespaces, namespace) || p.NamespaceLabels().Matches(set)
			}
			got := []bool{p.Pinned(), admits("a", nil), admits("b", team), p.ServiceLabels().Matches(team), p.ServiceLabels().Matches(labels.Set{"internal": ""})}
			want := []bool{test.pinned, test.namespaceA, test.namespaceB, test.serviceOfTeam, test.anyOther}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pinned, namespace a, namespace b, Service of the team, other Service (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChangedOutsidePools(t *testing.T) {
	old := richConfig(t)
	tests := map[string]struct {
		pairs []string
		want  []string
	}{
		"nothing":             {nil, nil},
		"pools alone":         {[]string{"priority: 5", "priority: 6", "192.0.2.130", "192.0.2.131", "default/web", "default/mail", "readForeignAnnotations: true\n", ""}, nil},
		"a default, written":  {[]string{"kind: CloudConfig\n", "kind: CloudConfig\nipMode: VIP\nvrrp: {advertInterval: 0.1s}\n"}, nil},
		"a gateway":           {[]string{"192.0.2.3", "192.0.2.4"}, []string{"gateways"}},
		"a switch":            {[]string{"kind: CloudConfig\n", "kind: CloudConfig\nserveUnclassed: false\n"}, []string{"serveUnclassed"}},
		"several, and a pool": {[]string{"ssh: {", "ssh: {user: other, ", "kind: CloudConfig\n", "kind: CloudConfig\ncontrolPlane: {address: 192.0.2.9, endpoints: [192.0.2.10]}\nresyncInterval: 30s\n", "eth1", "eth2"}, []string{"ssh", "resyncInterval", "controlPlane"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Decode([]byte(strings.NewReplacer(test.pairs...).Replace(string(edit(t, "pools:\n"+onePool, richPools)))))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, old.ChangedOutsidePools(c)); diff != "" {
				t.Errorf("from old to new (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, c.ChangedOutsidePools(old)); diff != "" {
				t.Errorf("from new to old (-want +got):\n%s", diff)
			}
		})
	}
}
