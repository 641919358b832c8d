package ipam_test

import (
	"net/netip"
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func TestParseRange(t *testing.T) {
	for _, c := range []struct{ in, want, fault string }{
		{in: "192.0.2.0/24", want: "192.0.2.0-192.0.2.255"},
		{in: "192.0.2.7/32", want: "192.0.2.7-192.0.2.7"},
		{in: " 192.0.2.10 - 192.0.2.20 ", want: "192.0.2.10-192.0.2.20"},
		{in: "192.0.2.10", want: "192.0.2.10-192.0.2.10"},
		{in: "2001:db8::/64", want: "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"},
		{in: "2001:db8::1-2001:db8::f", want: "2001:db8::1-2001:db8::f"},
		{in: "", fault: `address range "": is empty; want a CIDR, FIRST-LAST or one address`},
		{in: "  ", fault: `address range "  ": is empty; want a CIDR, FIRST-LAST or one address`},
		{in: "192.0.2.10/24", fault: `address range "192.0.2.10/24": has host bits set; did you mean 192.0.2.0/24 or ` +
			`the single address 192.0.2.10?`},
		{in: "192.0.2.0/33", fault: `address range "192.0.2.0/33": has no valid prefix length; want /0 to /32 (IPv4) or ` +
			`/128 (IPv6)`},
		{in: "192.0.2.0/", fault: "has no valid prefix length"},
		{in: "192.0.2.20-192.0.2.10", fault: "is upside down; did you mean 192.0.2.10-192.0.2.20?"},
		{in: "192.0.2.1-2001:db8::1", fault: "192.0.2.1 and 2001:db8::1 are of different families"},
		{in: "192.0.2.0/24-192.0.3.0", fault: "mixes a CIDR and a range; want one of them"},
		{in: "192.0.2.256", fault: `"192.0.2.256" is not an IP address`},
		{in: "192.0.2.1-", fault: `"" is not an IP address`},
		{in: "fe80::1%eth0", fault: "fe80::1%eth0 has a zone, which a floating address cannot have"},
		{in: "::ffff:192.0.2.1", fault: "is an IPv4 address written as IPv6; write 192.0.2.1"},
		{in: "web/24", fault: `"web" is not an IP address`},
	} {
		got, err := ipam.ParseRange(c.in)
		switch {
		case c.fault == "" && (err != nil || got.String() != c.want):
			t.Errorf("ParseRange(%q) = %v, %v; want %s", c.in, got, err, c.want)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("ParseRange(%q) = %v, %v; want error with %q", c.in, got, err, c.fault)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"192.0.2.0/24", "192.0.2.1-192.0.2.9", "2001:db8::/64", "::-::1", "1.2.3.4/-1", "-", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ipam.ParseRange(s)
		if err != nil {
			if r.IsValid() {
				t.Fatalf("ParseRange(%q) gives %s and %v", s, r, err)
			}
			return
		}
		if !r.IsValid() || r.From().Is4In6() || r.From().Zone() != "" {
			t.Fatalf("ParseRange(%q) gives the unusable range %s", s, r)
		}
		again, err := ipam.ParseRange(r.String())
		if err != nil || again != r {
			t.Fatalf("ParseRange(%q) = %s, which reads back as %v, %v", s, r, again, err)
		}
	})
}

func TestNetworkAndBroadcast(t *testing.T) {
	for _, c := range []struct {
		prefix string
		want   []string
	}{
		{"192.0.2.0/24", []string{"192.0.2.0", "192.0.2.255"}},
		{"192.0.2.4/30", []string{"192.0.2.4", "192.0.2.7"}},
		{"192.0.2.4/31", nil},
		{"192.0.2.4/32", nil},
		{"2001:db8::/64", []string{"2001:db8::"}},
		{"2001:db8::/127", nil},
	} {
		var got []string
		for _, e := range ipam.NetworkAndBroadcast(netip.MustParsePrefix(c.prefix)) {
			got = append(got, e.Range.From().String())
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("NetworkAndBroadcast(%s) = %v, want %v", c.prefix, got, c.want)
		}
	}
}

func TestNewTellsAllFaults(t *testing.T) {
	_, err := ipam.New([]ipam.Pool{
		pool(t, "a", "192.0.2.0/24", "2001:db8::/56"),
		pool(t, "b", "192.0.2.128/25"),
		pool(t, "a", "198.51.100.0/30"),
		{Name: "empty"},
	}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`range 192.0.2.128-192.0.2.255 of pool "b" overlaps range 192.0.2.0-192.0.2.255 of pool "a"`,
		`pool "a": has more than 2^64 IPv6 addresses`,
		`there are two pools "a"`,
		`pool "empty" has no address that is not excluded`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}
