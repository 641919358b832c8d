package provider

// What is allowed, as package desired says it.
const (
	oneAddress = "; allowed is a unicast address, IPv4 or IPv6, without zone"
	oneLabel   = "; allowed are 1 to 63 lower-case letters, digits and '-', not '-' at either end"
)

// ledgerFaults are files that a person may write, and all that is told of each.
var ledgerFaults = map[string]struct {
	content string
	want    []string
}{
	"no YAML": {"kept: [", []string{"file: is not YAML: line 1: did not find expected node content"}},
	"a tab": {"kept:\n\t- {}\n",
		[]string{"file: is not YAML: line 2: found character that cannot start any token"}},
	"a text":    {"none\n", []string{`file: line 1: is "none"; a mapping (key: value) is allowed`}},
	"two":       {"kept: []\n---\nkept: []\n", []string{"file: holds more than one YAML document; one is allowed"}},
	"an anchor": {"kept: &k []\n", []string{"kept: line 1: uses a YAML anchor or alias; write the value out"}},
	"unknown sections": {"keep: []\nquarantine: []\n", []string{
		"keep: line 1: unknown field; here are allowed: given, kept, quarantined, releasing",
		"quarantine: line 2: unknown field; here are allowed: given, kept, quarantined, releasing"}},
	"a section twice": {"kept: []\nkept: []\n", []string{"kept: line 2: is written twice, first in line 1; once is " +
		"allowed"}},
	"as in the configuration": {"kept: {192.0.2.70: default/web}\n", []string{
		"kept: line 1: is a mapping; a list (each entry begins with -) is allowed"}},
	"one entry, no list": {"kept: {address: 192.0.2.70, service: default/web}\nquarantined: 192.0.2.71\n", []string{
		"kept: line 1: is a mapping; a list (each entry begins with -) is allowed",
		`quarantined: line 2: is "192.0.2.71"; a list (each entry begins with -) is allowed`}},
	"addresses alone": {"kept:\n- 192.0.2.70\n- [192.0.2.71]\n", []string{
		`kept[0]: line 2: is "192.0.2.70"; a mapping (key: value) is allowed`,
		"kept[1]: line 3: is a list; a mapping (key: value) is allowed"}},
	// One misspelt key hides nothing.
	"misspelt": {`
kept:
- {adress: 192.0.2.70, service: default/web}
- {address: 192.0.2.71, owner: default/web}
- {address: 192.0.2.72/32, service: web}
`, []string{
		"kept[0].adress: line 3: unknown field; here are allowed: address, service",
		"kept[1].owner: line 4: unknown field; here are allowed: address, service",
		`kept[2].address: line 5: "192.0.2.72/32"; an IP address (192.0.2.1 or 2001:db8::1) is allowed`,
		"kept[0].address: is missing" + oneAddress,
		"kept[1].service: is missing; the namespace and name of a Service (default/web) are needed",
		`kept[2].service: "web"; the namespace and name of a Service (default/web) are allowed`}},
	"everything": {`
kept:
- {address: 192.0.2.700, service: default/web}
- {address: 192.0.2.70, service: [default, web]}
- {address: 192.0.2.70, service: 7}
quarantined:
- {address: 192.0.2.71, by: x, until: tomorrow}
- {address: 192.0.2.72, by: {mac: x}}
- {address: 192.0.2.73, by: 525400123456, until: 2026-11-23}
releasing:
- {address: "", service: default/web, ports: [80/TCP, 80/QUIC, 99999/TCP, 80], sinceEpoch: first}
- {address: 192.0.2.74, service: default/web, ports: 80/TCP, sinceEpoch: -1, sinceSequence: "17"}
`, []string{
		`kept[0].address: line 3: "192.0.2.700"; an IP address (192.0.2.1 or 2001:db8::1) is allowed`,
		"kept[1].service: line 4: is a list; a text like default/web is allowed",
		`kept[2].service: line 5: is "7"; a text like default/web is allowed`,
		`quarantined[0].until: line 7: "tomorrow"; a time like 2026-01-31T14:00:00Z (RFC 3339) is allowed`,
		"quarantined[1].by: line 8: is a mapping; a text is allowed",
		`quarantined[2].by: line 9: 525400123456 is no text to YAML; write it in quotes: "525400123456"`,
		`quarantined[2].until: line 9: "2026-11-23"; a time like 2026-01-31T14:00:00Z (RFC 3339) is allowed`,
		`releasing[0].ports[1]: line 11: "80/QUIC"; a port (80/TCP, 53/UDP or 5060/SCTP) is allowed`,
		`releasing[0].ports[2]: line 11: "99999/TCP"; a port (80/TCP, 53/UDP or 5060/SCTP) is allowed`,
		`releasing[0].ports[3]: line 11: "80"; a port (80/TCP, 53/UDP or 5060/SCTP) is allowed`,
		`releasing[0].sinceEpoch: line 11: is "first"; a whole number is allowed`,
		`releasing[1].ports: line 12: is "80/TCP"; a list ([80/TCP]) is allowed`,
		"releasing[1].sinceEpoch: line 12: is -1; a whole number from 0 to 18446744073709551615 is allowed",
		`releasing[1].sinceSequence: line 12: is the text "17"; write it without quotes: 17`,
		"quarantined[1].until: is missing; a time like 2026-01-31T14:00:00Z (RFC 3339) is needed",
		"releasing[0].address: is missing" + oneAddress}},
	"what no State may have": {`
kept:
- {address: 224.0.0.1, service: Default/web}
- {address: "fe80::1", service: default/web.v2}
- {address: 192.0.2.70, service: default/web/2}
- {address: 192.0.2.71, service: default/}
- {address: "fe80::1%eth0", service: a/b}
- {address: "::ffff:192.0.2.7", service: a/b}
quarantined:
- {address: 127.0.0.1, by: x, until: 2026-11-23T15:00:00+01:00}
releasing:
- {address: 0.0.0.0, service: " default/web"}
`, []string{
		`kept[0].address: 224.0.0.1 is a multicast address` + oneAddress,
		`kept[0].service: "Default/web": "Default" is no DNS label` + oneLabel,
		`kept[1].address: fe80::1 is a link-local address` + oneAddress,
		`kept[1].service: "default/web.v2": "web.v2" is no DNS label` + oneLabel,
		`kept[2].service: "default/web/2": "web/2" is no DNS label` + oneLabel,
		`kept[3].service: "default/": "" is no DNS label` + oneLabel,
		`kept[4].address: fe80::1%eth0 has a zone` + oneAddress,
		`kept[5].address: ::ffff:192.0.2.7 is IPv4 written as IPv6 (IPv4-mapped)` + oneAddress,
		`quarantined[0].address: 127.0.0.1 is a loopback address` + oneAddress,
		`releasing[0].address: 0.0.0.0 is the unspecified address` + oneAddress,
		`releasing[0].service: " default/web": " default" is no DNS label` + oneLabel}},
	"twice, and another fault": {`
kept:
- {address: 192.0.2.70, service: default/a}
- {address: 192.0.2.70, service: default/b}
- {address: 192.0.2.70, service: default/a}
- {service: default/a}
- {service: default/a}
quarantined:
- {address: "2001:db8::71", by: x, until: 2026-11-23T15:00:00Z}
- {address: "2001:DB8:0::71", by: y, until: 2026-11-24T15:00:00Z}
`, []string{
		"kept[2]: keeps 192.0.2.70 for default/a, as kept[0] does; once is allowed",
		"kept[3].address: is missing" + oneAddress,
		"kept[4].address: is missing" + oneAddress,
		"quarantined[1]: is for 2001:db8::71, as quarantined[0] does; once is allowed"}},
}
